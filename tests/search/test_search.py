"""A question to a store: index, unindexed rows, filter and deletions give one true answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.ann import plan, ranking
from latentdb.ann.index import VectorIndex
from latentdb.database import LatentDB
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.filters import Filter
from latentdb.search.results import Hits
from latentdb.search.searcher import Searcher
from latentdb.search.selection import select_rows, sum_rows
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

DIM = 8
MAX_K = 100  # of those tuned for, in a store so small
Array = NDArray[Any]


def vectors_of(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, DIM)).astype(np.float32)


def snapshot_of(db: LatentDB) -> Snapshot:
    return Store.open(db.info().path).snapshot()


def truth(snapshot: Snapshot, queries: Array, rows: Array, k: int) -> tuple[Array, Array]:
    """Distances and row numbers of the k nearest among `rows`, by float64."""
    vectors = snapshot.vectors(rows).astype(np.float64)
    distances = np.stack([np.linalg.norm(vectors - one, axis=1) for one in queries])
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), rows[order]


def check_exact(snapshot: Snapshot, hits: Hits, queries: Array, rows: Array, k: int) -> None:
    distances, order = truth(snapshot, queries, rows, k)
    have = distances.shape[1]
    assert hits.distances.shape == hits.rows.shape == (len(queries), k)
    assert hits.rows[:, :have].tolist() == order.tolist()
    np.testing.assert_allclose(hits.distances[:, :have], distances, rtol=1e-6)
    assert (hits.rows[:, have:] == -1).all()
    assert np.isinf(hits.distances[:, have:]).all()


# --- a small store: every answer is exact ---------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LatentDB:
    """300 rows in four commits: columns that came later, missing values, replaced rows."""
    db = LatentDB.create(tmp_path_factory.mktemp("small") / "s.ldb", dim=DIM)
    ids = [f"r{number}" for number in range(250)]
    db.add(ids[:100], vectors_of(100, 1))
    years = [None if number % 7 == 0 else 1900 + number for number in range(150)]
    labels = [["cat", "dog", None][number % 3] for number in range(150)]
    db.add(ids[100:], vectors_of(150, 2), metadata={"year": years, "label": labels})
    again = ids[50:150:2]
    db.add(again, vectors_of(50, 3), metadata={"label": ["new"] * 50}, on_conflict="replace")
    db.add([f"s{n}" for n in range(50)], vectors_of(50, 4), metadata={"year": [2000] * 50})
    return db


EXPRESSIONS = [
    'label == "cat"',
    'label != "cat"',
    "year > 1950",
    "year is None",
    'year is None and label == "new"',
    'not (label == "dog" or year < 1960)',
    'id.startswith("s")',
    "path is None",
    'id == "r77"',
    "year < 0",
]


def matching(snapshot: Snapshot, expression: str) -> Array:
    """Row numbers an expression keeps, judged one row at a time in Python."""
    rows = snapshot.live_rows()
    selected = []
    for row, name, found in zip(rows, snapshot.ids(rows), snapshot.metadata(rows), strict=True):
        label, year = found.get("label"), found.get("year")
        assert year is None or isinstance(year, int)
        answers = {
            'label == "cat"': label == "cat",
            'label != "cat"': label is not None and label != "cat",
            "year > 1950": year is not None and year > 1950,
            "year is None": year is None,
            'year is None and label == "new"': year is None and label == "new",
            'not (label == "dog" or year < 1960)': (
                label is not None and label != "dog" and year is not None and year >= 1960
            ),
            'id.startswith("s")': name.startswith("s"),
            "path is None": True,
            'id == "r77"': name == "r77",
            "year < 0": False,
        }
        if answers[expression]:
            selected.append(int(row))
    return np.array(selected, np.int64)


def test_a_scan_of_a_store_is_exact(small: LatentDB) -> None:
    snapshot = snapshot_of(small)
    queries = vectors_of(20, 9)
    hits = Searcher(snapshot).search(queries, k=10)
    assert hits.exact
    assert hits.scanned == 20 * 300
    check_exact(snapshot, hits, queries, snapshot.live_rows(), 10)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_filter_is_exact_and_gives_k_matches_wherever_k_exist(
    small: LatentDB, expression: str
) -> None:
    snapshot = snapshot_of(small)
    where = Filter(expression, snapshot.manifest.columns)
    rows = matching(snapshot, expression)
    assert select_rows(snapshot, where).tolist() == rows.tolist()
    queries = vectors_of(5, 9)
    hits = Searcher(snapshot).search(queries, k=12, where=where)
    assert hits.exact
    assert hits.scanned == 5 * len(rows)
    check_exact(snapshot, hits, queries, rows, 12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.data())
def test_any_filter_over_ids_is_exact(small: LatentDB, data: st.DataObject) -> None:
    snapshot = snapshot_of(small)
    live = snapshot.live_rows()
    names = snapshot.ids(live)
    chosen = data.draw(st.lists(st.sampled_from([*names, "unknown"]), min_size=1, max_size=20))
    negated = data.draw(st.booleans())
    k = data.draw(st.integers(1, 400))
    keep = np.array([(name in chosen) != negated for name in names])
    where = Filter(f"id {'not in' if negated else 'in'} {chosen!r}", snapshot.manifest.columns)
    queries = vectors_of(2, data.draw(st.integers(0, 5)))
    hits = Searcher(snapshot).search(queries, k=k, where=where)
    check_exact(snapshot, hits, queries, live[keep], k)


@pytest.mark.parametrize("k", [299, 300, 301, 5000])
def test_more_neighbours_than_rows_are_all_rows(small: LatentDB, k: int) -> None:
    snapshot = snapshot_of(small)
    queries = vectors_of(2, 9)
    check_exact(snapshot, Searcher(snapshot).search(queries, k=k), queries, snapshot.live_rows(), k)


def test_matches_are_ranked_from_one(small: LatentDB) -> None:
    matches = small.query("r60", k=5)
    assert [match.rank for match in matches] == [1, 2, 3, 4, 5]
    assert (matches[0].id, matches[0].distance) == ("r60", 0.0)
    distances = [match.distance for match in matches]
    assert distances == sorted(distances)
    assert matches[0].metadata == {"label": "new"}
    assert (matches.metric, matches.exact, matches.scanned) == ("l2", True, 300)
    assert len(small.query("r60", k=1000)) == 300


def test_arrays_have_k_columns_even_where_there_are_fewer_rows(small: LatentDB) -> None:
    distances, rows = small.search(vectors_of(2), k=305)
    assert distances.shape == rows.shape == (2, 305)
    assert (rows[:, 300:] == -1).all()


def test_no_query_is_answered_with_no_line(small: LatentDB) -> None:
    hits = Searcher(snapshot_of(small)).search(np.empty((0, DIM), np.float32), k=3)
    assert hits.rows.shape == hits.distances.shape == (0, 3)


def test_an_empty_store_has_no_matches(tmp_path: Path) -> None:
    db = LatentDB.create(tmp_path / "s.ldb", dim=DIM)
    assert len(db.query(np.zeros(DIM))) == 0
    hits = Searcher(snapshot_of(db)).search(vectors_of(2), k=3)
    assert hits.rows.tolist() == [[-1] * 3] * 2
    assert select_rows(snapshot_of(db), None).tolist() == []


def test_many_queries_are_answered_in_parts(
    small: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(small)
    queries = vectors_of(50, 9)
    whole = Searcher(snapshot).search(queries, k=10)
    monkeypatch.setattr(ranking, "_BYTES", 7 * 8 * DIM * 26)
    parts = Searcher(snapshot).search(queries, k=10)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    assert parts.scanned == whole.scanned


def test_blocks_begin_at_a_row_number(small: LatentDB) -> None:
    snapshot = snapshot_of(small)
    live = snapshot.live_rows()
    for since in (0, 1, 99, 100, 260, 300, 349, 350):
        rows = []
        for block in EmbeddedRows(snapshot).blocks(since=since):
            selected = block.selected_rows()
            np.testing.assert_array_equal(snapshot.vectors(block.rows), block.vectors)
            rows += selected.tolist()
        assert rows == live[live >= since].tolist()


# --- a store with an index ------------------------------------------------------


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentDB]:
    """4,000 rows in the index, 400 after it, 100 of the former replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EXACT_ROWS", 3000)  # for speed; the real one is 50,000
        db = LatentDB.create(tmp_path_factory.mktemp("indexed") / "s.ldb", dim=DIM)
        ids = [f"r{number}" for number in range(4000)]
        db.add(ids, vectors_of(4000, 1), metadata={"n": list(range(4000))})
        db.add([f"t{number}" for number in range(300)], vectors_of(300, 2))
        # Replaced rows end with the last one, so that the bitmap of deletions spans all.
        db.add(ids[-100:], vectors_of(100, 3), on_conflict="replace")
        yield db


