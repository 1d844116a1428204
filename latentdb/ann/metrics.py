"""The metrics, as L2 distance in a space that rows are embedded in.

So one index and one scan serve every metric; only KL divergence is no L2, and
re-ranks candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError

Floats = NDArray[np.float32]

L2 = "l2"
COSINE = "cosine"
CENTERED_COSINE = "centered_cosine"
WASSERSTEIN = "wasserstein"
KL = "kl"
METRICS = (L2, COSINE, CENTERED_COSINE, WASSERSTEIN, KL)
VECTOR_METRICS = METRICS[:3]  # those that compare vectors alone, so any target
INDEXED_METRICS = METRICS[:-1]  # those that are L2 in some space
_MAX_LOG_VAR = 80.0  # above it exp overflows float32


@dataclass(frozen=True, eq=False)
class Space:
    """The space in which a metric compares rows.

    Attributes
    ----------
    metric
        One of `METRICS`.
    centre
        float64 ``[d]``: the origin of centred cosine; None for the others.
    """

    metric: str
    centre: NDArray[np.float64] | None = None

    @property
    def posterior(self) -> bool:
        """Whether the metric needs z_log_var."""
        return self.metric not in VECTOR_METRICS

    def dim(self, latent_dim: int) -> int:
        """Dimensions of the space."""
        return 2 * latent_dim if self.posterior else latent_dim

    def embed(self, z_mean: Floats, z_log_var: Floats | None) -> Floats:
        """Rows in the space, float32 ``[n, dim]``.

        ``l2``
            z_mean itself.
        ``cosine``
            ``z_mean / |z_mean|``; 0 stays 0.  Squared L2 of unit vectors is
            ``2 - 2 cos``.
        ``centered_cosine``
            The same of ``z_mean - centre``.
        ``wasserstein``, ``kl``
            ``[z_mean, sigma]``, sigma = ``exp(z_log_var / 2)``.  The 2-Wasserstein
            distance of two Gaussians is ``|m1-m2|² + tr(C1 + C2 - 2 (C2^½ C1 C2^½)^½)``
            (Dowson and Landau 1982), for diagonal ones ``|m1-m2|² + |s1-s2|²``:
            squared L2 here.  For ``kl`` it gives the candidates.

        Raises
        ------
        InvalidInputError
            If the metric needs z_log_var and there is none.
        """
        if self.metric == L2:
            return z_mean
        if self.metric in (COSINE, CENTERED_COSINE):
            origin = 0.0 if self.centre is None else self.centre
            centred = np.subtract(z_mean, origin, dtype=np.float64)
            lengths = np.linalg.norm(centred, axis=1, keepdims=True)
            return np.asarray(centred / np.where(lengths > 0, lengths, 1), np.float32)
        if z_log_var is None:
            raise InvalidInputError(
                f"metric {self.metric!r} compares posteriors and needs z_log_var: "
                "give one id or image, of a store that has it, or use l2"
            )
        sigma = np.exp(np.clip(z_log_var, -_MAX_LOG_VAR, _MAX_LOG_VAR) / 2, dtype=np.float32)
        return np.concatenate([z_mean, sigma], axis=1)

    def distances(self, l2: Floats) -> Floats:
        """The metric's distance from L2 in the space: ``1 - cos``, or L2 itself."""
        cosine = self.metric in (COSINE, CENTERED_COSINE)
        return np.asarray(l2 * l2 / 2, np.float32) if cosine else l2

    def square(self, distance: float) -> float:
        """Squared L2 in the space, from the metric's distance."""
        cosine = self.metric in (COSINE, CENTERED_COSINE)
        return 2 * distance if cosine else distance * distance


def check_metric(metric: str) -> str:
    """The metric itself, if it is one of `METRICS`.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if metric not in METRICS:
        raise InvalidInputError(f"metric {metric!r} is not known: use {', '.join(METRICS)}")
    return metric


def symmetric_kl(one: Floats, others: Floats) -> NDArray[np.float64]:
    """Symmetric Kullback-Leibler divergence of diagonal Gaussians, in nats.

    ``KL(p|q) + KL(q|p)``, Jeffreys' divergence (Jeffreys 1946); for diagonal
    Gaussians ``½ Σ (v1 + Δ²)/v2 + (v2 + Δ²)/v1 - 2`` with variances v and
    ``Δ = m1 - m2``.

    Parameters
    ----------
    one
        float32 ``[2 d]``: z_mean and sigma, as `Space.embed` gives them.
    others
        float32 ``[n, 2 d]``.

    Returns
    -------
    ndarray
        float64 ``[n]``.
    """
    dim = others.shape[1] // 2
    mean, sigma = one[:dim].astype(np.float64), one[dim:].astype(np.float64)
    means, sigmas = others[:, :dim].astype(np.float64), others[:, dim:].astype(np.float64)
    variance, variances = sigma**2, sigmas**2
    squares = (means - mean) ** 2
    terms = (variance + squares) / variances + (variances + squares) / variance - 2
    return np.asarray(terms.sum(axis=1) / 2)
