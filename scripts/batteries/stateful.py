"""The store against a plain dict: Hypothesis makes up operations and compares every answer."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from batteries import shim as shims
from batteries.shim import Shim
from batteries.world import DIM, Summary, small
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.database import LatentDB
from latentdb.verify import verify

_ODD = ("é/ü.png", "a b", "0", "-1", "\u202e", "x" * 300)
_NAMES = (*(f"id{number}" for number in range(24)), *_ODD)
_ids = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=8, unique=True)
_labels = st.sampled_from(("cat", "dog", None, ""))
_wheres = st.tuples(st.sampled_from(("cat", "dog")), st.integers(-3, 3))
_years = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from((2**40, -(2**62))))


class Machine(RuleBasedStateMachine):
    """Rows as a dict of id -> (vector, metadata), in the order they came in."""

    done = 0

    def __init__(self) -> None:
        super().__init__()
        Machine.done += 1
        self.folder = Path(tempfile.mkdtemp(prefix="battery-model-"))
        self.path = self.folder / "s.ldb"
        self.rows: dict[str, tuple[NDArray[np.float32], dict[str, Any]]] = {}
        self.undo = ExitStack()
        self.undo.enter_context(small(grace=600, index_above=20_000))
        self.undo.enter_context(shims.installed(Shim()))  # which saves waiting for the disk

    @initialize()
    def create(self) -> None:
        self.db = LatentDB.create(self.path, dim=DIM)
        # Both keys are known from the start, so that an expression may name them.
        columns: dict[str, list[Any]] = {"label": ["cat"], "year": [0]}
        self.db.add(["first"], np.zeros((1, DIM), np.float32), metadata=columns)
        self.db.delete(["first"])

    def teardown(self) -> None:
        self.undo.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(
        self, ids: list[str], seed: int, data: Any
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        vectors = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
        columns = {
            "label": [data.draw(_labels) for _ in ids],
            "year": [data.draw(_years) for _ in ids],
        }
        return vectors, columns

    def _keep(self, ids: list[str], vectors: NDArray[np.float32], columns: dict[str, Any]) -> None:
        for place, name in enumerate(ids):
            told = {key: values[place] for key, values in columns.items()}
            self.rows.pop(name, None)
            self.rows[name] = vectors[place], {k: v for k, v in told.items() if v is not None}

    @rule(ids=_ids, seed=st.integers(0, 2**32), data=st.data(),
          how=st.sampled_from(("error", "skip", "replace")))  # fmt: skip
    def add(self, ids: list[str], seed: int, data: Any, how: str) -> None:
        vectors, columns = self._make(ids, seed, data)
        taken = [name in self.rows for name in ids]
        try:
            written = self.db.add(ids, vectors, metadata=columns, on_conflict=how)
        except InvalidInputError:
            assert how == "error"
            assert any(taken)
            return
        assert how != "error" or not any(taken)
        chosen = [place for place in range(len(ids)) if how != "skip" or not taken[place]]
        assert written == len(chosen)
        picked = {key: [values[place] for place in chosen] for key, values in columns.items()}
        self._keep([ids[place] for place in chosen], vectors[chosen], picked)

    @rule(ids=_ids)
    def delete(self, ids: list[str]) -> None:
        try:
            count = self.db.delete(ids)
        except NotFoundError:
            assert any(name not in self.rows for name in ids)
            return
        assert count == len(ids)
        for name in ids:
            del self.rows[name]

    @precondition(lambda self: self.rows)
    @rule(label=st.sampled_from(("cat", "dog")), year=st.integers(-3, 3))
    def delete_where(self, label: str, year: int) -> None:
        gone = self._where(label, year)
        assert self.db.delete(where=f"label == {label!r} and year > {year}") == len(gone)
        for name in gone:
            del self.rows[name]

    def _where(self, label: str, year: int) -> list[str]:
        return [
            name
            for name, (_, told) in self.rows.items()
            if told.get("label") == label and "year" in told and told["year"] > year
        ]

    @rule()
    def compact(self) -> None:
        self.db.compact()

    @rule()
    def optimize(self) -> None:
        self.db.optimize()

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.db = LatentDB.open(self.path)

    @rule()
    def verified(self) -> None:
        assert verify(self.path).problems == ()

    @precondition(lambda self: self.rows)
    @rule(seed=st.integers(0, 2**32), k=st.integers(1, 40), where=st.none() | _wheres)
    def query(self, seed: int, k: int, where: tuple[str, int] | None) -> None:
        target = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
        names = list(self.rows) if where is None else self._where(*where)
        text = None if where is None else f"label == {where[0]!r} and year > {where[1]}"
        matches = self.db.query(target, k=k, where=text).matches
        assert len(matches) == min(k, len(names))
        if not names:
            return
        vectors = np.stack([self.rows[name][0] for name in names]).astype(np.float64)
        distances = np.sqrt(((vectors - target) ** 2).sum(axis=1))
        order = np.argsort(distances, kind="stable")[:k]
        assert [match.id for match in matches] == [names[place] for place in order]
        assert np.allclose([match.distance for match in matches], distances[order], rtol=1e-6)
        for match in matches:
            assert match.metadata == self.rows[match.id][1]
        mean = self.db.average(where=text)
        assert mean.rows == len(names)
        assert np.allclose(mean.vector, vectors.mean(axis=0), atol=1e-6)

    @invariant()
    def same_rows(self) -> None:
        if not hasattr(self, "db"):
            return
        assert len(self.db) == len(self.rows)
        assert self.db.ids() == list(self.rows)
        if self.rows:
            expected = np.stack([vector for vector, _ in self.rows.values()])
            assert np.array_equal(self.db.vectors(list(self.rows)), expected)
        for name in _NAMES[:3]:
            assert (name in self.db) == (name in self.rows)


def run(examples: int = 500, steps: int = 50) -> Summary:
    """The class `model`: `examples` runs of `steps` operations each."""
    summary = Summary("model")
    Machine.done = 0
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    def compare() -> str:
        run_state_machine_as_test(Machine, settings=chosen)
        return "held"

    summary.case(f"{examples} examples of {steps} steps", compare)
    summary.cases = Machine.done
    summary.notes.append(f"up to {steps} steps each")
    return summary
