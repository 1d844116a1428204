"""Images that a store has more than once: equal files, and near copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.exact import chunk_rows
from latentdb.ann.neighbours import others_mask
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.images.decode import Preprocessing
from latentdb.insight.blocks import sample_rows
from latentdb.insight.copies import NEIGHBOURS, Threshold, calibrate
from latentdb.insight.grouping import Pairs, complete_linkage
from latentdb.insight.originals import read_originals
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.searcher import Searcher
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

Report = Callable[[int, int], None]
Posteriors = Callable[..., tuple[Floats, "Floats | None"]]  # of images, and their metadata

KEEP = ("medoid", "largest")
_SAMPLE, _LEAST = 1_000, 20  # rows to calibrate on
_BATCH = 1_024  # queries at a time
_FEW_COPIES = 0.5  # share of mild ones; if fewer are within the threshold, a note says so
_FIRST, _GROWTH, _MOST = 10, 4, 640  # neighbours of a row that are looked at
_MAX_PAIRS = 20_000_000


@dataclass(frozen=True)
class Member:
    """One row of a group: id, distance from the one to keep, bytes of its file (0: none)."""

    id: str
    distance: float
    bytes: int


@dataclass(frozen=True)
class Group:
    """Rows that are copies of each other, every one of every other.

    Attributes
    ----------
    keep
        Id of the row to keep.
    exact
        Whether all files have the same content.
    diameter
        Largest distance between two of them.
    members
        All of them, the one to keep first, then by their distance from it.
    """

    keep: str
    exact: bool
    diameter: float
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups of copies.

    Attributes
    ----------
    rows
        Rows that were compared.
    metric, threshold
        Two rows within the threshold by this metric are copies.
    groups
        The farthest apart first, those of equal files last.
    notes
        What was not looked at.
    """

    rows: int
    metric: str
    threshold: Threshold
    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def surplus(self) -> list[str]:
        """Ids of all rows but those to keep."""
        return [member.id for group in self.groups for member in group.members[1:]]


@dataclass(frozen=True, eq=False)
class _Contents:
    """Rows by what their files hold.

    Attributes
    ----------
    rows, sizes
        int64 ``[n]`` row numbers, ascending, and bytes of their files.
    first
        int64 ``[n]``: index of the first row of the same content.
    """

    rows: Ints
    sizes: Ints
    first: Ints


def find_duplicates(
    snapshot: Snapshot,
    rows: Ints,
    searcher: Searcher,
    *,
    threshold: float | None = None,
    spec: Preprocessing | None = None,
    encode: Posteriors | None = None,
    keep: str = KEEP[0],
    seed: int = 0,
    report: Report | None = None,
) -> Duplicates:
    """Groups of rows all of which are within a threshold of each other.

    Equal files are one row of the search.  Its neighbours come from the index; groups are
    made by complete linkage, so that no chain of similar images becomes a group.

    Parameters
    ----------
    rows
        Row numbers, ascending; all of them.
    threshold
        In the metric of the searcher; calibrated with the model if None.
    spec, encode
        How the model reads images, and images to z_mean and z_log_var.
    keep
        Of each group the ``"medoid"``, or the ``"largest"`` file.

    Raises
    ------
    InvalidInputError
        If the threshold cannot be used or calibrated, or too many pairs are within it.
    NotFoundError
        If there are no rows.
    """
    if keep not in KEEP:
        raise InvalidInputError(f"keep {keep!r} is not known: use {' or '.join(KEEP)}")
    if not len(rows):
        raise NotFoundError("no rows to compare: index images first")
    embedded = EmbeddedRows(snapshot, searcher.metric)
    if threshold is None:
        found = _calibrate(snapshot, rows, searcher, embedded, spec, encode, seed)
    elif threshold >= 0:
        found = Threshold(float(threshold))
    else:
        raise InvalidInputError(f"threshold {threshold!r} cannot be used: give a distance, 0 up")
    contents = _contents(snapshot, rows)
    near, crowded = _pairs(searcher, embedded, contents, found.value, report)
    groups = _groups(snapshot, searcher, embedded, contents, complete_linkage(near), keep)
    notes = []
    if crowded:
        notes.append(
            f"{crowded:,} rows have more than {_MOST:,} others within the threshold: their "
            "groups may be in parts"
        )
    if found.recall is not None and found.recall < _FEW_COPIES:
        notes.append(
            "copies of an image are no nearer to it than other images are: only "
            f"{found.recall:.0%} of mild ones are within the threshold, and most near copies "
            "are missed"
        )
    return Duplicates(len(rows), searcher.metric, found, tuple(groups), tuple(notes))


def _calibrate(
    snapshot: Snapshot,
    rows: Ints,
    searcher: Searcher,
    embedded: EmbeddedRows,
    spec: Preprocessing | None,
    encode: Posteriors | None,
    seed: int,
) -> Threshold:
    if spec is None or encode is None:
        raise InvalidInputError(
            "this store has no model to calibrate a threshold with: give a threshold"
        )
    if len(rows) <= NEIGHBOURS:
        raise InvalidInputError(
            f"a threshold is calibrated on {NEIGHBOURS + 1} rows or more, and there "
            f"{'is' if len(rows) == 1 else 'are'} {len(rows)}: give a threshold"
        )
    drawn = sample_rows(rows, _SAMPLE, seed)
    indices, images = read_originals(snapshot, drawn, spec)
    if len(indices) < _LEAST:
        raise InvalidInputError(
            f"{len(indices)} of {len(drawn):,} images can be read, too few to calibrate a "
            "threshold: give a threshold, or put the files back"
        )
    drawn = drawn[indices]
    own = embedded.fetch(drawn)
    hits = searcher.search(own, k=NEIGHBOURS + 1)
    vectors = embedded.fetch(hits.rows[others_mask(hits.rows, drawn)])
    asked = np.repeat(own, NEIGHBOURS, axis=0)
    gaps = np.linalg.norm(np.subtract(vectors, asked, dtype=np.float64), axis=1)
    return calibrate(
        images,
        own,
        np.sort(gaps.reshape(len(drawn), NEIGHBOURS), axis=1).astype(np.float32),
        lambda pixels: searcher.space.embed(*encode(pixels, snapshot.metadata(drawn))),
        searcher.space.distances,
        seed=seed,
    )


