"""A version that is searched: filters beside an index, examples, radius, metrics."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.ann import plan
from latentdb.ann.exact import chunk_rows
from latentdb.ann.index import VectorIndex
from latentdb.base.errors import IdNotFoundError, InvalidInputError, LatentDBError
from latentdb.database import LatentDB
from latentdb.search import filtered, searcher
from latentdb.search.filters import Filter
from latentdb.store import manifest as manifests
from latentdb.store.store import Store

DIM = 6
ROWS = 20_000  # in the index; of so many, one in a thousand is more than k
UNINDEXED = 600
TARGET = 0.97
Array = NDArray[Any]


def latents(count: int, seed: int, dim: int = DIM) -> Array:
    """Overlapping clusters."""
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(99).normal(size=(40, dim))
    noise = random.normal(size=(count, dim))
    return (centres[random.integers(40, size=count)] + noise).astype(np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_200)
    # So that the index is used where a filter keeps enough for it.
    monkeypatch.setattr(filtered, "_COMPARED_PER_CANDIDATE", 0)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentDB]:
    """Four segments in the index, rows deleted all over them, and unindexed rows after it.

    ``share`` is independent of the vectors; ``x`` is one of their coordinates.
    """
    vectors = latents(ROWS + UNINDEXED, 1)
    share = np.random.default_rng(2).random(len(vectors))
    made = LatentDB.create(tmp_path_factory.mktemp("search") / "s", dim=DIM, recall=TARGET)

    def add(start: int, stop: int) -> None:
        made.add(
            [f"r{number}" for number in range(start, stop)],
            vectors[start:stop],
            z_log_var=latents(stop, 3)[start:stop] / 4,
            metadata={"share": share[start:stop].tolist(), "x": vectors[start:stop, 0].tolist()},
        )

    with pytest.MonkeyPatch.context() as patch:
        for start in range(0, ROWS, ROWS // 4):
            add(start, start + ROWS // 4)
        patch.setattr(plan, "EXACT_ROWS", 1_200)
        made.optimize()
        deleted = np.random.default_rng(4).choice(ROWS, 500, replace=False)
        made.delete([f"r{number}" for number in deleted])
        add(ROWS, ROWS + UNINDEXED)
    assert made.info().covered_rows == ROWS
    assert made.info().segments == 5
    yield made
    made.close()


@pytest.fixture(scope="module")
def everything(db: LatentDB) -> tuple[Array, Array, Array, Array]:
    """Row numbers, vectors, and the two columns of all that is alive."""
    snapshot = Store.open(db.info().path).snapshot()
    rows = snapshot.live_rows()
    facts = snapshot.metadata(rows)
    share, x = (np.array([row[key] for row in facts], np.float64) for key in ("share", "x"))
    return rows, snapshot.vectors(rows).astype(np.float64), share, x


def nearest(vectors: Array, query: Array, k: int) -> tuple[Array, Array]:
    distances = np.linalg.norm(vectors - query, axis=1)
    order = np.argsort(distances, kind="stable")[:k]
    return distances[order], order


def recall(found: Array, true: list[Array]) -> float:
    return float(
        np.mean([np.isin(own, line).mean() for line, own in zip(found, true, strict=True)])
    )


# --- filters --------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_filter_that_knows_nothing_of_the_query_keeps_the_recall(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], share: float
) -> None:
    rows, vectors, shares, _ = everything
    selected = shares < share
    queries = latents(60, 8)
    _, found = db.search(queries, k=10, where=f"share < {share}", composed=False)
    true = [rows[selected][nearest(vectors[selected], query, 10)[1]] for query in queries]
    assert recall(found, true) >= TARGET


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("side", ["near", "far"])
def test_a_filter_that_follows_the_query_keeps_the_recall(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], share: float, side: str
) -> None:
    rows, vectors, _, x = everything
    edge = float(np.quantile(x, share))
    selected = x < edge
    candidates = latents(4_000, 8)
    ahead = np.argsort(candidates[:, 0] if side == "near" else -candidates[:, 0])[:60]
    queries = candidates[ahead]
    _, found = db.search(queries, k=10, where=f"x < {edge!r}", composed=False)
    true = [rows[selected][nearest(vectors[selected], query, 10)[1]] for query in queries]
    assert recall(found, true) >= TARGET


def test_all_rows_kept_are_found_where_they_are_few(
    db: LatentDB, everything: tuple[Array, Array, Array, Array]
) -> None:
    rows, _, shares, _ = everything
    least = float(np.sort(shares)[6])
    _, found = db.search(latents(5, 8), k=10, where=f"share <= {least!r}", composed=False)
    for line in found:
        assert sorted(line[:7].tolist()) == sorted(rows[shares <= least].tolist())
        assert (line[7:] == -1).all()


def test_rows_newer_than_the_index_pass_the_filter_too(db: LatentDB) -> None:
    names = [f"r{number}" for number in range(ROWS, ROWS + UNINDEXED, 60)]
    distances, rows = db.search(db.vectors(names), k=1, where="share >= 0", composed=False)
    assert db.ids(rows[:, 0]) == names
    assert (distances == 0).all()


def test_deleted_rows_pass_no_filter(
    db: LatentDB, everything: tuple[Array, Array, Array, Array]
) -> None:
    rows, *_ = everything
    deleted = np.setdiff1d(np.arange(ROWS), rows)
    assert len(deleted) == 500
    _, found = db.search(latents(ROWS, 1)[deleted[::9]], k=20, where="share >= 0", composed=False)
    assert np.isin(found, rows).all()


# --- row numbers with gaps ------------------------------------------------------


def test_a_filter_beside_an_index_with_gaps_keeps_the_recall(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], tmp_path: Path
) -> None:
    rows, vectors, shares, _ = everything
    selected = shares < 0.2
    queries = latents(60, 8)
    true = [rows[selected][nearest(vectors[selected], query, 10)[1]] for query in queries]
    with LatentDB.open(shutil.copytree(db.info().path, tmp_path / "s")) as copy:
        assert copy.compact().dropped == 500
        _, found = copy.search(queries, k=10, where="share < 0.2", composed=False)
        assert recall(found, true) >= TARGET
        # Deleted rows that are in the index still must not come back.
        _, found = copy.search(queries, k=10, where="share >= 0", composed=False)
        assert np.isin(found, rows).all()


def test_a_filter_beside_an_index_goes_by_the_rows_that_are_there(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], tmp_path: Path
) -> None:
    rows, vectors, shares, _ = everything
    selected = shares < 0.2
    queries = latents(60, 9)
    with LatentDB.open(shutil.copytree(db.info().path, tmp_path / "s")) as copy:
        copy.compact()  # a segment whose row numbers have gaps
        manifest = manifests.read(tmp_path / "s")
        manifests.commit(tmp_path / "s", replace(manifest, next_row=2**40))
        new = latents(3, 10)
        share = {"share": [0.1, 0.1, 0.9]}
        copy.add(["x", "y", "z"], new, z_log_var=np.zeros_like(new), metadata=share)
        found = copy.search(np.concatenate([queries, new]), k=10, where="share < 0.2")[1]
    true = [rows[selected][nearest(vectors[selected], query, 10)[1]] for query in queries]
    assert recall(found[: len(queries)], true) >= TARGET
    assert found[len(queries) : -1, 0].tolist() == [2**40, 2**40 + 1]
    assert 2**40 + 2 not in found


def test_memory_goes_by_the_rows_that_are_there_not_by_their_numbers(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "s", dim=DIM) as db:
        db.add([f"r{n}" for n in range(60)], latents(60, 1), metadata={"n": list(range(60))})
        manifest = manifests.read(tmp_path / "s")
        manifests.commit(tmp_path / "s", replace(manifest, next_row=2**47))
        db.add(["last"], latents(1, 2), metadata={"n": [60]})
        db.delete(["r7"])
        db.compact()  # one segment, whose row numbers have gaps
        assert db.search(latents(1, 2), k=1, where="n >= 50", composed=False)[1].tolist() == [
            [2**47]
        ]
        assert [match.id for match in db.query("last", k=60, where="n < 9")] == [
            match.id for match in db.query("last", k=60) if match.id in {f"r{n}" for n in range(9)}
        ]
        assert db.optimize().index is None
    assert LatentDB.verify(tmp_path / "s").problems == ()


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_filter_that_keeps_nothing_finds_nothing(db: LatentDB, count: int) -> None:
    distances, rows = db.search(latents(count, 8), k=5, where="share < 0", composed=False)
    assert (rows == -1).all()
    assert rows.shape == distances.shape == (count, 5)
    assert np.isinf(distances).all()
    assert len(db.query("r1" if "r1" in db else "r2", where="share < 0")) == 0


def test_a_filter_that_keeps_all_finds_what_is_found_without(db: LatentDB) -> None:
    queries = latents(60, 8)
    free, selected = (
        db.search(queries, k=10, where=where, composed=False)[1] for where in (None, "share >= 0")
    )
    assert recall(selected, list(free)) >= TARGET


def test_what_a_filter_compared_is_reported(db: LatentDB) -> None:
    matches = db.query("r17", where="share < 0.5")  # by id: a vector compares every row
    assert not matches.exact
    assert 10 < matches.scanned < ROWS // 4


def test_a_filter_with_more_neighbours_than_tuned_for_is_exact(
    db: LatentDB, everything: tuple[Array, Array, Array, Array]
) -> None:
    _rows, vectors, shares, _ = everything
    query = latents(1, 8)[0]
    matches = db.query(query, k=1_500, where="share < 0.3")
    assert matches.exact
    true, _ = nearest(vectors[shares < 0.3], query, 1_500)
    np.testing.assert_allclose([match.distance for match in matches], true, rtol=1e-6)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    edge=st.floats(-6, 6),
    k=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_whatever_a_filter_keeps_k_of_it_come_back(
    db: LatentDB,
    everything: tuple[Array, Array, Array, Array],
    low: float,
    high: float,
    edge: float,
    k: int,
    seed: int,
) -> None:
    rows, vectors, shares, x = everything
    where = f"share >= {low!r} and share < {high!r} and x > {edge!r}"
    selected = (shares >= low) & (shares < high) & (x > edge)
    query = latents(1, seed)
    distances, found = db.search(query, k=k, where=where, composed=False)
    have = min(k, int(selected.sum()))
    assert (found[0, :have] >= 0).all()
    assert (found[0, have:] == -1).all()
    assert len(set(found[0, :have].tolist())) == have
    places = np.searchsorted(rows, found[0, :have])
    assert selected[places].all()
    true = np.linalg.norm(vectors[places] - query[0], axis=1)
    np.testing.assert_allclose(distances[0, :have], true, rtol=1e-5)
    assert (np.diff(distances[0, :have]) >= 0).all()


# --- batches --------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "share < 0.2"])
@pytest.mark.parametrize("count", [2, 9, 50, 150])
def test_a_batch_finds_what_single_queries_find(
    db: LatentDB, where: str | None, count: int
) -> None:
    queries = latents(count, 8)
    distances, rows = db.search(queries, k=10, where=where, composed=False)
    for number in range(count):
        own = db.search(queries[number : number + 1], k=10, where=where, composed=False)
        np.testing.assert_array_equal(rows[number], own[1][0])
        np.testing.assert_array_equal(distances[number], own[0][0])


def test_filtered_batches_are_answered_in_parts(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = latents(20, 8)
    whole = db.search(queries, k=10, where="share < 0.2", composed=False)
    scanned = db.query_many(queries, k=10, where="share < 0.2")[0].scanned
    monkeypatch.setattr(filtered, "_BATCH", 7)
    parts = db.search(queries, k=10, where="share < 0.2", composed=False)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    assert db.query_many(queries, k=10, where="share < 0.2")[0].scanned == scanned


@pytest.mark.parametrize("where", [None, "share < 0.2"])
def test_no_query_has_no_answer(db: LatentDB, where: str | None) -> None:
    distances, rows = db.search(np.empty((0, DIM), np.float32), k=3, where=where, composed=False)
    assert distances.shape == rows.shape == (0, 3)
    assert db.query_many([], where=where) == ()


def test_many_targets_of_any_kind_keep_their_order(db: LatentDB, tmp_path: Path) -> None:
    vectors = db.vectors(["r7", "r9"])
    np.save(tmp_path / "v.npy", vectors[1])
    found = db.query_many(["id:r7", vectors[0], tmp_path / "v.npy"], k=1)
    assert [one[0].id for one in found] == ["r7", "r7", "r9"]
    assert [one[0].id for one in db.query_many(vectors, k=1)] == ["r7", "r9"]


@pytest.mark.parametrize("count", [1, 9])
def test_a_batch_to_an_empty_store_is_answered(tmp_path: Path, count: int) -> None:
    with LatentDB.create(tmp_path / "s", dim=2) as empty:
        distances, rows = empty.search(np.zeros((count, 2)), k=3, composed=False)
    assert rows.tolist() == [[-1] * 3] * count
    assert np.isinf(distances).all()


# --- what the index cannot tell -------------------------------------------------


@pytest.mark.parametrize("where", [None, "share < 0.2"])
@pytest.mark.parametrize("count", [1, 12])
def test_a_query_from_beyond_float32_is_answered_exactly(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], where: str | None, count: int
) -> None:
    rows, _vectors, shares, _ = everything
    selected = shares < (2 if where is None else 0.2)
    queries = np.full((count, DIM), 1e25, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distances, found = db.search(queries, k=5, where=where, composed=False)
    assert (found >= 0).all()
    np.testing.assert_allclose(distances, 1e25 * np.sqrt(DIM), rtol=1e-5)
    assert np.isin(found, rows[selected]).all()


def test_k_matches_come_back_where_the_lists_probed_have_fewer(
    tmp_path: Path,
) -> None:
    """Three rows far from all others: the lists near to them hold no more."""
    vectors = latents(3_000, 1)
    vectors[:3] = 10_000 + np.arange(3)[:, None]
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=0.5) as lonely:
        lonely.add([f"r{number}" for number in range(3_000)], vectors)
        assert lonely.info().index is not None
        for count in (1, 9):
            distances, rows = lonely.search(
                np.repeat(vectors[:1], count, axis=0), k=10, composed=False
            )
            assert rows[:, :3].tolist() == [[0, 1, 2]] * count
            assert (rows >= 0).all()
            assert np.isfinite(distances).all()


@pytest.mark.parametrize(
    ("prefer", "share"), [("build", 0.6), ("build", 0.85), ("build", 0.97), ("latency", 0.6)]
)
def test_recall_holds_where_most_rows_around_the_query_are_deleted(
    tmp_path: Path, prefer: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_500)
    random = np.random.default_rng(0)
    centres = 6 * random.normal(size=(16, DIM))
    cluster = np.sort(random.integers(16, size=3_000))
    vectors = (centres[cluster] + random.normal(size=(3_000, DIM))).astype(np.float32)
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=TARGET) as thinned:
        thinned.add([f"r{number}" for number in range(3_000)], vectors)
        thinned.optimize(prefer=prefer)
        index = thinned.info().index
        deleted = np.flatnonzero((cluster == 7) & (random.random(3_000) < share))
        thinned.delete([f"r{number}" for number in deleted])
        assert thinned.info().index == index
        queries = centres[7] + random.normal(size=(80, DIM)).astype(np.float32)
        _, found = thinned.search(queries, k=10, composed=False)
        alone = np.stack(
            [thinned.search(query[None], k=10, composed=False)[1][0] for query in queries[:20]]
        )
    live = np.setdiff1d(np.arange(3_000), deleted)
    true = [live[nearest(vectors[live].astype(np.float64), q, 10)[1]] for q in queries]
    assert recall(found, true) >= TARGET
    np.testing.assert_array_equal(alone, found[:20])


# --- radius ---------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "share < 0.3"])
@pytest.mark.parametrize("metric", ["l2", "cosine", "wasserstein"])
def test_a_radius_gives_every_row_within_it(db: LatentDB, metric: str, where: str | None) -> None:
    far = db.query("r11", k=1_001, metric=metric, where=where)
    radius = far[700].distance
    found = db.query("r11", radius=radius, metric=metric, where=where)
    assert found.exact
    assert [match.id for match in found] == [match.id for match in far][:701]
    assert all(match.distance <= radius for match in found)


def test_a_radius_with_k_gives_the_nearest_within_it(db: LatentDB) -> None:
    ten = db.query("r11", k=10)
    fifth = ten[4].distance
    assert [match.id for match in db.query("r11", k=10, radius=fifth)] == [
        match.id for match in ten
    ][:5]
    assert len(db.query("r11", k=3, radius=fifth)) == 3
    assert [match.id for match in db.query("r11", radius=0)] == ["r11"]
    assert len(db.query(np.full(DIM, 99.0), radius=0.5)) == 0


def test_any_number_of_rows_may_lie_within_a_radius(db: LatentDB) -> None:
    assert len(db.query("r11", radius=float("inf"))) == len(db)
    assert len(db.query("r11", radius=1e30, exclude_self=True)) == len(db) - 1
    many = db.query_many(["r11", "r12", np.full(DIM, 99.0)], radius=1.0)
    assert [len(one) for one in many] == [
        len(db.query("r11", radius=1.0)), len(db.query("r12", radius=1.0)), 0
    ]  # fmt: skip


def test_too_many_rows_within_a_radius_are_reported(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "MAX_WITHIN", 1_000)
    with pytest.raises(InvalidInputError, match=r"over 1,000 rows lie within 99: give a smaller"):
        db.query("r11", radius=99)
    monkeypatch.setattr(searcher.Searcher, "search", None)  # refused before anything is compared
    for radius in (float("inf"), 1e300, 10**400):
        with pytest.raises(InvalidInputError, match="over 1,000 rows lie within inf"):
            db.query("r11", radius=radius)


def test_a_radius_may_be_any_number(db: LatentDB) -> None:
    expected = db.query("r11", radius=0.5)
    assert db.query("r11", radius=np.float32(0.5)) == expected  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(db.query("r11", radius=10**400, k=3)) == 3


def test_the_matches_of_all_queries_have_a_limit(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.lib.stride_tricks.as_strided(np.zeros(DIM, np.float32), (5001, DIM), (0, 4))
    with pytest.raises(
        InvalidInputError, match=r"5,001 queries of 100,000 matches .*, 500,000,000 matches in all"
    ):
        db.search(queries, k=100_000, composed=False)
    monkeypatch.setattr(searcher, "MAX_TOTAL", 500)
    with pytest.raises(InvalidInputError, match="2 queries of 256 matches each"):
        db.query_many(["r11", "r12"], radius=1.0)


@pytest.mark.parametrize("radius", [-1, float("nan"), "1", None.__class__])
def test_what_is_no_radius_is_reported(db: LatentDB, radius: Any) -> None:
    with pytest.raises(InvalidInputError, match="give a distance, 0 or more"):
        db.query("r11", radius=radius)


@pytest.mark.parametrize("k", [0, -1, 100_001, 1.5, True, "3"])
def test_what_is_no_k_is_reported(db: LatentDB, k: Any) -> None:
    for ask in (
        lambda: db.query("r11", k=k),
        lambda: db.search(np.zeros((1, DIM)), k=k, composed=False),
    ):
        with pytest.raises(InvalidInputError, match="give a whole number, 1 to 100,000"):
            ask()


# --- the target itself, and examples --------------------------------------------


@pytest.mark.parametrize("where", [None, "share >= 0"])
def test_the_target_is_left_out_and_k_others_come(db: LatentDB, where: str | None) -> None:
    with_it = db.query("r11", k=11, where=where)
    without = db.query("r11", k=10, where=where, exclude_self=True)
    assert with_it[0].id == "r11"
    assert [match.id for match in without] == [match.id for match in with_it][1:]
    assert [match.rank for match in without] == list(range(1, 11))
    many = db.query_many(["r11", "r12"], k=10, where=where, exclude_self=True)
    assert [match.id for match in many[0]] == [match.id for match in without]
    assert "r12" not in [match.id for match in many[1]]
    assert [len(one) for one in many] == [10, 10]


def test_a_vector_is_nobody_and_leaves_nobody_out(db: LatentDB) -> None:
    vector = db.vectors(["r11"])[0]
    assert db.query(vector, k=1, exclude_self=True)[0].id == "r11"


def test_an_image_is_left_out_by_its_path(store: Path, images: Path) -> None:
    with LatentDB.open(store) as pictures:
        file = images / "disc" / "000.png"
        assert pictures.query(file, k=1)[0].id == "disc/000.png"
        for asked in (pictures.query(file, k=3, exclude_self=True),
                      *pictures.query_many([file, str(file)], k=3, exclude_self=True)):  # fmt: skip
            assert "disc/000.png" not in [match.id for match in asked]
            assert len(asked) == 3


def test_examples_are_averaged_and_moved_away_from(
    db: LatentDB, everything: tuple[Array, Array, Array, Array]
) -> None:
    _rows, vectors, *_ = everything
    liked, unliked = db.vectors(["r20", "r21", "r22"]), db.vectors(["r30", "r31"])
    mean = liked.astype(np.float64).mean(axis=0)
    away = 2 * mean - unliked.astype(np.float64).mean(axis=0)
    for place, found in (
        (mean, db.query("r20", like=["r21", "id:r22"], radius=1e9, k=10)),
        (mean, db.query(like=["r20", "r21", liked[2]], k=10)),
        (away, db.query("r20", like=["r21", "r22"], unlike=["r30", unliked[1]], k=10)),
    ):
        true, _ = nearest(vectors, place, 10)
        distances = np.array([match.distance for match in found])
        assert np.isin(distances.round(4), true.round(4)).mean() >= 0.9


def test_examples_are_left_out_with_the_target(db: LatentDB) -> None:
    found = db.query("r20", like=["r21"], unlike=["r22"], k=50, exclude_self=True)
    assert not {"r20", "r21", "r22"} & {match.id for match in found}
    assert len(found) == 50


def test_one_example_is_a_target(db: LatentDB) -> None:
    assert db.query(like=["r20"], k=5, metric="wasserstein") == db.query(
        "r20", k=5, metric="wasserstein"
    )


def test_nothing_to_look_for_is_reported(db: LatentDB) -> None:
    empty: dict[str, Any] = {}
    for how in (empty, {"unlike": ["r1"]}):
        with pytest.raises(InvalidInputError, match="give a target, or examples with like"):
            db.query(**how)
    with pytest.raises(IdNotFoundError, match="no id 'nobody'"):
        db.query("r20", unlike=["id:nobody"])


@pytest.mark.parametrize("name", ["like", "unlike"])
@pytest.mark.parametrize("single", ["r21", Path("r21"), b"r21"])
def test_a_single_text_is_no_list_of_examples(db: LatentDB, name: str, single: Any) -> None:
    """Its letters would be taken for targets."""
    how: dict[str, Any] = {name: single}
    with pytest.raises(InvalidInputError, match=rf"^{name} is the single target .*give a list"):
        db.query("r20", **how)
    with pytest.raises(InvalidInputError, match=r"^targets is the single target"):
        db.query_many(single)


# --- metrics --------------------------------------------------------------------


@pytest.fixture(scope="module", params=["cosine", "centered_cosine", "wasserstein"])
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LatentDB]:
    """A store whose index is for another metric than l2, with rows newer than it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EXACT_ROWS", 1_200)
        made = LatentDB.create(tmp_path_factory.mktemp("other") / "s", dim=DIM, recall=TARGET)
        vectors, log_vars = latents(2_300, 1), latents(2_300, 3) / 4
        for part in (slice(0, 2_000), slice(2_000, 2_300)):
            names = [f"r{number}" for number in range(2_300)[part]]
            share = np.random.default_rng(6).random(len(names)).tolist()
            made.add(names, vectors[part], z_log_var=log_vars[part], metadata={"share": share})
            if part.start == 0:
                info = made.optimize(metric=request.param)
                assert info.index is not None
                assert info.index.metric == request.param
        yield made
    made.close()


