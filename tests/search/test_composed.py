"""Queries made of several latents keep the promise that the index makes for rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB, Matches
from latentdb.ann import plan
from latentdb.images.decode import read_image

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


def vectors_of(db: LatentDB, kind: str, seed: int = 1) -> np.ndarray:
    """120 queries of a kind, of rows that the tuner did not choose."""
    rng = np.random.default_rng(seed)
    every = db.vectors().astype(np.float64)
    some = every[rng.integers(0, ROWS, (10, 120))]
    mean, deviation = every.mean(axis=0), every.std(axis=0)
    noise = rng.normal(size=(120, DIM))
    queries = {
        "mean of two": some[:2].mean(axis=0),
        "mean of ten": some.mean(axis=0),
        "a - b + c": some[0] - some[1] + some[2],
        "row + noise": some[0] + 0.3 * deviation * noise,
        "sample": mean + deviation * noise,
        "row": some[0],
    }
    return queries[kind].astype(np.float32)


def recall_of(db: LatentDB, queries: np.ndarray, **how: bool) -> float:
    true = db.search(queries, exact=True)[1]
    found = db.search(queries, **how)[1]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


@pytest.mark.parametrize(
    "kind", ["mean of two", "mean of ten", "a - b + c", "row + noise", "sample", "row"]
)
def test_arrays_of_every_kind_reach_the_target(db: LatentDB, kind: str) -> None:
    assert recall_of(db, vectors_of(db, kind)) >= 0.95


def test_they_would_not_as_rows(db: LatentDB) -> None:
    """So the test above can fail."""
    assert recall_of(db, vectors_of(db, "mean of ten"), composed=False) < 0.9
    assert recall_of(db, vectors_of(db, "row"), composed=False) >= 0.95


def test_the_index_answers_them_with_less_work_than_a_scan(db: LatentDB) -> None:
    matches = db.query(like=groups(2)[0])
    assert (matches.exact, matches.recall) == (False, 0.95)
    assert 0 < matches.scanned < ROWS // 2
    assert db.query(like=groups(2)[0], k=500).exact  # it is tuned for a hundred


def test_an_index_that_was_not_tuned_on_them_is_left_out(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of earlier releases are."""
    index = db._index_manager.open(db._snapshot())
    assert index is not None
    assert sorted(index.composed) == [10, 100]
    before = index.parameters
    index.set_parameters({k: v for k, v in before.items() if not k.startswith("composed")})
    try:
        matches = db.query(like=groups(2)[0])
        assert (matches.exact, matches.recall, matches.scanned) == (True, 1.0, ROWS)
        assert not db.query("7").exact
    finally:
        index.set_parameters(before)


def test_means_of_rows_find_their_neighbours(db: LatentDB) -> None:
    found = []
    for names in groups(10):
        query = db.vectors(names).astype(np.float64).mean(axis=0).astype(np.float32)
        found.append(share(db.query(like=names), true_ids(db, query)))
    assert np.mean(found) >= 0.95


def test_differences_and_vectors_find_their_neighbours(db: LatentDB) -> None:
    found = []
    for one, other, minus in groups(3)[:20]:
        mean = db.vectors([one, other]).mean(axis=0)
        matches = db.query(like=[one, other], unlike=[minus])
        found.append(share(matches, true_ids(db, 2 * mean - db.vectors([minus])[0])))
        blend = db.blend([one, minus])
        found.append(share(db.query(blend), true_ids(db, blend)))
    assert np.mean(found) >= 0.95


def test_a_vector_among_many_targets_does_not_change_how_the_others_are_answered(
    db: LatentDB,
) -> None:
    names = [str(number) for number in range(0, 400, 40)]
    blend = db.blend(groups(2)[0])
    targets = [*names[:5], blend, *names[5:]]
    many = db.query_many(targets)
    assert many[5] == db.query(blend)
    rows = db.query_many(names)
    assert (*many[:5], *many[6:]) == rows
    assert many[5].scanned > 2 * rows[0].scanned


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


@pytest.fixture(scope="module")
def copies(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentDB]:
    """Near-copies, 40 of each of 500 latents, as of videos: their neighbours are in one list."""
    rng = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("copies")
    with (
        pytest.MonkeyPatch.context() as patch,
        LatentDB.create(folder / "a.ldb", model=model, recall=0.95) as store,
    ):
        patch.setattr(plan, "EXACT_ROWS", ROWS // 2)
        bases = 2 * rng.normal(size=(500, 4))
        vectors = np.repeat(bases, 40, axis=0) + 0.01 * rng.normal(size=(ROWS, 4))
        store.add([str(number) for number in range(ROWS)], vectors.astype(np.float32))
        yield store


def test_new_images_among_near_copies_find_their_neighbours(copies: LatentDB, images: Path) -> None:
    """The rows held out for tuning have copies in the index; an image that is new has none."""
    assert copies.info().index is not None
    files = sorted(images.rglob("*.png"))
    found = copies.query_many(files, k=10)
    true = copies.query_many(files, k=10, exact=True)
    shares = [
        share(matches, [match.id for match in exact])
        for matches, exact in zip(found, true, strict=True)
    ]
    assert np.mean(shares) >= 0.95
    assert list(copies.query(files[0], k=10)) == list(found[0])
    queries, _ = copies.codec.encode(
        np.stack([read_image(f, copies.codec.config.preprocessing) for f in files])
    )
    as_rows = copies.search(queries, k=10, composed=False)[1]
    rows = copies.search(queries, k=10, exact=True)[1]
    recalls = [np.isin(a, b).mean() for a, b in zip(rows, as_rows, strict=True)]
    assert np.mean(recalls) < 0.9  # so the test can fail


def test_kl_promises_nothing(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "kl.ldb", dim=2) as store:
        vectors = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
        names = [str(number) for number in range(500)]
        store.add(names, vectors, z_log_var=np.zeros_like(vectors))
        assert store.query("3", metric="kl").recall is None
