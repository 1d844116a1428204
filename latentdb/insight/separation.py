"""Axes that separate two sets of vectors: pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

DIFFERENCE, WHITENED, LOGISTIC = "difference", "whitened", "logistic"
METHODS = (DIFFERENCE, WHITENED, LOGISTIC)
_RIDGE = 1e-9  # added to a correlation matrix, which may be singular
_STEPS = 50
_TOLERANCE = 1e-13
_HALVINGS = 30


def fit(a: Floats, b: Floats, method: str) -> Doubles:
    """An axis along which `b` lies above `a`, float64 ``[d]``.

    ``difference``: that of the means.  ``whitened``: that difference times the inverse of
    the covariance within both, the linear discriminant of Fisher (1936), which takes out
    what is correlated with it.  ``logistic``: the weights of a logistic regression.

    Parameters
    ----------
    a, b
        ``[n, d]`` and ``[m, d]``.
    method
        One of `METHODS`.
    """
    gap = b.mean(axis=0, dtype=np.float64) - a.mean(axis=0, dtype=np.float64)
    if method == DIFFERENCE:
        return np.asarray(gap)
    if method == WHITENED:
        return whitened(a, b, gap)
    return logistic(a, b)


def whitened(a: Floats, b: Floats, gap: Doubles) -> Doubles:
    """The inverse covariance within two sets times the difference of their means."""
    within = np.concatenate([side - side.mean(axis=0, dtype=np.float64) for side in (a, b)])
    spread = within.std(axis=0)
    if not spread.any():
        return np.asarray(gap)  # each side is a point
    spread[spread == 0] = 1  # a dead dimension, in which the gap is what rounding left
    correlation = (within / spread).T @ (within / spread) / len(within)
    regular = correlation + _RIDGE * np.eye(len(correlation))
    return np.asarray(np.linalg.solve(regular, gap / spread) / spread)


def logistic(a: Floats, b: Floats, *, strength: float = 1.0) -> Doubles:
    """Weights of a logistic regression with an intercept, by Newton's method.

    ``Σ log(1 + exp(-y (w x + c))) + |w|² / (2 strength)`` is minimised over standardised
    x, which is scikit-learn's ``LogisticRegression(C=strength)`` after a ``StandardScaler``.

    Returns
    -------
    ndarray
        float64 ``[d]``: for x as they are.
    """
    x = np.concatenate([a, b]).astype(np.float64)
    spread = x.std(axis=0)
    spread[spread == 0] = 1
    x = np.column_stack([(x - x.mean(axis=0)) / spread, np.ones(len(x))])
    y = np.repeat([-1.0, 1.0], [len(a), len(b)])
    penalty = np.full(x.shape[1], 1 / strength)
    penalty[-1] = 0  # the intercept is free

    def loss(weights: Doubles) -> float:
        return float(np.logaddexp(0, -y * (x @ weights)).sum() + penalty @ weights**2 / 2)

    weights = np.zeros(x.shape[1])
    current = loss(weights)
    for _ in range(_STEPS):
        # Of the wrong side; 0.5 (1 - tanh) does not overflow.
        wrong = 0.5 * (1 - np.tanh(y * (x @ weights) / 2))
        gradient = penalty * weights - x.T @ (y * wrong)
        hessian = (x.T * (wrong * (1 - wrong))) @ x + np.diag(penalty)
        hessian[-1, -1] += 1e-12  # of the intercept, where all are on the right side
        step = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE * max(current, 1):
            break
        size = 1.0
        for _ in range(_HALVINGS):
            following = loss(weights - size * step)
            if following < current - 1e-4 * size * decrease:
                break
            size /= 2
        else:
            break
        weights, current = weights - size * step, following
    return np.asarray(weights[:-1] / spread)
