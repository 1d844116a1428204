"""What the latents of a store are worth: recall, agreement of labels, reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from latentdb.ann.exact import Block, chunk_rows, scan
from latentdb.ann.metrics import CENTERED_COSINE, INDEXED_METRICS, Space
from latentdb.ann.neighbours import others_mask
from latentdb.ann.ranking import rank
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.wording import counted
from latentdb.images.decode import Preprocessing
from latentdb.images.pixel_range import Pixels
from latentdb.insight.agreement import Agreement, agreement
from latentdb.insight.blocks import mean_vector, sample_rows
from latentdb.insight.fidelity import ssim
from latentdb.insight.originals import read_originals
from latentdb.model.outcome import psnr
from latentdb.model.pca import PCA, fit_pca
from latentdb.model.posterior import Decode
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.search.searcher import Searcher
from latentdb.search.selection import check_column, column_values
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

MAX_GALLERY = 50_000
DEFINITIONS = (
    "a query is not its own neighbour; accuracy: the most frequent label of the k nearest is the "
    "query's; precision: share of the k with the query's label; mAP: mean of precision@i over the "
    "ranks i with the query's label, divided by min(k, rows with that label)"
)
PIXELS, PCA_NAME, MODEL = "pixels", "pca", "model"
_PIXEL_BYTES = 1 << 30  # of the originals in memory
_READABLE = 0.9  # share of the rows whose originals must be there for a comparison with pixels
_TIE = 1e-6  # relative difference of distances that counts as equal


@dataclass(frozen=True)
class IndexRecall:
    """How many of the true neighbours a query finds.

    Attributes
    ----------
    search, metric
        Kind of the index, or ``"exact scan"``, and its metric.
    recall
        recall@k: mean share of the k true nearest that are found, the query itself left out.
    queries
        Number of queries.
    """

    search: str
    metric: str
    recall: float
    queries: int


@dataclass(frozen=True)
class SpaceScore:
    """Agreement of labels among the neighbours in one space: a metric, ``pixels`` or ``pca``."""

    name: str
    agreement: Agreement


@dataclass(frozen=True)
class Fidelity:
    """How near reconstructions are to their images, as means over images.

    Attributes
    ----------
    name
        ``model`` or ``pca``.
    psnr, ssim
        dB, and structural similarity (1 for equal images).
    images
        Number of images.
    """

    name: str
    psnr: float
    ssim: float
    images: int


@dataclass(frozen=True)
class Evaluation:
    """What the latents of a store are worth.

    Attributes
    ----------
    k, queries, gallery
        Neighbours, queries, and rows that these are sought among.
    label
        The column whose values are compared; None without one.
    index
        Recall of the search index.
    spaces
        Metrics first, then raw pixels and PCA; empty without labels.
    reconstructions
        Of the queries, by the model and by PCA; empty without a decoder or originals.
    best
        The metric with the highest mAP; None without labels.
    verdict
        One line: which metric to use.
    notes
        What was left out, and why.
    """

    k: int
    queries: int
    gallery: int
    label: str | None
    index: IndexRecall
    spaces: tuple[SpaceScore, ...]
    reconstructions: tuple[Fidelity, ...]
    best: str | None
    verdict: str
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Sample:
    """Rows to compare: the gallery ascending, and which of it are queries.

    `images` are the originals of the gallery; None where they cannot be read.
    """

    gallery: Ints
    queries: Ints
    images: Pixels | None


def evaluate(
    snapshot: Snapshot,
    rows: Ints,
    searcher: Searcher,
    *,
    spec: Preprocessing | None,
    decode: Callable[[Floats], Pixels] | None,
    label: str | None,
    metrics: tuple[str, ...] = INDEXED_METRICS,
    k: int = 10,
    queries: int = 2_000,
    seed: int = 0,
) -> Evaluation:
    """Measure recall, agreement of labels and reconstructions on a sample.

    Parameters
    ----------
    rows
        Row numbers to sample from, ascending.
    searcher
        Of the metric of the index.
    spec, decode
        How the model reads images, and latents to images; None without a model, or decoder.
    label
        Metadata column; rows without a value are left out.
    metrics
        Those of them that the store can be searched by.
    k, queries
        Neighbours, and number of queries.
    seed
        Of the samples and the bootstrap.

    Raises
    ------
    InvalidInputError
        If k or the number of queries cannot be used, or there is no such column.
    NotFoundError
        If there are fewer than two rows.
    """
    check_column(snapshot, label)
    if label is not None:
        known = [value is not None for value in column_values(snapshot, rows, label)]
        rows = rows[np.array(known, bool)]
    if len(rows) < 2:
        raise NotFoundError(
            f"{counted(len(rows), 'labelled row' if label else 'row')} cannot be compared: "
            "index more images"
        )
    if not 1 <= k < min(len(rows), 1_001):
        raise InvalidInputError(f"k {k} cannot be used: give 1 to {min(len(rows) - 1, 1_000):,}")
    if queries < 1:
        raise InvalidInputError(f"{queries} queries cannot be used: give 1 or more")
    sample, notes = _draw(snapshot, rows, spec, queries, seed)
    pca = None
    if sample.images is not None:
        others = ~np.isin(sample.gallery, sample.queries)
        if others.sum() > 1:
            order = np.random.default_rng([seed, 2]).permutation(np.flatnonzero(others))
            pca = fit_pca(sample.images[order], snapshot.dim, seed=seed)
        else:
            notes.append("PCA is left out: all rows are queries, and it must be fitted on others")
    spaces: list[SpaceScore] = []
    if label is None:
        notes.append("no labels: neighbours are not scored; give a label column")
    else:
        spaces = _score_spaces(snapshot, sample, label, metrics, pca, k, seed, notes)
    own = [space for space in spaces if space.name in INDEXED_METRICS]
    best = max(own, key=lambda one: _map(one), default=None)
    return Evaluation(
        k,
        len(sample.queries),
        len(sample.gallery),
        label,
        _recall(searcher, sample.queries, k),
        tuple(spaces),
        tuple(_reconstructions(snapshot, sample, pca, decode)),
        None if best is None else best.name,
        "no recommendation: there are no labels" if best is None else _verdict(best, spaces, k),
        tuple(notes),
    )


def _draw(
    snapshot: Snapshot, rows: Ints, spec: Preprocessing | None, queries: int, seed: int
) -> tuple[_Sample, list[str]]:
    """The sample, and what has to be left out of the comparison."""
    limit, images = MAX_GALLERY, None
    note = "without a model" if spec is None else ""
    if spec is not None:
        limit = max(2, min(limit, _PIXEL_BYTES // int(np.prod(spec.shape))))
    gallery = sample_rows(rows, limit, seed)
    if spec is not None:
        readable, images = read_originals(snapshot, gallery, spec)
        if len(readable) < max(2, _READABLE * len(gallery)):
            images = None
            note = f"the images of {len(gallery) - len(readable):,} of {len(gallery):,} rows "
            note += "cannot be read"
        else:
            gallery = gallery[readable]
    notes = [f"raw pixels, PCA and reconstructions are left out: {note}"] if note else []
    return _Sample(gallery, sample_rows(gallery, queries, seed + 1), images), notes


def _score_spaces(
    snapshot: Snapshot,
    sample: _Sample,
    label: str,
    metrics: tuple[str, ...],
    pca: PCA | None,
    k: int,
    seed: int,
    notes: list[str],
) -> list[SpaceScore]:
    """Agreement in the space of each metric, of the pixels and of PCA."""
    values = column_values(snapshot, sample.gallery, label)
    labels = np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
    asked = np.searchsorted(sample.gallery, sample.queries)
    others = np.bincount(labels)[labels[asked]] - 1

    def score(name: str, fetch: Callable[[Ints], Floats], dim: int) -> SpaceScore:
        found = _neighbours(fetch, dim, sample, min(k, len(sample.gallery) - 1))
        near = labels[np.searchsorted(sample.gallery, found)]
        return SpaceScore(name, agreement(labels[asked], near, others, seed=seed))

    posterior = all(segment.has_log_var for segment in snapshot.segments)
    scores = []
    for metric in metrics:
        if Space(metric).posterior and not posterior:
            notes.append(f"{metric} is left out: this store has no z_log_var")
            continue
        centre = None
        if metric == CENTERED_COSINE:
            centre = tuple(mean_vector(snapshot, sample.gallery).tolist())
        embedded = EmbeddedRows(snapshot, metric, centre)
        scores.append(score(metric, embedded.fetch, embedded.dim))
    if sample.images is None:
        return scores
    flat = sample.images.reshape(len(sample.gallery), -1)

    def pixels(rows: Ints) -> Floats:
        return flat[np.searchsorted(sample.gallery, rows)].astype(np.float32) / np.float32(255)

    scores.append(score(PIXELS, pixels, flat.shape[1]))
    if pca is not None:
        latents = np.concatenate(
            [_project(pca, pixels(sample.gallery[part])) for part in _parts(len(flat), pca)]
        )
        by_pca = score(
            PCA_NAME, lambda rows: latents[np.searchsorted(sample.gallery, rows)], snapshot.dim
        )
        scores.append(by_pca)
    return scores


def _neighbours(fetch: Callable[[Ints], Floats], dim: int, sample: _Sample, k: int) -> Ints:
    """Row numbers of the k nearest others of each query, int64 ``[q, k]``."""
    asked = fetch(sample.queries)
    step = chunk_rows(dim)

    def blocks() -> Iterator[Block]:
        for start in range(0, len(sample.gallery), step):
            part = sample.gallery[start : start + step]
            yield Block(part, fetch(part))

    found = rank(asked, scan(blocks(), asked, k + 1).rows, fetch, k + 1)[1]
    return np.asarray(found[others_mask(found, sample.queries)].reshape(len(found), k))


def _project(pca: PCA, values: Floats) -> Floats:
    return np.asarray((values - pca.mean) @ pca.components, np.float32)


def _parts(count: int, pca: PCA) -> list[slice]:
    step = chunk_rows(len(pca.mean))
    return [slice(start, start + step) for start in range(0, count, step)]


def _recall(searcher: Searcher, rows: Ints, k: int) -> IndexRecall:
    """Recall of a search as it is done without `exact`."""
    index = searcher.index
    name = "exact scan" if index is None else index.kind
    if index is None:
        return IndexRecall(name, searcher.metric, 1.0, len(rows))
    asked = EmbeddedRows(searcher.snapshot, searcher.metric).fetch(rows)
    found = searcher.search(asked, k=k + 1)
    true = searcher.search(asked, k=k + 1, exact=True)
    shares = []
    for number, row in enumerate(rows.tolist()):
        limit = true.distances[number][true.rows[number] != row][:k].max() * (1 + _TIE)
        near = found.distances[number][found.rows[number] != row][:k] <= limit
        shares.append(near.sum() / k)
    return IndexRecall(name, searcher.metric, float(np.mean(shares)), len(rows))


def _reconstructions(
    snapshot: Snapshot,
    sample: _Sample,
    pca: PCA | None,
    decode: Decode | None,
) -> Iterator[Fidelity]:
    """PSNR and SSIM of the queries, by the model and by PCA."""
    if sample.images is None:
        return
    images = sample.images[np.searchsorted(sample.gallery, sample.queries)]
    if decode is not None:
        rebuilt = decode(snapshot.vectors(sample.queries), snapshot.metadata(sample.queries))
        yield _fidelity(MODEL, images, rebuilt)
    if pca is not None:
        rebuilt = np.empty_like(images)
        for part in _parts(len(images), pca):
            flat = images[part].reshape(len(images[part]), -1).astype(np.float32) / np.float32(255)
            values = _project(pca, flat) @ pca.components.T + pca.mean
            pixels = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
            rebuilt[part] = pixels.reshape(images[part].shape)
        yield _fidelity(PCA_NAME, images, rebuilt)


def _fidelity(name: str, images: Pixels, others: Pixels) -> Fidelity:
    ratio, similarity = psnr(images, others), ssim(images, others)
    return Fidelity(name, float(ratio.mean()), float(similarity.mean()), len(images))


def _map(space: SpaceScore) -> float:
    """Mean average precision, for an order; no number last."""
    return float(np.nan_to_num(space.agreement.mean_average_precision.value, nan=-1.0))


def _verdict(best: SpaceScore, spaces: list[SpaceScore], k: int) -> str:
    low = best.agreement.mean_average_precision.low
    text = f"use {best.name}: mAP@{k} {_map(best):.3f}"
    alike = [
        space.name
        for space in spaces
        if space.name in INDEXED_METRICS and space is not best
        and space.agreement.mean_average_precision.high >= low
    ]  # fmt: skip
    if alike:
        text += f" (the intervals of {', '.join(alike)} overlap with it)"
    better = [space for space in spaces if space.name not in INDEXED_METRICS]
    better = [space for space in better if _map(space) > _map(best)]
    if better:
        names = " and ".join(f"{space.name} ({_map(space):.3f})" for space in better)
        text += f"; {names} group the labels better than these latents: train longer"
    return text
