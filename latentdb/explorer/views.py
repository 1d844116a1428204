"""`Views`: what the page shows of an open store, by row number."""

from __future__ import annotations

import io
import itertools
import math
import secrets
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.ann.metrics import CENTERED_COSINE, L2, METRICS, VECTOR_METRICS
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.explorer.blends import MAX_BLENDS, MAX_WHERE, Blend, Selection
from latentdb.explorer.latents import Latents, Upload
from latentdb.explorer.lists import Lists
from latentdb.explorer.tiles import COLUMNS, PER_TILE, cells_for, curve_order, draw_tile
from latentdb.explorer.versions import Versions
from latentdb.images.decode import decode_pixels, to_pil
from latentdb.images.render import encode_pixels
from latentdb.images.sources import image_exists
from latentdb.insight.originals import read_or_decode
from latentdb.model import arithmetic, generation
from latentdb.search.selection import check_column, column_values, parse_where, select_rows

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.images.pixel_range import Pixels
    from latentdb.reader import Reader
    from latentdb.search.results import Matches
    from latentdb.store.columns import Value
    from latentdb.store.rows import Floats, Ints

MAGIC, FORMAT = b"LDBP", 1
MAX_NEIGHBOURS = 100
MAX_UPLOAD_PIXELS = 50_000_000
UPLOADS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
KINDS = ("png", "gif")
_CATEGORIES = 20  # colours of a legend
_RANGES = 8
_KEPT_COLUMNS = 8
_FRAME_MS = 80
_KEPT_TILES = 256  # of some 100 kB
_MAX_SAFE = 2**53  # beyond it, JavaScript rounds a whole number