@pytest.mark.parametrize("where", [None, "share < 0.3"])
def test_an_index_of_another_metric_keeps_the_recall(other: LatentDB, where: str | None) -> None:
    index = other.info().index
    assert index is not None
    assert index.rows == 2_000
    queries, log_vars = latents(80, 8), latents(80, 9) / 4
    how: dict[str, Any] = {"metric": index.metric, "z_log_var": log_vars, "where": where}
    distances, found = other.search(queries, k=10, **how, composed=False)
    exact_distances, exact = other.search(
        queries, k=1_100, **how, composed=False
    )  # more than it is tuned for
    assert recall(found, list(exact[:, :10])) >= TARGET
    same = found[:, 0] == exact[:, 0]
    np.testing.assert_allclose(distances[same, 0], exact_distances[same, 0], rtol=1e-5)
    assert not other.query("r5", metric=index.metric).exact
    assert other.query("r5", metric=index.metric)[0].id == "r5"
    assert other.query("r2200", metric=index.metric)[0].id == "r2200"


def test_one_query_finds_the_rows_newer_than_the_index_as_many_do(other: LatentDB) -> None:
    index = other.info().index
    assert index is not None
    newer = [f"r{number}" for number in range(index.rows, len(other), 6)]
    vectors, log_vars = other.vectors(newer), other.log_vars(newer)
    assert log_vars is not None

    def ask(part: slice, k: int) -> tuple[Array, Array]:
        sigma = log_vars[part]
        return other.search(
            vectors[part], k=k, metric=index.metric, z_log_var=sigma, composed=False
        )

    for k in (1, 10, 100):
        distances, many = ask(slice(None), k)
        alone = [ask(slice(number, number + 1), k) for number in range(len(newer))]
        found = np.concatenate([rows for _, rows in alone])
        assert [other.ids(rows[:1]) for rows in found] == [[name] for name in newer]
        assert recall(found, list(many)) >= 0.99  # of equal codes either may be the last candidate
        same = (found == many).all(axis=1)
        assert same.mean() > 0.9
        np.testing.assert_array_equal(
            np.concatenate([each for each, _ in alone])[same], distances[same]
        )