def index_of(snapshot: Snapshot) -> VectorIndex:
    entry = snapshot.manifest.index
    assert entry is not None
    data = snapshot.file(entry.file)
    return VectorIndex.load(data, entry.parameters, rows=entry.rows, dim=snapshot.dim)


def recall(found: Array, true: Array) -> float:
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def test_the_index_covers_what_was_there_when_it_was_built(indexed: LatentDB) -> None:
    info = indexed.info()
    assert (info.search, info.covered_rows, info.rows) == ("ivf-sq4", 4000, 4300)
    matches = indexed.query("r5", k=10)
    assert not matches.exact
    assert 400 < matches.scanned < 4300


@pytest.mark.parametrize("k", [1, 10, MAX_K])
def test_index_and_unindexed_rows_together_reach_the_recall(indexed: LatentDB, k: int) -> None:
    snapshot = snapshot_of(indexed)
    queries = vectors_of(200, 9)
    hits = Searcher(snapshot, index_of(snapshot)).search(queries, k=k)
    assert not hits.exact
    _, true = truth(snapshot, queries, snapshot.live_rows(), k)
    assert recall(hits.rows, true) >= 0.98


def test_rows_added_after_the_index_are_found(indexed: LatentDB) -> None:
    names = [f"t{number}" for number in range(0, 300, 7)]
    distances, rows = indexed.search(indexed.vectors(names), k=3)
    assert indexed.ids(rows[:, 0]) == names
    assert (distances[:, 0] == 0).all()