def _contents(snapshot: Snapshot, rows: Ints) -> _Contents:
    sizes = np.zeros(len(rows), np.int64)
    digests = np.zeros(len(rows), np.uint64)
    for segment, positions, indices in snapshot.groups(rows):
        if segment.file_stats is not None:
            stats = segment.file_stats.take(positions)
            sizes[indices], digests[indices] = stats.sizes, stats.digests
    first = np.arange(len(rows))
    files = np.flatnonzero(sizes > 0)
    order = files[np.lexsort((files, sizes[files], digests[files]))]
    starts = np.ones(len(order), bool)
    starts[1:] = (digests[order[1:]] != digests[order[:-1]]) | (
        sizes[order[1:]] != sizes[order[:-1]]
    )
    if len(order):
        first[order] = order[starts][np.cumsum(starts) - 1]
    return _Contents(rows, sizes, first)


def _pairs(
    searcher: Searcher,
    embedded: EmbeddedRows,
    contents: _Contents,
    threshold: float,
    report: Report | None,
) -> tuple[Pairs, int]:
    """Pairs of different contents within the threshold, and rows with too many of them."""
    asked = np.unique(contents.first)
    keys: list[Ints] = [np.empty(0, np.int64)]
    gaps: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    total = crowded = 0
    count = len(contents.rows)
    for start in range(0, len(asked), _BATCH):
        left, k = asked[start : start + _BATCH], _FIRST
        while len(left):
            k = min(k, len(searcher.snapshot))
            hits = searcher.search(embedded.fetch(contents.rows[left]), k=k)
            near = (hits.distances <= threshold) & (hits.rows >= 0)
            # Where the last one is near, there may be more: ask again, for more.
            more = near[:, -1] & (k < len(searcher.snapshot))
            if k >= _MOST:
                crowded += int(more.sum())
                more[:] = False
            done = near & ~more[:, None]
            one = np.broadcast_to(left[:, None], done.shape)[done]
            other = contents.first[np.searchsorted(contents.rows, hits.rows[done])]
            different = one != other
            low, high = np.minimum(one, other)[different], np.maximum(one, other)[different]
            keys.append(low * count + high)
            gaps.append(hits.distances[done][different])
            total += len(low)
            left, k = left[more], _GROWTH * k
        if total > _MAX_PAIRS:
            raise InvalidInputError(
                f"over {_MAX_PAIRS // 2:,} pairs are within {threshold:g} of each other: give a "
                "smaller threshold"
            )
        if report is not None:
            report(min(start + _BATCH, len(asked)), len(asked))
    key, places = np.unique(np.concatenate(keys), return_index=True)
    distance = np.concatenate(gaps)[places].astype(np.float64)
    return Pairs(key // count, key % count, distance), crowded


def _groups(
    snapshot: Snapshot,
    searcher: Searcher,
    embedded: EmbeddedRows,
    contents: _Contents,
    near: list[Ints],
    keep: str,
) -> list[Group]:
    """Groups of near contents, each with all rows of them, and contents of several rows."""
    order = np.argsort(contents.first, kind="stable")
    bounds = np.searchsorted(contents.first[order], np.arange(len(order) + 1))
    repeated = np.flatnonzero(np.diff(bounds) > 1)
    grouped = np.concatenate([np.empty(0, np.int64), *near])
    alone = repeated[~np.isin(repeated, grouped)]
    groups = []
    for firsts in [*near, *alone[:, None]]:
        vectors = embedded.fetch(contents.rows[firsts]).astype(np.float64)
        square = _square(vectors)
        copies = [order[bounds[first] : bounds[first + 1]] for first in firsts.tolist()]
        content = np.repeat(np.arange(len(firsts)), [len(each) for each in copies])
        members = np.concatenate(copies)
        sizes = contents.sizes[members]
        # The first of the best: ties by the largest file, then by age.
        if keep == KEEP[1]:
            best = int(np.lexsort((members, -sizes))[0])
        else:
            sums = square[:, content].sum(axis=1)[content]
            best = int(np.lexsort((members, -sizes, sums.round(6)))[0])
        l2 = square[content[best]][content]
        l2[best] = -1
        ranked = np.lexsort((members, l2))
        l2[best] = 0
        gaps = searcher.space.distances(l2.astype(np.float32))
        names = snapshot.ids(contents.rows[members[ranked]])
        facts = zip(names, gaps[ranked].tolist(), sizes[ranked].tolist(), strict=True)
        widest = searcher.space.distances(np.array([square.max()], np.float32))
        groups.append(
            Group(
                names[0],
                len(firsts) == 1,
                float(widest[0]),
                tuple(Member(*fact) for fact in facts),
            )
        )
    return sorted(groups, key=lambda group: (group.exact, -group.diameter))


def _square(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """All distances, float64 ``[n, n]``, a few rows at a time."""
    square = np.empty((len(vectors), len(vectors)))
    step = max(1, chunk_rows(vectors.shape[1]) // max(len(vectors), 1))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step, None] - vectors
        square[start : start + step] = np.sqrt(np.einsum("ijk,ijk->ij", part, part))
    return square
