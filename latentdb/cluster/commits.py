"""The commits of a plan: which tasks are left, and which of the finished are in the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from latentdb.cluster.tasks import FILES, Context, Order, TaskResult, Wanted
from latentdb.ingest.adoption import adopt
from latentdb.ingest.execution import COMMIT_ROWS, COMMIT_SECONDS, FIRST_SECONDS, Run
from latentdb.store.plan import Plan, Receipt
from latentdb.store.restamp import Stamp
from latentdb.store.writer import merge_types


class Commits:
    """The tasks of a plan: which are left, and the commits of those that are finished.

    Parameters
    ----------
    run, plan, context
        The run, the plan, and what its orders have in common.
    nodes
        Images that each machine has encoded; counted here.
    receipts
        Of tasks that an earlier run has finished, by their numbers.

    Attributes
    ----------
    deferred, restamped, restored_ids, restored_contents, excluded, left_out
        What the results have come to: see `latentdb.cluster.tasks.TaskResult`.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        context: Context,
        nodes: Counter[str],
        receipts: Mapping[int, Receipt],
    ) -> None:
        self._run = run
        self._plan = plan
        self._context = context
        self._nodes = nodes
        self._finished: dict[int, Receipt | TaskResult] = dict(receipts)
        self._turn = 0  # the first task that is not accepted yet
        self._accepted: list[Receipt] = []  # not committed
        self._due = time.monotonic() + FIRST_SECONDS
        reserved = sum(task.rows for task in plan.tasks)
        self._total = run.counts.files + reserved if plan.kind == FILES else None
        self.deferred: list[Wanted] = []
        self.restamped: dict[int, Stamp] = {}
        self.restored_ids: set[int] = set()
        self.restored_contents: set[int] = set()
        self.excluded = 0
        self.left_out: Counter[str] = Counter()

    def begin(self) -> list[Order]:
        """The orders of all tasks that are not finished."""
        left = [self._order(n) for n in range(len(self._plan.tasks)) if n not in self._finished]
        return left + self._accept()

    def take(self, order: Order, result: TaskResult) -> list[Order]:
        """Take what an order came to, and commit what is due; gives further orders."""
        self._run.check(result.counts)
        self._finished[order.number] = result
        orders = self._accept()
        rows = sum(receipt.rows for receipt in self._accepted)
        if rows >= COMMIT_ROWS or time.monotonic() > self._due:
            self.commit()
        nodes = ", ".join(f"{node} {images:,}" for node, images in sorted(self._nodes.items()))
        self._run.show(self._total, f"indexing ({nodes})")
        return orders

    def commit(self) -> None:
        """Commit what is accepted."""
        accepted, self._accepted = self._accepted, []
        conflicts = adopt(self._run.writer, self._plan.first_row, accepted)
        counts = self._run.counts
        counts.conflicts += conflicts
        counts.added -= len(conflicts)
        self._due = time.monotonic() + COMMIT_SECONDS

    def _accept(self) -> list[Order]:
        """Accept finished tasks in their order; gives an order where one must be done again.

        The first value of a metadata key in archives decides its type.  A worker knows
        nothing of the archives before its own, so it may have decided otherwise.
        """
        while (finished := self._finished.get(self._turn)) is not None:
            if not _agree(finished.types, self._run.types):
                del self._finished[self._turn]
                return [self._order(self._turn)]
            merge_types(finished.types, self._run.types)
            self._turn += 1
            if isinstance(finished, Receipt):
                self._accepted.append(finished)
            else:
                self._count(finished)
        return []

    def _count(self, result: TaskResult) -> None:
        self._accepted.append(result.receipt)
        self._run.counts.merge(result.counts)
        self._nodes[result.node] += result.counts.encoded
        self.deferred += result.deferred
        self.restamped.update(result.restamped)
        self.restored_ids |= result.restored_ids
        self.restored_contents |= result.restored_contents
        self.excluded += result.excluded
        self.left_out.update(result.left_out)

    def _order(self, number: int) -> Order:
        return Order(number, self._plan.tasks[number], 0, dict(self._run.types), self._context)


def _agree(types: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether keys have the same types, or such that the values of both are floats."""
    return all(
        {type_, others.get(key, type_)} in ({type_}, {"int", "float"})
        for key, type_ in types.items()
    )
