"""Which search index suits a store: a pure function of its size and the memory allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

EXACT_ROWS = 50_000  # rows of up to 64 dimensions that need no index: see `exact_rows`
# Unindexed rows of up to 64 dimensions that a query may compare on top of the index: at 100,000
# rows it then takes 1.4 times as long on real latents, 1.65 where it takes 0.1 ms.  Adding them
# to the index takes a second.
_UNINDEXED_ROWS, _INDEXED_PER_UNINDEXED = 5_000, 100
_FULL_DIM = 64  # dimensions up to which EXACT_ROWS applies in full
# The types of index, by their names in the manifest.
IVF4 = "ivf-sq4"  # inverted file, 4-bit PQ fast-scan codes
IVF = "ivf-sq8"  # inverted file, 8-bit scalar codes
HNSW = "hnsw-sq8"  # graph, 8-bit scalar codes
PREFERENCES = ("build", "latency")
BITS = 4  # of an `IVF4` code for a dimension
BLOCK = 32  # rows whose 4-bit codes are interleaved: an inverted list is padded to a multiple
DEGREE = 32  # HNSW's M: links of a row, twice as many on level 0
_ROW_NUMBER_BYTES = 8
# Of nlist = 0.75 sqrt(n): with 4-bit codes, probing a list costs as much as comparing 500 of its
# rows, so lists are longer than for 8-bit codes (4,000 for 1M rows took twice as long as 1,500,
# and 474 for 100,000 a tenth longer than 221).
_NLIST_FACTOR = 0.75
_SQRT_ROWS = 10_000_000  # rows above which assigning rows to lists costs more than probing them


@dataclass(frozen=True)
class Plan:
    """What to build.

    Attributes
    ----------
    kinds
        Types of index to try: `IVF4`, then `IVF` where 4-bit codes are too
        coarse, and `HNSW` against them, of which the faster is used; none for
        an exact scan.
    nlist
        Inverted lists.
    bytes
        Memory of the largest of them.
    why
        The reason, where a type was ruled out.
    """

    kinds: tuple[str, ...]
    nlist: int
    bytes: int
    why: str


def nlist_for(rows: int) -> int:
    """Inverted lists for a number of rows: ``0.75 sqrt(n)``.

    Above ten million rows the build time grows with ``n * nlist``, so nlist
    grows with the fourth root only.
    """
    few = min(rows, _SQRT_ROWS)
    growth = math.sqrt(math.sqrt(max(rows, 1) / max(few, 1)))
    return max(1, round(_NLIST_FACTOR * math.sqrt(few) * growth))


def exact_rows(dim: int, *, prefer: str = "build") -> int:
    """Rows up to which a store has no index, because a scan is fast enough.

    An index of 50,000 rows of 64 dimensions takes 3 to 5 s to build and tune,
    and saves half a millisecond a query: it pays off after ten thousand
    queries, and a scan is exact. A scan takes time in proportion to rows times
    dimensions, so the limit falls with the dimensions, down to two fifths
    (20,000 rows of 512 dimensions are scanned in 1.5 ms).

    Parameters
    ----------
    dim
        Dimensions in which rows are compared: see `latentdb.ann.metrics.Space.dim`.
    prefer
        As in `plan`; ``"latency"`` gives two fifths for any dimensions.
    """
    least = 2 * EXACT_ROWS // 5
    if prefer == "latency":
        return least
    return max(EXACT_ROWS * _FULL_DIM // max(dim, _FULL_DIM), least)


def unindexed_rows(indexed: int, dim: int) -> int:
    """Rows that are compared on top of an index before they are added to it.

    5,000, fewer in proportion above 64 dimensions, or one for a hundred indexed rows,
    whichever is more: adding rows takes time in proportion to those that are indexed.

    Parameters
    ----------
    indexed
        Rows in the index.
    dim
        As in `exact_rows`.
    """
    least = _UNINDEXED_ROWS * _FULL_DIM // max(dim, _FULL_DIM)
    return max(min(least, EXACT_ROWS), indexed // _INDEXED_PER_UNINDEXED)


def index_bytes(kind: str, rows: int, dim: int) -> int:
    """Memory of an index, rounded up a little.

    Measured on 1,000,000 rows of 64 dimensions: 41 bytes a row for `IVF4`, 74
    for `IVF`, 343 for `HNSW`.
    """
    if kind == HNSW:
        return rows * (dim + _ROW_NUMBER_BYTES + 4 * 2 * DEGREE + 4 * DEGREE // 16 + 12)
    code = (dim * BITS + 7) // 8 if kind == IVF4 else dim
    padding = BLOCK * code if kind == IVF4 else 0
    return rows * (code + _ROW_NUMBER_BYTES) + nlist_for(rows) * (4 * dim + 32 + padding)


def plan(rows: int, dim: int, memory: int | None = None, *, prefer: str = "build") -> Plan:
    """The types of index to try for a store.

    Parameters
    ----------
    rows, dim
        Of the store, in the space of its metric.
    memory
        Bytes the index may take; None for no limit.
    prefer
        ``"build"``: an inverted file, built in seconds.  ``"latency"``: also an
        HNSW graph, where memory allows; it takes up to forty times as long to build.
    """
    nlist = nlist_for(rows)
    if rows <= exact_rows(dim, prefer=prefer):
        return Plan((), nlist, 0, f"{rows:,} rows of {dim:,} dimensions are few: all are compared")
    wanted = (IVF4, IVF, HNSW) if prefer == "latency" else (IVF4, IVF)
    fitting = tuple(
        kind for kind in wanted if memory is None or index_bytes(kind, rows, dim) <= memory
    )
    # 8-bit lists are the fallback of 4-bit ones: that they do not fit is no reason to report.
    missing = [kind for kind in wanted if kind not in fitting and kind != IVF]
    why = ""
    if missing:
        need = index_bytes(missing[0], rows, dim)
        why = f"{missing[0]} would take {need:,} bytes, at most {memory:,} are allowed"
    most = max((index_bytes(kind, rows, dim) for kind in fitting), default=0)
    return Plan(fitting, nlist, most, why)
