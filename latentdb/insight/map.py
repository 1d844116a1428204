"""The map of a store: every row as a point of a plane; points once given do not move."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from latentdb.ann.exact import fits_float32
from latentdb.base.errors import InvalidInputError, LatentDBError, NotFoundError
from latentdb.base.files import read_limited, replace_atomically
from latentdb.insight.blocks import sample_rows
from latentdb.insight.layout import Report, lay_out, neighbours_kept, place
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.store.creation import LAYOUTS
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_LANDMARKS = 50_000
FOLDER = LAYOUTS
_MAX_BYTES = 4 << 30
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Vectors that were laid out, by which all others are placed.

    Attributes
    ----------
    vectors, points
        float32 ``[m, d]`` in the space of the metric, and ``[m, 2]``.
    kept
        Share of the 10 nearest neighbours that the layout keeps.
    """

    vectors: Floats
    points: Floats
    kept: float


@dataclass(frozen=True, eq=False)
class Map:
    """The rows of a store as points of a plane.

    Attributes
    ----------
    rows, points
        int64 ``[n]`` row numbers and float32 ``[n, 2]``.
    kept
        Share of the 10 nearest neighbours of a landmark that are near in the picture too.
    landmarks
        Rows that were laid out; every other row is placed among them.
    metric
        Whose distances the layout keeps.
    """

    rows: Ints
    points: Floats
    kept: float
    landmarks: int
    metric: str


def make_map(
    snapshot: Snapshot,
    rows: Ints,
    *,
    metric: str,
    seed: int = 0,
    renew: bool = False,
    report: Report | None = None,
) -> Map:
    """Points for rows; the layout is made once and kept in the store.

    Up to 50,000 rows are laid out.  All others, and all that are added later, are placed
    at the weighted mean of their nearest landmarks, so that no point ever moves.

    Parameters
    ----------
    rows
        Row numbers, ascending.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    seed
        Of the sample and of the layout.
    renew
        Make the layout anew.

    Raises
    ------
    NotFoundError
        If there are no rows.
    """
    if not len(rows):
        raise NotFoundError("no rows to map: index images first, or use another expression")
    embedded = EmbeddedRows(snapshot, metric)
    path = snapshot.folder / FOLDER / f"{metric}-{seed}.layout"
    made_of = _fingerprint(snapshot)
    landmarks = None if renew else _read(path, made_of, embedded.dim)
    if landmarks is None:
        landmarks = _lay_out(snapshot, embedded, seed, report)
        _write(path, made_of, landmarks)
    points = [
        place(landmarks.vectors, landmarks.points, block.vectors)
        for block in embedded.blocks_of(rows)
    ]
    return Map(rows, np.concatenate(points), landmarks.kept, len(landmarks.points), metric)


def _lay_out(
    snapshot: Snapshot, embedded: EmbeddedRows, seed: int, report: Report | None
) -> Landmarks:
    vectors = embedded.fetch(sample_rows(snapshot.live_rows(), MAX_LANDMARKS, seed))
    if not fits_float32(vectors):
        raise InvalidInputError(
            "these latents are too large for float32 distances: no map can be made of them"
        )
    points = lay_out(vectors, seed=seed, report=report)
    return Landmarks(vectors, points, neighbours_kept(vectors, points, seed=seed))


def _fingerprint(snapshot: Snapshot) -> str:
    """What the latents are of: the encoder, or the store itself."""
    model = snapshot.manifest.model
    return snapshot.manifest.uuid if model is None else model.encoder_fingerprint


def _write(path: Path, made_of: str, landmarks: Landmarks) -> None:
    """Keep a layout in the store; one that cannot be written is made again next time."""
    data = landmarks.points.tobytes() + landmarks.vectors.tobytes()
    head = {
        "format": _FORMAT,
        "made_of": made_of,
        "rows": len(landmarks.points),
        "kept": landmarks.kept,
        "checksum": xxhash.xxh3_128_hexdigest(data),
    }
    if path.parent.is_symlink():  # nothing is written outside the store
        return
    try:
        path.parent.mkdir(exist_ok=True)
        replace_atomically(path, json.dumps(head).encode() + b"\n" + data)
    except (OSError, LatentDBError):
        return


def _read(path: Path, made_of: str, dim: int) -> Landmarks | None:
    """A layout that was kept; None if there is none, or one of other latents, or a damaged one."""
    try:
        line, _, data = read_limited(path, _MAX_BYTES).partition(b"\n")
        head = json.loads(line)
        rows, kept = int(head["rows"]), float(head["kept"])
        known = head["format"] == _FORMAT and head["made_of"] == made_of
        intact = head["checksum"] == xxhash.xxh3_128_hexdigest(data)
    except (OSError, LatentDBError, ValueError, TypeError, KeyError):
        return None
    if not (known and intact and rows > 0 and len(data) == 4 * rows * (2 + dim)):
        return None
    numbers = np.frombuffer(data, "<f4")
    points, vectors = numbers[: 2 * rows].reshape(rows, 2), numbers[2 * rows :].reshape(rows, dim)
    return Landmarks(vectors, points, kept)
