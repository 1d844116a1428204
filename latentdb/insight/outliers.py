"""Rows that are unlike the others, by three measures that are not mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.neighbours import others_mask
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.images.decode import Preprocessing
from latentdb.insight.errors import measure, stored
from latentdb.model.posterior import Decode, divergences
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.searcher import Searcher
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

Doubles = NDArray[np.float64]
Report = Callable[[int, int], None]

ERROR, KL, DISTANCE = "error", "kl", "distance"
COLUMNS = (ERROR, KL, DISTANCE)
DEFINITIONS = (
    "error: how unusual the reconstruction error is beside the local texture, in standard "
    "deviations; kl: divergence of the posterior from the prior, in nats; distance: mean distance "
    "of the k nearest others"
)
_NOISE = 1.0  # squared levels added to errors and textures, which may be 0
_LEAST = 3  # images that errors are compared among
_BATCH = 1_024


@dataclass(frozen=True)
class Outlier:
    """One row, with its three measures and its rank in each, 1 being the most unusual.

    A measure is None where it cannot be computed, and so is its rank.
    """

    id: str
    error: float | None
    kl: float | None
    distance: float | None
    error_rank: int | None
    kl_rank: int | None
    distance_rank: int | None


@dataclass(frozen=True, eq=False)
class Outliers:
    """The most unusual rows by one measure.

    Attributes
    ----------
    by
        The measure that they are ordered by.
    top
        The most unusual first.
    rows
        int64 ``[n]``: all rows that were looked at.
    error, kl, distance
        float64 ``[n]`` of `rows`; NaN where it cannot be computed.  See `DEFINITIONS`.
    notes
        What was left out, and why.
    """

    by: str
    top: tuple[Outlier, ...]
    rows: Ints
    error: Doubles
    kl: Doubles
    distance: Doubles
    notes: tuple[str, ...]


def find_outliers(
    snapshot: Snapshot,
    rows: Ints,
    searcher: Searcher,
    *,
    n: int = 20,
    by: str | None = None,
    k: int = 10,
    spec: Preprocessing | None = None,
    decode: Decode | None = None,
    report: Report | None = None,
) -> Outliers:
    """The rows that are most unlike the others.

    Parameters
    ----------
    rows
        Row numbers, ascending.
    n
        Rows to name.
    by
        One of `COLUMNS`; by default the first that can be computed.
    k
        Neighbours, among all rows of the store, whose distances are averaged.
    spec, decode
        How the model reads images, and latents to images; None without a decoder.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    NotFoundError
        If there are no rows.
    """
    if not len(rows):
        raise NotFoundError("no rows to look at: index images first, or use another expression")
    if n < 1:
        raise InvalidInputError(f"{n} rows cannot be named: give 1 or more")
    if not 1 <= k <= 1_000:
        raise InvalidInputError(f"k {k} cannot be used: give 1 to 1,000")
    if by is not None and by not in COLUMNS:
        raise InvalidInputError(f"by {by!r} is not known: use {', '.join(COLUMNS)}")
    values = {name: np.full(len(rows), np.nan) for name in COLUMNS}
    errors, textures = values[ERROR].copy(), values[ERROR].copy()
    embedded = EmbeddedRows(snapshot, searcher.metric)
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        values[DISTANCE][part] = _distances(searcher, embedded, rows[part], k)
        values[KL][part] = _divergences(snapshot, rows[part])
        errors[part], textures[part] = _errors(snapshot, rows[part], spec, decode)
        if report is not None:
            report(min(start + _BATCH, len(rows)), len(rows))
    values[ERROR] = unusual(errors, textures)
    known = {name: np.isfinite(column) for name, column in values.items()}
    chosen = by or next((name for name in COLUMNS if known[name].any()), DISTANCE)
    if not known[chosen].any():
        why = {
            ERROR: f"a decoder, and {_LEAST} images that can be read",
            KL: "z_log_var",
            DISTANCE: "another row",
        }
        raise InvalidInputError(f"{chosen} needs {why[chosen]}, which this store has not")
    ranks = {name: _ranks(column) for name, column in values.items()}
    top = np.argsort(ranks[chosen], kind="stable")[: min(n, int(known[chosen].sum()))]
    found = []
    for name, index in zip(snapshot.ids(rows[top]), top.tolist(), strict=True):
        error, kl, distance = (
            float(values[one][index]) if known[one][index] else None for one in COLUMNS
        )
        places = (int(ranks[one][index]) if known[one][index] else None for one in COLUMNS)
        found.append(Outlier(name, error, kl, distance, *places))
    measured = int((np.isfinite(errors) & np.isfinite(textures)).sum())
    notes = _notes(known, measured, spec is not None and decode is not None)
    return Outliers(chosen, tuple(found), rows, values[ERROR], values[KL], values[DISTANCE], notes)


def _notes(
    known: dict[str, NDArray[np.bool_]], measured: int, has_decoder: bool
) -> tuple[str, ...]:
    notes = []
    missing = len(known[ERROR]) - measured
    if not has_decoder and not measured:
        notes.append("error is left out: this store has no decoder")
    elif missing:
        notes.append(f"error is left out where the image cannot be read: {counted(missing, 'row')}")
    if 0 < measured < _LEAST:
        notes.append(f"error is left out: it is compared among {_LEAST} images or more")
    if not known[KL].any():
        notes.append("kl is left out: this store has no z_log_var")
    return tuple(notes)


def _ranks(values: Doubles) -> Ints:
    """1 for the greatest; those that are no numbers come last."""
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(1, len(values) + 1)
    return ranks


def _distances(searcher: Searcher, embedded: EmbeddedRows, rows: Ints, k: int) -> Doubles:
    """Mean distance of the k nearest others; NaN for a row that is alone."""
    k = min(k, len(searcher.snapshot) - 1)
    if k < 1:
        return np.full(len(rows), np.nan)
    hits = searcher.search(embedded.fetch(rows), k=k + 1)
    gaps = hits.distances[others_mask(hits.rows, rows)].reshape(len(rows), k)
    return np.asarray(gaps.mean(axis=1, dtype=np.float64))


def _divergences(snapshot: Snapshot, rows: Ints) -> Doubles:
    """Divergence of each posterior from N(0, 1) in nats; NaN without z_log_var."""
    log_vars = snapshot.log_vars(rows)
    if log_vars is None:
        return np.full(len(rows), np.nan)
    return np.asarray(divergences(snapshot.vectors(rows), log_vars).sum(axis=1))


def _errors(
    snapshot: Snapshot, rows: Ints, spec: Preprocessing | None, decode: Decode | None
) -> tuple[Doubles, Doubles]:
    """Errors and textures of rows: those that are stored, and others measured now."""
    errors, textures = stored(snapshot, rows)
    missing = np.flatnonzero(np.isnan(errors))
    if len(missing) and spec is not None and decode is not None:
        errors[missing], textures[missing] = measure(snapshot, rows[missing], spec, decode)
    return errors, textures


def unusual(errors: Doubles, textures: Doubles) -> Doubles:
    """How unusual each error is beside its texture, in standard deviations.

    Mahalanobis distance of the logarithms of both from their mean over the rows.  The error
    alone ranks busy images first, and their ratio puts noise last.

    Parameters
    ----------
    errors, textures
        float64 ``[n]``; NaN where there is none.
    """
    found = np.full(len(errors), np.nan)
    known = np.isfinite(errors) & np.isfinite(textures)
    if known.sum() < _LEAST:
        return found
    pairs = np.log(np.stack([errors[known], textures[known]]) + _NOISE)
    gaps = pairs - pairs.mean(axis=1, keepdims=True)
    inverse = np.linalg.pinv(np.cov(pairs), rcond=1e-9, hermitian=True)
    found[known] = np.sqrt(np.maximum(np.einsum("in,ij,jn->n", gaps, inverse, gaps), 0))
    return found
