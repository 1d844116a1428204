"""Where a latent lies beside the data: its length, what decoding loses, what is near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latentdb.insight.blocks import norms, sample_rows
from latentdb.model.posterior import Decode
from latentdb.search.results import Match, to_matches
from latentdb.search.searcher import Searcher
from latentdb.store.rows import Floats
from latentdb.store.snapshot import Snapshot

Encode = Callable[..., tuple[Floats, Floats | None]]

NEAREST = 3
_USUAL_ROWS = 64  # whose drift is what is usual


@dataclass(frozen=True)
class Position:
    """Where a latent lies beside the rows of a store.

    Attributes
    ----------
    norm
        Its length |z|.
    percentile
        Share of the rows that are shorter, 0 to 1: far out in either tail the decoder was
        never asked for such a latent.  None in an empty store.
    drift
        ``|encode(decode(z)) - z|``: how much of it the picture loses; None without a decoder.
    usual_drift
        The median of 64 rows; None likewise.
    nearest
        The three nearest rows by L2.
    """

    norm: float
    percentile: float | None
    drift: float | None
    usual_drift: float | None
    nearest: tuple[Match, ...]


def locate(
    snapshot: Snapshot,
    searcher: Searcher,
    vector: Floats,
    decode: Decode | None,
    encode: Encode | None,
) -> Position:
    """Where a latent lies beside the rows of a store.

    Parameters
    ----------
    searcher
        By L2, of the same version.
    vector
        float32 ``[d]``.
    decode, encode
        Of the store's model; None where there is none.
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    rows = snapshot.live_rows()
    shorter = int((norms(snapshot, rows) < norm).sum())
    drift = usual = None
    if decode is not None and encode is not None:
        some = snapshot.vectors(sample_rows(rows, _USUAL_ROWS, 0))
        latents = np.concatenate([vector[None], some])
        found, _ = encode(decode(latents))
        drifts = np.linalg.norm(found.astype(np.float64) - latents, axis=1)
        drift = float(drifts[0])
        usual = float(np.median(drifts[1:])) if len(some) else None
    hits = searcher.search(vector[None], k=max(1, min(NEAREST, len(rows))), exact=True)
    matches = to_matches(snapshot, searcher.metric, hits, 0, set(), NEAREST).matches
    return Position(norm, shorter / len(rows) if len(rows) else None, drift, usual, matches)
