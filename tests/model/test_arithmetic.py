"""Arithmetic on latents: general properties and corner cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.model.arithmetic import (
    METHODS,
    average,
    blend,
    interpolate,
    lerp,
    normalise_weights,
    slerp,
)

Doubles = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
POSITIVE = st.lists(st.floats(0.05, 10), min_size=2, max_size=7)


def cloud(seed: int, count: int, dim: int = 5) -> NDArray[np.float32]:
    """Points of different norms, all within one octant: their spherical mean is unique."""
    random = np.random.default_rng(seed)
    points = np.abs(random.normal(size=(count, dim))) + 0.05
    return (points * random.uniform(0.5, 4, (count, 1))).astype(np.float32)


def close(a: Any, b: Any, tolerance: float = 2e-6) -> bool:
    """Whether two latents agree, relative to the largest entry."""
    expected = np.asarray(b, np.float64)
    gap = np.abs(np.asarray(a, np.float64) - expected).max()
    return bool(gap <= tolerance * max(1e-30, float(np.abs(expected).max())))


def angle(a: Any, b: Any) -> float:
    u, v = np.asarray(a, np.float64), np.asarray(b, np.float64)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return 2 * math.atan2(float(np.linalg.norm(u - v)), float(np.linalg.norm(u + v)))


# --- weights -------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_weights_sum_to_one_and_keep_their_ratios(weights: list[float]) -> None:
    scaled = normalise_weights(weights, len(weights))
    assert scaled.dtype == np.float64
    assert math.isclose(scaled.sum(), 1, rel_tol=1e-12)
    assert np.allclose(scaled * math.fsum(weights), weights, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 49])
def test_no_weights_are_equal_weights(count: int) -> None:
    assert np.array_equal(normalise_weights(None, count), np.full(count, 1 / count))


def test_negative_weights_are_scaled_too() -> None:
    assert normalise_weights([3, -1], 2).tolist() == [1.5, -0.5]
    assert normalise_weights([-2, -2], 2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("weights", [[1, -1], [0.1 + 0.2, -0.3], [2, -2]])
def test_weights_that_sum_to_zero_make_a_difference(weights: list[float]) -> None:
    # The second sum is zero up to rounding.
    assert normalise_weights(weights, 2).tolist() == weights
    points = cloud(0, 2).astype(np.float64)
    expected = weights[0] * points[0] + weights[1] * points[1]
    assert close(blend(points, weights), expected)


@pytest.mark.parametrize(
    "weights",
    [
        [1e308, 1e308],
        [5e-324, 5e-324],
    ],
)
def test_weights_of_any_finite_size_are_scaled(weights: list[float]) -> None:
    assert normalise_weights(weights, 2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 3], "3 weights for 2 latents"),
        ([1], "1 weight for 2 latents"),
        ([], "0 weights for 2 latents"),
        ([1, math.nan], "not all finite"),
        ([math.inf, 1], "not all finite"),
        ([0, 0], "all zero"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        normalise_weights(weights, 2)


@pytest.mark.parametrize("weights", [["a", "b"], [[1], [2, 3]], [1j, 1], {"a": 1}, object()])
def test_weights_that_are_no_numbers_are_refused(weights: Any) -> None:
    with pytest.raises(InvalidInputError, match="weights"):
        normalise_weights(weights, 2)


@pytest.mark.parametrize("weights", [[[1, 2]], [[1], [2]]])
def test_weights_of_another_shape_have_a_message_of_their_own(weights: Any) -> None:
    # "2 weights for 2 latents: give one per latent" would not help.
    with pytest.raises(InvalidInputError, match=r"weights have shape .*: expected \[2\]") as caught:
        normalise_weights(weights, 2)
    assert "2 weights for 2 latents" not in str(caught.value)


def test_nothing_cannot_be_blended() -> None:
    for method in METHODS:
        with pytest.raises(InvalidInputError, match="nothing to blend"):
            blend(np.empty((0, 3)), method=method)
    with pytest.raises(InvalidInputError, match="nothing to blend"):
        average(np.empty((0, 3)))


# --- means ---------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 30))
def test_linear_is_the_mean_of_numpy(seed: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 7)).astype(np.float32)
    mean = points.mean(axis=0, dtype=np.float64)
    for result in (average(points), blend(points)):
        assert result.dtype == np.float32
        assert np.allclose(result, mean, rtol=1e-6, atol=1e-7)


@given(SEEDS, POSITIVE)
def test_weighted_linear_is_the_average_of_numpy(seed: int, weights: list[float]) -> None:
    points = np.random.default_rng(seed).normal(size=(len(weights), 4)).astype(np.float32)
    mean = np.average(points.astype(np.float64), axis=0, weights=weights)
    for result in (average(points, weights), blend(points, weights)):
        assert np.allclose(result, mean, rtol=1e-6, atol=1e-6)


def test_a_negative_weight_leads_away() -> None:
    assert blend([[1, 1], [3, 1]], [2, -1]).tolist() == [-1, 1]


@given(SEEDS, POSITIVE, st.sampled_from(METHODS), st.floats(1e-3, 1e3))
def test_a_blend_knows_neither_order_nor_scale_of_weights(
    seed: int, weights: list[float], method: str, factor: float
) -> None:
    points = cloud(seed, len(weights))
    result = blend(points, weights, method=method)
    assert (result.dtype, result.shape) == (np.float32, (5,))
    order = np.random.default_rng(seed).permutation(len(weights))
    shuffled = blend(points[order], np.array(weights)[order].tolist(), method=method)
    scaled = blend(points, [factor * weight for weight in weights], method=method)
    assert close(shuffled, result)
    assert close(scaled, result)


@given(SEEDS, POSITIVE, st.sampled_from(METHODS))
def test_a_blend_turns_with_its_points(seed: int, weights: list[float], method: str) -> None:
    points = cloud(seed, len(weights)).astype(np.float64)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    result = blend(points, weights, method=method)
    assert close(blend(points @ turn, weights, method=method), result @ turn, 5e-6)


@given(SEEDS, st.sampled_from(METHODS), st.integers(1, 5))
def test_a_blend_of_equal_latents_is_that_latent(seed: int, method: str, count: int) -> None:
    point = cloud(seed, 1)
    assert close(blend(np.repeat(point, count, axis=0), method=method), point[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", [[0, 1, 0], [0, 7.3, 0], [0, -1, 0]])
def test_a_latent_of_weight_one_is_returned_as_it_is(method: str, weights: list[float]) -> None:
    points = cloud(3, 3)
    assert np.array_equal(blend(points, weights, method=method), points[1])


@given(SEEDS, POSITIVE, st.sampled_from(METHODS))
def test_a_latent_of_weight_zero_does_not_count(
    seed: int, weights: list[float], method: str
) -> None:
    points = cloud(seed, len(weights))
    more = np.concatenate([points[:1], -points[:1], points[1:]])
    result = blend(more, [weights[0], 0, *weights[1:]], method=method)
    assert close(result, blend(points, weights, method=method))


@given(SEEDS, POSITIVE, st.sampled_from(("norm", "slerp")))
def test_norm_and_slerp_have_the_weighted_mean_of_the_norms(
    seed: int, weights: list[float], method: str
) -> None:
    points = cloud(seed, len(weights))
    wanted = np.average(np.linalg.norm(points.astype(np.float64), axis=1), weights=weights)
    norm = np.linalg.norm(blend(points, weights, method=method).astype(np.float64))
    assert math.isclose(norm, wanted, rel_tol=1e-6)


@given(SEEDS, POSITIVE)
def test_norm_has_the_direction_of_the_mean(seed: int, weights: list[float]) -> None:
    points = cloud(seed, len(weights))
    assert angle(blend(points, weights, method="norm"), blend(points, weights)) < 1e-6


@pytest.mark.parametrize("points", [[[1, 0], [0, 10]], [[1, 0.0], [0, 2]]])
def test_norm_keeps_the_direction_of_the_mean_with_negative_weights(points: Any) -> None:
    # With the plain weighted mean of the norms (2 * 1 - 10) it would be turned round,
    # towards the latent it shall lead away from, or (2 * 1 - 2) be zero.
    away = blend(points, [2, -1], method="norm")
    assert np.linalg.norm(away) > 0
    assert angle(away, blend(points, [2, -1])) < 1e-6


@given(SEEDS, POSITIVE)
def test_the_spherical_mean_is_where_the_arcs_balance(seed: int, weights: list[float]) -> None:
    points = cloud(seed, len(weights)).astype(np.float64)
    units = points / np.linalg.norm(points, axis=1)[:, None]
    mean = blend(points, weights, method="slerp").astype(np.float64)
    mean /= np.linalg.norm(mean)
    pull = np.zeros(5)
    for unit, weight in zip(units, weights, strict=True):
        tangent = unit - (unit @ mean) * mean
        length = np.linalg.norm(tangent)
        if length > 1e-9:
            pull += weight / sum(weights) * angle(unit, mean) * tangent / length
    assert np.linalg.norm(pull) < 1e-6


@given(SEEDS, st.floats(0.05, 0.95))
def test_the_spherical_mean_of_two_points_is_the_slerp(seed: int, t: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 5))
    expected = slerp(a, b, t)
    assert close(blend([a, b], [1 - t, t], method="slerp"), expected, 1e-5)
    # Three weights go the general way; the same point twice makes them two again.
    assert close(blend([a, a, b], [(1 - t) / 2, (1 - t) / 2, t], method="slerp"), expected, 1e-5)


def test_slerp_takes_no_weights_of_different_signs() -> None:
    with pytest.raises(InvalidInputError, match=r"\[2, -1\] have different signs"):
        blend([[1, 0], [0, 1]], [2, -1], method="slerp")
    assert close(blend([[1, 0], [0, 1]], [-1, -1], method="slerp"), [0.5**0.5] * 2)


@pytest.mark.parametrize("method", METHODS)
def test_where_no_direction_is_the_mean_one_it_is_the_plain_mean(method: str) -> None:
    opposite = np.array([[1, 2], [-1, -2]])
    assert blend(opposite, method=method).tolist() == [0, 0]
    cross = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    assert blend(cross, method=method).tolist() == [0, 0]
    with_zero = np.array([[0, 0], [0, 0], [0, 0]])
    assert blend(with_zero, method=method).tolist() == [0, 0]


def test_a_zero_vector_makes_slerp_linear() -> None:
    points = np.array([[0, 0], [3, 0], [0, 3]])
    assert np.array_equal(blend(points, method="slerp"), blend(points))
    assert slerp([0, 0], [2, 4], 0.25).tolist() == [0.5, 1]


# --- two points ----------------------------------------------------------------------


@pytest.mark.parametrize("between", [lerp, slerp])
def test_the_ends_are_exact_and_copies(between: Any) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    for t, end in ((0, a), (1, b), (0.0, a), (1.0, b)):
        result = between(a, b, t)
        assert np.array_equal(result, end)
        assert not np.shares_memory(result, end)


@given(SEEDS, st.floats(0, 1))
def test_lerp_is_on_the_line(seed: int, t: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 4))
    result = lerp(a, b, t)
    assert result.dtype == np.float32
    assert np.allclose(result, a + t * (b - a), atol=1e-6)


@given(SEEDS, st.floats(0, 1))
def test_slerp_moves_norm_and_angle_evenly(seed: int, t: float) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, 6)) * random.uniform(0.1, 10, (2, 1))
    point = slerp(a, b, t)
    assert point.dtype == np.float32
    norms = np.linalg.norm(a), np.linalg.norm(b)
    norm = np.linalg.norm(point.astype(np.float64))
    assert math.isclose(norm, (1 - t) * norms[0] + t * norms[1], rel_tol=1e-5)
    assert math.isclose(angle(a, point), t * angle(a, b), abs_tol=1e-5)
    assert math.isclose(angle(point, b), (1 - t) * angle(a, b), abs_tol=1e-5)


@given(SEEDS, st.floats(0, 1))
def test_slerp_back_is_slerp_forth(seed: int, t: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 4))
    assert close(slerp(a, b, t), slerp(b, a, 1 - t), 1e-5)


@pytest.mark.parametrize("gap", [0, 1e-12, 1e-9, 1e-8, 3e-7, 1e-6, 1e-4])
def test_slerp_between_close_directions_is_smooth(gap: float) -> None:
    a, b = np.array([1, 0.0]), np.array([math.cos(gap), math.sin(gap)])
    middle = slerp(a, b, 0.5)
    assert middle[0] == pytest.approx(math.cos(gap / 2), rel=1e-6)
    assert middle[1] == pytest.approx(math.sin(gap / 2), rel=1e-4, abs=1e-13)


def test_slerp_between_opposites_is_the_line() -> None:
    assert slerp([1, 0], [-3, 0], 0.5).tolist() == [-1, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_a_path_begins_and_ends_exactly(method: str, steps: int) -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    path = interpolate(a, b, steps, method=method)
    assert (path.shape, path.dtype) == ((steps, 6), np.float32)
    assert np.array_equal(path[0], a)
    assert np.array_equal(path[-1], b)


@given(SEEDS, st.integers(2, 12), st.sampled_from(METHODS))
def test_a_path_back_is_the_path_forth(seed: int, steps: int, method: str) -> None:
    a, b = cloud(seed, 2)
    forth = interpolate(a, b, steps, method=method)
    back = interpolate(b, a, steps, method=method)
    assert close(back[::-1], forth)


def test_the_steps_of_a_path_are_even() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 6))
    positions = np.linspace(0, 1, 7)
    for method, between in (("linear", lerp), ("slerp", slerp)):
        path = interpolate(a, b, 7, method=method)
        assert close(path, [between(a, b, t) for t in positions], 1e-6)


@pytest.mark.parametrize("steps", [1, 0, -3, 10_001, 10**9, 10**30])
def test_a_path_has_two_to_ten_thousand_points(steps: int) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"{steps:,} steps? cannot make a path: give 2 to 10,000"
    ):
        interpolate([1, 0], [0, 1], steps)


@pytest.mark.parametrize("steps", [2.5, "3", None])
def test_steps_that_are_no_whole_number_are_refused(steps: Any) -> None:
    with pytest.raises(InvalidInputError, match="steps"):
        interpolate([1, 0], [0, 1], steps)


@pytest.mark.parametrize("method", ["cubic", "", None, ["linear"]])
def test_an_unknown_method_is_refused_with_the_known_ones(method: Any) -> None:
    message = "is unknown: use one of linear, slerp, norm"
    with pytest.raises(InvalidInputError, match=message):
        blend([[1, 0]], method=method)
    with pytest.raises(InvalidInputError, match=message):
        interpolate([1, 0], [0, 1], 3, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_the_inputs_stay_as_they_are(method: str) -> None:
    points = cloud(0, 4).astype(np.float64)  # float64 input is not copied
    weights = np.array([1.0, 2, 3, 4])
    before, weights_before = points.copy(), weights.copy()
    blend(points, weights, method=method)  # type: ignore[arg-type]
    interpolate(points[0], points[1], 5, method=method)
    assert np.array_equal(points, before)
    assert np.array_equal(weights, weights_before)
