"""Statistics of posteriors, and what a dimension does to the picture."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb.model.posterior import decoded_effect, statistics

Floats = NDArray[np.float32]


def posteriors(rows: int, dim: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    mean = rng.normal(1_000, np.linspace(0.01, 2, dim), (rows, dim))  # far from 0: sums cancel
    return mean.astype(np.float32), rng.normal(-2, 1, (rows, dim)).astype(np.float32)


@pytest.mark.parametrize("cut", [1, 137, 500])
def test_statistics_are_those_of_all_rows_at_once(cut: int) -> None:
    mean, log_var = posteriors(500, 4)
    parts = [(mean[:cut], log_var[:cut]), (mean[cut:], log_var[cut:])]
    found = statistics(iter(parts), 4)
    exact, variance = mean.astype(np.float64), np.exp(log_var.astype(np.float64))
    assert found.rows == 500
    np.testing.assert_allclose(found.mean, exact.mean(axis=0))
    np.testing.assert_allclose(found.variance, exact.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.sigma2, variance.mean(axis=0))
    kl = 0.5 * (exact**2 + variance - log_var - 1)
    np.testing.assert_allclose(found.kl, kl.mean(axis=0))
    np.testing.assert_allclose(found.aggregate_variance, exact.var(axis=0) + variance.mean(axis=0))


def test_a_collapsed_dimension_is_not_active() -> None:
    mean = np.random.default_rng(0).normal(0, [1, 0.001], (300, 2)).astype(np.float32)
    found = statistics([(mean, np.zeros((300, 2), np.float32))], 2)
    assert found.active().tolist() == [True, False]
    assert found.kl is not None
    assert found.kl[1] < 1e-4 < found.kl[0]


def test_an_aggregate_posterior_that_is_the_prior_has_no_gap() -> None:
    rng = np.random.default_rng(0)
    mean = rng.normal(0, np.sqrt(0.75), (200_000, 2)).astype(np.float32)
    found = statistics([(mean, np.full_like(mean, np.log(0.25)))], 2)
    assert (found.prior_gap < 1e-3).all()


def test_without_z_log_var_there_is_no_divergence() -> None:
    mean, log_var = posteriors(50, 3)
    found = statistics([(mean[:20], log_var[:20]), (mean[20:], None)], 3)
    assert found.kl is None
    assert found.sigma2 is None
    np.testing.assert_allclose(found.aggregate_variance, found.variance)
    assert statistics([], 3).rows == 0


def test_the_effect_of_a_linear_decoder_is_its_columns() -> None:
    columns = np.array([40.0, 0.0, 10.0])

    def decode(latents: Floats) -> NDArray[np.uint8]:
        grey = np.rint(128 + latents @ columns).astype(np.uint8)
        return np.broadcast_to(grey[:, None, None, None], (len(grey), 2, 2, 1))

    latents = np.random.default_rng(0).normal(0, 0.1, (30, 3)).astype(np.float32)
    effects = decoded_effect(latents, np.array([1.0, 1.0, 2.0]), decode)
    np.testing.assert_allclose(effects, [40 / 255, 0, 20 / 255], atol=0.5 / 255)