def test_other_metrics_than_that_of_the_index_are_exact(other: LatentDB) -> None:
    index = other.info().index
    assert index is not None
    for metric in {"l2", "cosine", "wasserstein"} - {index.metric}:
        assert other.query("r5", metric=metric).exact


def test_verify_finds_nothing_wrong_with_an_index_of_another_metric(other: LatentDB) -> None:
    assert LatentDB.verify(other.info().path).problems == ()


def test_kl_says_whether_every_row_was_compared(other: LatentDB) -> None:
    few = other.query("r5", metric="kl", k=10, where="share < 0.01")
    assert few.exact  # fewer rows are selected than are candidates
    many = other.query("r5", metric="kl", k=10)
    assert not many.exact
    assert many[0].id == "r5"
    all_of_them = other.query("r5", metric="kl", k=3_000)
    assert all_of_them.exact
    assert len(all_of_them) == 2_300
    assert [match.id for match in all_of_them][:10] == [match.id for match in many]


def test_a_store_without_log_var_refuses_an_index_of_posteriors(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=0.9) as bare:
        bare.add([f"r{number}" for number in range(100)], latents(100, 1))
        before = bare.info()
        for metric in ("wasserstein", "kl"):
            with pytest.raises(InvalidInputError, match=f"metric '{metric}'"):
                bare.optimize(metric=metric)
        assert bare.info() == before
        bare.optimize(metric="cosine")
        bare.add([f"s{number}" for number in range(1_500)], latents(1_500, 2))
        index = bare.info().index
        assert index is not None
        assert index.metric == "cosine"


