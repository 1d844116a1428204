"""An evaluation gives scikit-learn's numbers, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from latentdb import LatentDB
from latentdb.ann import plan
from latentdb.base.errors import InvalidInputError, NotFoundError


def test_scores_are_scikit_learns_on_all_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 2_000)
    vectors = (np.eye(4, 8)[labels] * 2 + rng.normal(size=(2_000, 8))).astype(np.float32)
    with LatentDB.create(tmp_path / "a.ldb", dim=8) as db:
        names = [f"k{label}" for label in labels]
        db.add([f"r{row}" for row in range(2_000)], vectors, metadata={"kind": names})
        found = db.eval(label="kind", k=7)
    assert (found.queries, found.gallery) == (2_000, 2_000)
    assert [space.name for space in found.spaces] == ["l2", "cosine", "centered_cosine"]
    for space, metric, values in zip(
        found.spaces,
        ("euclidean", "cosine", "cosine"),
        (vectors, vectors, vectors - vectors.mean(axis=0)),
        strict=True,
    ):
        near = NearestNeighbors(n_neighbors=7, metric=metric).fit(values)
        same = labels[near.kneighbors(return_distance=False)] == labels[:, None]
        assert space.agreement.precision.value == pytest.approx(same.mean(), abs=1e-6)
        ranks = np.arange(1, 8)
        average = (same.cumsum(axis=1) / ranks * same).sum(axis=1) / 7
        value = space.agreement.mean_average_precision.value
        assert value == pytest.approx(average.mean(), abs=1e-6)
    assert found.index.search == "exact scan"
    assert found.index.recall == 1
    assert found.best in ("l2", "cosine", "centered_cosine")
    assert any("wasserstein is left out" in note for note in found.notes)
    assert any("without a model" in note for note in found.notes)


def test_beside_pixels_and_pca(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        found = db.eval(queries=30, out=tmp_path / "e.png")
        again = db.eval(queries=30)
        one = db.eval(queries=30, metric="cosine")
    assert found == again
    names = [space.name for space in found.spaces]
    assert names == ["l2", "cosine", "centered_cosine", "wasserstein", "pixels", "pca"]
    assert [space.name for space in one.spaces] == ["cosine", "pixels", "pca"]
    by_name = {one.name: one for one in found.reconstructions}
    assert by_name["pca"].images == 30
    assert by_name["pca"].psnr > 15
    assert 0 < by_name["model"].ssim < 1
    assert not found.notes
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width > 600


def test_without_originals_pixels_are_left_out(store: Path, images: Path) -> None:
    with LatentDB.open(store) as db:
        rows = db._snapshot().live_rows()
        # A store whose folder was moved away.
        db.delete(ids=db.ids()[:1])
        db.add([f"v{n}" for n in range(40)], db.vectors(db.ids()[:40]),
               z_log_var=db.log_vars(db.ids()[:40]), metadata={"label": ["disc"] * 40})  # fmt: skip
        found = db.eval()
    assert len(rows) == 80
    assert found.gallery == 119
    assert found.notes == (
        "raw pixels, PCA and reconstructions are left out: the images of 40 of 119 rows cannot "
        "be read",
    )
    assert not found.reconstructions


def test_recall_of_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 3_000)  # for speed; the real one is 50,000
    vectors = np.random.default_rng(0).normal(size=(8_000, 16)).astype(np.float32)
    with LatentDB.create(tmp_path / "a.ldb", dim=16, recall=0.8) as db:
        db.add([str(row) for row in range(8_000)], vectors)
        found = db.eval(queries=200)
    assert found.index.search != "exact scan"
    assert 0.7 < found.index.recall <= 1
    assert found.best is None
    assert not found.spaces


def test_what_cannot_be_evaluated(store: Path) -> None:
    with LatentDB.open(store) as db:
        with pytest.raises(InvalidInputError, match="no metadata column 'hue'"):
            db.eval(label="hue")
        with pytest.raises(InvalidInputError, match="k 80 cannot be used: give 1 to 79"):
            db.eval(k=80)
        with pytest.raises(InvalidInputError, match="0 queries cannot be used"):
            db.eval(queries=0)
        with pytest.raises(NotFoundError, match="0 labelled rows cannot be compared"):
            db.eval(where='label == "cat"')
        with pytest.raises(InvalidInputError, match="metric 'kl' has no index"):
            db.eval(metric="kl")