def test_a_replaced_row_is_found_where_it_is_now(indexed: LatentDB) -> None:
    for number in range(3900, 4000, 9):
        matches = indexed.query(f"r{number}", k=1)
        assert (matches[0].id, matches[0].distance) == (f"r{number}", 0.0)


def test_a_replaced_row_is_not_found_where_it_was(indexed: LatentDB) -> None:
    was = vectors_of(4000, 1)[3900:]
    _, rows = indexed.search(was, k=MAX_K)
    assert not np.isin(rows, np.arange(3900, 4000)).any()
    for vector in was[::10]:
        ids = [match.id for match in indexed.query(vector, k=20)]
        assert len(set(ids)) == 20


def test_a_filter_beside_an_index_is_exact(indexed: LatentDB) -> None:
    snapshot = snapshot_of(indexed)
    where = Filter("n < 40 or n is None", snapshot.manifest.columns)
    rows = select_rows(snapshot, where)
    assert rows.tolist() == [*range(40), *range(4000, 4400)]
    queries = vectors_of(5, 9)
    hits = Searcher(snapshot, index_of(snapshot)).search(queries, k=30, where=where)
    assert hits.exact
    check_exact(snapshot, hits, queries, rows, 30)


def test_more_neighbours_than_the_index_is_tuned_for_are_scanned(indexed: LatentDB) -> None:
    snapshot = snapshot_of(indexed)
    queries = vectors_of(3, 9)
    hits = Searcher(snapshot, index_of(snapshot)).search(queries, k=MAX_K + 1)
    assert hits.exact
    check_exact(snapshot, hits, queries, snapshot.live_rows(), MAX_K + 1)


def test_recall_holds_around_deleted_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All photos of one day are replaced, and one of the old ones is looked for."""
    monkeypatch.setattr(plan, "EXACT_ROWS", 3000)
    random = np.random.default_rng(0)
    centres = 5 * random.normal(size=(20, DIM))
    cluster = np.sort(random.integers(20, size=4000))
    vectors = (centres[cluster] + 0.3 * random.normal(size=(4000, DIM))).astype(np.float32)
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        ids = [f"r{number}" for number in range(4000)]
        db.add(ids, vectors)
        deleted = [ids[number] for number in np.flatnonzero(cluster == 19)]
        far = (vectors_of(len(deleted)) + 100).astype(np.float32)
        db.add(deleted, far, on_conflict="replace")
        assert db.info().index is not None
        queries = vectors[cluster == 19][:50]
        _, rows = db.search(queries, k=10)
        snapshot = snapshot_of(db)
        _, true = truth(snapshot, queries, snapshot.live_rows(), 10)
    assert recall(rows, true) >= 0.95


@pytest.mark.parametrize("expression", [None, 'label == "cat"', "year < 0"])
def test_the_total_is_the_sum_of_the_selected_rows(small: LatentDB, expression: str | None) -> None:
    snapshot = snapshot_of(small)
    rows = snapshot.live_rows() if expression is None else matching(snapshot, expression)
    where = None if expression is None else Filter(expression, snapshot.manifest.columns)
    summed, count = sum_rows(snapshot, where)
    assert count == len(rows)
    np.testing.assert_allclose(summed, snapshot.vectors(rows).sum(axis=0, dtype=np.float64))
