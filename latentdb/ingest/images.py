"""Images in memory to rows of a store: resized, encoded and appended as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.base.progress import Progress, Report
from latentdb.images.values import ImageLike, to_pixels
from latentdb.ingest.execution import COMMIT_ROWS
from latentdb.ingest.ingest import (
    add_rows,
    check_conflict_rule,
    check_conflicts,
    check_log_var,
)
from latentdb.model.codec import BATCH, Codec
from latentdb.store.columns import Column, make_columns
from latentdb.store.edits import free_columns
from latentdb.store.rows import Floats, Ints, Rows
from latentdb.store.writer import Writer


def add_images(
    writer: Writer,
    codec: Codec,
    ids: Sequence[str],
    images: Iterable[ImageLike],
    *,
    metadata: Mapping[str, Sequence[Any]] | None = None,
    on_conflict: str = "error",
    report: Report | None = None,
) -> int:
    """Encode images and append them, with a commit every 16,384 rows.

    Parameters
    ----------
    writer, codec
        The store's writer and model.
    ids
        Different texts.
    images
        One for each id, of any size: see `latentdb.images.values.to_pixels`.
    metadata
        ``{key: one value for each id}``.
    on_conflict
        For an id that is in the store: ``"error"``, ``"skip"`` or ``"replace"``.
    report
        Called with the progress.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InvalidInputError, ImageError
        If an argument is invalid, before anything is written; or if an image is, or they
        are more or fewer than the ids, after the rows before it were committed.
    """
    check_conflict_rule(on_conflict)
    columns = make_columns(metadata, len(ids))
    free_columns(writer, {key: column.type for key, column in columns.items()})
    types = writer.snapshot.manifest.columns
    for key, column in columns.items():
        if key in types and (column.type, types[key]) != ("int", "float"):
            column.cast(types[key], key)  # refuse it before the first image is encoded
    check_log_var(writer.snapshot, codec.config.has_z_log_var)
    old = writer.snapshot.locate(ids)
    check_conflicts(ids, old, on_conflict)
    skipped = (old >= 0) & (on_conflict == "skip")
    written = 0
    pieces = _encoded(codec, ids, images, skipped, columns, report)
    while commit := list(_up_to(pieces, COMMIT_ROWS)):
        rows = np.concatenate([piece[0] for piece in commit])
        log_vars = [piece[2] for piece in commit if piece[2] is not None]
        paths = [path for piece in commit for path in piece[3]]
        block = Rows(
            [ids[row] for row in rows.tolist()],
            np.concatenate([piece[1] for piece in commit]),
            np.concatenate(log_vars) if log_vars else None,
            paths if any(paths) else None,
            columns={key: column.take(rows) for key, column in columns.items()},
        )
        written += add_rows(writer, block, on_conflict)
    return written


_Piece = tuple[Ints, Floats, Floats | None, list[str]]


def _encoded(
    codec: Codec,
    ids: Sequence[str],
    images: Iterable[ImageLike],
    skipped: np.ndarray[tuple[int], np.dtype[np.bool_]],
    columns: Mapping[str, Column],
    report: Report | None,
) -> Iterator[_Piece]:
    """Positions of ids, z_mean, z_log_var and paths, a batch at a time."""
    source = iter(images)
    spec = codec.config.preprocessing
    for start in range(0, len(ids), BATCH):
        names = ids[start : start + BATCH]
        taken, pixels, paths = [], [], []
        batch = list(islice(source, len(names)))
        for row, (name, image) in enumerate(zip(names, batch, strict=False), start):
            if not skipped[row]:
                pixels.append(to_pixels(image, spec, f"image {name!r}"))
                paths.append(_path(image))
                taken.append(row)
        if taken:
            metadata = None
            if codec.config.condition is not None:
                metadata = [
                    {key: column.item(row) for key, column in columns.items()} for row in taken
                ]
            yield np.array(taken, np.int64), *codec.encode(np.stack(pixels), metadata), paths
        if len(batch) < len(names):
            raise _wrong_number("fewer", len(ids))
        if report is not None:
            report(Progress("encoding", start + len(names), len(ids)))
    if next(source, None) is not None:
        raise _wrong_number("more", len(ids))


def _path(image: ImageLike) -> str:
    return os.path.abspath(os.fspath(image)) if isinstance(image, str | os.PathLike) else ""


def _wrong_number(comparison: str, count: int) -> InvalidInputError:
    return InvalidInputError(
        f"there are {comparison} images than the {count:,} ids: give one for each"
    )


def _up_to(pieces: Iterator[_Piece], rows: int) -> Iterator[_Piece]:
    """Pieces until they have so many rows."""
    count = 0
    for piece in pieces:
        yield piece
        count += len(piece[0])
        if count >= rows:
            return
