"""Import the rows of a file into a store, all of them in one commit or none.

The file is read twice: its ids first, so that a duplicate, or one that is in the
store already, is found before anything is written; then its rows, in batches
that are written as they come and committed together.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import (
    InvalidInputError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import as_path, os_reason
from latentdb.base.progress import Progress, Report
from latentdb.base.validate import check_ids
from latentdb.exchange.csv import CsvReader
from latentdb.exchange.hdf5 import H5Reader
from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.npy import NpyReader
from latentdb.exchange.npz import NpzReader
from latentdb.exchange.parquet import ParquetReader
from latentdb.exchange.row_reader import RowReader
from latentdb.ingest.ingest import CONFLICTS
from latentdb.store.edits import free_columns, held_types
from latentdb.store.rows import Ints, Rows
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.writer import Writer

PathLike = str | os.PathLike[str]
_READERS: dict[str, Callable[[Path, ColumnNames], RowReader]] = {
    ".h5": H5Reader,
    ".parquet": ParquetReader,
    ".csv": CsvReader,
    ".npz": NpzReader,
}
FORMATS = (".h5", ".npy", ".parquet", ".csv", ".npz")
_FIRST_CHECK = 16_384  # ids after which duplicates are looked for; then at twice as many, and so on


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    added, replaced, skipped
        Rows of the file that were new, that replaced a row of the same id, and
        that were left out because their id was in the store.
    rows
        Rows in the store now.
    seconds
        Wall time.
    left_out
        Columns of the file that a store cannot hold.
    """

    added: int
    replaced: int
    skipped: int
    rows: int
    seconds: float
    left_out: tuple[str, ...] = ()


@contextmanager
def opened(
    file: PathLike, ids: PathLike | None = None, columns: ColumnNames | None = None
) -> Iterator[RowReader]:
    """Open a file of rows with the reader of its format.

    Parameters
    ----------
    file
        Ends in one of `FORMATS`; `latentdb.exchange.exporting.export` says what each holds.
    ids
        For ``.npy``: a UTF-8 text file with one id a line.  By default the ids are row numbers.
    columns
        Which columns hold ids and vectors; found by their names where it does not say.

    Raises
    ------
    NotFoundError
        If a file does not exist.
    InvalidInputError
        If it is not of its format.
    MissingExtraError
        For ``.parquet``, without pyarrow.
    """
    path = as_path(file)
    suffix = path.suffix.lower()
    columns = columns or ColumnNames()
    if suffix not in FORMATS:
        raise InvalidInputError(
            f"{path}: cannot import {suffix!r}, expected one of {', '.join(FORMATS)}"
        )
    if ids is not None and suffix != ".npy":
        raise InvalidInputError(f"{path} holds its ids itself: give a file of ids for .npy only")
    if suffix == ".npy" and columns != ColumnNames():
        raise InvalidInputError(f"{path} is one array: it has no columns to name")
    ids_path = None if ids is None else as_path(ids)
    _require_file(path)
    if ids_path is not None:
        _require_file(ids_path)
    read = _READERS.get(suffix)
    with closing(read(path, columns) if read else NpyReader(path, ids_path)) as reader:
        yield reader


