"""Write the explorer as static files, whose decoder runs in the visitor's browser."""

from __future__ import annotations

import gzip
import html
import json
import os
import struct
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.ann.metrics import VECTOR_METRICS
from latentdb.base.errors import AlreadyExistsError, MissingExtraError, ModelError
from latentdb.base.files import write_new
from latentdb.base.outputs import check_new_folder, output_folder
from latentdb.base.progress import report_stage
from latentdb.explorer import ort_web
from latentdb.explorer.lists import describe_recipe
from latentdb.explorer.tiles import PER_TILE
from latentdb.explorer.views import Views, plain_value
from latentdb.images.pixel_range import Normalization, parse_pixel_range
from latentdb.model.posterior import scatter
from latentdb.output.originals import Originals
from latentdb.search.selection import column_values, vector_blocks
from latentdb.store.recipes import load_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentdb.base.progress import Report
    from latentdb.model.codec import Codec
    from latentdb.model.posterior import Doubles, Posteriors
    from latentdb.reader import Reader

FORMAT = 1
PAGE = (
    "index.html",
    "icon.svg",
    "style.css",
    "page.js",
    "map.js",
    "dom.js",
    "blend.js",
    "tools.js",
)
# From page/site: source.js in the place of the server's, and what it needs.
SITE_MODULES = ("source.js", "engine.js", "latents.js", "unpack.js")
MARK = "data/site.json"  # by which a folder is known as a site
_CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
CLUSTERS = 20
_MAX_CORRELATED = 256  # dimensions, whose factor is 400 kB
_LEVELS = 65_535  # of a latent's numbers, between the least and the greatest of its dimension


@dataclass(frozen=True)
class Site:
    """The files of a site.

    Attributes
    ----------
    path
        The folder.
    rows
        Rows that it shows.
    files, bytes
        Number and size of its files.
    parts
        Bytes of the page, the runtime, the decoder, the latents, the thumbnails and the rest.
    """

    path: str
    rows: int
    files: int
    bytes: int
    parts: dict[str, int]