class Views:
    """The rows of the version that was committed when the server started, and those added since.

    Threads may share it.

    Parameters
    ----------
    db
        An open store.
    where
        Only rows for which this expression is true.
    report
        Called with the progress of the layout, which the first call for a store makes.

    Attributes
    ----------
    snapshot
        The version that was committed at the start.
    map
        Its rows as points, in the order of the tiles.
    versions, latents, lists
        Rows by number, vectors of blends, and what is gone through one by one.
    """

    def __init__(
        self, db: Reader, *, where: str | None = None, report: Report | None = None
    ) -> None:
        from latentdb.insight.map import make_map

        self._db = db
        self.snapshot = db._snapshot()
        if not len(self.snapshot):
            raise NotFoundError("the store is empty: index images before you look at it")
        self._rows = select_rows(self.snapshot, parse_where(self.snapshot, where))
        made = make_map(self.snapshot, self._rows, metric=L2, report=report)
        order = curve_order(made.points)  # a tile then holds what is seen together
        self.map = replace(made, rows=made.rows[order], points=made.points[order])
        self._kept_tile = lru_cache(_KEPT_TILES)(lambda number: self.draw_tile(number)[0])
        self.versions = Versions(db, self.snapshot, self.map)
        self.latents = Latents(self.versions, self.map, self._codes)
        self.lists = Lists(db, self.versions, self.latents)
        self._kept_column = lru_cache(_KEPT_COLUMNS)(self._make_column)
        self._version = secrets.token_hex(4)
        self._lock = threading.Lock()  # models run one at a time

    @property
    def _has_model(self) -> bool:
        return self.snapshot.manifest.model is not None

    @property
    def _has_decoder(self) -> bool:
        return self._db._decode(self.snapshot) is not None

    @property
    def metrics(self) -> list[str]:
        """Metrics that rows can be compared by."""
        known = all(segment.has_log_var for segment in self.snapshot.segments)
        metrics = list(METRICS if known else VECTOR_METRICS)
        if not len(self.snapshot.manifest.settings.centre):
            metrics.remove(CENTERED_COSINE)
        return metrics

    @property
    def tile_count(self) -> int:
        """Number of tiles; the last one may have fewer points."""
        return -(-len(self._rows) // PER_TILE)

    def info(self) -> dict[str, Any]:
        """Size of the store, its columns, how faithful its map is, and the form of its tiles."""
        tiles = None
        if self._has_model:
            cells = cells_for(*self._db.codec.config.preprocessing.shape[:2])
            tiles = {"per_tile": PER_TILE, "columns": COLUMNS, **asdict(cells)}
        index = self.snapshot.manifest.index
        return {
            "version": self._version,
            "rows": len(self._rows),
            "dim": self.snapshot.dim,
            "has_model": self._has_model,
            "has_decoder": self._has_decoder,
            "tiles": tiles,
            "shell": self.latents.shell,
            "metric": self.snapshot.default_metric,
            "metrics": self.metrics,
            "index": None
            if index is None
            else {"metric": index.metric, "recall": index.recall_target},
            "columns": list(self.snapshot.manifest.columns),
            "neighbours_kept": self.map.kept,
            "landmarks": self.map.landmarks,
        }

    def points(self) -> bytes:
        """The map as binary data, little-endian.

        ``LDBP``, uint32 format 1, uint32 n, uint32 0; n uint32 row numbers; n x 2 float32.
        Points near to each other are near in it: each 256 of them share a tile.
        """
        head = MAGIC + struct.pack("<III", FORMAT, len(self._rows), 0)
        rows, points = self.map.rows.astype("<u4"), self.map.points.astype("<f4")
        return head + rows.tobytes() + points.tobytes()

    def column(self, name: str) -> dict[str, Any]:
        """Categories of a column with their counts, and the category of each point.

        A column of many numbers is cut into ranges with about as many rows each; of many
        other values, the most frequent ones have categories.  -1 is no category.
        """
        check_column(self.snapshot, name)
        return self._kept_column(name)

    def _codes(self, name: str) -> list[int]:
        codes: list[int] = self.column(name)["codes"]
        return codes

    def _make_column(self, name: str) -> dict[str, Any]:
        values = column_values(self.snapshot, self.map.rows, name)
        numeric = all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in values
        )
        known = {value for value in values if value is not None}
        if numeric and len(known) > _CATEGORIES:
            return _ranges(values)
        texts = [None if value is None else str(value) for value in values]
        found = Counter(text for text in texts if text is not None)
        frequent = sorted(found, key=lambda text: (-found[text], text))[:_CATEGORIES]
        frequent.sort()
        codes = {text: code for code, text in enumerate(frequent)}
        return {
            "categories": [{"name": text, "count": found[text]} for text in frequent],
            "codes": [-1 if text is None else codes.get(text, -1) for text in texts],
        }

    def filter(self, where: str) -> dict[str, Any]:
        """Positions in `points` of the rows for which an expression is true."""
        if len(where) > MAX_WHERE:
            raise InvalidInputError(f"the expression is over {MAX_WHERE:,} characters")
        if not where.strip():
            raise InvalidInputError("where is empty: give an expression")
        return {"points": self.latents.points(Selection(where)).tolist()}

    def average(self, selection: Selection) -> dict[str, Any]:
        """How many rows a selection has, and the length of their mean."""
        vector, rows = self.latents.mean(selection)
        return {"rows": rows, "norm": float(np.linalg.norm(vector))}

    def row(self, row: int) -> dict[str, Any]:
        """Id and metadata of a row, and whether its image is where it was indexed."""
        ((name, path, metadata),) = self.versions.of(row).records(np.array([row], np.int64))
        found = path is not None and image_exists(path)
        return {"row": row, "id": name, "metadata": _plain(metadata), "file_exists": found}

    def thumb(self, row: int) -> bytes:
        """A JPEG of the image at the model's size: of its file, else of its latent."""
        snapshot = self.versions.of(row)
        with self._lock:
            (pixels,) = self._db._images(snapshot, np.array([row], np.int64))
        return encode_pixels(pixels, "jpeg")

    def tile(self, number: int) -> bytes:
        """A JPEG of the thumbnails of 256 points: those from ``256 * number`` on."""
        if not (self._has_model and number < self.tile_count):
            raise NotFoundError(f"tile {str(number)[:24]} does not exist")
        return self._kept_tile(number)

    def draw_tile(self, number: int) -> tuple[bytes, Ints]:
        """A tile, and the indices in it of the rows without an image file."""
        rows = self.map.rows[PER_TILE * number : PER_TILE * (number + 1)]
        codec = self._db.codec
        decode = codec.decode if codec.has_decoder else None
        with self._lock:
            images, missing = read_or_decode(
                self.snapshot, rows, codec.config.preprocessing, decode
            )
        return draw_tile(images, cells_for(*images.shape[1:3])), missing

    def neighbours(self, row: int, *, k: int, metric: str | None, exact: bool) -> dict[str, Any]:
        """The k rows nearest to a row, without itself; by default by the store's metric."""
        (name,) = self.versions.of(row).ids(np.array([row], np.int64))
        _check_k(k)
        return self._described(
            self._db.query(f"id:{name}", k=k, metric=metric, exact=exact, exclude_self=True)
        )

    def near(self, blend: Blend, *, k: int, metric: str | None, exact: bool) -> dict[str, Any]:
        """The k rows nearest to a blend, and the length |z| of it."""
        _check_k(k)
        latent = self.latents.of(blend)
        found = self._described(self._db.query(latent, k=k, metric=metric, exact=exact))
        return {**found, "norm": float(np.linalg.norm(latent))}

    def place(self, blends: Sequence[Blend]) -> dict[str, Any]:
        """Where blends are on the map: between the landmarks that are nearest to each."""
        return {"points": self.versions.place(np.stack([self.latents.of(one) for one in blends]))}

    def _described(self, matches: Matches) -> dict[str, Any]:
        rows = self.versions.numbers([match.id for match in matches])
        return {
            "metric": matches.metric,
            "exact": matches.exact,
            "recall": matches.recall,
            "scanned": matches.scanned,
            "matches": [
                {
                    "row": row,
                    "id": match.id,
                    "distance": match.distance,
                    "metadata": _plain(match.metadata),
                }
                for row, match in zip(rows, matches, strict=True)
                if row >= 0
            ],
        }

    def decode(self, blends: Sequence[Blend]) -> bytes:
        """A PNG of the images that blends decode to, side by side."""
        latents = np.stack([self.latents.of(blend) for blend in blends])
        conditions = [self._condition(blend) for blend in blends]
        return encode_pixels(_side_by_side(self._decoded(latents, conditions)), "png")

    def _condition(self, blend: Blend) -> dict[str, Value]:
        """The metadata that a conditional model decodes a blend with: that of its only row."""
        row = blend.parts[0].of
        if len(blend.parts) > 1 or not isinstance(row, int):
            return {}
        return self.versions.of(row).metadata(np.array([row], np.int64))[0]

    def _decoded(
        self, latents: Floats, conditions: Sequence[dict[str, Value]] | None = None
    ) -> Pixels:
        codec = self._db.codec
        if not (conditions and any(conditions) and codec.needs_condition):
            conditions = None  # said to be missing, if it is
        with self._lock:
            return codec.decode(latents, conditions)

    def interpolate(self, start: Blend, end: Blend, *, steps: int, method: str, kind: str) -> bytes:
        """A path between two blends as a PNG, side by side, or as an animated GIF."""
        if not 2 <= steps <= MAX_BLENDS:
            raise InvalidInputError(f"steps {steps} cannot be used: give 2 to {MAX_BLENDS}")
        if kind not in KINDS:
            raise InvalidInputError(
                f"format {kind[:20]!r} is unknown: use one of {', '.join(KINDS)}"
            )
        ends = self.latents.of(start), self.latents.of(end)
        frames = self._decoded(arithmetic.interpolate(*ends, steps, method=method))
        return encode_pixels(_side_by_side(frames), "png") if kind == "png" else _animated(frames)

    def traverse(self, blend: Blend, *, dims: str, reach: float, steps: int) -> bytes:
        """A PNG of walks along dimensions, one below the other, each from -reach to reach sd."""
        if not 2 <= steps <= MAX_BLENDS // 4:
            raise InvalidInputError(f"steps {steps} cannot be used: give 2 to {MAX_BLENDS // 4}")
        ranked = [one["number"] for one in self.lists.dimensions()["dimensions"]]
        numbers = generation.parse_dims(dims, ranked)[:MAX_BLENDS]
        sd = self.latents.posteriors.aggregate_sd
        walk = generation.traverse(
            self.latents.of(blend), numbers, sd, low=-reach, high=reach, steps=steps
        )
        latents = walk.latents.reshape(-1, self.snapshot.dim)
        images = self._decoded(latents, [self._condition(blend)] * len(latents))
        walks = np.split(images, len(numbers))
        return encode_pixels(np.concatenate(list(map(_side_by_side, walks))), "png")

    def upload(self, data: bytes) -> dict[str, Any]:
        """Encode an image file; the part ``{"image": token}`` is its latent."""
        if not self._has_model:
            raise InvalidInputError("this store has no model: it cannot encode an image")
        check_upload(data)
        codec, token = self._db.codec, secrets.token_hex(8)
        with self._lock:
            pixels = decode_pixels(data, codec.config.preprocessing, name="this image")
            vector = codec.encode(pixels[None])[0][0]
        self.latents.keep_upload(token, Upload(vector, encode_pixels(pixels, "png")))
        return {"image": token, "width": pixels.shape[1], "height": pixels.shape[0]}

    def uploaded(self, token: str) -> bytes:
        """An uploaded image as the model sees it, as a PNG."""
        return self.latents.uploaded(token).png