def _require_file(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: expected a file to import") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {os_reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise InvalidInputError(f"{path} is no regular file: expected a file to import")


def import_rows(
    writer: Writer,
    reader: RowReader,
    *,
    on_conflict: str = "error",
    is_own_encoder: Callable[[Snapshot, str], bool] | None = None,
    report: Report | None = None,
) -> ImportReport:
    """Append the rows of a file to a store, in one commit.

    Parameters
    ----------
    writer
        The store's writer.
    reader
        The open file.
    on_conflict
        For an id that is in the store: ``"error"``, ``"skip"`` or ``"replace"``.
    is_own_encoder
        Whether a fingerprint is of the store's encoder; by default if it equals
        the manifest's.
    report
        Called with the progress.

    Raises
    ------
    InvalidInputError
        If the file, or an id in it, cannot be used; the store is unchanged then.
    ModelMismatchError
        If its latents are of another encoder than the store's.
    """
    start = time.monotonic()
    if on_conflict not in CONFLICTS:
        raise InvalidInputError(f"on_conflict {on_conflict!r} is unknown: use one of {CONFLICTS}")
    snapshot = writer.snapshot
    _check_vectors(snapshot, reader)
    _check_encoder(snapshot, reader, is_own_encoder)
    hashes, rows = _locate_ids(snapshot, reader, report)
    existing = np.flatnonzero(rows >= 0)
    if len(existing) and on_conflict == "error":
        name = snapshot.ids(rows[existing[:1]])[0]
        raise InvalidInputError(
            f"{reader.path}: id {name!r} ({len(existing)} in all) is in the store: "
            "set on-conflict to skip or replace"
        )
    reader.fit(held_types(snapshot))
    free_columns(writer, reader.types)
    _check_types(writer.snapshot, reader)
    wanted = rows < 0 if on_conflict == "skip" else np.ones(len(rows), bool)
    if wanted.any():
        replaced = rows[existing] if on_conflict == "replace" else None
        writer.append(_batches(reader, hashes, wanted, report), replaced)
    added = len(rows) - len(existing)
    counts = (len(existing), 0) if on_conflict == "replace" else (0, len(existing))
    seconds = time.monotonic() - start
    return ImportReport(added, *counts, len(writer.snapshot), seconds, tuple(reader.left_out))


def _check_encoder(
    snapshot: Snapshot, reader: RowReader, is_own_encoder: Callable[[Snapshot, str], bool] | None
) -> None:
    """Refuse vectors of another encoder."""
    model, made_by = snapshot.manifest.model, reader.fingerprint
    if model is None or made_by is None or made_by == model.encoder_fingerprint:
        return
    if is_own_encoder is None or not is_own_encoder(snapshot, made_by):
        raise ModelMismatchError(
            f"{reader.path} was made by encoder {made_by}, this store's latents are of encoder "
            f"{model.encoder_fingerprint}: import into another store"
        )


def _check_vectors(snapshot: Snapshot, reader: RowReader) -> None:
    """Refuse vectors of another size, or with z_log_var unlike the store's."""
    if reader.dim != snapshot.dim:
        raise InvalidInputError(
            f"{reader.path} has {reader.dim} dimensions, this store {snapshot.dim}: "
            "import into another store"
        )
    if snapshot.segments:
        stored = snapshot.segments[0].has_log_var
        if stored and not reader.has_log_var:
            raise InvalidInputError(
                f"{reader.path} has no z_log_var, and this store's rows have it: "
                "import into another store"
            )
        if reader.has_log_var and not stored:
            raise InvalidInputError(
                f"{reader.path} has z_log_var, and this store's rows have none: "
                "import into another store, or leave it out of the file"
            )


def _check_types(snapshot: Snapshot, reader: RowReader) -> None:
    """Refuse metadata of another type than the store's column of that key."""
    for key, found in reader.types.items():
        stored = snapshot.manifest.columns.get(key, found)
        if stored != found and {stored, found} != {"int", "float"}:
            raise InvalidInputError(
                f"{reader.path}: metadata {key!r} is {found} and in this store {stored}: "
                "convert it or rename it"
            )


def _locate_ids(
    snapshot: Snapshot, reader: RowReader, report: Report | None
) -> tuple[NDArray[np.uint64], Ints]:
    """Hash of every id of a file, and its row in the store or -1; no id may be there twice."""
    hashes = [np.empty(0, np.uint64)]
    rows = [np.empty(0, np.int64)]
    count = checked = 0
    for names in reader.ids():
        try:
            check_ids(names)
        except InvalidInputError as error:
            raise reader.refuse(str(error)) from error
        hashes.append(hash_ids(names))
        rows.append(snapshot.locate(names))
        count += len(names)
        if report is not None:
            report(Progress("checking ids", count, reader.rows))
        if count >= max(_FIRST_CHECK, 2 * checked):
            # A small compressed file may repeat one id for hours: look before its end.
            hashes = [np.concatenate(hashes)]
            _check_unique(reader, hashes[0])
            checked = count
    all_hashes = np.concatenate(hashes)
    _check_unique(reader, all_hashes)
    return all_hashes, np.concatenate(rows)


def _check_unique(reader: RowReader, hashes: NDArray[np.uint64]) -> None:
    """Refuse an id that the file has twice, among its first ids, whose hashes are given."""
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return
    # Different ids may have the same hash: compare the ids themselves.
    rows: dict[str, int] = {}
    first = 0
    for names in reader.ids():
        positions = np.flatnonzero(np.isin(hashes[first : first + len(names)], repeated))
        for position in positions.tolist():
            row = first + position
            if rows.setdefault(names[position], row) != row:
                raise reader.refuse(
                    f"id {names[position]!r} is in rows {rows[names[position]]} and {row}: "
                    "give each id once"
                )
        first += len(names)
        if first >= len(hashes):
            return


def _batches(
    reader: RowReader,
    hashes: NDArray[np.uint64],
    wanted: NDArray[np.bool_],
    report: Report | None,
) -> Iterator[Rows]:
    """The wanted rows of a file whose ids have these hashes.

    Raises
    ------
    StoreError
        If the file has other ids by now.
    """
    changed = StoreError(f"{reader.path} changed while it was read: import it again")
    start = 0
    for rows in reader.batches():
        positions = slice(start, start + len(rows))
        if not np.array_equal(hash_ids(rows.ids), hashes[positions]):
            raise changed
        for path in rows.paths or ():
            if "\0" in path:
                raise reader.refuse(f"path {path!r} has a null character")
        mask = wanted[positions]
        if mask.all():
            yield rows
        elif mask.any():
            yield rows.take(np.flatnonzero(mask))
        start += len(rows)
        if report is not None:
            report(Progress("importing", start, len(hashes)))
    if start != len(hashes):
        raise changed