class _Folder:
    """Writes the files of a site, and adds up their sizes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files = 0
        self.parts: Counter[str] = Counter()

    def write(self, name: str, data: bytes, part: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, data)
        self.files += 1
        self.parts[part] += len(data)


def write_site(
    db: Reader,
    path: str | os.PathLike[str],
    *,
    where: str | None = None,
    ort: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> Site:
    """Write the explorer of a store as a folder of files, for any web server.

    Parameters
    ----------
    path
        Of the folder, which does not exist or is empty.
    where
        Only rows for which this expression is true.
    ort
        The archive or the folder of the npm package onnxruntime-web: see `ort_web.load`.
    overwrite
        Replace the files of a site that is there; others in its folder stay.
    report
        Called with the progress.

    Raises
    ------
    AlreadyExistsError
        If the folder has other files.
    InvalidInputError
        If it is one that images are indexed from, without `overwrite`.
    NotFoundError
        If there are no rows.
    MissingExtraError
        If the decoder is not compiled, and cannot be.
    ModelError
        If the model is conditional.
    """
    originals = Originals(db._snapshot())
    if originals.find([os.fspath(path)]) is not None:
        raise AlreadyExistsError(f"{path} lies in the store: give another path")
    if not overwrite:
        originals.check_folder(os.fspath(path))
    if db._has_decoder(db._snapshot()) and db.codec.config.condition is not None:
        raise ModelError(
            "a site decodes in the browser, which does not know the condition of a conditional "
            "model: latentdb serve --condition VALUE shows the same page"
        )
    replaced = overwrite and os.path.isfile(os.path.join(path, MARK))
    if not replaced:
        _check_new(path)
    views = Views(db, where=where, report=report)
    info = {"format": FORMAT, **views.info(), "decoder": None}
    info["metrics"] = [metric for metric in info["metrics"] if metric in VECTOR_METRICS]
    info["index"] = None  # the browser compares all rows
    info["centre"] = [*views.snapshot.manifest.settings.centre]
    del info["version"]  # of a server
    runtime, decoder = {}, b""
    if info["has_decoder"]:
        decoder, info["decoder"] = _decoder(db.codec)
        runtime = ort_web.load(ort, report=report_stage(report, "downloading"))
    with output_folder(path, merge=replaced) as root:
        folder = _Folder(root)
        _write_page(folder)
        for name, data in runtime.items():
            plain = name == ort_web.SCRIPT
            folder.write(
                f"ort/{name}" + ("" if plain else ".gz"), data if plain else _zip(data), "runtime"
            )
        if decoder:
            folder.write("ort/LICENSE.txt", ort_web.LICENCE.encode(), "runtime")
            folder.write("data/decoder.onnx", decoder, "decoder")
            folder.write("data/dimensions.json.gz", _json(views.lists.dimensions()), "statistics")
            folder.write("data/statistics.json.gz", _json(_statistics(views)), "statistics")
        folder.write("data/clusters.json.gz", _json(_clusters(views)), "statistics")
        folder.write("data/directions.json.gz", _json(_directions(views)), "statistics")
        folder.write("data/latents.bin", _latents(views), "latents")
        folder.write("data/points.bin", views.points(), "map")
        for number, name in enumerate(info["columns"]):
            folder.write(f"data/columns/{number}.json.gz", _json(views.column(name)), "metadata")
        decoded = _write_tiles(folder, views, report) if info["tiles"] else []
        folder.write("data/rows.json.gz", _json(_rows(views, info["columns"], decoded)), "metadata")
        folder.write(MARK, json.dumps(info).encode(), "map")
    parts = dict(folder.parts)
    return Site(os.fspath(path), info["rows"], folder.files, sum(parts.values()), parts)


def _check_new(path: str | os.PathLike[str]) -> None:
    try:
        check_new_folder(path)
    except AlreadyExistsError as error:
        site = os.path.isfile(os.path.join(path, MARK))
        advice = "replace the site with --force (overwrite=True)" if site else "remove it first"
        raise AlreadyExistsError(f"{path} exists: give another path, or {advice}") from error


def _write_page(folder: _Folder) -> None:
    home = files("latentdb.explorer").joinpath("page")
    for name in PAGE:
        data = home.joinpath(name).read_bytes()
        if name == "index.html":
            head = b'<meta charset="utf-8">\n'
            policy = f'<meta http-equiv="content-security-policy" content="{html.escape(_CSP)}">\n'
            data = data.replace(head, head + policy.encode(), 1)
        folder.write(name, data, "page")
    for name in SITE_MODULES:
        folder.write(name, home.joinpath("site", name).read_bytes(), "page")


def _decoder(codec: Codec) -> tuple[bytes, dict[str, Any]]:
    """The decoder as an ONNX file without metadata, and how its output becomes pixels."""
    from latentdb.model.config import NETWORK_FILES, ONNX
    from latentdb.onnx.compiled import DECODER_ONNX
    from latentdb.onnx.inspect import rewrite

    compiled, config = codec.compiled(), codec.config
    foreign = config.format == ONNX
    name = NETWORK_FILES[ONNX][1] if foreign else DECODER_ONNX
    data = compiled.files.get(name)
    if data is None:
        raise MissingExtraError("compiling the decoder, for browsers,", "fast")
    found, plain = rewrite(data, name)
    if not foreign and found.fingerprint != config.decoder_fingerprint:
        raise MissingExtraError("compiling the decoder anew, for browsers,", "fast")
    spec = config.preprocessing
    scale, offset = _affine(parse_pixel_range(spec.pixel_range, spec.channels).decoder)
    shape = {"height": spec.height, "width": spec.width, "channels": spec.channels}
    return plain, {**shape, "scale": scale, "offset": offset}


def _affine(range_: Normalization) -> tuple[list[float], list[float]]:
    """Factors and terms, one or one per channel, that make pixels of a decoder's numbers."""
    if range_.mean:
        return [255 * value for value in range_.std], [255 * value for value in range_.mean]
    return {"0..1": ([255.0], [0.0]), "-1..1": ([127.5], [127.5])}.get(range_.text, ([1.0], [0.0]))


