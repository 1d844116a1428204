"""Samples and walks: what they are drawn from, and what cannot be asked for."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.model.generation import (
    check_sampling,
    parse_dims,
    sample_aggregate,
    sample_prior,
    traverse,
)


def test_the_prior_is_a_standard_normal() -> None:
    drawn = sample_prior(20_000, 3, seed=1)
    np.testing.assert_allclose(drawn.latents.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(drawn.latents.std(axis=0), 1, atol=0.03)
    assert sample_prior(5, 3, seed=1).latents.tobytes() == drawn.latents[:5].tobytes()


@pytest.mark.parametrize("cut", [1, 1_500])
def test_the_aggregate_has_the_mean_and_covariance_of_the_rows(cut: int) -> None:
    rng = np.random.default_rng(0)
    mean = rng.multivariate_normal([5, -100], [[4, 1.5], [1.5, 1]], 3_000).astype(np.float32)
    log_var = np.full_like(mean, np.log(0.5))
    blocks = [(mean[:cut], log_var[:cut]), (mean[cut:], log_var[cut:])]
    drawn = sample_aggregate(50_000, 2, blocks)
    np.testing.assert_allclose(drawn.latents.mean(axis=0), mean.mean(axis=0), atol=0.05)
    wanted = np.cov(mean.T, bias=True) + 0.5 * np.eye(2)
    np.testing.assert_allclose(np.cov(drawn.latents.T), wanted, rtol=0.05)
    assert "3,000 rows" in drawn.source


def test_many_dimensions_are_fitted_without_correlations() -> None:
    mean = np.random.default_rng(0).normal(3, 2, (50, 1_100)).astype(np.float32)
    drawn = sample_aggregate(4_000, 1_100, [(mean, None)])
    assert "without correlations" in drawn.source
    np.testing.assert_allclose(drawn.latents.std(axis=0), mean.std(axis=0), rtol=0.15)


def test_what_cannot_be_sampled() -> None:
    with pytest.raises(NotFoundError, match="no rows to fit"):
        sample_aggregate(3, 2, [])
    with pytest.raises(InvalidInputError, match="sample from prior or aggregate"):
        check_sampling(3, "posterior")
    with pytest.raises(InvalidInputError, match="give 1 to 100,000"):
        check_sampling(0, "prior")


def test_dimensions_by_text() -> None:
    ranked = [2, 0, 1]
    assert parse_dims("top:2", ranked) == (2, 0)
    assert parse_dims("top:99", ranked) == (2, 0, 1)
    assert parse_dims("1, 0", ranked) == (1, 0)


@pytest.mark.parametrize("text", ["top:0", "top:", "top:1,2", "3", "-1", "a", "", "1,,2", "top:²"])
def test_dimensions_that_do_not_exist(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"give top:N, or numbers from 0 to 2"):
        parse_dims(text, [2, 0, 1])


def test_a_walk_changes_one_dimension() -> None:
    start = np.array([1, 2, 3], np.float32)
    walk = traverse(start, [2, 0], np.array([1.0, 1.0, 0.5]), low=-2, high=2, steps=5)
    assert walk.latents.shape == (2, 5, 3)
    np.testing.assert_allclose(walk.latents[0, :, 2], [2, 2.5, 3, 3.5, 4])
    np.testing.assert_allclose(walk.latents[1, :, 0], [-1, 0, 1, 2, 3])
    assert (walk.latents[0, :, :2] == [1, 2]).all()
    np.testing.assert_array_equal(walk.latents[:, 2], [start, start])


@pytest.mark.parametrize(
    ("low", "high", "steps", "message"),
    [(1, 1, 5, "range"), (0, np.inf, 5, "range"), (-1, 1, 1, "steps"), (-1, 1, 102, "steps")],
)
def test_walks_that_cannot_be_made(low: float, high: float, steps: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        traverse(np.zeros(2, np.float32), [0], np.ones(2), low=low, high=high, steps=steps)
