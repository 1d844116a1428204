"""Directions: against scikit-learn, NumPy and planted truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import AlreadyExistsError, FilterError, InvalidInputError, NotFoundError
from latentdb.database import LatentDB
from latentdb.insight.separation import fit, logistic


def clouds(seed: int, gap: float, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated clouds of different sizes and scales."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dim, dim)) * np.geomspace(0.3, 3, dim)
    a, b = random.normal(size=(300, dim)) @ mixing, random.normal(size=(200, dim)) @ mixing
    b += gap * (random.normal(size=dim) @ mixing)
    return a.astype(np.float32), b.astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 5.0])
def test_axes_are_those_of_scikit_learn(seed: int, gap: float) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    a, b = clouds(seed, gap)
    x = np.concatenate([a, b]).astype(np.float64)
    y = np.repeat([0, 1], [len(a), len(b)])
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=1_000).fit(
        scaler.transform(x), y
    )
    expected = model.coef_[0] / scaler.scale_
    np.testing.assert_allclose(logistic(a, b), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
    discriminant = LinearDiscriminantAnalysis(solver="eigen").fit(x, y).coef_[0]
    assert cosine(fit(a, b, "whitened"), discriminant) > 0.99999
    np.testing.assert_allclose(fit(a, b, "difference"), b.mean(0) - a.mean(0), atol=1e-4)


def test_separable_and_equal_clouds_end() -> None:
    a = np.zeros((5, 3), np.float32)
    assert np.isfinite(fit(a, a + 1, "logistic")).all()
    assert np.isfinite(fit(a, a, "logistic")).all()
    assert fit(a, a + 1, "whitened").tolist() == [1, 1, 1]


def correlated(path: Path) -> LatentDB:
    """Dimension 0 says the label; dimension 1 is louder, and only correlated with it."""
    random = np.random.default_rng(0)
    label = random.random(400) < 0.5
    latents = random.normal(size=(400, 3))
    latents[:, 0] = 0.3 * random.normal(size=400) + label
    latents[:, 1] = 3 * random.normal(size=400) + 2 * (label & (random.random(400) < 0.8))
    db = LatentDB.create(path, dim=3)
    db.add([str(n) for n in range(400)], latents, metadata={"smile": label.tolist()})
    return db


def test_a_mean_difference_mixes_what_is_correlated(tmp_path: Path) -> None:
    with correlated(tmp_path / "s.ldb") as db:
        found = {
            method: db.direction("not smile", "smile", method=method)
            for method in ("difference", "whitened", "logistic")
        }
        share = {m: abs(d.vector[0]) / np.linalg.norm(d.vector) for m, d in found.items()}
        assert share["difference"] < 0.7
        assert min(share["whitened"], share["logistic"]) > 0.97
        scores = found["difference"].auc
        assert scores["difference"] < scores["whitened"]
        assert scores["logistic"] > 0.95
        assert found["difference"].held_out in (79, 80)
        vectors = db.vectors(where="smile"), db.vectors(where="not smile")
        gap = vectors[0].mean(0) - vectors[1].mean(0)
        np.testing.assert_allclose(found["difference"].vector, gap, rtol=1e-4, atol=1e-5)
        # Added once, it covers the gap along itself.
        unit = found["logistic"].vector / np.linalg.norm(found["logistic"].vector)
        assert np.linalg.norm(found["logistic"].vector) == pytest.approx(gap @ unit, rel=1e-4)


def test_a_direction_is_saved_and_used(tmp_path: Path) -> None:
    with correlated(tmp_path / "s.ldb") as db:
        found = db.direction("not smile", "smile", method="logistic")
        saved = db.save_recipe("smile", found)
        assert (saved.method, saved.rows, saved.auc) == ("logistic", 400, found.auc["logistic"])
        with pytest.raises(AlreadyExistsError):
            db.save_recipe("smile", found)
        moved = db.recipe("id:3 + 2 * @smile")
        expected = db.vectors(["3"])[0] + 2 * found.vector
        np.testing.assert_allclose(moved.vector, expected, rtol=1e-5)
        assert moved.notes == ()
        db.delete(where='id == "3"')
        assert "would differ now" in db.recipe("@smile").notes[0]


def test_what_makes_no_direction_is_refused(tmp_path: Path) -> None:
    with correlated(tmp_path / "s.ldb") as db:
        with pytest.raises(InvalidInputError, match="match both"):
            db.direction("smile", "smile is not None")
        with pytest.raises(InvalidInputError, match="1 row match 'id == \"3\"'"):
            db.direction('id == "3"', "smile")
        with pytest.raises(InvalidInputError, match="difference, whitened, logistic"):
            db.direction("smile", "not smile", method="svm")
        with pytest.raises(FilterError):
            db.direction("smil", "not smile")


def test_axes_are_ordered_by_what_they_do(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        axes = db.directions(out=tmp_path / "axes.png")
        effects = [axis.effect for axis in axes]
        assert effects == sorted(effects, reverse=True)
        assert sorted(axis.number for axis in axes) == [0, 1, 2, 3]
        assert sum(axis.variance for axis in axes) == pytest.approx(1)
        # An effect is what the recipe pc(n) does to pictures.
        first = axes[0]
        step = db.recipe(f"pc({first.number})").vector
        around = db.vectors()[:64]
        change = db.codec.decode(around + step).astype(float) - db.codec.decode(around - step)
        assert first.effect == pytest.approx(np.sqrt(np.square(change / 2).mean()) / 255, rel=0.1)
        assert len(db.directions(n=2)) == 2
    assert (tmp_path / "axes.png").exists()


def test_axes_without_a_decoder_are_ordered_by_variance(tmp_path: Path) -> None:
    with correlated(tmp_path / "s.ldb") as db:
        axes = db.directions()
        assert [axis.number for axis in axes] == [0, 1, 2]
        assert axes[0].effect is None
    with LatentDB.create(tmp_path / "t.ldb", dim=3) as empty, pytest.raises(NotFoundError):
        empty.directions()
