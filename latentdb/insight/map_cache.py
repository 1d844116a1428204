"""The file in which a store keeps the points of its map; derived, and durable."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import repeat
from operator import mul
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from latentdb.ann.exact import fits_float32
from latentdb.base.errors import LatentDBError
from latentdb.base.files import (
    checksum,
    make_folder,
    open_folder,
    read_limited,
    replace_atomically,
)
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

_MAX_BYTES = 4 << 30
_FORMAT = 2
_FORMATS = 1, _FORMAT  # the first had no placed rows and no centre

Digests = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Placed:
    """Rows that have a point.

    Attributes
    ----------
    rows
        int64 ``[n]``: row numbers, ascending.
    digests
        uint64 ``[n]``: `row_digests`, as a backup that is put back, or a repair, may give the
        number of a row to another one.
    points
        float32 ``[n, 2]``.
    """

    rows: Ints
    digests: Digests
    points: Floats

    def find(self, rows: Ints, digests: Digests) -> Floats:
        """Points of rows, float32 ``[k, 2]``; NaN for a row that has none."""
        points = np.full((len(rows), 2), np.nan, np.float32)
        if len(self.rows):
            at = np.minimum(self.rows.searchsorted(rows), len(self.rows) - 1)
            same = (self.rows[at] == rows) & (self.digests[at] == digests)
            points[same] = self.points[at[same]]
        return points

    def with_more(self, others: Placed) -> Placed:
        """These rows and others; a row of both as it is in the others."""
        rows, first = np.unique(np.concatenate([others.rows, self.rows]), return_index=True)
        digests = np.concatenate([others.digests, self.digests])
        points = np.concatenate([others.points, self.points])
        return Placed(rows, digests[first], points[first])

    def of(self, snapshot: Snapshot) -> Placed:
        """Those that a version has, and those that a later one may have."""
        stay = snapshot.is_live(self.rows) | (self.rows >= snapshot.manifest.next_row)
        return Placed(self.rows[stay], self.digests[stay], self.points[stay])


_NONE = Placed(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty((0, 2), np.float32))


@dataclass(frozen=True, eq=False)
class Layout:
    """Vectors that were laid out, by which all others are placed.

    Attributes
    ----------
    vectors, points
        float32 ``[m, d]`` in the space of the metric, and ``[m, 2]``.
    kept
        Share of the 10 nearest neighbours that the layout keeps.
    centre
        That centred cosine was measured around; `optimize` may give queries another one.
    placed
        Rows that have a point already.
    """

    vectors: Floats
    points: Floats
    kept: float
    centre: Sequence[float] = ()
    placed: Placed = _NONE


def row_digests(values: Floats) -> Digests:
    """xxh3 of each row of values, uint64 ``[n]``."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, np.ascontiguousarray(values, "<f4")), np.uint64, len(values))


@dataclass(frozen=True)
class MapFile:
    """A layout in the folder of a store.

    What cannot be written is made again next time: a disc may be full, or read-only.

    Attributes
    ----------
    path
        The file.
    made_of
        What the latents are of; a layout of others is none.
    dim
        Of the space of the metric.
    """

    path: Path
    made_of: str
    dim: int

    def read(self) -> Layout | None:
        """The layout; None if there is none, or one of other latents, or a damaged one."""
        try:
            line, _, data = read_limited(self.path, _MAX_BYTES).partition(b"\n")
            head = json.loads(line)
            rows, placed = int(head["rows"]), int(head.get("placed", 0))
            kept, centre = float(head["kept"]), tuple(map(float, head.get("centre", ())))
            known = head["format"] in _FORMATS and head["made_of"] == self.made_of
            intact = head["checksum"] == checksum(data)
        except (OSError, LatentDBError, ValueError, TypeError, AttributeError, KeyError):
            return None
        if not (known and intact and min(rows - 1, placed) >= 0):
            return None
        sizes = [2 * rows, placed, placed, 2 * placed, rows * self.dim]
        kinds = ("<f4", "<i8", "<u8", "<f4", "<f4")
        starts = np.cumsum([0, *map(mul, sizes, (4, 8, 8, 4, 4))]).tolist()
        if len(data) != starts[-1]:
            return None
        points, numbers, digests, places, vectors = map(
            np.frombuffer, repeat(data), kinds, sizes, starts
        )
        layout = Layout(
            vectors.reshape(rows, self.dim),
            points.reshape(rows, 2),
            kept,
            centre,
            Placed(numbers, digests, places.reshape(placed, 2)),
        )
        # A forged file has a right checksum, too.
        finite = math.isfinite(kept) and all(map(math.isfinite, centre))
        fits = map(fits_float32, (layout.points, layout.vectors, layout.placed.points))
        return layout if finite and all(fits) else None

    def keep(self, made: Layout, *, renew: bool) -> Layout:
        """Keep a layout, unless another process kept one meanwhile: gives the one that is kept."""
        with suppress(OSError, LatentDBError), self._locked():
            there = None if renew else self.read()
            if there is not None:
                return there
            self._write(made)
        return made

    def keep_points(self, layout: Layout, placed: Placed, snapshot: Snapshot) -> None:
        """Keep the points of further rows of a layout, unless it was renewed meanwhile."""
        with suppress(OSError, LatentDBError), self._locked():
            there = self.read()
            if there is not None and np.array_equal(there.points, layout.points):
                self._write(replace(there, placed=there.placed.with_more(placed).of(snapshot)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process write meanwhile; the folder must not be a link."""
        make_folder(self.path.parent)
        with open_folder(self.path.parent) as folder:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield

    def _write(self, layout: Layout) -> None:
        placed = layout.placed
        arrays = (layout.points, placed.rows, placed.digests, placed.points, layout.vectors)
        data = b"".join(array.tobytes() for array in arrays)
        head = {
            "format": _FORMAT,
            "made_of": self.made_of,
            "rows": len(layout.points),
            "placed": len(placed.rows),
            "kept": layout.kept,
            "centre": list(layout.centre),
            "checksum": checksum(data),
        }
        line = json.dumps(head).encode() + b"\n"
        if len(line) + len(data) <= _MAX_BYTES:
            replace_atomically(self.path, line + data)
