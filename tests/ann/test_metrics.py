"""Every metric against a direct computation by its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats
from scipy.linalg import sqrtm
from scipy.spatial.distance import cosine

from latentdb.ann.metrics import METRICS, Space, check_metric, symmetric_kl
from latentdb.base.errors import InvalidInputError
from latentdb.database import LatentDB

DIM = 5
ROWS = 60
Array = NDArray[Any]


def l2(one: Array, _a: Array, other: Array, _b: Array, _centre: Array) -> float:
    return float(np.sqrt(((one - other) ** 2).sum()))


def plain_cosine(one: Array, _a: Array, other: Array, _b: Array, _centre: Array) -> float:
    return float(cosine(one, other))


def centred_cosine(one: Array, _a: Array, other: Array, _b: Array, centre: Array) -> float:
    return float(cosine(one - centre, other - centre))


def wasserstein(m1: Array, v1: Array, m2: Array, v2: Array, _centre: Array) -> float:
    """The formula for any two Gaussians, by matrix roots."""
    c1, c2 = np.diag(np.exp(v1)), np.diag(np.exp(v2))
    root = sqrtm(c2)
    middle = sqrtm(root @ c1 @ root)
    squared = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * middle).real
    return float(np.sqrt(max(squared, 0.0)))


def kl(m1: Array, v1: Array, m2: Array, v2: Array, _centre: Array) -> float:
    """Both ways, by the formula for any two Gaussians, with determinants and inverses."""

    def one_way(m: Array, c: Array, n: Array, d: Array) -> float:
        inverse = np.linalg.inv(d)
        logs = np.linalg.slogdet(d)[1] - np.linalg.slogdet(c)[1]
        return float((np.trace(inverse @ c) + (n - m) @ inverse @ (n - m) - len(m) + logs) / 2)

    c1, c2 = np.diag(np.exp(v1)), np.diag(np.exp(v2))
    return one_way(m1, c1, m2, c2) + one_way(m2, c2, m1, c1)


DIRECT = {
    "l2": l2,
    "cosine": plain_cosine,
    "centered_cosine": centred_cosine,
    "wasserstein": wasserstein,
    "kl": kl,
}


@pytest.fixture(scope="module")
def latents() -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    means = random.normal(2, 3, size=(ROWS, DIM)).astype(np.float32)
    return means, random.normal(-1, 1, size=(ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def db(latents: tuple[Array, Array], tmp_path_factory: pytest.TempPathFactory) -> LatentDB:
    made = LatentDB.create(tmp_path_factory.mktemp("metrics") / "s", dim=DIM)
    half = ROWS // 2
    for part in (slice(0, half), slice(half, ROWS)):
        names = [f"r{number}" for number in range(ROWS)[part]]
        made.add(names, latents[0][part], z_log_var=latents[1][part])
    made.optimize(metric="centered_cosine")
    return made


def test_every_metric_has_a_direct_computation() -> None:
    assert tuple(DIRECT) == METRICS


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_is_ranked_by_the_definition(
    db: LatentDB, latents: tuple[Array, Array], metric: str
) -> None:
    means, log_vars = latents[0].astype(np.float64), latents[1].astype(np.float64)
    centre = means.mean(axis=0)
    for asked in (0, 7, ROWS - 1):
        true = np.array(
            [
                DIRECT[metric](means[asked], log_vars[asked], means[n], log_vars[n], centre)
                for n in range(ROWS)
            ]
        )
        true[asked] = 0  # matrix roots give 1e-8
        order = np.argsort(true, kind="stable")
        matches = db.query(f"r{asked}", k=ROWS, metric=metric)
        assert matches.exact
        assert matches.metric == metric
        assert [match.id for match in matches] == [f"r{number}" for number in order]
        found = [match.distance for match in matches]
        np.testing.assert_allclose(found, true[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_are_ranked_as_ids_are(
    db: LatentDB, latents: tuple[Array, Array], metric: str
) -> None:
    distances, rows = db.search(latents[0][:12], k=4, metric=metric, z_log_var=latents[1][:12])
    many = db.query_many([f"r{number}" for number in range(12)], k=4, metric=metric)
    assert rows.tolist() == [[int(match.id[1:]) for match in one] for one in many]
    found = [[match.distance for match in one] for one in many]
    np.testing.assert_allclose(distances, found, rtol=1e-6)


def test_symmetric_kl_is_the_integral_it_stands_for() -> None:
    """Of two densities in one dimension, by quadrature."""
    p, q = stats.norm(0.3, 0.7), stats.norm(-1.1, 1.4)

    def both(x: float) -> float:
        difference = p.logpdf(x) - q.logpdf(x)
        return float((p.pdf(x) - q.pdf(x)) * difference)

    true, _ = integrate.quad(both, -20, 20)
    one = np.array([0.3, 0.7], np.float32)
    others = np.array([[-1.1, 1.4]], np.float32)
    assert symmetric_kl(one, others)[0] == pytest.approx(true, rel=1e-5)


finite = st.floats(-50, 50, width=32)
gaussians = st.lists(st.tuples(finite, st.floats(-20, 20, width=32)), min_size=3, max_size=3)


@given(gaussians, gaussians)
def test_divergence_is_symmetric_and_never_negative(
    one: list[tuple[float, float]], other: list[tuple[float, float]]
) -> None:
    means, log_vars = np.array([one, other], np.float32).transpose(2, 0, 1)
    first, second = Space("kl").embed(means, log_vars)
    there, back = symmetric_kl(first, second[None])[0], symmetric_kl(second, first[None])[0]
    assert there == pytest.approx(back, rel=1e-9)
    assert there >= -1e-9 * max(1.0, abs(there))
    assert symmetric_kl(first, first[None])[0] == 0


@given(gaussians)
def test_posteriors_without_end_stay_in_float32(one: list[tuple[float, float]]) -> None:
    means, log_vars = np.array([one], np.float32).transpose(2, 0, 1)
    place = Space("wasserstein").embed(means, 1000 * log_vars)
    assert place.shape == (1, 6)
    assert place.dtype == np.float32
    assert np.isfinite(place).all()
    assert (place[:, 3:] > 0).all()


def test_the_centre_itself_stays_where_it_is() -> None:
    space = Space("centered_cosine", np.array([1.0, 2.0]))
    placed = space.embed(np.array([[1, 2], [1, 5]], np.float32), None)
    assert placed.tolist() == [[0, 0], [0, 1]]
    placed = Space("cosine").embed(np.array([[0, 0], [3e30, 4e30]], np.float32), None)
    np.testing.assert_allclose(placed, [[0, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize(("metric", "dim"), [("l2", 4), ("cosine", 4), ("wasserstein", 8)])
def test_a_space_has_dimensions(metric: str, dim: int) -> None:
    assert Space(metric).dim(4) == dim


@pytest.mark.parametrize("metric", ["wasserstein", "kl"])
def test_a_missing_posterior_is_refused(db: LatentDB, metric: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=rf"metric '{metric}' .* needs z_log_var: give one"):
        db.query(np.zeros(DIM), metric=metric)
    with pytest.raises(InvalidInputError, match="needs z_log_var"):
        db.query("r1", like=["r2"], metric=metric)  # a mean has no posterior
    with LatentDB.create(tmp_path / "s", dim=2) as bare:
        bare.add(["a"], np.zeros((1, 2)))
        with pytest.raises(InvalidInputError, match="needs z_log_var"):
            bare.query("a", metric=metric)


def test_an_unknown_metric_is_refused_with_the_known_ones(db: LatentDB) -> None:
    message = "metric 'l3' is not known: use l2, cosine, centered_cosine, wasserstein, kl"
    for ask in (
        lambda: check_metric("l3"),
        lambda: db.query("r1", metric="l3"),
        lambda: db.search(np.zeros((1, DIM)), metric="l3"),
        lambda: db.optimize(metric="l3"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ask()


def test_as_many_posteriors_as_vectors_are_wanted(db: LatentDB) -> None:
    with pytest.raises(InvalidInputError, match="z_log_var has 1 rows for 2 vectors"):
        db.search(np.zeros((2, DIM)), metric="kl", z_log_var=np.zeros((1, DIM)))
