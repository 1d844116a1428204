"""Queries made of several latents keep the promise that the index makes for rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB, Matches
from latentdb.ann import plan

ROWS, DIM, CLUSTERS = 20_000, 16, 300


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentDB]:
    """Rows in clusters that are far from each other, with an index."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (CLUSTERS, DIM))
    vectors = centres[rng.integers(0, CLUSTERS, ROWS)] + rng.normal(0, 0.3, (ROWS, DIM))
    folder = tmp_path_factory.mktemp("composed")
    with (
        pytest.MonkeyPatch.context() as patch,
        LatentDB.create(folder / "a.ldb", dim=DIM, recall=0.95) as store,
    ):
        patch.setattr(plan, "EXACT_ROWS", ROWS // 2)  # for speed; the real one is 50,000
        store.add([str(number) for number in range(ROWS)], vectors.astype(np.float32))
        assert store.info().index is not None
        yield store


def groups(count: int, seed: int = 1) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [list(map(str, rng.choice(ROWS, count, replace=False))) for _ in range(60)]


def true_ids(db: LatentDB, query: np.ndarray) -> list[str]:
    gaps = np.linalg.norm(db.vectors().astype(np.float64) - query, axis=1)
    return [str(row) for row in np.argsort(gaps, kind="stable")[:10]]


def share(matches: Matches, true: list[str]) -> float:
    return len({match.id for match in matches} & set(true)) / len(true)


def test_means_of_rows_find_all_their_neighbours(db: LatentDB) -> None:
    found, by_index = [], []
    for names in groups(10):
        query = db.vectors(names).astype(np.float64).mean(axis=0).astype(np.float32)
        true = true_ids(db, query)
        matches = db.query(like=names)
        assert (matches.exact, matches.recall) == (True, 1.0)
        found.append(share(matches, true))
        rows = db.search(query[None])[1][0]
        by_index.append(len(set(db.ids(rows)) & set(true)) / 10)
    assert np.mean(found) == 1
    # What the index alone would have found, tuned to 0.95 on rows: this test can fail.
    assert np.mean(by_index) < 0.9


def test_differences_and_vectors_find_all_their_neighbours(db: LatentDB) -> None:
    for one, other, minus in groups(3)[:20]:
        matches = db.query(like=[one, other], unlike=[minus])
        mean = db.vectors([one, other]).mean(axis=0)
        assert share(matches, true_ids(db, 2 * mean - db.vectors([minus])[0])) == 1
        blend = db.blend([one, minus])
        assert share(db.query(blend), true_ids(db, blend)) == 1
        (many,) = db.query_many([blend])
        assert (many.exact, share(many, true_ids(db, blend))) == (True, 1)


def test_one_row_is_answered_by_the_index(db: LatentDB) -> None:
    matches = db.query("7")
    assert (matches.exact, matches.recall) == (False, 0.95)
    assert matches[0].id == "7"
    assert db.query("7", exact=True).recall == 1.0


def test_rows_added_later_are_compared_too(db: LatentDB) -> None:
    blend = db.blend(groups(2)[0])
    db.add(["late"], blend[None])
    try:
        assert db.query(blend)[0].id == "late"
    finally:
        db.delete(["late"])


def test_a_filter_compares_its_rows(db: LatentDB) -> None:
    blend = db.blend(groups(2)[1])
    matches = db.query(blend, where='id.startswith("1")')
    assert [match.id for match in matches] == true_ids_of(db, blend, "1")
    assert matches.exact


def true_ids_of(db: LatentDB, query: np.ndarray, start: str) -> list[str]:
    names = db.ids(where=f'id.startswith("{start}")')
    gaps = np.linalg.norm(db.vectors(names).astype(np.float64) - query, axis=1)
    return [names[row] for row in np.argsort(gaps, kind="stable")[:10]]


def test_kl_promises_nothing(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "kl.ldb", dim=2) as store:
        vectors = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
        names = [str(number) for number in range(500)]
        store.add(names, vectors, z_log_var=np.zeros_like(vectors))
        assert store.query("3", metric="kl").recall is None