def test_rows_without_log_var_are_added_to_a_store_that_wants_it_for_its_index(
    tmp_path: Path,
) -> None:
    """The rows are committed before the index is built: a warning, not an error."""
    with LatentDB.create(tmp_path / "s", dim=DIM) as db:
        db.optimize(metric="wasserstein")
        with pytest.warns(RuntimeWarning, match="was not built .*this store has no z_log_var"):
            assert db.add([f"r{n}" for n in range(1_300)], latents(1_300, 1)) == 1_300
        assert len(db) == 1_300


# --- a graph --------------------------------------------------------------------


def test_a_graph_goes_through_all_of_its_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = plan.Plan((plan.HNSW,), 1, 0, "")
    monkeypatch.setattr(plan, "plan", lambda *_, **__: graph)
    path = tmp_path / "s"
    vectors = latents(3_300, 1)
    names = [f"r{number}" for number in range(3_300)]
    with LatentDB.create(path, dim=DIM, recall=TARGET) as made:
        made.add(names[:2_000], vectors[:2_000], metadata={"n": list(range(2_000))})
        info = made.optimize()
        assert info.index is not None
        assert (info.index.kind, info.index.rows) == ("hnsw-sq8", 2_000)
    with LatentDB.open(path) as mapped:
        assert mapped.query("r5", k=3)[0].id == "r5"
        assert not mapped.query("r5", k=3).exact
        few = mapped.query("r5", k=5, where="n < 700")
        assert few.exact
        assert all(match.metadata["n"] < 700 for match in few)  # type: ignore[operator]
        mapped.add(names[2_000:], vectors[2_000:])
        info = mapped.info()
        assert info.index is not None
        assert (info.index.kind, info.index.rows) == ("hnsw-sq8", 3_300)
        assert info.index.trained_rows == 2_000  # added to, not built anew
        mapped.delete(names[100:300])
        assert mapped.info().index == info.index
        _, found = mapped.search(vectors[100:200], k=10, composed=False)
        live = np.setdiff1d(np.arange(3_300), np.arange(100, 300))
        true = [live[nearest(vectors[live].astype(float), q, 10)[1]] for q in vectors[100:200]]
        assert recall(found, true) >= TARGET
        mapped.compact()
        np.testing.assert_array_equal(
            mapped.search(vectors[100:200], k=10, composed=False)[1], found
        )
    assert LatentDB.verify(path).problems == ()


