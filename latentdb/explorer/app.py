"""The routes of the page and of its API."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from latentdb.ann.metrics import L2
from latentdb.base.errors import InvalidInputError, LatentDBError, MissingExtraError, NotFoundError
from latentdb.explorer.guard import TooLargeError
from latentdb.explorer.views import BusyError, Views, read_parts

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    Answer = Callable[[Request], Response]

API = "/api/v1"
_PAGE = {
    "/": ("index.html", "text/html"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
    "/source.js": ("source.js", "text/javascript"),
}
# Row numbers mean other rows after a restart: a page adds ?v= of its server to picture URLs.
_KEEP = {"cache-control": "private, max-age=3600"}


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
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("the explorer", "web") from error

    def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": _one_line(error)}, _status(error))

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail.lower()}"
        return JSONResponse({"error": text[:200]}, error.status_code)

    def crashed(request: Request, error: Exception) -> Response:
        logging.getLogger(__name__).error("%s: %s", request.url.path, _one_line(error))
        return JSONResponse({"error": "this request failed in the server: see its output"}, 500)

    def of_json(answer: Callable[[Request], dict[str, Any]]) -> Answer:
        return lambda request: JSONResponse(answer(request))

    def picture(answer: Callable[[Request], bytes]) -> Answer:
        return lambda request: Response(answer(request), media_type="image/jpeg", headers=_KEEP)

    def near(row: Request) -> dict[str, Any]:
        k, metric = _number(row, "k", 12), row.query_params.get("metric", L2)
        return views.neighbours(row.path_params["row"], k=k, metric=metric)

    async def decode(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        parts, method = await _recipe(request)
        png = await run_in_threadpool(views.decode, parts, method=method)
        return Response(png, media_type="image/png", headers={"cache-control": "no-store"})

    async def query(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        parts, method = await _recipe(request)
        k = _number(request, "k", 12)
        return JSONResponse(await run_in_threadpool(views.near, parts, k=k, method=method))

    def points(_: Request) -> Response:
        return Response(views.points(), media_type="application/octet-stream")

    routes = [Route(path, _page(*parts)) for path, parts in _PAGE.items()]
    routes += [
        Route(f"{API}/info", of_json(lambda _: views.info())),
        Route(f"{API}/points", points),
        Route(
            f"{API}/columns/{{name}}",
            of_json(lambda asked: views.column(asked.path_params["name"])),
        ),
        Route(
            f"{API}/filter",
            of_json(lambda asked: views.filter(asked.query_params.get("where", ""))),
        ),
        Route(
            f"{API}/rows/{{row:int}}", of_json(lambda asked: views.row(asked.path_params["row"]))
        ),
        Route(
            f"{API}/thumb/{{row:int}}", picture(lambda asked: views.thumb(asked.path_params["row"]))
        ),
        Route(
            f"{API}/tiles/{{tile:int}}",
            picture(lambda asked: views.tile(asked.path_params["tile"])),
        ),
        Route(f"{API}/neighbors/{{row:int}}", of_json(near)),
        Route(f"{API}/query", query, methods=["POST"]),
        Route(f"{API}/decode", decode, methods=["POST"]),
    ]
    handlers: Any = {LatentDBError: failed, HTTPException: refused, Exception: crashed}
    return Starlette(routes=routes, exception_handlers=handlers)


def _page(name: str, kind: str) -> Answer:
    from starlette.responses import Response

    body = files("latentdb.explorer").joinpath("page", name).read_bytes()
    headers = {"cache-control": "no-cache"}
    return lambda _: Response(body, media_type=kind, headers=headers)


async def _recipe(request: Request) -> tuple[Any, str]:
    """Parts and method of the body of a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InvalidInputError("the body must have the content type application/json")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("the body is not valid JSON") from error
    parts = read_parts(body)
    method = body.get("method", "linear")
    if not isinstance(method, str):
        raise InvalidInputError('method must be "linear" or "slerp"')
    return parts, method


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(f"{name} {text[:20]!r} cannot be used: give a whole number")
    return int(text)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _status(error: Exception) -> int:
    if isinstance(error, BusyError):
        return 429
    if isinstance(error, TooLargeError):
        return 413
    return 404 if isinstance(error, NotFoundError) else 400
