"""Ready-made rows from a file into a store, all of them in one commit or none.

The file is read twice: its ids first, so that one that is there twice, or in
the store already, is found before anything is written; then its rows, in
batches that are written as they come and committed together.
"""

from __future__ import annotations

import os
import shutil
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
    LatentDBError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import as_path, os_reason
from latentdb.base.progress import Progress, Report
from latentdb.base.validate import check_ids
from latentdb.exchange.hdf5 import H5Reader
from latentdb.exchange.parquet import ParquetReader
from latentdb.exchange.row_reader import CsvReader, NpyReader, RowReader
from latentdb.ingest.ingest import CONFLICTS
from latentdb.store import manifest as manifests
from latentdb.store.segment import Ints, Rows, hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store
from latentdb.store.writer import Writer

FORMATS = (".h5", ".npy", ".parquet", ".csv")
PathLike = str | os.PathLike[str]
_FIRST_CHECK = 16_384  # rows


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    added, replaced, skipped
        Rows of the file that were new, took the place of one of the same id,
        and were left out because their id was in the store.
    rows
        In the store now.
    seconds
        Wall time.
    """

    added: int
    replaced: int
    skipped: int
    rows: int
    seconds: float


@contextmanager
def opened(file: PathLike, ids: PathLike | None = None) -> Iterator[RowReader]:
    """Open a file of ready-made rows, by its ending.

    Parameters
    ----------
    file
        ``.h5``, ``.parquet`` and ``.csv`` as `latentdb.exchange.exporting.export` writes them;
        ``.npy`` holds z_mean ``[n, d]``.
    ids
        For ``.npy``: a UTF-8 text file with one id a line.  Row numbers without.

    Raises
    ------
    NotFoundError
        If it is not there.
    InvalidInputError
        If it is not such a file.
    MissingExtraError
        For ``.parquet``, without pyarrow.
    """
    path = as_path(file)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InvalidInputError(
            f"{path}: cannot import {suffix!r}, expected one of {', '.join(FORMATS)}"
        )
    if ids is not None and suffix != ".npy":
        raise InvalidInputError(f"{path} names its rows itself: give ids for .npy only")
    names = None if ids is None else as_path(ids)
    for each in (path, names):
        if each is not None:
            _require_file(each)
    openers: dict[str, Callable[[], RowReader]] = {
        ".h5": lambda: H5Reader(path),
        ".npy": lambda: NpyReader(path, names),
        ".parquet": lambda: ParquetReader(path),
        ".csv": lambda: CsvReader(path),
    }
    with closing(openers[suffix]()) as source:
        yield source


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
    writer: Writer, source: RowReader, *, on_conflict: str = "error", report: Report | None = None
) -> ImportReport:
    """Read a file into a store, in one commit.

    Parameters
    ----------
    writer
        Of the store.
    source
        The open file.
    on_conflict
        For an id that is in the store: ``"error"``, ``"skip"`` or ``"replace"``.
    report
        Called with the progress.

    Raises
    ------
    InvalidInputError
        If the file, or an id in it, cannot be used; the store is as before.
    ModelMismatchError
        If it was made by another encoder than the store's.
    """
    start = time.monotonic()
    if on_conflict not in CONFLICTS:
        raise InvalidInputError(f"on_conflict {on_conflict!r} is unknown: use one of {CONFLICTS}")
    snapshot = writer.snapshot
    _check_fits(snapshot, source)
    hashes, rows = _look_up(snapshot, source, report)
    taken = np.flatnonzero(rows >= 0)
    if len(taken) and on_conflict == "error":
        name = snapshot.ids(rows[taken[:1]])[0]
        raise InvalidInputError(
            f"{source.path}: id {name!r} ({len(taken)} in all) is in the store: "
            "pass on_conflict 'skip' or 'replace'"
        )
    source.fit(snapshot.manifest.columns)
    _check_kinds(snapshot, source)
    keep = rows < 0 if on_conflict == "skip" else np.ones(len(rows), bool)
    if keep.any():
        replaced = rows[taken] if on_conflict == "replace" else None
        writer.append(_batches(source, hashes, keep, report), replaced)
    added = len(rows) - len(taken)
    counts = (len(taken), 0) if on_conflict == "replace" else (0, len(taken))
    return ImportReport(added, *counts, len(writer.snapshot), time.monotonic() - start)


def undo_creation(store: Store, *, existed: bool) -> None:
    """Remove a store that was made for an import which failed, unless something is in it.

    Parameters
    ----------
    store
        Made a moment ago.
    existed
        Whether its folder was there, empty, before.
    """
    try:
        with manifests.writer_lock(store.path):
            if manifests.read(store.path).version > 1:
                return
            # From here on it is what a killed creation leaves.
            (store.path / manifests.MANIFEST).unlink()
            for name in manifests.FOLDERS:
                shutil.rmtree(store.path / name, ignore_errors=True)
            (store.path / manifests.LOCK).unlink()
        if not existed:
            store.path.rmdir()
    except (LatentDBError, OSError):
        return  # the error of the import is what is to be told


def _check_fits(snapshot: Snapshot, source: RowReader) -> None:
    if source.dim != snapshot.dim:
        raise InvalidInputError(
            f"{source.path} has {source.dim} dimensions, this store {snapshot.dim}: "
            "import into another store"
        )
    model = snapshot.manifest.model
    made_by = source.fingerprint
    if model is not None and made_by is not None and model.encoder_fingerprint != made_by:
        raise ModelMismatchError(
            f"{source.path} was made by encoder {made_by}, this store's latents are of encoder "
            f"{model.encoder_fingerprint}: import into another store"
        )
    if snapshot.segments:
        stored = snapshot.segments[0].has_log_var
        if stored and not source.has_log_var:
            raise InvalidInputError(
                f"{source.path} has no z_log_var, and this store's rows have it: "
                "import into another store"
            )
        if source.has_log_var and not stored:
            raise InvalidInputError(
                f"{source.path} has z_log_var, and this store's rows have none: "
                "import into another store, or leave it out of the file"
            )


def _check_kinds(snapshot: Snapshot, source: RowReader) -> None:
    for key, kind in source.kinds.items():
        stored = snapshot.manifest.columns.get(key, kind)
        if stored != kind and {stored, kind} != {"int", "float"}:
            raise InvalidInputError(
                f"{source.path}: metadata {key!r} is {kind} and in this store {stored}: "
                "convert it or rename it"
            )


def _look_up(
    snapshot: Snapshot, source: RowReader, report: Report | None
) -> tuple[NDArray[np.uint64], Ints]:
    """Hash of every id of a file, none of which is there twice, and its row in the store or -1."""
    hashes = [np.empty(0, np.uint64)]
    rows = [np.empty(0, np.int64)]
    count = checked = 0
    for names in source.ids():
        try:
            check_ids(names)
        except InvalidInputError as error:
            raise source.refuse(str(error)) from error
        hashes.append(hash_ids(names))
        rows.append(snapshot.locate(names))
        count += len(names)
        if report is not None:
            report(Progress("checking ids", count, source.rows))
        if count >= max(_FIRST_CHECK, 2 * checked):
            # Now and then, so that a small file of one id again and again ends soon.
            hashes = [np.concatenate(hashes)]
            _check_unique(source, hashes[0])
            checked = count
    everything = np.concatenate(hashes)
    _check_unique(source, everything)
    return everything, np.concatenate(rows)


def _check_unique(source: RowReader, hashes: NDArray[np.uint64]) -> None:
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    # Different ids may have the same hash: the ids themselves decide.
    seen: dict[str, int] = {}
    first = 0
    for names in source.ids():
        places = np.flatnonzero(np.isin(hashes[first : first + len(names)], twice))
        for place in places.tolist():
            row = first + place
            if place < len(names) and seen.setdefault(names[place], row) != row:
                raise source.refuse(
                    f"id {names[place]!r} is in rows {seen[names[place]]} and {row}: "
                    "give each id once"
                )
        first += len(names)
        if first >= len(hashes):
            return


def _batches(
    source: RowReader,
    hashes: NDArray[np.uint64],
    keep: NDArray[np.bool_],
    report: Report | None,
) -> Iterator[Rows]:
    """The rows to keep, of the file that the hashes are of."""
    changed = StoreError(f"{source.path} changed while it was read: import it again")
    start = 0
    for rows in source.batches():
        part = slice(start, start + len(rows))
        if not np.array_equal(hash_ids(rows.ids), hashes[part]):
            raise changed
        for path in rows.paths or ():
            if "\0" in path:
                raise source.refuse(f"path {path!r} has a null character")
        kept = keep[part]
        if kept.all():
            yield rows
        elif kept.any():
            yield rows.take(np.flatnonzero(kept))
        start += len(rows)
        if report is not None:
            report(Progress("importing", start, len(hashes)))
    if start != len(hashes):
        raise changed
