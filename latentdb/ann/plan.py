"""Which search index suits a store: a pure function of its size and the memory allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

EXACT_ROWS = 50_000  # of 64 dimensions or fewer: up to here every row is compared, see exact_rows
IVF4 = "ivf-sq4"
IVF = "ivf-sq8"
HNSW = "hnsw-sq8"
PREFERENCES = ("build", "latency")
DEGREE = 32  # of the graph: links of a row, twice as many on the ground floor
# Measured on 1,000,000 rows of 64 dimensions: 41 bytes a row (4 bits), 74 (8 bits), 343 (graph).
_ROW_NUMBER = 8
BITS = 4  # of a code of `IVF4` for a dimension
BLOCK = 32  # rows whose codes of 4 bits lie together: a list is filled up to a multiple of it
_FULL_DIM = 64  # dimensions up to which EXACT_ROWS is the limit as it stands
_ASSIGNED = 10_000_000  # rows from which assigning each to its list outweighs a probe
_LISTS = 1.5  # times the root of the rows


@dataclass(frozen=True)
class Plan:
    """What to build.

    Attributes
    ----------
    kinds
        To be tried: `IVF4`, then `IVF` where 4 bits do not tell neighbours
        apart, and `HNSW` against them, of which the faster is kept; none of
        them for an exact scan.
    lists
        Of the inverted file.
    bytes
        The largest of them in memory.
    why
        In a few words, where the choice was not free.
    """

    kinds: tuple[str, ...]
    lists: int
    bytes: int
    why: str


def lists_for(rows: int) -> int:
    """How many lists divide so many rows.

    ``1.5 sqrt(n)``: with 4-bit codes to visit a list costs as much as 500 of its rows,
    so lists are longer than for 8 bits (on a million rows 4,000 took twice as long).
    Past ten million the time of a build goes by ``n * lists``, so they grow
    with the fourth root.
    """
    few = min(rows, _ASSIGNED)
    return max(1, round(_LISTS * math.sqrt(few) * math.sqrt(math.sqrt(max(rows, 1) / max(few, 1)))))


def exact_rows(dim: int, *, prefer: str = "build") -> int:
    """Up to how many rows a store has no index, because comparing every row is quick enough.

    An index of 50,000 rows of 64 dimensions takes 3 to 5 s to build and tune,
    nearly as long as reading and encoding as many small images, and saves half a
    millisecond a query: it pays for itself after ten thousand queries, and a
    scan is exact.  The time of a scan goes by rows times dimensions, so the limit falls
    as the dimensions grow.  It stays at two fifths: 20,000 rows of 512
    dimensions are scanned in 1.5 ms, which is still little.

    Parameters
    ----------
    dim
        Of the space in which rows are compared: see `latentdb.ann.metrics.Space.dim`.
    prefer
        As in `plan`: whoever asks for latency has an index from two fifths on.

    Returns
    -------
    int
        `EXACT_ROWS` up to 64 dimensions, fewer in proportion above, never less
        than two fifths of it.
    """
    least = 2 * EXACT_ROWS // 5
    if prefer == "latency":
        return least
    return max(EXACT_ROWS * _FULL_DIM // max(dim, _FULL_DIM), least)


def index_bytes(kind: str, rows: int, dim: int) -> int:
    """Bytes that an index takes in memory, rounded up a little."""
    if kind == HNSW:
        return rows * (dim + _ROW_NUMBER + 4 * 2 * DEGREE + 4 * DEGREE // 16 + 12)
    code = (dim * BITS + 7) // 8 if kind == IVF4 else dim
    filling = BLOCK * code if kind == IVF4 else 0
    return rows * (code + _ROW_NUMBER) + lists_for(rows) * (4 * dim + 32 + filling)


def plan(rows: int, dim: int, memory: int | None = None, *, prefer: str = "build") -> Plan:
    """Choose the kinds of index for a store.

    Parameters
    ----------
    rows, dim
        Of the store, in the space of its metric.
    memory
        Bytes the index may take; None for as many as it needs.
    prefer
        ``"build"``: an inverted file, built in seconds.  ``"latency"``: a graph
        too, where memory allows; it takes up to forty times as long to build.
    """
    lists = lists_for(rows)
    if rows <= exact_rows(dim, prefer=prefer):
        return Plan((), lists, 0, f"{rows} rows of {dim} dimensions are few: all are compared")
    wanted = (IVF4, IVF, HNSW) if prefer == "latency" else (IVF4, IVF)
    fitting = tuple(
        kind for kind in wanted if memory is None or index_bytes(kind, rows, dim) <= memory
    )
    # That the larger lists do not fit matters to nobody whose smaller ones do.
    missing = [kind for kind in wanted if kind not in fitting and kind != IVF]
    why = ""
    if missing:
        need = index_bytes(missing[0], rows, dim)
        why = f"{missing[0]} would take {need} bytes of the {memory} allowed"
    most = max((index_bytes(kind, rows, dim) for kind in fitting), default=0)
    return Plan(fitting, lists, most, why)
