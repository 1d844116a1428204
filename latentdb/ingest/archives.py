"""Images in archives and arrays to batches: compared with the store, decoded in threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import xxhash

from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.images.decode import decode_pixels, has_vanished
from latentdb.images.discover import BadFile, Candidate, ImageFile
from latentdb.images.members import Member, reading
from latentdb.images.selection import Selection
from latentdb.images.sources import members_of
from latentdb.ingest.planner import Batch, ImagePlanner, PlannedRow, StoredImage
from latentdb.model.codec import BATCH
from latentdb.store.columns import Value, check_key
from latentdb.store.segment import hash_ids

_CHUNK = 64  # members that are looked up and decoded at a time
_ENOUGH = 64 << 20  # bytes of images in memory


class MemberPlanner:
    """Decides what to do with each image of archives, as `ImagePlanner` with files.

    Parameters
    ----------
    planner
        Looks rows up, and gives metadata and labels.
    archives
        Absolute paths.
    selection
        Which members are wanted, by id.
    types
        Type of every metadata key; those that archives bring are added.
    """

    def __init__(
        self,
        planner: ImagePlanner,
        archives: Sequence[str],
        selection: Selection,
        types: MutableMapping[str, str],
    ) -> None:
        self.planner = planner
        self._archives = archives
        self._selection = selection
        self._types = types
        self._seen: set[int] = set()  # hashes of the ids of this run
        self.left_out: Counter[str] = Counter()

    def notes(self) -> list[str]:
        """What was left out of the metadata in archives."""
        return [
            f"{count:,} values of {key!r} in archives were left out: they are of another type "
            "than the column, or its name is none that a key can have"
            for key, count in self.left_out.items()
        ]

    def batches(self) -> Iterator[Batch]:
        """Images that were read and decoded, about `BATCH` in each."""
        shape = self.planner.preprocessing.shape
        most = max(1, min(BATCH, _ENOUGH // int(np.prod(shape))))
        with ThreadPoolExecutor(core_count(), "latentdb-decode") as pool:
            waiting: list[Batch] = []
            for chunk in self._chunks():
                waiting.append(self._read(chunk, pool))
                if sum(len(each.images) for each in waiting) + _CHUNK > most or len(waiting) > 16:
                    yield Batch.concat(waiting)
                    waiting = []
            if waiting:
                yield Batch.concat(waiting)

    def _chunks(self) -> Iterator[list[Member | BadFile]]:
        """Members of one archive at a time, which is open until the next chunk is asked for."""
        for archive in self._archives:
            chunk: list[Member | BadFile] = []
            for member in members_of(archive):
                if isinstance(member, Member) and not self._selection.takes(member.id):
                    self.planner.search.tally.excluded += 1
                elif member is not None:
                    chunk.append(member)
                if chunk and (member is None or len(chunk) == _CHUNK):
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk

    def _read(self, chunk: Sequence[Member | BadFile], pool: ThreadPoolExecutor) -> Batch:
        shape = self.planner.preprocessing.shape
        batch = Batch(np.empty((len(chunk), *shape), np.uint8))
        members = [member for member in chunk if isinstance(member, Member)]
        batch.bad += [member for member in chunk if isinstance(member, BadFile)]
        stored = self.planner.look_up([Candidate(each.id, each.path, 0) for each in members])
        contents: list[tuple[Member, bytes, PlannedRow]] = []
        for member, image in zip(members, stored, strict=True):
            try:
                self._plan(member, image, batch, contents)
            except ImageError as error:
                batch.bad.append(BadFile(error.path, error.reason))
        decoded = pool.map(self._decode, contents)
        for (member, data, row), result in zip(contents, decoded, strict=True):
            if isinstance(result, BadFile):
                batch.bad.append(result)
                continue
            pixels = batch.pixels[len(batch.images)]
            pixels[:] = result
            if has_vanished(data, pixels, member.path):
                batch.vanished.append(member.id)
            batch.images.append(row)
        batch.pixels = batch.pixels[: len(batch.images)]
        return batch

    def _decode(self, content: tuple[Member, bytes, PlannedRow]) -> Any:
        member, data, _ = content
        try:
            return decode_pixels(data, self.planner.preprocessing, name=member.path)
        except ImageError as error:
            return BadFile(error.path, error.reason)

    def _plan(
        self,
        member: Member,
        stored: StoredImage | None,
        batch: Batch,
        contents: list[tuple[Member, bytes, PlannedRow]],
    ) -> None:
        file = ImageFile(member.id, member.path, member.size, member.mtime_ns)
        number = int(hash_ids([member.id])[0])
        if number in self._seen:
            reason = f"its id {member.id!r} is that of another image of this run"
            batch.conflicts.append(BadFile(member.path, reason))
            return
        self._seen.add(number)
        values = self._fitting(member.metadata)
        values |= self.planner.metadata_of(Candidate(member.id, member.path, 0))
        if self.planner.add_by_stamp(file, stored, values, batch):
            return
        with reading(member.path):
            data = member.read()
        digest = xxhash.xxh3_64_intdigest(data)
        if stored is not None:
            elsewhere = stored.is_elsewhere(file.path)
            if digest == stored.digest and not self.planner.encodes(stored, values):
                batch.add_unchanged(file, stored, values, elsewhere=elsewhere)
                return
            if elsewhere:
                batch.add_conflict(file, str(stored.path))
                return
        row = self.planner.add_by_content(file, digest, stored, values, batch, renames=False)
        if row is not None:
            contents.append((member, data, row))

    def _fitting(self, metadata: Mapping[str, Value]) -> dict[str, Value]:
        """The values that are of the types of their columns, or can become so."""
        fitting: dict[str, Value] = {}
        for key, value in metadata.items():
            try:
                check_key(key)
            except InvalidInputError:
                self.left_out[key[:40]] += 1
                continue
            kind = type(value).__name__
            type_ = self._types.setdefault(key, kind)
            if (type_, kind) == ("int", "float"):
                type_ = self._types[key] = "float"
            if type_ == "str":
                value = str(value)
            elif kind != type_ and (kind, type_) != ("int", "float"):
                self.left_out[key[:40]] += 1
                continue
            if _can_be_stored(value):
                fitting[key] = value
            else:
                self.left_out[key[:40]] += 1
        return fitting


def _can_be_stored(value: Value) -> bool:
    if isinstance(value, str):
        return value.encode(errors="replace").decode() == value
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@contextmanager
def ahead(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """The same batches, each made by a thread while the one before it is encoded."""

    def items() -> Iterator[Batch]:
        future = pool.submit(next, batches, None)
        while (batch := future.result()) is not None:
            future = pool.submit(next, batches, None)
            yield batch

    with ThreadPoolExecutor(1, "latentdb-archives") as pool:
        yield items()
