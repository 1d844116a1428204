"""Clusters of a store: centres, medoids, and how far labels agree within them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from latentdb.ann import kmeans
from latentdb.ann.exact import chunk_rows
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.insight.blocks import sample_rows
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.selection import check_column, column_values
from latentdb.store.columns import Value
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_CLUSTERS = 10_000
_NEAREST = 8  # rows that are named beside the medoid


@dataclass(frozen=True)
class Cluster:
    """Rows near to each other.

    Attributes
    ----------
    number
        From 0; the largest cluster is the first.
    size
        Rows in it.
    medoid
        Id of the row nearest to the centre.
    nearest
        Ids of the next nearest ones, at most 8.
    spread
        Mean distance of its rows from the centre.
    label, purity
        The most frequent value of the label column, and its share; None without one.
    """

    number: int
    size: int
    medoid: str
    nearest: tuple[str, ...]
    spread: float
    label: Value | None
    purity: float | None


@dataclass(frozen=True, eq=False)
class Clustering:
    """All rows in clusters.

    Attributes
    ----------
    clusters
        The largest first; none is empty.
    rows, assignment
        Row numbers and the number of the cluster of each, int64 ``[n]``.
    means
        float32 ``[c, d]``: mean z_mean of each cluster, which can be decoded.
    purity
        Share of labelled rows that have the most frequent label of their cluster; None
        without labels.
    """

    clusters: tuple[Cluster, ...]
    rows: Ints
    assignment: Ints
    means: Floats
    purity: float | None


def cluster(
    snapshot: Snapshot,
    rows: Ints,
    count: int,
    *,
    metric: str,
    label: str | None = None,
    seed: int = 0,
) -> Clustering:
    """Rows in `count` clusters by k-means in the space of a metric.

    Parameters
    ----------
    rows
        Row numbers, ascending.
    metric
        One of `latentdb.ann.metrics.METRICS`.
    label
        Metadata column that purity is measured by.

    Raises
    ------
    InvalidInputError
        If there are fewer rows than clusters.
    NotFoundError
        If there are no rows.
    """
    if not len(rows):
        raise NotFoundError("no rows to cluster: index images first, or use another expression")
    most = min(MAX_CLUSTERS, len(rows))
    if not 1 <= count <= most:
        raise InvalidInputError(
            f"{counted(count, 'cluster')} cannot be made of {counted(len(rows), 'row')}: "
            f"give {'1' if most == 1 else f'1 to {most:,}'}"
        )
    check_column(snapshot, label)
    embedded = EmbeddedRows(snapshot, metric)
    fitted = sample_rows(rows, count * kmeans.ROWS_PER_CENTRE, seed)
    centres = kmeans.centres(embedded.fetch(fitted), count, seed=seed)
    vectors = (block.vectors for block in embedded.blocks_of(rows))
    found, distances = kmeans.assign(vectors, centres)
    sizes = np.bincount(found, minlength=count)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(len(order))
    assignment = rank[found]
    distances = embedded.space.distances(distances)
    labels = None if label is None else column_values(snapshot, rows, label)
    # The members of each cluster, the nearest to its centre first.
    members = np.split(np.lexsort((distances, assignment)), np.cumsum(sizes[order])[:-1])
    counts = [_counts(labels, each) for each in members]
    clusters = tuple(
        _describe(snapshot, rows, each, number, distances, count)
        for number, (each, count) in enumerate(zip(members, counts, strict=True))
    )
    known = sum(count.total() for count in counts)
    agreeing = sum(max(count.values(), default=0) for count in counts)
    means = _means(snapshot, rows, assignment, len(order))
    return Clustering(clusters, rows, assignment, means, agreeing / known if known else None)


def _counts(labels: list[Value | None] | None, members: Ints) -> Counter[Value]:
    """How often each label is among the members; empty without labels."""
    if labels is None:
        return Counter()
    return Counter(value for index in members.tolist() if (value := labels[index]) is not None)


def _describe(
    snapshot: Snapshot,
    rows: Ints,
    members: Ints,
    number: int,
    distances: Floats,
    counts: Counter[Value],
) -> Cluster:
    names = snapshot.ids(rows[members[: _NEAREST + 1]])
    best = counts.most_common(1)[0] if counts else None
    return Cluster(
        number,
        len(members),
        names[0],
        tuple(names[1:]),
        float(distances[members].mean()),
        None if best is None else best[0],
        None if best is None else best[1] / counts.total(),
    )


def _means(snapshot: Snapshot, rows: Ints, assignment: Ints, count: int) -> Floats:
    """Mean z_mean of each cluster, float32 ``[count, d]``."""
    sums = np.zeros((count, snapshot.dim))
    step = chunk_rows(snapshot.dim)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        order = np.argsort(assignment[part], kind="stable")
        numbers = assignment[part][order]
        firsts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
        vectors = snapshot.vectors(rows[part])[order]
        sums[numbers[firsts]] += np.add.reduceat(vectors, firsts, axis=0, dtype=np.float64)
    sizes = np.bincount(assignment, minlength=count)
    return np.asarray(sums / np.maximum(sizes, 1)[:, None], np.float32)
