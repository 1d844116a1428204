"""A diagnosis tells a healthy latent space from a collapsed one, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb import LatentDB
from latentdb.base.errors import NotFoundError
from latentdb.insight.diagnosis import Diagnosis, diagnose

Floats = NDArray[np.float32]
DIM = 6


def make(path: Path, scale: NDArray[np.float64], sigma2: NDArray[np.float64]) -> LatentDB:
    """A store of 400 posteriors with such standard deviations of z_mean and such variances."""
    rng = np.random.default_rng(0)
    store = LatentDB.create(path, dim=DIM)
    means = rng.normal(0, scale, (400, DIM)).astype(np.float32)
    log_var = np.tile(np.log(sigma2), (400, 1)).astype(np.float32)
    store.add([f"row{number}" for number in range(400)], means, z_log_var=log_var)
    return store


def look(store: LatentDB, weights: NDArray[np.float64]) -> Diagnosis:
    """Diagnose with a linear decoder of such weights."""

    def decode(latents: Floats) -> NDArray[np.uint8]:
        grey = np.rint(128 + 60 * latents @ weights).clip(0, 255).astype(np.uint8)
        return np.broadcast_to(grey[:, None, None, None], (len(grey), 2, 2, 1))

    snapshot = store._snapshot()
    return diagnose(snapshot, snapshot.live_rows(), decode)[0]


def test_a_healthy_space(tmp_path: Path) -> None:
    weights = np.linspace(0.2, 0.7, DIM)
    with make(tmp_path / "a.ldb", np.full(DIM, 0.95), np.full(DIM, 0.1)) as store:
        found = look(store, weights)
    assert found.verdict == "no collapse: 6 of 6 dimensions are active"
    assert [row.number for row in found.dimensions] == [5, 4, 3, 2, 1, 0]
    assert found.active == {0.001: 6, 0.01: 6, 0.1: 6}
    assert all(not row.note for row in found.dimensions)
    assert found.dimensions[0].effect == pytest.approx(60 / 255 * 0.7, rel=0.1)


def test_posterior_collapse(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb", np.full(DIM, 1e-4), np.ones(DIM)) as store:
        found = look(store, np.ones(DIM))
    assert found.verdict.startswith("posterior collapse: none of 6 dimensions is active")
    assert "lower beta" in found.verdict
    assert found.kl == pytest.approx(0, abs=1e-3)


def test_partial_collapse_gives_the_size_that_is_enough(tmp_path: Path) -> None:
    scale = np.array([1, 1, 1e-3, 1e-3, 1e-3, 1e-3])
    sigma2 = np.array([0.05, 0.05, 1, 1, 1, 1])
    with make(tmp_path / "a.ldb", scale, sigma2) as store:
        found = look(store, np.ones(DIM))
    assert "partial collapse: 2 of 6" in found.verdict
    assert "latent size of 2" in found.verdict
    # The decoder does answer to dimensions whose posterior is the prior.
    assert [bool(row.note) for row in sorted(found.dimensions, key=lambda row: row.number)] == (
        [False] * 2 + [True] * 4
    )


def test_a_decoder_that_ignores_the_latents(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb", np.ones(DIM), np.full(DIM, 0.01)) as store:
        found = look(store, np.zeros(DIM))
    assert found.verdict.startswith("decoder collapse")
    assert all("less than one level" in row.note for row in found.dimensions)


def test_latents_that_are_far_from_the_prior(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb", np.full(DIM, 5.0), np.full(DIM, 0.01)) as store:
        found = look(store, np.full(DIM, 0.05))
    assert "sample with --from aggregate" in found.verdict


def test_without_a_decoder_and_z_log_var(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "a.ldb", dim=2) as store:
        with pytest.raises(NotFoundError, match="no rows to diagnose"):
            store.diagnose()
        store.add(["a"], np.array([[0, 1]]), metadata={"n": [1]})
        assert store.diagnose().verdict.startswith("one row shows no collapse")
        store.add(["b", "c"], np.array([[0, 2], [0, 6]]), metadata={"n": [2, 3]})
        found = store.diagnose()
        assert [row.number for row in found.dimensions] == [1, 0]
        assert found.kl is None
        assert found.dimensions[0].effect is None
        assert store.diagnose(where="n < 3").rows == 2
