"""The posteriors of a snapshot, read once in blocks, and samples of its rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentdb.ann.exact import chunk_rows
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot


def posterior_blocks(
    snapshot: Snapshot, rows: Ints, *, log_vars: bool = True
) -> Iterator[tuple[Floats, Floats | None]]:
    """z_mean and z_log_var of rows, float32 ``[n, d]`` each, a limited number at a time.

    z_log_var is None where a row has none, and without `log_vars`, which saves reading it.
    """
    step = chunk_rows(snapshot.dim)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield snapshot.vectors(part), snapshot.log_vars(part) if log_vars else None


def sample_rows(rows: Ints, count: int, seed: int) -> Ints:
    """At most `count` of the row numbers, drawn without replacement, ascending."""
    if len(rows) <= count:
        return rows
    drawn = np.random.default_rng(seed).choice(rows, count, replace=False, shuffle=False)
    return np.asarray(np.sort(drawn))
