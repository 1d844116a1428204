"""What is summed up over rows, read in blocks, and samples of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import chunk_rows
from latentdb.search.selection import vector_blocks
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

Doubles = NDArray[np.float64]


def posterior_blocks(snapshot: Snapshot, rows: Ints) -> Iterator[tuple[Floats, Floats | None]]:
    """z_mean and z_log_var of rows, float32 ``[n, d]`` each, a limited number at a time.

    z_log_var is None where a row has none.  `vector_blocks` gives z_mean alone.
    """
    step = chunk_rows(snapshot.dim)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield snapshot.latents(part)


def mean_vector(snapshot: Snapshot, rows: Ints) -> Doubles:
    """The mean z_mean of one or more rows, float64 ``[d]``."""
    total = np.zeros(snapshot.dim)
    for block in vector_blocks(snapshot, rows):
        total += block.sum(axis=0, dtype=np.float64)
    return total / len(rows)


def norms(snapshot: Snapshot, rows: Ints) -> Doubles:
    """The length of z_mean of each row, float64 ``[n]``."""
    found = [np.empty(0)]
    for block in vector_blocks(snapshot, rows):
        found.append(np.linalg.norm(block.astype(np.float64), axis=1))
    return np.concatenate(found)


def sample_rows(rows: Ints, count: int, seed: int) -> Ints:
    """At most `count` of the row numbers, drawn without replacement, ascending."""
    if len(rows) <= count:
        return rows
    drawn = np.random.default_rng(seed).choice(rows, count, replace=False, shuffle=False)
    return np.asarray(np.sort(drawn))
