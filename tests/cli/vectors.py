"""Random vectors for stores without a model."""

from __future__ import annotations

import numpy as np

DIM = 4
ROWS = 1_500


def latents(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((count, DIM)).astype(np.float32)
