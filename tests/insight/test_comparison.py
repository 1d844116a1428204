"""Comparisons of stores: against SciPy, and of stores that are known to be related."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.database import LatentDB
from latentdb.insight.comparison import procrustes

IDS = [f"{number:03d}" for number in range(300)]
LATENTS = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)


def store(path: Path, ids: list[str], latents: np.ndarray) -> Path:
    with LatentDB.create(path, dim=latents.shape[1]) as db:
        db.add(ids, latents, metadata={"label": [int(name) % 3 for name in ids]})
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return store(tmp_path / "a.ldb", IDS, LATENTS)


def test_a_rotated_space_is_the_same(first: Path, tmp_path: Path) -> None:
    turned = LATENTS @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    order = np.random.default_rng(2).permutation(300)  # rows are matched by id
    second = store(tmp_path / "b.ldb", [IDS[n] for n in order], 3 * turned[order])
    with LatentDB.open(first) as db:
        found = db.compare(second, k=5, out=tmp_path / "c.png")
    assert found.overlap == pytest.approx(1)
    assert found.rank_correlation == pytest.approx(1, abs=1e-6)
    assert (found.common, found.only_a, found.only_b, found.k) == (300, 0, 0, 5)
    assert found.chance == pytest.approx(5 / 299)
    assert (tmp_path / "c.png").exists()


def test_unrelated_spaces_agree_by_chance(first: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    second = store(tmp_path / "b.ldb", IDS, random.normal(size=(300, 7)))
    with LatentDB.open(first) as db:
        found = db.compare(second)
    assert abs(found.overlap - found.chance) < 0.02
    assert abs(found.rank_correlation) < 0.05
    assert 0.5 < found.map_disparity <= 1


def test_overlaps_are_those_of_sets_and_the_moved_rows_are_named(
    first: Path, tmp_path: Path
) -> None:
    from sklearn.neighbors import NearestNeighbors

    moved = LATENTS.copy()
    moved[:4] += 5
    second = store(tmp_path / "b.ldb", IDS, moved)
    with LatentDB.open(first) as db, LatentDB.open(second) as other:
        found = db.compare(other, k=10)
    near = [
        NearestNeighbors(n_neighbors=10).fit(space).kneighbors(return_distance=False)
        for space in (LATENTS, moved)
    ]
    expected = [len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)]
    np.testing.assert_allclose(found.overlaps, expected)
    assert {row.id for row in found.changed[:4]} == set(IDS[:4])


def test_only_common_rows_are_compared(first: Path, tmp_path: Path) -> None:
    second = store(tmp_path / "b.ldb", IDS[100:], LATENTS[100:])
    with LatentDB.open(second) as db:
        db.add(["x", "y"], LATENTS[:2])
    with LatentDB.open(first) as db:
        found = db.compare(second, where="label != 0", rows=50)
    assert (found.common, found.only_a, found.only_b) == (134, 66, 68)
    assert len(found.ids) == 50
    assert found.overlap == 1


def test_what_cannot_be_compared_is_refused(first: Path, tmp_path: Path) -> None:
    second = store(tmp_path / "b.ldb", ["1", "2", "3", "4"], LATENTS[:4])
    with LatentDB.open(first) as db:
        with pytest.raises(NotFoundError, match=r"share 0 ids, .* look like '000' and '1'"):
            db.compare(second)
        with pytest.raises(InvalidInputError, match="give 1 to 1,000"):
            db.compare(first, k=0)
        with pytest.raises(InvalidInputError, match="metric"):
            db.compare(first, metric="kl")
        with pytest.raises(InvalidInputError, match="no metadata column"):
            db.compare(first, label="hue")


@pytest.mark.parametrize("seed", range(4))
def test_procrustes_is_that_of_scipy(seed: int) -> None:
    from scipy.spatial import procrustes as reference

    a, b = np.random.default_rng(seed).normal(size=(2, 30, 2)).astype(np.float32)
    b += seed * a
    laid, disparity = procrustes(a, b)
    _, _, expected = reference(a, b)
    assert disparity == pytest.approx(expected, rel=1e-4)
    centred = a - a.mean(axis=0)
    left = np.square(laid - a).sum() / np.square(centred).sum()
    assert left == pytest.approx(expected, rel=1e-4)


def test_points_in_one_place_are_no_trouble() -> None:
    same = np.ones((4, 2), np.float32)
    assert procrustes(same, same)[1] == 0
    assert procrustes(same, np.arange(8, dtype=np.float32).reshape(4, 2))[1] == 1
