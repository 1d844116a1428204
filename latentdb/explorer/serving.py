"""Open a port and answer there: until Ctrl-C, or for a notebook."""

from __future__ import annotations

import functools
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from latentdb.base.errors import InvalidInputError, MissingExtraError
from latentdb.base.files import os_reason
from latentdb.explorer.app import make_app
from latentdb.explorer.guard import Guard, check_port
from latentdb.explorer.views import Views

if TYPE_CHECKING:
    import uvicorn

    from latentdb.base.progress import Report
    from latentdb.reader import Reader


def serve(
    db: Reader,
    *,
    host: str,
    port: int,
    browser: bool,
    announce: Callable[[str], None],
    report: Report | None = None,
) -> None:
    """Serve the explorer of an open store until Ctrl-C.

    Parameters
    ----------
    host, port
        Where to listen; port 0 is a free one.
    browser
        Open the page in the browser.
    announce
        Called with the URL, which contains the token.
    report
        Called with the progress of the map.

    Raises
    ------
    MissingExtraError
        Without the extra ``web``.
    InvalidInputError
        If nothing can listen there.
    """
    port = check_port(port)
    with _listen(host, port) as listener:
        server, url = _server(db, listener, host=host, frames=False, report=report)
        announce(url)
        if browser:
            webbrowser.open(url)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # the way to end a server
            return


class Exploration:
    """A page in a notebook, served by a thread of this process until `close`.

    Attributes
    ----------
    url
        Where it is, with its token.
    """

    def __init__(self, db: Reader, *, height: int = 700, report: Report | None = None) -> None:
        self._listener = _listen("127.0.0.1", 0)
        self._height = height
        try:
            # A notebook is at localhost, too: to other hosts the browser sends no strict cookie.
            self._server, self.url = _server(
                db, self._listener, host="localhost", frames=True, report=report
            )
        except BaseException:
            self._listener.close()
            raise
        run = functools.partial(self._server.run, sockets=[self._listener])
        self._thread = threading.Thread(target=run, name="latentdb-explore", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; closing twice does nothing."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()

    def __enter__(self) -> Exploration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Exploration at {self.url}>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.url}" width="100%" height="{self._height}" '
            'style="border:1px solid #8888" title="latentdb explorer"></iframe>'
        )


def _server(
    db: Reader,
    listener: socket.socket,
    *,
    host: str,
    frames: bool,
    report: Report | None,
) -> tuple[uvicorn.Server, str]:
    """A server that is not running yet, and the URL of its page."""
    try:
        import uvicorn

        from latentdb.explorer.patience import make_protocol
    except ImportError as error:
        raise MissingExtraError("the explorer", "web") from error

    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    app = Guard(
        make_app(Views(db, report=report)), token=token, port=port, host=host, frames=frames
    )
    config = uvicorn.Config(
        app,
        log_level="critical",  # `app.crashed` reports failures; one that Ctrl-C cuts off is none
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        http=make_protocol(),
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    name = f"[{host}]" if ":" in host else host
    return uvicorn.Server(config), f"http://{name}:{port}/?token={token}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named: without, each answer
    # waited 40 ms for the acknowledgement of its header.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InvalidInputError(
            f"cannot listen at {host}, port {port}: {os_reason(error)}: give another --port, or 0"
        ) from error
    return listener
