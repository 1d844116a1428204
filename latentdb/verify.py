"""Verify every file of a store and its content, and repair what can be rebuilt.

Reading verifies checksums as far as it reads.  `verify` reads every file, and also
checks its content: row numbers, ids, hashes, vectors, the index, the model.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdb.ann.index import VectorIndex
from latentdb.ann.metrics import Space
from latentdb.base.errors import (
    CorruptStoreError,
    LatentDBError,
    ModelError,
    NotFoundError,
    StoreError,
)
from latentdb.base.files import (
    check_file,
    checksum,
    map_sized,
    sync_folder,
    try_remove,
    write_new,
)
from latentdb.base.wording import counted
from latentdb.model.codec import Codec
from latentdb.model.config import CONFIG_FILE, NETWORK_FILES, ModelConfig
from latentdb.onnx.compiled import compiled_name
from latentdb.onnx.inspect import inspect
from latentdb.store import manifest as manifests
from latentdb.store import plan, versions
from latentdb.store.blocks import SegmentBytes
from latentdb.store.garbage import remove_unnamed, start_grace
from latentdb.store.lock import committed_version, writer_lock
from latentdb.store.manifest import (
    MANIFEST,
    QUARANTINE,
    FileEntry,
    Manifest,
    SegmentEntry,
)
from latentdb.store.quarantine import quarantine
from latentdb.store.recovery import check_whole, find_setback, go_back, put_back
from latentdb.store.rows import Ints
from latentdb.store.segment import Segment, rebuild_segment
from latentdb.store.tombstones import Tombstones

REBUILT = "rebuilt"
LOST = "lost"
MANUAL = "manual"
SYSTEM = "system"
_RETRIES = 10


@dataclass(frozen=True)
class Problem:
    """A file that is damaged or inconsistent, or could not be read.

    Attributes
    ----------
    file
        Name in the folder of the store.
    what
        What is wrong with it.
    repair
        What was done (with ``repair=True``) or can be done about it.
    kind
        ``"rebuilt"``: damage that a repair mends without a loss.  ``"lost"``: damage
        that costs rows or deletions.  ``"manual"``: damage that a repair cannot mend.
        ``"system"``: no damage, but an error of the system, which ends a repair.
    """

    file: str
    what: str
    repair: str
    kind: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    files, rows
        Number of files checked, and of live rows.
    orphans
        Files that neither a version nor the plan of an unfinished run names: left by a
        killed writer, or replaced and kept for readers.  A later writer deletes them.
    problems
        Empty if nothing was found.
    lost_rows
        Rows of segments that a repair moved to quarantine.
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
    and its rows are lost.  Damaged files are linked into the quarantine, with the
    manifest that names them, before the version without them is committed.

    Damage is a wrong size, checksum or structure, or a missing file.  A file that
    the system cannot read (no permission, no free descriptor, a failing disk) may
    be whole: a repair that meets one changes nothing.

    Without `repair` a writer may commit meanwhile; if it deleted a file of the version
    being verified, the later version is verified instead.

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
        If its manifest is damaged, without which nothing else can be verified; with `repair`,
        if the previous one, or a file of that version, is damaged too.
    StoreError
        With `repair`, if the system cannot read or write a file; nothing is changed.
    LockedError
        With `repair`, if another process is writing.
    """
    if not repair:
        intact: dict[SegmentEntry, Segment] = {}
        for _ in range(_RETRIES):
            check = _Check(folder, intact)
            with suppress(_SupersededError):
                report = check.run()
                check.describe()
                return replace(report, problems=tuple(check.problems))
        raise StoreError(f"{folder} changes faster than it can be verified: try again")
    with writer_lock(folder) as lock:
        manifest, setback = find_setback(folder, lock.committed)
        check = _Check(folder, manifest=manifest)
        report = check.run()
        unread = [problem for problem in check.problems if problem.kind == SYSTEM]
        if unread:
            raise StoreError(
                f"{folder} was not changed: {unread[0].file}: {unread[0].what}, which is an error "
                "of the system and no damage: mend its cause and repair again"
            )
        if setback is not None:
            check_whole(folder, setback, check.damaged)
        try:
            if setback is not None:
                check.manifest = go_back(folder, setback, lock.committed)
                check.problems.insert(0, Problem(MANIFEST, setback.what, setback.done, LOST))
            lost = check.repair()
            lock.record(max(lock.committed, manifests.read(folder).version))
        except (MemoryError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise StoreError(
                f"{folder} was not repaired, and no file of it is lost: {reason}: "
                "mend the cause and repair again"
            ) from error
    return replace(report, problems=tuple(check.problems), lost_rows=lost)


class _SupersededError(Exception):
    """A file is missing, and a later version was committed meanwhile."""


class _Check:
    """One pass over the current version of a store.

    Parameters
    ----------
    folder
        Folder of the store.
    intact
        Segments found intact by a pass over an earlier version; those of this pass are added.
    manifest
        The version, where the lock of the writer is held; by default the current one.
    """

    def __init__(
        self,
        folder: Path,
        intact: dict[SegmentEntry, Segment] | None = None,
        *,
        manifest: Manifest | None = None,
    ) -> None:
        self.folder = folder
        self.intact = {} if intact is None else intact
        self.problems: list[Problem] = []
        self._locked = manifest is not None
        if manifest is None:
            committed = committed_version(folder)  # first: a writer may commit meanwhile
            manifest = manifests.read(folder)
            if committed > manifest.version:
                setback = put_back(manifest, committed)
                self.problems.append(Problem(MANIFEST, setback.what, setback.advice, LOST))
        self.manifest = manifest
        self.damaged: set[str] = set()  # files of proven damage
        self.segments: list[Segment] = []
        self.deleted: Ints = np.empty(0, np.int64)

    def run(self) -> VerifyReport:
        for entry in self.manifest.segments:
            self._try(entry.file.name, lambda entry=entry: self._segment(entry))  # type: ignore[misc]
        deletions, index = self.manifest.deletions, self.manifest.index
        complete = len(self.segments) == len(self.manifest.segments)
        if deletions is not None:
            complete &= self._try(deletions.file.name, self._deletions)
        if index is not None:
            self._try(index.file.name, lambda: self._index(rows=complete))
        if self.manifest.tombstones is not None:
            self._try(self.manifest.tombstones.file.name, self._tombstones)
        if complete:
            self._try("segments", self._unique_ids)
        self._model()
        names = self.manifest.file_names()
        known = names | plan.segment_names(self.folder)
        orphans = sum(f"{name}/{path.name}" not in known for name, path in self._on_disk())
        return VerifyReport(
            len(names) + 1, self.manifest.rows, orphans, tuple(self.problems), lost_rows=0
        )

    def _on_disk(self) -> Iterator[tuple[str, Path]]:
        for name in manifests.FOLDERS:
            for path in sorted((self.folder / name).glob("*")):
                yield name, path

    def _try(self, name: str, check: Callable[[], None]) -> bool:
        """Whether a check of a file passes; what it raises becomes a problem."""
        try:
            check()
        except (LatentDBError, OSError, MemoryError) as error:
            if isinstance(error, NotFoundError) and not self._locked:
                version = manifests.read(self.folder).version
                if version != self.manifest.version:
                    raise _SupersededError from error  # its files may be deleted, as garbage
            path = str(self.folder / name)
            text = str(error).removeprefix(path).removeprefix(":").strip()
            proven = self._is_damage(name, error)
            if proven:
                self.damaged.add(name)
            advice = "an error of the system, no damage: mend its cause and verify again"
            self.problems.append(
                Problem(
                    name,
                    text or type(error).__name__,
                    "" if proven else advice,
                    MANUAL if proven else SYSTEM,
                )
            )
            return False
        return True

    def _is_damage(self, name: str, error: Exception) -> bool:
        """Whether an error proves that a file is damaged, so that a repair may drop it."""
        if not isinstance(error, (CorruptStoreError, NotFoundError, ModelError)):
            return False
        if isinstance(error.__cause__, MemoryError):
            return False
        path = self.folder / name
        try:
            if isinstance(error, NotFoundError):
                # A folder that is gone may be a disk that is not mounted; index/ can be rebuilt.
                return path.parent.name != "segments" or stat.S_ISDIR(os.lstat(path.parent).st_mode)
            # A link, or a pipe, may lead to a file that is whole.
            mode = os.lstat(path).st_mode
            return stat.S_ISREG(mode) or name in manifests.FOLDERS
        except OSError:
            return False

    def _content(self, file: FileEntry) -> mmap.mmap:
        """The content of a file, mapped after all of it could be read."""
        path = self.folder / file.name
        check_file(path, file.bytes, file.checksum)
        return map_sized(path, file.bytes)

    def _segment(self, entry: SegmentEntry) -> None:
        segment = self.intact.get(entry)
        if segment is None:
            check_file(self.folder / entry.file.name, entry.file.bytes, entry.file.checksum)
            manifest = self.manifest
            segment = Segment(self.folder, entry, manifest.dim, manifest.columns, manifest.dtype)
            segment.check()
            self.intact[entry] = segment
        self.segments.append(segment)

    def _deletions(self) -> None:
        entry = self.manifest.deletions
        if entry is None:
            return
        view = self._content(entry.file)
        if len(view) != 8 * entry.rows:
            raise CorruptStoreError(f"holds {len(view)} bytes for {entry.rows} row numbers")
        rows = np.frombuffer(view, "<i8")
        if (np.diff(rows) <= 0).any():
            raise CorruptStoreError("its row numbers do not ascend")
        in_segments = sum(int(segment.holds(rows).sum()) for segment in self.segments)
        complete = len(self.segments) == len(self.manifest.segments)
        if complete and in_segments != entry.in_segments:
            raise CorruptStoreError(
                f"{in_segments} of its rows are in segments, the manifest says {entry.in_segments}"
            )
        self.deleted = rows

    def _tombstones(self) -> None:
        entry = self.manifest.tombstones
        if entry is None:
            return
        Tombstones.load(bytes(self._content(entry.file)), entry.rows)

    def _index(self, *, rows: bool) -> None:
        """Check the index; `rows`: that it holds every row it should, too."""
        entry = self.manifest.index
        if entry is None:
            return
        data = self._content(entry.file)
        dim = Space(entry.metric).dim(self.manifest.dim)
        index = VectorIndex.load(data, entry.parameters, rows=entry.rows, dim=dim)
        indexed = index.row_numbers()
        if len(indexed) and indexed[-1] >= entry.rows_below:
            # Search scans the rows from `rows_below` on: it would return such a row twice.
            raise CorruptStoreError(
                f"it holds row {indexed[-1]}, the manifest says rows below {entry.rows_below}"
            )
        for segment in self.segments if rows else ():
            numbers = segment.rows[segment.rows < entry.rows_below]
            numbers = numbers[~np.isin(numbers, self.deleted)]
            missing = numbers[~np.isin(numbers, indexed)]
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
            files[Path(entry.name).name] = bytes(self._content(entry))

        def check_model() -> None:
            config = ModelConfig.from_json(files[CONFIG_FILE].decode(errors="replace"), CONFIG_FILE)
            first, second = NETWORK_FILES[config.format]
            Codec.from_bytes(config, files[first], files.get(second), name="model")
            if config.encoder_fingerprint != model.encoder_fingerprint:
                raise CorruptStoreError("it is not the model that the manifest names")

        def check_compiled(entry: FileEntry) -> None:
            made = inspect(files[Path(entry.name).name], entry.name).fingerprint
            if made not in (model.encoder_fingerprint, model.decoder_fingerprint):
                raise CorruptStoreError(f"it was compiled from model {made}, not from this store's")

        read_all = True
        for entry in model.files:
            intact = self._try(entry.name, lambda entry=entry: read(entry))  # type: ignore[misc]
            if compiled_name(entry.name) is None:
                read_all &= intact
            elif intact:
                self._try(entry.name, lambda entry=entry: check_compiled(entry))  # type: ignore[misc]
        if read_all:
            self._try("model", check_model)

    # --- repairing ----------------------------------------------------------------

    def describe(self) -> None:
        """Say of each problem what a repair would do, without doing it."""
        rebuilt = {entry.file.name for entry in self._bad_segments() if self._rebuilt(entry)}
        self._explain(rebuilt, "damage; latentdb verify --repair: ")

    def repair(self) -> int:
        """Commit a version without what is damaged; returns the number of rows lost."""
        manifest = self.manifest
        rebuilt: dict[str, SegmentEntry] = {}
        try:
            for entry in self._bad_segments():
                new = self._rebuild(entry)
                if new is not None:
                    rebuilt[entry.file.name] = new
            changed = self._undamaged(rebuilt)
            if changed != manifest:
                dropped = manifest.file_names() - changed.file_names()
                quarantine(self.folder, dropped & self.damaged, manifest.version)
                number = versions.next_version(self.folder, manifest.version)
                _, data = manifests.serialize(self.folder, replace(changed, version=number))
                versions.publish(self.folder, data, manifest.version)
        except BaseException:
            remove_unnamed(self.folder, [new.file.name for new in rebuilt.values()])
            raise
        dropped = manifest.file_names() - changed.file_names()
        for name in dropped & self.damaged:
            try_remove(self.folder / name)
        start_grace(self.folder, dropped - self.damaged)
        self._explain(set(rebuilt))
        return sum(entry.rows for entry in self._bad_segments() if entry.file.name not in rebuilt)

    def _bad_segments(self) -> Iterator[SegmentEntry]:
        for entry in self.manifest.segments:
            if entry.file.name in self.damaged:
                yield entry

    def _explain(self, rebuilt: Set[str], prefix: str = "") -> None:
        """Fill in what a repair does about each problem; segments in `rebuilt` lose nothing."""
        outcomes: dict[str, tuple[str, str]] = {}
        for entry in self._bad_segments():
            lost = f"moved to {QUARANTINE}; {counted(entry.rows, 'row')} lost"
            outcomes[entry.file.name] = (LOST, lost)
        for name in rebuilt:
            outcomes[name] = (REBUILT, "id look-up rebuilt from the ids; no row is lost")
        deletions, index, model = (
            self.manifest.deletions,
            self.manifest.index,
            self.manifest.model,
        )
        if deletions is not None:
            back = f"moved to {QUARANTINE}; the rows it named are back: delete them again"
            outcomes[deletions.file.name] = (LOST, back)
        if index is not None:
            outcomes[index.file.name] = (REBUILT, "dropped, and rebuilt where it pays")
        if self.manifest.tombstones is not None:
            back = f"moved to {QUARANTINE}; the next index brings deleted images back"
            outcomes[self.manifest.tombstones.file.name] = (LOST, back)
        for file in () if model is None else model.files:
            outcomes[file.name] = outcomes["model"] = (
                MANUAL,
                "damage that needs you: copy it from the model folder the store was made with",
            )
            if compiled_name(file.name) is not None:
                again = "dropped, and compiled again by the next index that encodes"
                outcomes[file.name] = (REBUILT, again)
        outcomes["segments"] = (MANUAL, "damage that needs you: delete the id and add it again")
        for place, problem in enumerate(self.problems):
            if problem.file in self.damaged:
                kind, text = outcomes[problem.file]
                text = text if kind == MANUAL else prefix + text
                self.problems[place] = replace(problem, repair=text, kind=kind)

    def _undamaged(self, rebuilt: Mapping[str, SegmentEntry]) -> Manifest:
        """The version without what is damaged, under the same version number."""
        manifest, damaged = self.manifest, self.damaged
        segments = tuple(
            rebuilt.get(entry.file.name, entry)
            for entry in manifest.segments
            if entry.file.name in rebuilt or entry.file.name not in damaged
        )
        lost = len(segments) < len(manifest.segments)
        deletions, index, model = manifest.deletions, manifest.index, manifest.model
        tombstones = manifest.tombstones
        if tombstones is not None and tombstones.file.name in damaged:
            tombstones = None
        undeleted = deletions is not None and deletions.file.name in damaged
        if undeleted:
            deletions = None
        elif deletions is not None and lost:
            inside = sum(int(segment.holds(self.deleted).sum()) for segment in self.segments)
            deletions = replace(deletions, in_segments=inside)
        if index is not None and (lost or undeleted or index.file.name in damaged):
            index = None
        if model is not None:
            files = tuple(
                file
                for file in model.files
                if file.name not in damaged or compiled_name(file.name) is None
            )
            model = replace(model, files=files)
        return replace(
            manifest,
            segments=segments,
            deletions=deletions,
            index=index,
            model=model,
            tombstones=tombstones,
        )

    def _rebuilt(self, entry: SegmentEntry) -> SegmentBytes | None:
        """The segment with a new id look-up, if only that is damaged; else None."""
        try:
            return rebuild_segment(self.folder / entry.file.name, entry)
        except LatentDBError as error:
            if not self._is_damage(entry.file.name, error):
                raise
            return None

    def _rebuild(self, entry: SegmentEntry) -> SegmentEntry | None:
        """Write the rebuilt segment; None if it cannot be rebuilt."""
        made = self._rebuilt(entry)
        if made is None:
            return None
        name = f"segments/{manifests.unique_name()}.h5"
        write_new(self.folder / name, made.data)
        sync_folder(self.folder / "segments")
        file = FileEntry(name, len(made.data), checksum(made.data))
        rebuilt = replace(entry, file=file, layout=made.layout)
        try:
            self._segment(rebuilt)
        except (LatentDBError, MemoryError) as error:
            damage = self._is_damage(name, error)
            try_remove(self.folder / name)
            if not damage:
                raise
            return None
        return rebuilt
