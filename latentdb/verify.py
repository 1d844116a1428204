"""Verify every file of a store and its content, and repair what can be rebuilt.

Reading verifies checksums as far as it reads.  `verify` reads every file, and also
checks its content: row numbers, ids, hashes, vectors, the index, the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdb.ann.index import VectorIndex
from latentdb.ann.metrics import Space
from latentdb.base.errors import CorruptStoreError, LatentDBError, StoreError
from latentdb.base.files import checksum, map_checked, os_reason, sync_folder, write_new
from latentdb.model.codec import CONFIG_FILE, DECODER_FILE, ENCODER_FILE, Codec
from latentdb.model.config import ModelConfig
from latentdb.onnx.compiled import compiled_name
from latentdb.onnx.inspect import inspect
from latentdb.store import manifest as manifests
from latentdb.store.manifest import FileEntry, Manifest, SegmentEntry
from latentdb.store.segment import Ints, Segment, rebuild_segment

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Problem:
    """A file that is damaged or inconsistent.

    Attributes
    ----------
    file
        Name in the folder of the store.
    what
        What is wrong with it.
    repair
        What was done (with ``repair=True``) or can be done about it.
    """

    file: str
    what: str
    repair: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    files, rows
        Number of files checked, and of live rows.
    orphans
        Files that no version names: left by a killed writer, or replaced and
        kept for readers.  A later writer deletes them.
    problems
        Empty if nothing was found.
    lost_rows
        Rows of segments that were moved to quarantine.
    """

    files: int
    rows: int
    orphans: int
    problems: tuple[Problem, ...]
    lost_rows: int


def verify(folder: Path, *, repair: bool = False) -> VerifyReport:
    """Verify a store; with `repair`, rebuild what is damaged or move it to quarantine.

    A damaged search index is dropped, and the id look-up of a segment rebuilt from
    its ids.  A segment whose rows are damaged is moved to the folder ``quarantine``
    and its rows are lost.  No file is deleted.

    Parameters
    ----------
    folder
        Folder of the store.
    repair
        Repair, under the lock of the writer.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    CorruptStoreError
        If its manifest is damaged, without which nothing else can be verified.
    LockedError
        With `repair`, if another process is writing.
    """
    if not repair:
        return _Check(folder).run()
    with manifests.writer_lock(folder):
        check = _Check(folder)
        report = check.run()
        lost = check.repair() if report.problems else 0
    return replace(report, problems=tuple(check.problems), lost_rows=lost)


