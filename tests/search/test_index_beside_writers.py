"""The search index is built while others write: nothing waits, nothing is lost, no answer is wrong.

What the others do, they do in the progress report of the build: in the middle of it, always.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb.ann import plan
from latentdb.base.errors import LockedError, StoreError
from latentdb.base.progress import Progress
from latentdb.database import LatentDB
from latentdb.store.manifest import IndexEntry

DIM = 8
LIMIT = 1_200  # the tuner wants 1,000 rows to ask about
SCRIPT = """
import sys
import numpy as np
from latentdb.ann import plan
from latentdb.database import LatentDB

plan.EXACT_ROWS = int(sys.argv[2])
with LatentDB.open(sys.argv[1], lock_timeout=0) as db:
    exec(sys.argv[3])
"""
ADD = "db.add(['new0', 'new1'], np.full((2, 8), 9.0))"
CHANGES = {
    "add": ADD,
    "delete": "db.delete(['r0', 'r5'])",
    "replace": "db.add(['r0', 'r5'], np.full((2, 8), 9.0), on_conflict='replace')",
    "compact": "db.delete(['r0', 'r5']); db.compact(); " + ADD,
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", LIMIT)


def vectors_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, DIM)).astype(np.float32)


def names(start: int, stop: int) -> list[str]:
    return [f"r{number}" for number in range(start, stop)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store without the index that it is due, of four segments; one row is deleted."""
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=0.9, auto_index=False) as db:
        vectors = vectors_of(LIMIT + 1)
        for start in range(0, LIMIT, LIMIT // 3):
            stop = start + LIMIT // 3
            db.add(names(start, stop), vectors[start:stop])
        db.add(["a", "b"], vectors_of(2, seed=7))
        db.delete(["r3"])
    return tmp_path / "s"


def in_another_process(path: Path, code: str) -> None:
    words = [sys.executable, "-c", SCRIPT, str(path), str(LIMIT), code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def once(action: Callable[[], object]) -> Callable[[Progress], None]:
    """A report that acts when the first build begins, and not again."""
    pending = [action]

    def report(progress: Progress) -> None:
        if progress.stage.endswith("search index") and pending:
            pending.pop()()

    return report


def npy(path: Path, start: int, stop: int) -> tuple[Path, Path]:
    """Files to import: `import_file` builds where it is due, and reports it."""
    ids = path.with_suffix(".txt")
    ids.write_text("\n".join(names(start, stop)))
    np.save(path, vectors_of(stop - start, seed=start))
    return path, ids


def entry_of(db: LatentDB) -> IndexEntry:
    entry = db.info().index
    assert entry is not None
    return entry


def check(path: Path) -> None:
    """The index answers rightly, with rows that are there and no others."""
    with LatentDB.open(path) as db:
        vectors, ids = db.vectors(), db.ids()
        queries = np.concatenate([vectors[:100], vectors[-5:]])
        distances = np.linalg.norm(queries[:, None] - vectors, axis=2)
        near = np.argsort(distances, axis=1, kind="stable")[:, :10]
        found = [[match.id for match in matches] for matches in db.query_many(list(queries))]
        assert not db.query("r1").exact
        hits = [len(set(a) & {ids[n] for n in b}) for a, b in zip(found, near, strict=True)]
        assert np.mean(hits) > 8.5
        for name in (ids[0], ids[-2], ids[-1]):
            assert name in [match.id for match in db.query(name, k=3)]
    assert LatentDB.verify(path).problems == ()


@pytest.mark.parametrize("change", CHANGES)
def test_other_writers_go_on_while_an_index_is_built(path: Path, change: str) -> None:
    with LatentDB.open(path) as db:
        rows = db.ids()
        db.optimize(report=once(lambda: in_another_process(path, CHANGES[change])))
        assert entry_of(db).rows == LIMIT + 1  # those of the version it was built from
        gone = {"r0", "r5"} if change in ("delete", "compact") else set()
        new = {"new0", "new1"} if change in ("add", "compact") else set()
        assert set(db.ids()) == set(rows) - gone | new
        if change == "replace":
            np.testing.assert_array_equal(db.vectors(["r0", "r5"]), np.full((2, DIM), 9.0))
    check(path)


@pytest.mark.parametrize("change", CHANGES)
def test_other_writers_go_on_while_an_index_is_extended(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(plan, "_UNINDEXED_ROWS", 10)
    monkeypatch.setattr(plan, "_INDEXED_PER_UNINDEXED", 10**9)
    with LatentDB.open(path) as db:
        db.optimize()
        monkeypatch.setattr(plan, "EXACT_ROWS", 10)
        db.optimize(recall=0.9)
        before = entry_of(db)
        db.delete(["r7"])  # in the index, and compacted away before it is extended
        db.compact()
        file, ids = npy(tmp_path / "more.npy", 5_000, 5_020)

        def act(progress: Progress) -> None:
            if progress.stage.startswith("adding"):
                in_another_process(path, CHANGES[change])

        db.import_file(file, ids=ids, report=act)
        after = entry_of(db)
        assert after.file != before.file
        assert (after.rows, after.trained_rows) == (before.rows + 20, before.trained_rows)
    check(path)


def test_an_addition_does_not_wait_for_the_index_that_another_builds(
    path: Path, tmp_path: Path
) -> None:
    """And does not build one of its own; the builder looks again for what came meanwhile."""
    file, ids = npy(tmp_path / "more.npy", 5_000, 5_010)
    many = f"rng = np.random.default_rng(5); db.add([f'm{{n}}' for n in range({LIMIT + 500})], "
    many += f"rng.random(({LIMIT + 500}, 8)).astype('f4')); assert db.info().index is None"
    with LatentDB.open(path) as db:
        db.import_file(file, ids=ids, report=once(lambda: in_another_process(path, many)))
        assert entry_of(db).rows == len(db) == 2 * LIMIT + 511
    check(path)


def test_two_do_not_build_an_index_at_once(path: Path) -> None:
    refused: list[str] = []

    def optimize() -> None:
        with LatentDB.open(path, lock_timeout=0) as other:
            with pytest.raises(LockedError) as caught:
                other.optimize(recall=0.5)
            refused.append(str(caught.value))

    with LatentDB.open(path) as db:
        db.optimize(report=once(optimize))
        assert db.info().recall_target == 0.9
    assert "the search index of" in refused[0]
    assert "is being built by process" in refused[0]


def test_an_index_that_cannot_be_committed_leaves_no_file(path: Path) -> None:
    with LatentDB.open(path) as db:
        db.optimize()
    files = sorted((path / "index").iterdir())
    with ExitStack() as busy, LatentDB.open(path, lock_timeout=0) as db:
        other = busy.enter_context(LatentDB.open(path))

        def write() -> None:
            busy.enter_context(other._open_store().writer())

        with pytest.raises(LockedError, match="is being written by process"):
            db.optimize(report=once(write))
    assert sorted((path / "index").iterdir()) == files
    check(path)


def test_an_index_of_settings_that_changed_meanwhile_is_not_committed(path: Path) -> None:
    """As another latentdb, of before the lock of the index, may change them."""

    def change() -> None:
        with LatentDB.open(path)._open_store().writer() as writer:
            writer.drop_index(replace(writer.snapshot.manifest.settings, recall=0.5))

    with LatentDB.open(path) as db:
        with pytest.raises(StoreError, match="changed by another process meanwhile"):
            db.optimize(report=once(change))
        assert db.info().recall_target == 0.5
        assert db.info().index is None
        with db._open_store().writer() as writer:
            writer.drop_index(replace(writer.snapshot.manifest.settings, recall=0.8))
        file, ids = npy(path.parent / "more.npy", 5_000, 5_001)
        with pytest.warns(RuntimeWarning, match="was not built"):  # the rows are there
            db.import_file(file, ids=ids, report=once(change))
        assert len(db) == LIMIT + 2


def test_a_handle_that_leaves_the_index_to_optimize_builds_none(path: Path) -> None:
    with LatentDB.open(path, auto_index=False) as db:
        db.add(names(5_000, 5_010), vectors_of(10))
        assert db.info().index is None