def _latents(views: Views) -> bytes:
    """The latents in the order of the points, in 16 bits a number, little-endian.

    ``LDBZ``, uint32 format 1, uint32 n, uint32 d; float32 ``[d]`` least value and ``[d]`` step;
    uint16 ``[n, d]`` steps above the least.  Rounding moves a number by half a step: of a range
    of 10 by 8e-5, where float16 moves numbers above 2 by up to 1e-3 in the same space.
    """
    rows = views.map.rows
    extremes = [
        (block.min(axis=0), block.max(axis=0)) for block in vector_blocks(views.snapshot, rows)
    ]
    low = np.min([least for least, _ in extremes], axis=0)
    high = np.max([greatest for _, greatest in extremes], axis=0)
    step = np.maximum((high.astype(np.float64) - low) / _LEVELS, 1e-30).astype("<f4")
    head = b"LDBZ" + struct.pack("<III", 1, len(rows), len(low))
    parts = [head, low.astype("<f4").tobytes(), step.tobytes()]
    for block in vector_blocks(views.snapshot, rows):
        steps = np.rint((block.astype(np.float64) - low) / step)
        parts.append(steps.clip(0, _LEVELS).astype("<u2").tobytes())
    return b"".join(parts)


def _statistics(views: Views) -> dict[str, Any]:
    """Mean and deviation of each dimension, and what samples of the aggregate are made with."""
    found = views.latents.posteriors
    return {
        "mean": found.mean.tolist(),
        "sd": found.aggregate_sd.tolist(),
        "factor": [_rounded(row) for row in _factor(views, found)],
    }


def _factor(views: Views, found: Posteriors) -> Doubles:
    """A matrix that makes normal numbers samples of the aggregate; of many dimensions, deviations.

    float64 ``[d, d]``, whose product with its transpose is the covariance, or ``[d]``.
    """
    if len(found.mean) > _MAX_CORRELATED:
        return found.aggregate_sd
    rows = np.sort(views.map.rows)
    count, _, products = scatter(vector_blocks(views.snapshot, rows), len(found.mean))
    noise = np.zeros_like(found.mean) if found.sigma2 is None else found.sigma2
    values, axes = np.linalg.eigh(products / count + np.diag(noise))
    return np.asarray(axes * np.sqrt(np.maximum(values, 0)))


def _clusters(views: Views) -> dict[str, Any]:
    count = min(CLUSTERS, len(views.map.rows))
    means = views.latents.clustering(count).means
    return {**views.lists.clusters(count), "means": [_rounded(mean) for mean in means]}


def _directions(views: Views) -> dict[str, Any]:
    loaded = load_all(views.snapshot)
    return {
        "directions": [{**describe_recipe(one), "vector": _rounded(one.vector)} for one in loaded]
    }


def _rounded(values: Any) -> Any:
    """Numbers with the digits that float32 has."""
    numbers = np.atleast_1d(values).tolist()
    short = [float(f"{number:.8g}") for number in numbers]
    return short if np.ndim(values) else short[0]


def _write_tiles(folder: _Folder, views: Views, report: Report | None) -> list[int]:
    """Write the thumbnails, and give the points whose picture is decoded."""
    count = views.tile_count
    done: Callable[[int, int], None] = report_stage(report, "thumbnails")
    decoded: list[int] = []
    for number in range(count):
        data, missing = views.draw_tile(number)
        decoded += (PER_TILE * number + missing).tolist()
        folder.write(f"data/tiles/{number}.jpg", data, "thumbnails")
        done(number + 1, count)
    return decoded


def _rows(views: Views, columns: list[str], decoded: list[int]) -> dict[str, Any]:
    """Ids and metadata of all rows, in the order of the points."""
    rows = views.map.rows
    metadata = {
        name: [plain_value(value) for value in column_values(views.snapshot, rows, name)]
        for name in columns
    }
    return {"ids": views.snapshot.ids(rows), "metadata": metadata, "decoded": decoded}


def _json(value: dict[str, Any]) -> bytes:
    return _zip(json.dumps(value, separators=(",", ":")).encode())


def _zip(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)  # the same site twice is the same bytes
