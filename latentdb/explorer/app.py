"""The routes of the page and of its API."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from latentdb.base.cores import core_count
from latentdb.base.errors import LatentDBError, MissingExtraError, NotFoundError
from latentdb.explorer.guard import TooLargeError
from latentdb.explorer.views import Views

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from latentdb.explorer.api import Answer

API = "/api/v1"
_THREADS = 4  # that answer, at least: some may be busy for seconds
_KINDS = {
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".css": "text/css",
    ".js": "text/javascript",
}


def make_app(views: Views) -> Starlette:
    """The application, without its `Guard`.

    Raises
    ------
    MissingExtraError
        Without the extra ``web``.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("the explorer", "web") from error
    from latentdb.explorer.api import Api

    def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": _one_line(error)}, _status(error))

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail.lower()}"
        return JSONResponse({"error": text[:200]}, error.status_code)

    def crashed(request: Request, error: Exception) -> Response:
        logging.getLogger(__name__).error("%s failed", request.url.path, exc_info=error)
        return JSONResponse({"error": "this request failed in the server: see its output"}, 500)

    api = Api(views)
    routes = [Route(path, answer) for path, answer in _pages().items()]
    routes += [Route(f"{API}/{path}", answer) for path, answer in api.gets.items()]
    routes += [
        Route(f"{API}/{path}", answer, methods=["POST"]) for path, answer in api.posts.items()
    ]
    handlers: Any = {LatentDBError: failed, HTTPException: refused, Exception: crashed}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=_few_threads)


@asynccontextmanager
async def _few_threads(_: Starlette) -> AsyncIterator[None]:
    """Answer in a few threads: each of the usual forty would keep the memory it once needed."""
    import anyio.to_thread

    anyio.to_thread.current_default_thread_limiter().total_tokens = max(_THREADS, core_count())
    yield


def _pages() -> dict[str, Answer]:
    """The files of the page by path; those of a site are in a folder below, and not served."""
    pages = {
        f"/{file.name}": _page(file.read_bytes(), _KINDS[file.name[file.name.rindex(".") :]])
        for file in files("latentdb.explorer").joinpath("page").iterdir()
        if file.is_file() and "." in file.name
    }
    return {"/": pages.pop("/index.html"), **pages}


def _page(body: bytes, kind: str) -> Answer:
    from starlette.responses import Response

    headers = {"cache-control": "no-cache"}
    return lambda _: Response(body, media_type=kind, headers=headers)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _status(error: Exception) -> int:
    if isinstance(error, TooLargeError):
        return 413
    return 404 if isinstance(error, NotFoundError) else 400