class _Check:
    """One pass over the current version of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = manifests.read(folder)
        self.problems: list[Problem] = []
        self.bad_segments: list[SegmentEntry] = []
        self.bad_index = False
        self.bad_deletions = False
        self.bad_compiled: set[FileEntry] = set()
        self.segments: list[Segment] = []
        self.deleted: Ints = np.empty(0, np.int64)

    def run(self) -> VerifyReport:
        for entry in self.manifest.segments:
            if not self._try(entry.file, lambda entry=entry: self._segment(entry)):  # type: ignore[misc]
                self.bad_segments.append(entry)
        deletions = self.manifest.deletions
        if deletions is not None:
            self.bad_deletions = not self._try(deletions.file, self._deletions)
        if self.manifest.index is not None:
            self.bad_index = not self._try(self.manifest.index.file, self._index)
        if not self.bad_segments and not self.bad_deletions:
            self._try(FileEntry("segments", 0, ""), self._unique_ids)
        self._model()
        names = self.manifest.file_names()
        orphans = sum(f"{name}/{path.name}" not in names for name, path in self._on_disk())
        return VerifyReport(
            len(names) + 1, self.manifest.rows, orphans, tuple(self.problems), lost_rows=0
        )

    def _on_disk(self) -> Iterator[tuple[str, Path]]:
        for name in manifests.FOLDERS:
            for path in sorted((self.folder / name).glob("*")):
                yield name, path

    def _try(self, file: FileEntry, check: Callable[[], None]) -> bool:
        try:
            check()
        except LatentDBError as error:
            path = str(self.folder / file.name)
            text = str(error).removeprefix(path).removeprefix(":").strip()
            self.problems.append(Problem(file.name, text, "latentdb verify --repair"))
            return False
        return True

    def _segment(self, entry: SegmentEntry) -> None:
        segment = Segment(self.folder, entry, self.manifest.dim, self.manifest.columns)
        segment.check()
        self.segments.append(segment)

    def _deletions(self) -> None:
        entry = self.manifest.deletions
        if entry is None:
            return
        path = self.folder / entry.file.name
        view = map_checked(path, entry.file.bytes, entry.file.checksum)
        if len(view) != 8 * entry.rows:
            raise CorruptStoreError(f"holds {len(view)} bytes for {entry.rows} row numbers")
        rows = np.frombuffer(view, "<i8")
        if (np.diff(rows) <= 0).any():
            raise CorruptStoreError("its row numbers do not ascend")
        in_segments = sum(int(segment.holds(rows).sum()) for segment in self.segments)
        if not self.bad_segments and in_segments != entry.in_segments:
            raise CorruptStoreError(
                f"{in_segments} of its rows are in segments, the manifest says {entry.in_segments}"
            )
        self.deleted = rows

    def _index(self) -> None:
        entry = self.manifest.index
        if entry is None:
            return
        path = self.folder / entry.file.name
        data = map_checked(path, entry.file.bytes, entry.file.checksum)
        dim = Space(entry.metric).dim(self.manifest.dim)
        index = VectorIndex.load(data, entry.parameters, rows=entry.rows, dim=dim)
        indexed = index.row_numbers()
        for segment in self.segments:
            rows = segment.rows[segment.rows < entry.rows_below]
            rows = rows[~np.isin(rows, self.deleted)]
            missing = rows[~np.isin(rows, indexed)]
            if len(missing):
                raise CorruptStoreError(
                    f"row {missing[0]} is missing from it ({len(missing)} rows)"
                )

    def _unique_ids(self) -> None:
        hashes, owners = [], []
        for number, segment in enumerate(self.segments):
            alive = np.flatnonzero(~np.isin(segment.rows, self.deleted))
            hashes.append(segment.hashes_by_position()[alive])
            owners.append(np.stack([np.full(len(alive), number), alive], axis=1))
        if not hashes:
            return
        every_hash, every_owner = np.concatenate(hashes), np.concatenate(owners)
        order = np.argsort(every_hash, kind="stable")
        equal = np.flatnonzero(every_hash[order][1:] == every_hash[order][:-1])
        for first in equal.tolist():
            pair = [every_owner[order[first]], every_owner[order[first + 1]]]
            names = [self.segments[number].ids[int(position)] for number, position in pair]
            if names[0] == names[1]:
                raise CorruptStoreError(f"id {names[0]!r} has two rows")

    def _model(self) -> None:
        model = self.manifest.model
        if model is None:
            return
        files: dict[str, bytes] = {}

        def read(entry: FileEntry) -> None:
            path = self.folder / entry.name
            data = bytes(map_checked(path, entry.bytes, entry.checksum))
            files[Path(entry.name).name] = data

        model_files_intact = []
        for entry in model.files:
            intact = self._try(entry, lambda entry=entry: read(entry))  # type: ignore[misc]
            if compiled_name(entry.name) is None:
                model_files_intact.append(intact)
            elif not intact:
                self.bad_compiled.add(entry)

        def check_model() -> None:
            config = ModelConfig.from_json(files[CONFIG_FILE].decode(errors="replace"), CONFIG_FILE)
            Codec.from_bytes(config, files[ENCODER_FILE], files.get(DECODER_FILE), name="model")
            if config.encoder_fingerprint != model.encoder_fingerprint:
                raise CorruptStoreError("it is not the model that the manifest names")

        def check_compiled(entry: FileEntry) -> None:
            made = inspect(files[Path(entry.name).name], entry.name).fingerprint
            if made not in (model.encoder_fingerprint, model.decoder_fingerprint):
                raise CorruptStoreError(f"it was compiled from model {made}, not from this store's")

        if all(model_files_intact):
            self._try(FileEntry("model", 0, ""), check_model)
        for entry in model.files:
            if compiled_name(entry.name) is None or entry in self.bad_compiled:
                continue
            if not self._try(entry, lambda entry=entry: check_compiled(entry)):  # type: ignore[misc]
                self.bad_compiled.add(entry)
        advice = "copy it from the model folder the store was made with"
        derived = {entry.name for entry in self.bad_compiled}
        self.problems = [
            replace(problem, repair=advice)
            if problem.file.startswith("model") and problem.file not in derived
            else problem
            for problem in self.problems
        ]

    # --- repairing ----------------------------------------------------------------

    def repair(self) -> int:
        """Commit a version without what is damaged; returns the number of rows lost."""
        manifest = self.manifest
        segments: list[SegmentEntry] = []
        done: dict[str, str] = {}
        lost = 0
        for entry in manifest.segments:
            if entry not in self.bad_segments:
                segments.append(entry)
                continue
            rebuilt = self._rebuild(entry)
            if rebuilt is not None:
                segments.append(rebuilt)
                done[entry.file.name] = "id look-up rebuilt from the ids"
            else:
                lost += entry.rows
                done[entry.file.name] = f"moved to {QUARANTINE}; {entry.rows} rows are lost"
        deletions = manifest.deletions
        if deletions is not None and self.bad_deletions:
            done[deletions.file.name] = (
                f"moved to {QUARANTINE}; the rows it named are back: delete them again"
            )
            deletions = None
        elif deletions is not None and lost:
            inside = sum(int(segment.holds(self.deleted).sum()) for segment in self.segments)
            deletions = replace(deletions, in_segments=inside)
        drop_index = self.bad_index or bool(lost) or self.bad_deletions
        if manifest.index is not None and drop_index:
            done[manifest.index.file.name] = "dropped, and rebuilt where it pays"
        model = manifest.model
        if model is not None and self.bad_compiled:
            model = replace(
                model, files=tuple(file for file in model.files if file not in self.bad_compiled)
            )
            for file in self.bad_compiled:
                done[file.name] = "dropped, and compiled again by the next index that encodes"
        changed = replace(
            manifest,
            model=model,
            version=manifest.version + 1,
            segments=tuple(segments),
            deletions=deletions,
            index=None if drop_index else manifest.index,
        )
        if done:
            manifests.commit(self.folder, changed)
            self._quarantine(manifest.file_names() - changed.file_names())
        self.problems = [
            replace(problem, repair=done.get(problem.file, problem.repair))
            for problem in self.problems
        ]
        return lost

    def _rebuild(self, entry: SegmentEntry) -> SegmentEntry | None:
        """The rebuilt segment, if only its id look-up is damaged; else None."""
        try:
            made = rebuild_segment(self.folder / entry.file.name, entry)
        except LatentDBError:
            return None
        name = f"segments/{manifests.unique_name()}.h5"
        data = made.data
        write_new(self.folder / name, data)
        sync_folder(self.folder / "segments")
        file = FileEntry(name, len(data), checksum(data))
        rebuilt = replace(entry, file=file, layout=made.layout)
        try:
            segment = Segment(self.folder, rebuilt, self.manifest.dim, self.manifest.columns)
            segment.check()
        except LatentDBError:
            return None
        self.segments.append(segment)
        return rebuilt

    def _quarantine(self, names: set[str]) -> None:
        try:
            (self.folder / QUARANTINE).mkdir(exist_ok=True)
            for name in names:
                path = self.folder / name
                if path.exists():
                    path.rename(self.folder / QUARANTINE / path.name)
        except OSError as error:
            raise StoreError(f"{self.folder / QUARANTINE}: {os_reason(error)}") from error