def check_upload(data: bytes) -> None:
    """Refuse what is no image of a common format, or has too many pixels, before it is decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=UPLOADS) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises many types
        raise InvalidInputError(f"this is no image: give one of {', '.join(UPLOADS)}") from error
    if width * height > MAX_UPLOAD_PIXELS:
        raise InvalidInputError(
            f"{width:,} x {height:,} pixels are too many: give up to {MAX_UPLOAD_PIXELS:,}"
        )


def _side_by_side(images: Pixels) -> Pixels:
    count, height, width, channels = images.shape
    return images.swapaxes(0, 1).reshape(height, count * width, channels)


def _animated(frames: Pixels) -> bytes:
    """A GIF that runs there and back for ever."""
    pictures = list(map(to_pil, frames))
    rest = pictures[1:] + pictures[-2:0:-1]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0)
    return file.getvalue()


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON and JavaScript can hold it: other numbers as texts."""
    return {name: plain_value(value) for name, value in metadata.items()}


def plain_value(value: Any) -> Any:
    """A value of a column: a date, and a number that JSON or JavaScript cannot hold, as a text."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, int) and abs(value) > _MAX_SAFE else value


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_NEIGHBOURS:
        raise InvalidInputError(f"k {k} cannot be used: give 1 to {MAX_NEIGHBOURS}")


def _ranges(values: Sequence[Any]) -> dict[str, Any]:
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    known = numbers[np.isfinite(numbers)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _RANGES + 1)))
    codes = np.searchsorted(edges[1:-1], numbers, side="right")
    codes[~np.isfinite(numbers)] = -1
    names = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    categories = [
        {"name": name, "count": int((codes == code).sum())} for code, name in enumerate(names)
    ]
    return {"categories": categories, "codes": codes.tolist()}
