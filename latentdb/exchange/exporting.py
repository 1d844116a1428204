"""Export the rows of a store to one file for other programs."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from latentdb.base.arrow import require_pyarrow
from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.base.files import as_path
from latentdb.base.outputs import STDOUT, open_output
from latentdb.exchange import csv, hdf5, npy, parquet
from latentdb.exchange.row_writer import RowWriter
from latentdb.store.manifest import FLOAT32
from latentdb.store.rows import Ints
from latentdb.store.segment import Segment
from latentdb.store.snapshot import Snapshot

_WRITERS: dict[str, RowWriter] = {
    ".h5": hdf5.write,
    ".npy": npy.write,
    ".parquet": parquet.write,
    ".csv": csv.write,
}
FORMATS = tuple(_WRITERS)


def export(
    snapshot: Snapshot, rows: Ints, out: str | os.PathLike[str], *, excel_safe: bool = False
) -> int:
    """Write rows to one file, whole or not at all.

    ``.npy`` holds z_mean alone.  The other formats hold every row exactly: id,
    path, z_mean, z_log_var where every row has it, and metadata.
    ``latentdb/exchange/README.md`` describes each of them.

    Parameters
    ----------
    snapshot
        The version to export.
    rows
        Row numbers, in the order wanted.
    out
        Ends in one of `FORMATS`; an existing file is replaced if it is an `Output` that says so.
        ``-`` is stdout, as CSV.
    excel_safe
        For ``.csv``: put ``'`` before a text that begins with ``= + - @``, a tab or a
        carriage return, which spreadsheets run as a formula.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InvalidInputError
        If the ending is another, or the format cannot hold the metadata.
    StoreError
        If there is no room, or the file cannot be written.
    MissingExtraError
        For ``.parquet``, without pyarrow.
    """
    target = as_path(out)
    to_stdout = os.fspath(out) == STDOUT
    suffix = ".csv" if to_stdout else target.suffix
    if suffix not in _WRITERS:
        raise InvalidInputError(
            f"{target}: cannot export to {suffix!r}, expected one of {', '.join(FORMATS)}, "
            "or - for CSV on stdout"
        )
    if suffix == ".parquet":
        require_pyarrow()
    writer = _WRITERS[suffix]
    if excel_safe:
        if suffix != ".csv":
            raise InvalidInputError(f"{target}: excel-safe is for .csv, which has no types")
        writer = partial(csv.write, excel_safe=True)
    if suffix == ".csv":
        csv.check_keys(snapshot.manifest.columns)
    try:
        with open_output(out) as file:
            place = Path(tempfile.gettempdir(), STDOUT) if to_stdout else target
            _check_room(snapshot, rows, suffix, place)
            writer(snapshot, rows, file)
            return file.seek(0, os.SEEK_END)
    except RuntimeError as error:  # of HDF5
        raise StoreError(f"{target} cannot be written: {error}") from error


def _check_room(snapshot: Snapshot, rows: Ints, suffix: str, target: Path) -> None:
    """Report a full disk before much is written to it."""
    size = sum(segment.entry.file.bytes + _text_bytes(segment) for segment in snapshot.segments)
    row_bytes = size // max(1, sum(len(segment) for segment in snapshot.segments))
    if snapshot.manifest.dtype != FLOAT32:
        row_bytes += 4 * snapshot.dim  # half a float32 each, of z_mean and z_log_var
    if suffix == ".csv":
        # 16 characters a number, for the 4 bytes of z_mean and z_log_var
        row_bytes += 24 * snapshot.dim
    needed = len(rows) * (row_bytes + 32 * (3 + len(snapshot.manifest.columns))) + (4 << 20)
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed:
        raise StoreError(f"{target} needs about {needed} bytes, {free} are free: make room")


def _text_bytes(segment: Segment) -> int:
    """Size of the metadata text of a segment, were each row's text written out."""
    total = 0
    for key, type_ in segment.columns.items():
        column = segment.column(key)
        if type_ == "str" and column.categories:
            sizes = np.array([len(text.encode()) for text in column.categories])
            total += int(sizes[np.clip(column.values, 0, len(sizes) - 1)].sum())
    return total
