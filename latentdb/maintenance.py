"""`Maintenance`: an open store that is written, and what is done to the whole of it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latentdb.ann.metrics import CENTERED_COSINE, VECTOR_METRICS, check_metric
from latentdb.ann.plan import PREFERENCES
from latentdb.base.errors import InvalidInputError, StoreError
from latentdb.base.files import as_path
from latentdb.base.progress import Report
from latentdb.search.manager import IndexManager
from latentdb.search.results import Info
from latentdb.search.targets import IdLike, as_ids
from latentdb.serving import Serving
from latentdb.store.backup import backup, restore
from latentdb.store.compaction import CompactReport, compact, compact_if_due
from latentdb.store.manifest import Settings
from latentdb.store.restamp import RelocateReport, relocate
from latentdb.store.store import Store
from latentdb.store.versions import Version
from latentdb.store.writer import Writer
from latentdb.verify import VerifyReport, verify

PathLike = str | os.PathLike[str]
AnyStore = TypeVar("AnyStore", bound="Maintenance")
LOCK_TIMEOUT = 5.0  # seconds; as long as most commits take


class Maintenance(Serving):
    """A `Reader` that writes, too: delete, compact, optimize, backup, verify."""

    def __init__(
        self,
        store: Store | PathLike,
        *,
        trust_model: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
        auto_index: bool = True,
        version: int | None = None,
    ) -> None:
        super().__init__(store, trust_model=trust_model, version=version)
        self._open_store().lock_timeout = check_timeout(lock_timeout)
        self._auto_index = auto_index
        self._index_manager = IndexManager(auto_index=auto_index)

    def _options(self) -> dict[str, Any]:
        own = {"lock_timeout": self._open_store().lock_timeout, "auto_index": self._auto_index}
        return super()._options() | own

    @classmethod
    def open(
        cls: type[AnyStore],
        path: PathLike,
        *,
        trust_model: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
        auto_index: bool = True,
        version: int | None = None,
    ) -> AnyStore:
        """Open a store to read and write it.

        Parameters
        ----------
        path, trust_model
            As in `Reader.open`.
        lock_timeout
            Seconds that a call which writes waits while another process is writing.
        auto_index
            Build or extend the search index where that is due after a commit, which can
            take half a minute; otherwise only `optimize` does.
        version
            As in `Reader.open`: an earlier version can be read, and not written.

        Raises
        ------
        StoreNotFoundError, CorruptStoreError
            As `Reader.open`.
        InvalidInputError
            If `lock_timeout` is negative, or no number.
        """
        return cls(
            Store.open(path, version=version),
            trust_model=trust_model,
            lock_timeout=lock_timeout,
            auto_index=auto_index,
        )

    @contextmanager
    def _writing(self, report: Report | None) -> Iterator[Writer]:
        """The one writer; then segments are merged and the index is built, where that is due.

        The index is built without the lock: others write meanwhile.
        """
        store = self._open_store()
        if self._condition is not None:
            raise InvalidInputError(
                "with_condition is for reading: write with the store that it was called on"
            )
        with store.writer() as writer:
            writer.collect_garbage()
            yield writer
            compact_if_due(writer)
        self._index_manager.update(store, report)

    def delete(self, ids: Sequence[IdLike] | None = None, *, where: str | None = None) -> int:
        """Delete the rows of ids, or those for which an expression is true.

        The space on disk is freed when segments are merged (`compact`).

        Returns
        -------
        int
            Number of rows deleted.

        Raises
        ------
        IdNotFoundError
            If an id is not in the store; nothing is deleted then.
        LockedError
            If another process is writing.
        """
        if (ids is None) == (where is None):
            raise InvalidInputError("give either ids or a where expression to delete")
        with self._writing(None) as writer:
            snapshot = writer.snapshot
            if ids is None:
                rows = self._rows(snapshot, where)
            else:
                rows = np.unique(snapshot.find(as_ids(ids)))
            if len(rows):
                writer.delete(rows, bury=True)
        return len(rows)

    def relocate(self, old: PathLike, new: PathLike) -> RelocateReport:
        """Tell the store that a folder of images was moved; no image is read.

        `index_images` of the new folder does so too, for images that it finds unchanged.

        Parameters
        ----------
        old, new
            The folder before and after.

        Raises
        ------
        InvalidInputError
            If no image of the store lies below `old`.
        LockedError
            If another process is writing.
        """
        with self._open_store().writer() as writer:
            writer.collect_garbage()
            return relocate(writer, os.path.abspath(old), os.path.abspath(new))

    def compact(self) -> CompactReport:
        """Merge small segments and free deleted rows; queries go on meanwhile."""
        with self._open_store().writer() as writer:
            writer.collect_garbage()
            return compact(writer)

    def backup(self, out: PathLike) -> None:
        """Copy the version that is open to a new folder, which is a store that opens by itself.

        A writer may go on meanwhile.  On one file system the files are hard links: no space
        is taken, and a disk that damages a file damages it in both.

        Raises
        ------
        AlreadyExistsError
            If `out` exists.
        StoreError
            If a file cannot be read or written; run it again.
        """
        snapshot = self._snapshot()
        backup(snapshot.folder, snapshot.manifest, as_path(out))

    @staticmethod
    def restore(copy: PathLike, path: PathLike, *, overwrite: bool = False) -> Version:
        """Make the version of a backup the current one of its store, or make the store again.

        Every file of the backup is verified before anything is changed.  The version that it
        replaces is kept, as after any commit: see `versions`.

        Parameters
        ----------
        copy
            What `backup` made.
        path
            The store; it may be damaged, or missing.
        overwrite
            Replace the version that is there.

        Raises
        ------
        AlreadyExistsError
            If there is a store, and `overwrite` is not given.
        CorruptStoreError, NotFoundError
            If the backup is damaged; names the file.
        StoreError
            If `path` is another store than that of the backup, or cannot be written.
        LockedError
            If another process is writing.
        """
        restore(as_path(copy), as_path(path), overwrite=overwrite)
        return Maintenance.versions(path)[0]

    @classmethod
    def verify(cls, path: PathLike, *, repair: bool = False) -> VerifyReport:
        """Check every file of a store: see `latentdb.verify.verify`.

        It takes a path, because a damaged store may not open.
        """
        report = verify(Path(path), repair=repair)
        if repair and report.problems:
            try:
                with cls.open(path) as db:
                    db._index_manager.update(db._open_store(), None)
            except StoreError as error:
                # Not an error: the repair is committed, and its report says what was lost.
                warnings.warn(
                    f"the search index was not rebuilt ({error})", RuntimeWarning, stacklevel=2
                )
        return report

    def optimize(
        self,
        *,
        recall: float | None = None,
        memory: int | None = None,
        prefer: str | None = None,
        metric: str | None = None,
        report: Report | None = None,
    ) -> Info:
        """Rebuild the search index and tune it to a target recall; others may write meanwhile.

        Settings are stored, and hold for later builds too; None leaves one unchanged.

        Parameters
        ----------
        recall
            Target recall: share of the true neighbours that a query should find.
        memory
            Most bytes that the index may take; 0 for no limit.
        prefer
            ``"build"``: an inverted file, built in seconds.  ``"latency"``: a graph
            (HNSW) instead, if it is measured to be faster and memory allows.
        metric
            Metric of the index: ``"l2"``, ``"cosine"``, ``"centered_cosine"`` or
            ``"wasserstein"``; queries by another metric compare every row.  Each but
            the last becomes the metric of queries that name none, too.
            ``"centered_cosine"`` also records the mean of the rows as the centre,
            which stays until it is given again.
        report
            Called with the progress.

        Raises
        ------
        InvalidInputError
            If a setting is invalid.
        LockedError
            If another process is building it, or writing.
        """
        store = self._open_store()
        with store.index_lock(store.lock_timeout):
            with store.writer() as writer:  # who writes for long is told before the work is done
                writer.collect_garbage()
            manifest = store.snapshot().manifest
            old, recentred = manifest.settings, metric == CENTERED_COSINE and manifest.rows > 0
            settings = Settings(
                recall=old.recall if recall is None else check_recall(recall),
                memory=old.memory if memory is None else _memory(memory),
                prefer=old.prefer if prefer is None else _preference(prefer),
                metric=old.metric if metric is None else check_metric(metric),
                centre=() if recentred else old.centre,
                default_metric=metric if metric in VECTOR_METRICS else old.default_metric,
            )
            why = self._index_manager.build(store, settings, report)
        return replace(self.info(), why=why)


def check_timeout(value: float) -> float:
    """A time to wait for a lock; raises `InvalidInputError` if it is none."""
    if not isinstance(value, int | float) or not 0 <= value <= threading.TIMEOUT_MAX:
        raise InvalidInputError(f"lock_timeout {value!r} cannot be used: give seconds, 0 or more")
    return float(value)


def _memory(value: int) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise InvalidInputError(f"memory {value!r} cannot be used: give bytes, 0 for no limit")
    return value


def _preference(value: str) -> str:
    if value not in PREFERENCES:
        raise InvalidInputError(f"prefer {value!r} is not known: use {' or '.join(PREFERENCES)}")
    return value


def check_recall(value: float) -> float:
    """A target recall; raises `InvalidInputError` if it is none."""
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise InvalidInputError(
            f"recall {value!r} cannot be used: give a share above 0 and up to 1, such as 0.99"
        )
    return float(value)
