"""`Api`: the requests of the page as calls of `Views`, by route."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from latentdb.ann.metrics import L2
from latentdb.base.errors import InvalidInputError
from latentdb.explorer.blends import (
    MAX_BLENDS,
    read_blend,
    read_blends,
    read_selection,
    read_text,
    read_whole,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from latentdb.explorer.views import Views

    Answer = Callable[[Request], Response | Awaitable[Response]]

# Row numbers mean other rows after a restart: a page adds ?v= of its server to picture URLs.
_KEEP = {"cache-control": "private, max-age=3600"}
_FRESH = {"cache-control": "no-store"}
_MAX_REACH = 100.0


class Api:
    """Answers by route, below ``/api/v1/``.

    Attributes
    ----------
    gets, posts
        A function of a request for each path.
    """

    def __init__(self, views: Views) -> None:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, Response

        self._views = views
        self._json = JSONResponse
        self._response = Response
        self._in_thread = run_in_threadpool
        self.gets: dict[str, Answer] = {
            "info": self._of(lambda _: views.info()),
            "points": lambda _: Response(views.points(), media_type="application/octet-stream"),
            "columns/{name}": self._of(lambda asked: views.column(asked.path_params["name"])),
            "filter": self._of(lambda asked: views.filter(asked.query_params.get("where", ""))),
            "rows/{row:int}": self._of(lambda asked: views.row(asked.path_params["row"])),
            "thumb/{row:int}": self._picture(lambda asked: views.thumb(asked.path_params["row"])),
            "tiles/{tile:int}": self._picture(lambda asked: views.tile(asked.path_params["tile"])),
            "neighbors/{row:int}": self._of(self._neighbours),
            "added": self._of(lambda asked: views.versions.added(_known(asked))),
            "sample": self._sample,
            "images/{token}": self._picture(
                lambda asked: views.uploaded(asked.path_params["token"]), "image/png"
            ),
            "dimensions": self._of(lambda _: views.lists.dimensions()),
            "directions": self._of(lambda _: views.lists.directions()),
            "clusters": self._of(lambda asked: views.lists.clusters(_number(asked, "n", 20))),
            "duplicates": self._of(
                lambda asked: views.lists.duplicates(asked.query_params.get("metric", L2))
            ),
            "outliers": self._of(
                lambda asked: views.lists.outliers(
                    asked.query_params.get("by", ""), asked.query_params.get("metric", L2)
                )
            ),
        }
        self.posts: dict[str, Answer] = {
            "query": self._query,
            "decode": self._decode,
            "place": self._place,
            "interpolate": self._interpolate,
            "traverse": self._traverse,
            "average": self._average,
            "images": self._upload,
        }

    def _of(self, answer: Callable[[Request], dict[str, Any]]) -> Answer:
        return lambda request: self._json(answer(request))

    def _picture(self, answer: Callable[[Request], bytes], kind: str = "image/jpeg") -> Answer:
        return lambda asked: self._response(answer(asked), media_type=kind, headers=_KEEP)

    def _fresh(self, data: bytes, kind: str = "image/png") -> Response:
        return self._response(data, media_type=kind, headers=_FRESH)

    def _neighbours(self, asked: Request) -> dict[str, Any]:
        return self._views.neighbours(asked.path_params["row"], **_search(asked))

    def _sample(self, asked: Request) -> Response:
        n, seed = _number(asked, "n", 16), _number(asked, "seed", 0)
        source = asked.query_params.get("source", "prior")
        parts = [
            {"sample": [seed, number], "source": source} for number in range(min(n, MAX_BLENDS + 1))
        ]
        blends = read_blends({"blends": [{"parts": [part]} for part in parts]})
        return self._fresh(self._views.decode(blends))

    async def _query(self, asked: Request) -> Response:
        blend = read_blend(await _body(asked))
        return self._json(await self._in_thread(self._views.near, blend, **_search(asked)))

    async def _decode(self, asked: Request) -> Response:
        blends = read_blends(await _body(asked))
        return self._fresh(await self._in_thread(self._views.decode, blends))

    async def _place(self, asked: Request) -> Response:
        blends = read_blends(await _body(asked))
        return self._json(await self._in_thread(self._views.place, blends))

    async def _interpolate(self, asked: Request) -> Response:
        body = await _body(asked)
        start, end = read_blend(body.get("from")), read_blend(body.get("to"))
        kind = read_text(body.get("format", "png"), "format")
        method = read_text(body.get("method", "linear"), "method")
        steps = read_whole(body.get("steps", 9), "steps")
        data = await self._in_thread(
            self._views.interpolate, start, end, steps=steps, method=method, kind=kind
        )
        return self._fresh(data, f"image/{kind}")

    async def _traverse(self, asked: Request) -> Response:
        body = await _body(asked)
        blend, dims = read_blend(body), read_text(body.get("dims", "top:8"), "dims")
        steps = read_whole(body.get("steps", 9), "steps")
        reach = body.get("reach", 3)
        if type(reach) not in (int, float) or not 0 < reach <= _MAX_REACH:
            raise InvalidInputError(f"reach must be a number of deviations up to {_MAX_REACH:g}")
        data = await self._in_thread(
            self._views.traverse, blend, dims=dims, reach=reach, steps=steps
        )
        return self._fresh(data)

    async def _average(self, asked: Request) -> Response:
        selection = read_selection(await _body(asked))
        return self._json(await self._in_thread(self._views.average, selection))

    async def _upload(self, asked: Request) -> Response:
        if not asked.headers.get("content-type", "").startswith("image/"):
            raise InvalidInputError("the body must be an image, with the content type image/...")
        return self._json(await self._in_thread(self._views.upload, await asked.body()))


async def _body(request: Request) -> dict[str, Any]:
    """The object in the body of a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InvalidInputError("the body must have the content type application/json")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("the body is not valid JSON") from error
    if not isinstance(body, dict):
        raise InvalidInputError("the body must be a JSON object")
    return body


def _search(request: Request) -> dict[str, Any]:
    """How neighbours are searched."""
    exact = request.query_params.get("exact", "false")
    if exact not in ("true", "false"):
        raise InvalidInputError(f"exact {exact[:20]!r} cannot be used: give true or false")
    metric = request.query_params.get("metric")
    return {"k": _number(request, "k", 12), "metric": metric, "exact": exact == "true"}


def _known(request: Request) -> int | None:
    return _number(request, "known", 0) if "known" in request.query_params else None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(f"{name} {text[:20]!r} cannot be used: give a whole number")
    return int(text)
