"""One process with the model: it reads the images of a task, encodes them, writes segments.

It does what a local run does, with the same planner and encoder, but for two things: rows of
the run itself are as if they were not there, whatever is committed meanwhile, and files that
were renamed are left to the process that commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.cluster.tasks import ARCHIVES, Context, Order, TaskResult, Wanted, unpack
from latentdb.images.discover import ImageFile
from latentdb.ingest.archives import MemberPlanner, ahead
from latentdb.ingest.execution import COMMIT_ROWS, EncodedRows
from latentdb.ingest.known_images import is_gone
from latentdb.ingest.planner import Batch, ImagePlanner, PlannedRow, StoredImage
from latentdb.ingest.read_ahead import read_batches
from latentdb.ingest.report import Counts
from latentdb.model.codec import Codec
from latentdb.model.config import ModelConfig
from latentdb.store.columns import Value
from latentdb.store.manifest import SegmentEntry
from latentdb.store.plan import Receipt, read_input, segment_name, write_receipt
from latentdb.store.restamp import Stamp
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store
from latentdb.store.writer import rows_of_segment, write_segment

OpenCodec = Callable[[Snapshot], Codec]


class Worker:
    """A process that works on tasks, one at a time.

    Parameters
    ----------
    store
        Folder of the store, which this machine sees, too.
    open_codec
        Loads the model of a snapshot.
    node
        What the machine is called.
    """

    def __init__(self, store: str, open_codec: OpenCodec, node: str) -> None:
        self._store = Store.open(store)
        self._codec = open_codec(self._store.snapshot())
        self._node = node
        self._planner: _TaskPlanner | None = None
        if not self._codec.needs_condition:  # load it now, not in the first task
            shape = self._codec.config.preprocessing.shape
            self._codec.encode(np.zeros((1, *shape), np.uint8))

    def run(self, order: Order) -> TaskResult:
        """Do a task; its segments and its receipt are durable when it returns.

        Raises
        ------
        LatentDBError
            If the store cannot be read or written, or the model fails.
        """
        planner = self._planner_of(order.context)
        planner.begin()
        data = read_input(self._store.path, order.task)
        types = dict(order.types)
        members: MemberPlanner | None = None
        if order.context.kind == ARCHIVES:
            selection = order.context.selection
            members = MemberPlanner(planner, [data.decode()], selection, types)
        excluded = planner.search.tally.excluded
        counts = Counts()
        restamped: dict[int, Stamp] = {}
        output = _Output(self._store.path, order, types, planner.snapshot.manifest.dtype)
        reading = _read_files(planner, data) if members is None else ahead(members.batches())
        with reading as batches:
            for batch in batches:
                counts.add(batch)
                restamped.update(batch.restamped)
                counts.encoded += output.add(batch, planner.snapshot, self._codec)
        return TaskResult(
            receipt=output.finish(),
            counts=counts,
            node=self._node,
            types=types,
            deferred=tuple(planner.deferred),
            restamped=restamped,
            restored_ids=frozenset(planner.known.restored_ids),
            restored_contents=frozenset(planner.known.restored_contents),
            excluded=planner.search.tally.excluded - excluded,
            left_out={} if members is None else dict(members.left_out),
        )

    def _planner_of(self, context: Context) -> _TaskPlanner:
        """The planner of a plan, which knows the contents of all rows: made once."""
        planner = self._planner
        # Contexts that came from another process are never equal: sources have no equality.
        if (
            planner is None
            or planner.run != (context.plan, context.epoch)
            or not planner.snapshot.is_intact()
        ):
            planner = _TaskPlanner(self._store.snapshot(), self._codec.config, context)
            self._planner = planner
        return planner


class _TaskPlanner(ImagePlanner):
    """Decides on the images of tasks, but not on renamed ones."""

    def __init__(self, snapshot: Snapshot, config: ModelConfig, context: Context) -> None:
        super().__init__(
            snapshot,
            config.preprocessing,
            context.roots,
            rehash=context.rehash,
            restore=context.restore,
            condition=config.condition,
            rows_below=context.first_row,
        )
        self.run = context.plan, context.epoch
        self.wanted: Mapping[str, Wanted] = {}  # by path
        self.deferred: list[Wanted] = []

    def begin(self) -> None:
        """Forget what the task before came to."""
        self.deferred = []
        self.known.restored_ids.clear()
        self.known.restored_contents.clear()

    def add_by_content(
        self,
        file: ImageFile,
        digest: int,
        stored: StoredImage | None,
        values: dict[str, Value],
        batch: Batch,
        *,
        renames: bool = True,
    ) -> PlannedRow | None:
        if renames and stored is None:
            for row in self.known.rows_of(digest).tolist():
                path, _ = self.snapshot.content(row)
                if path is not None and is_gone(path):
                    self.deferred.append(self.wanted[file.path])
                    return None
        return super().add_by_content(file, digest, stored, values, batch, renames=renames)


@contextmanager
def _read_files(planner: _TaskPlanner, data: bytes) -> Iterator[Iterator[Batch]]:
    wanted = unpack(data)
    planner.wanted = {each.candidate.path: each for each in wanted}
    planner.values = {path: each.values for path, each in planner.wanted.items()}
    candidates = [each.candidate for each in wanted]
    with read_batches(planner, candidates, eager=False) as batches:
        yield batches


class _Output:
    """The segments of an order, written as the rows come."""

    def __init__(self, root: Path, order: Order, types: Mapping[str, str], dtype: str) -> None:
        self._root = root
        self._dtype = dtype
        self._order = order
        self._types = types
        self._encoded = EncodedRows()
        self._entries: list[SegmentEntry] = []
        self._replaced: list[int] = []
        self._columns: set[str] = set()
        self._row = order.task.first_row

    def add(self, batch: Batch, snapshot: Snapshot, codec: Codec) -> int:
        """Encode and keep the rows of a batch; the number of images that were encoded."""
        count = self._encoded.encode(batch, snapshot, codec)
        if len(self._encoded) >= COMMIT_ROWS:
            self._flush()
        return count

    def finish(self) -> Receipt:
        self._flush()
        order = self._order
        used = {key: type_ for key, type_ in self._types.items() if key in self._columns}
        receipt = Receipt(order.task.digest, tuple(self._entries), used, tuple(self._replaced))
        epoch = order.context.epoch
        write_receipt(self._root, order.task, epoch, order.attempt, receipt)
        return receipt

    def _flush(self) -> None:
        """Write the rows so far, as segments of the size that a store has them in."""
        if not len(self._encoded):
            return
        rows = self._encoded.rows(self._types)
        self._replaced += self._encoded.replaced().tolist()
        self._columns |= rows.columns.keys()
        self._encoded = EncodedRows()
        task = self._order.task
        if self._row + len(rows) > task.first_row + task.rows:
            raise InvalidInputError(
                f"a task has more than the {task.rows:,} images that row numbers were reserved "
                "for: index its archive without a cluster"
            )
        step = rows_of_segment(rows, self._dtype)
        for start in range(0, len(rows), step):
            block = rows.take(slice(start, start + step))
            numbers = np.arange(self._row, self._row + len(block), dtype=np.int64)
            epoch, attempt = self._order.context.epoch, self._order.attempt
            name = segment_name(task, epoch, attempt, len(self._entries))
            self._entries.append(write_segment(self._root, name, block, numbers, self._dtype))
            self._row += len(block)
