"""`Guard`: an ASGI application that answers only whom the URL with the token was given to.

Any web page that is open in the same browser can send requests to a port of this machine.
So a request must name this server as its host (against DNS rebinding), must not come from
another origin, and must carry the token, which other pages cannot read.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from latentdb.base.errors import InvalidInputError, LatentDBError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
MAX_UPLOAD = 16 * 1024 * 1024
UPLOAD_PATH = "/api/v1/images"
MAX_ACTIVE = 64
_NOTEBOOKS = "http://localhost:* http://127.0.0.1:*"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PAGE = (
    b'<!doctype html><html lang="en"><meta name="color-scheme" content="light dark">'
    b"<title>latentdb</title><h1>latentdb</h1><p>%s</p></html>\n"
)
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class TooLargeError(LatentDBError):
    """The body of a request has more bytes than its path allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is over {limit:,} bytes")


class Guard:
    """Refuses what is not from the page, and adds the headers that confine it.

    Parameters
    ----------
    app
        Answers the requests that are let through.
    token
        Secret of the printed URL.
    port
        Where the server listens.
    host
        The address that it is bound to.  If that is not a loopback address, a request may
        name this machine by any IP address, but by no host name other than `host`.
    frames
        Whether a page of this machine, such as a notebook, may show the page in a frame.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str,
        port: int,
        host: str = "127.0.0.1",
        frames: bool = False,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._cookie = f"latentdb-{port}"  # cookies are shared by all ports of a host
        self._port = port
        self._names = {*_LOOPBACK, host.lower()}
        self._any_address = not is_loopback(host)
        self._active = 0
        policy = _CSP + (_NOTEBOOKS if frames else "'none'")
        self._headers = [(b"content-security-policy", policy.encode()), *_HEADERS]
        if not frames:
            self._headers.append((b"x-frame-options", b"DENY"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._answer(send, *refusal)
        elif self._in_query(scope):
            cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            await self._answer(send, 303, "the token is accepted", headers)
        elif not self._is_known(scope):
            text = "no valid token: open the URL that `latentdb serve` printed"
            await self._answer(send, 401, text, is_page=scope["path"] == "/")
        elif self._active >= MAX_ACTIVE:
            await self._answer(send, 429, f"{MAX_ACTIVE} requests are being answered: try again")
        else:
            self._active += 1
            try:
                await self._pass_on(scope, receive, send)
            finally:
                self._active -= 1

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, which cannot read more than the limit of the path."""
        received, limit = 0, _limit(scope)

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise TooLargeError(limit)
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, limited, guarded)

    async def _answer(
        self,
        send: Send,
        status: int,
        text: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        is_page: bool = False,
    ) -> None:
        key = "error" if status >= 400 else "message"
        kind, body = b"application/json", json.dumps({key: text}).encode() + b"\n"
        if is_page:
            kind, body = b"text/html", _PAGE % html.escape(text).encode()
        head = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *self._headers,
            *(headers or ()),
        ]
        if status == 413:
            head.append((b"connection", b"close"))  # the rest of the body is not read
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, if a request is not for this server or from another page."""
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 403, "the Host header does not name this server"
        if any(origin != f"http://{hosts[0]}" for origin in _header(scope, b"origin")):
            return 403, "requests of other origins are refused"
        lengths = _header(scope, b"content-length")
        if any(len(length) > 9 or int(length) > _limit(scope) for length in lengths):
            return 413, str(TooLargeError(_limit(scope)))
        return None

    def _is_own(self, host: str) -> bool:
        name, _, port = host.lower().rpartition(":")
        if port != str(self._port):
            return False
        if name in self._names:
            return True
        return self._any_address and _is_address(name.strip("[]"))

    def _in_query(self, scope: Scope) -> bool:
        if scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and self._matches(given[0])

    def _is_known(self, scope: Scope) -> bool:
        for value in _header(scope, b"authorization"):
            kind, _, token = value.partition(" ")
            if kind.lower() == "bearer" and self._matches(token):
                return True
        for value in _header(scope, b"cookie"):
            try:
                found = SimpleCookie(value).get(self._cookie)
            except CookieError:
                continue
            if found is not None and self._matches(found.value):
                return True
        return False

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def check_port(port: int) -> int:
    """Return a port that can be listened at; 0 is a free one."""
    if not 0 <= port <= 65535:
        raise InvalidInputError(f"port {port} cannot be used: give 0 to 65535")
    return port


def _limit(scope: Scope) -> int:
    return MAX_UPLOAD if scope["path"] == UPLOAD_PATH else MAX_BODY


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