# --- files of targets -----------------------------------------------------------


def test_a_file_of_targets_has_one_a_line(db: LatentDB, tmp_path: Path) -> None:
    file = tmp_path / "targets.txt"
    file.write_bytes("\ufeffr7\r\n\n  id:r9 \n".encode())
    found = db.query_file(file, k=1)
    assert [(name, one[0].id) for name, one in found] == [("r7", "r7"), ("id:r9", "r9")]


def test_a_npy_of_targets_has_one_a_row(db: LatentDB, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", db.vectors(["r7", "r9"]))
    found = db.query_file(tmp_path / "t.npy", k=1)
    assert [(name, one[0].id) for name, one in found] == [("0", "r7"), ("1", "r9")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "gone.txt does not exist: expected a file of targets"),
        ("gone.npy", None, "gone.npy does not exist"),
        ("t.txt", b"\xff\xfe\x00", "t.txt is not a text file with one target per line"),
        ("t.npy", b"r7\n", "t.npy is not a .npy file of numbers"),
        ("t.txt", b"nobody\n", "neither an id nor a file: 'nobody'"),
    ],
)
def test_a_file_that_holds_no_targets_is_reported(
    db: LatentDB, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LatentDBError, match=message):
        db.query_file(tmp_path / name)


def test_an_index_is_never_asked_for_more_than_it_was_tuned_for(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    probe = VectorIndex.probe

    def watched(self: VectorIndex, queries: Array, effort: int, *how: Any) -> Any:
        asked.append(effort)
        return probe(self, queries, effort, *how)

    monkeypatch.setattr(VectorIndex, "probe", watched)
    for k in (1, 100, 1_000, 1_001):
        db.search(latents(1, 8), k=k, composed=False)
    entry = db.info().index
    assert entry is not None
    assert list(dict.fromkeys(asked)) == [
        entry.parameters[f"effort_{tuned}"] for tuned in (10, 100, 1_000)
    ]


def test_queries_far_from_all_rows_look_at_more_candidates(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of latents: thousands of rows are as far, but for less than a code of 4 bits tells."""
    index = db._index_manager.open(db._snapshot())
    monkeypatch.setattr(index, "rerank_depths", {})  # the least: else few are searched again
    queries = 3 * latents(80, 9)
    exact = db.search(queries, k=1_001, composed=False)[1][
        :, :10
    ]  # more than it is tuned for: all are compared
    _, many = db.search(queries, k=10, composed=False)
    single = [db.search(query[None], k=10, composed=False)[1][0] for query in queries]
    assert recall(single, many) >= 0.99  # of equal codes either may be the last candidate
    monkeypatch.setattr(
        searcher.Searcher, "_search_deeper", lambda self, q, k, index, hits, *rest: hits
    )
    _, narrow = db.search(queries, k=10, composed=False)
    assert recall(many, exact) >= recall(narrow, exact) + 0.01


def test_every_row_is_compared_where_that_is_asked_for(db: LatentDB) -> None:
    """A mean of rows far apart has neighbours in lists that are not probed."""
    queries = np.stack([latents(ROWS, 1)[place : place + 10].mean(axis=0) for place in range(60)])
    true = db.search(queries, k=1_001, composed=False)[1][
        :, :10
    ]  # more than it is tuned for: all are compared
    np.testing.assert_array_equal(db.search(queries, k=10, exact=True)[1], true)
    assert not db.query("r17").exact
    assert db.query(queries[0]).recall in (TARGET, 1)
    one = db.query(queries[0], exact=True)
    many = db.query_many(queries[:2], exact=True, where="share >= 0")
    for found in (one, *many):
        assert found.exact
        assert found.scanned == len(db)
    assert [match.id for match in one] == db.ids(true[0])
    with pytest.raises(InvalidInputError, match="exact does not go with metric 'kl'"):
        db.query(one[0].id, exact=True, metric="kl", k=3)


# --- what is kept of filters ----------------------------------------------------


def test_what_is_kept_of_filters_is_bounded_by_bytes(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4,096 dimensions, 655 MB of rows were kept for one filter."""
    snapshot = Store.open(db.info().path).snapshot()
    queries = latents(5, 8)
    filters = [Filter(f"share < 0.{n}", snapshot.manifest.columns) for n in range(100, 130)]
    scanner = searcher.Searcher(snapshot)  # without the index: the rows of each are gathered
    kept = scanner._filtered._selections
    free = [scanner.search(queries, k=9, where=where) for where in filters]
    assert list(kept) == [where.text for where in filters]
    assert all(selection.block is not None for selection in kept.values())
    for limit in (800_000, 20_000, 0):
        monkeypatch.setattr(filtered, "_REMEMBERED_BYTES", limit)
        scanner = searcher.Searcher(snapshot)
        kept = scanner._filtered._selections
        for where, before in [*zip(filters, free, strict=True)] * 2:
            hits = scanner.search(queries, k=9, where=where)
            np.testing.assert_array_equal(hits.rows, before.rows)
            assert hits.scanned == before.scanned
            assert sum(selection.nbytes for selection in kept.values()) <= limit
        assert len(kept) < len(filters)


def test_a_filter_that_keeps_half_is_answered_by_the_index(
    db: LatentDB, everything: tuple[Array, Array, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where its rows are far from the query, by comparing them."""
    rows, vectors, shares, x = everything
    near = db.query("r17", where="share < 0.5")
    assert (near.exact, near.recall) == (False, TARGET)
    assert near.scanned < (shares < 0.5).sum()
    own = float(db.vectors(["r17"])[0, 0])
    edge = own + 1.5 if own < 0 else own - 1.5
    sign = ">" if own < 0 else "<"
    selected = x > edge if own < 0 else x < edge
    far = db.query("r17", where=f"x {sign} {edge!r}")
    true = rows[selected][nearest(vectors[selected], db.vectors(["r17"])[0], 10)[1]]
    assert [match.id for match in far] == db.ids(true)
    monkeypatch.setattr(filtered, "_COMPARED_PER_CANDIDATE", 64)
    assert db.query("r17", where="share < 0.5").exact  # so few are compared as fast


def test_a_chunk_of_rows_is_bounded_by_bytes() -> None:
    assert [chunk_rows(dim) for dim in (1, 64, 256, 4_096, 65_536)] == [
        *(65_536, 65_536, 65_536),
        *(4_096, 256),
    ]
