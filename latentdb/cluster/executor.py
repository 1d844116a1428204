"""A run on a cluster: its images are planned, given to workers, and what they wrote is committed.

This process holds the lock of the writer, lists the images, and handles those that the store
has; only new files, and archives, go to workers.  Finished tasks are committed in the order
of their rows, whatever the order in which they are finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import islice
from types import TracebackType

from latentdb.base.errors import InvalidInputError
from latentdb.base.files import checksum
from latentdb.base.wording import counted
from latentdb.cluster.commits import Commits
from latentdb.cluster.tasks import ARCHIVES, FILES, Context, Pool, Wanted, pack
from latentdb.images.discover import BadFile, Candidate
from latentdb.ingest.adoption import settle
from latentdb.ingest.archives import MemberPlanner
from latentdb.ingest.execution import Run, write_batches
from latentdb.ingest.planner import ImagePlanner
from latentdb.ingest.read_ahead import read_batches
from latentdb.ingest.report import Counts
from latentdb.model.codec import BATCH
from latentdb.store import plan as plans
from latentdb.store.plan import Plan, PlanWriter
from latentdb.store.restamp import restamp

_MOST_PARTS = 16  # of 256 images in a task: 4,096
_TASKS = 16  # tasks of a run at least, where it has so many parts
ARCHIVE_ROWS = 1 << 24  # row numbers that are reserved for an archive

OpenPool = Callable[[], AbstractContextManager[Pool]]


class ClusterExecutor:
    """The workers of a pool, under a plan in the store; a context manager.

    Parameters
    ----------
    open_pool
        Gives the workers; called when there is a task.
    """

    def __init__(self, open_pool: OpenPool) -> None:
        self._open_pool = open_pool
        self._stack = ExitStack()
        self._pool: Pool | None = None
        self._nodes: Counter[str] = Counter()  # images that each has encoded
        self._resumed = 0  # rows of a run that was cut off
        self._notes: list[str] = []

    def __enter__(self) -> ClusterExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def notes(self) -> Sequence[str]:
        nodes = [
            f"{node} encoded {counted(images, 'image')}"
            for node, images in sorted((+self._nodes).items())
        ]
        return [*self._notes, *nodes, *(self._pool.notes() if self._pool is not None else ())]

    def start(self, run: Run) -> None:
        """Finish the plan of the same run, if it was cut off; of another, commit what is done."""
        root = run.writer.snapshot.folder
        plan = plans.read(root)
        if plan is None or plan.run != _digest(run):
            settle(run.writer)
            return
        plan = plans.next_epoch(root, plan)
        receipts = plans.read_receipts(root, plan)
        before = len(run.writer.snapshot)
        columns = run.writer.snapshot.manifest.columns
        # What is bad, renamed or changed since is met again by the run itself, which counts it.
        alone = replace(run, counts=Counts(), types={**plan.types, **columns}, strict=False)
        self._work(Commits(alone, plan, _context(run, plan), self._nodes, receipts))
        plans.remove(root)
        run.counts.encoded += alone.counts.encoded
        self._resumed = len(run.writer.snapshot) - before
        self._notes.append(
            f"a run that was cut off was resumed: {len(receipts):,} of "
            f"{counted(len(plan.tasks), 'task')} were finished, and not done again"
        )

    def index_files(self, run: Run, planner: ImagePlanner) -> None:
        if run.archives and planner.gives_metadata:
            raise InvalidInputError(
                "on a cluster, images in archives get no labels from folders, no metadata of a "
                "table and no condition: index them without --ray; labels and metadata can also "
                "be given by such a run afterwards, which encodes nothing again"
            )
        writer = PlanWriter(run.writer.snapshot.folder)
        try:
            spool = _Spool(planner, writer)
            with read_batches(planner, spool.known()) as batches:
                write_batches(run, planner.snapshot, batches, None)
            self._count_resumed(run)
            inputs = spool.inputs()
            deferred: Sequence[Wanted] = ()
            if inputs:
                deferred = self._carry_out(run, planner, writer, FILES, inputs).deferred
            else:
                plans.remove(run.writer.snapshot.folder)
        finally:
            writer.close()
        if deferred:
            planner.values = {each.candidate.path: each.values for each in deferred}
            candidates = [each.candidate for each in deferred]
            with read_batches(planner, candidates) as batches:
                write_batches(run, planner.snapshot, batches, None)

    def index_archives(self, run: Run, members: MemberPlanner) -> None:
        writer = PlanWriter(run.writer.snapshot.folder)
        try:
            inputs = [(writer.add(path.encode()), ARCHIVE_ROWS) for path in run.archives]
            commits = self._carry_out(run, members.planner, writer, ARCHIVES, inputs)
        finally:
            writer.close()
        self._count_resumed(run)
        members.left_out.update(commits.left_out)
        members.planner.search.tally.excluded += commits.excluded
        if commits.restamped:
            restamp(run.writer, commits.restamped)

    def _carry_out(
        self,
        run: Run,
        planner: ImagePlanner,
        writer: PlanWriter,
        kind: str,
        inputs: Sequence[tuple[int, int]],
    ) -> Commits:
        """Make a plan durable, do its tasks, and drop it."""
        root = run.writer.snapshot.folder
        plan = writer.commit(
            inputs,
            run=_digest(run),
            kind=kind,
            first_row=run.writer.snapshot.manifest.next_row,
            types=run.types,
        )
        context = replace(_context(run, plan), rehash=planner.rehash, restore=planner.restore)
        commits = Commits(run, plan, context, self._nodes, {})
        self._work(commits)
        planner.known.restored_ids |= commits.restored_ids
        planner.known.restored_contents |= commits.restored_contents
        plans.remove(root)
        return commits

    def _work(self, commits: Commits) -> None:
        """Do what is left of a plan; whatever ends it, what is finished is committed."""
        try:
            orders = commits.begin()
            if orders:
                if self._pool is None:
                    self._pool = self._stack.enter_context(self._open_pool())
                for order in orders:
                    self._pool.submit(order)
                for order, result in self._pool.results():
                    for again in commits.take(order, result):
                        self._pool.submit(again)
        finally:
            commits.commit()

    def _count_resumed(self, run: Run) -> None:
        """Count as added what the run found unchanged only because it had resumed another."""
        images = min(self._resumed, run.counts.unchanged)
        self._resumed -= images
        run.counts.unchanged -= images
        run.counts.added += images


def _digest(run: Run) -> str:
    """What was asked for: a plan of anything else is not gone on with."""
    sources = [source.path for source in run.plan.search.sources]
    asked = [run.writer.snapshot.manifest.uuid, sources, list(run.archives), vars(run.selection)]
    return checksum(json.dumps(asked).encode())


def _context(run: Run, plan: Plan) -> Context:
    return Context(
        plan.name, plan.kind, plan.epoch, plan.first_row, run.plan, run.selection, False, False
    )


class _Spool:
    """Divides the files of a run: new ones into the inputs of tasks, the others for this process.

    Memory does not grow with their number.
    """

    def __init__(self, planner: ImagePlanner, writer: PlanWriter) -> None:
        self._planner = planner
        self._writer = writer
        self._parts: list[tuple[int, int]] = []  # bytes, images

    def known(self) -> Iterator[Candidate | BadFile]:
        """The files that the store has a row of, bad ones, and new ones that are too few."""
        planner = self._planner
        candidates = planner.search.candidates()
        new: list[Wanted] = []
        while chunk := list(islice(candidates, BATCH)):
            for item, stored in zip(chunk, planner.look_up(chunk), strict=True):
                if isinstance(item, BadFile) or stored is not None:
                    yield item
                else:
                    new.append(Wanted(item, planner.metadata_of(item)))
            if len(new) >= BATCH:
                self._add(new[:BATCH])
                new = new[BATCH:]
        if self._parts and new:
            self._add(new)
        elif new:  # fewer than a batch: workers would take longer to start
            planner.values = {each.candidate.path: each.values for each in new}
            yield from (each.candidate for each in new)

    def _add(self, new: Sequence[Wanted]) -> None:
        self._parts.append((self._writer.add(pack(new)), len(new)))

    def inputs(self) -> list[tuple[int, int]]:
        """Bytes and images of the input of each task."""
        parts = max(1, min(_MOST_PARTS, len(self._parts) // _TASKS))
        groups = [self._parts[place : place + parts] for place in range(0, len(self._parts), parts)]
        return [(sum(size for size, _ in group), sum(n for _, n in group)) for group in groups]
