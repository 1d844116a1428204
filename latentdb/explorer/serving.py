"""Open a port, print its URL, and answer until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from latentdb.base.errors import InvalidInputError, MissingExtraError
from latentdb.base.files import os_reason
from latentdb.explorer.app import make_app
from latentdb.explorer.guard import Guard, check_port
from latentdb.explorer.views import Views

if TYPE_CHECKING:
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
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("the explorer", "web") from error

    with _listen(host, check_port(port)) as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = Guard(make_app(Views(db, report=report)), token=token, port=port, host=host)
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{port}/?token={token}"
        announce(url)
        if browser:
            webbrowser.open(url)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # the way to end a server
            return


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
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
