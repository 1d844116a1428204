"""The vectors that are searched, and the exact answers: generated in chunks, by seed.

A set is drawn chunk by chunk, each chunk with a seed of its own, so that the
first rows are the same at every size, and ten million need no more memory than
one chunk.  Queries are further draws of the same generator, never rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

DIM = 64
K = 10
QUERIES = 1000
NAMES = ("easy", "hard", "real")
CLUSTERS = 1000
DEAD = DIM // 3
_CHUNK = 50_000
_MORE = 16  # candidates beyond k, ranked again in float64


@dataclass(frozen=True)
class Source:
    """Draws vectors like those of a variational autoencoder.

    Attributes
    ----------
    name
        ``"easy"``, ``"hard"`` or ``"real"``.
    seed
        Of everything drawn.
    centres
        float32 ``[c, d]``: cluster centres, or z_mean of real images.
    scales
        float32 ``[1, d]`` or ``[c, d]``: the noise around them.
    """

    name: str
    seed: int
    centres: Floats
    scales: Floats

    def _draw(self, own: Ints, random: np.random.Generator) -> Floats:
        noise = random.standard_normal((len(own), self.centres.shape[1]), dtype=np.float32)
        noise *= self.scales[own] if len(self.scales) > 1 else self.scales
        noise += self.centres[own]
        return noise

    def chunks(self, rows: int) -> Iterator[tuple[Ints, Floats]]:
        """Cluster numbers and vectors of the first `rows` rows, in order."""
        for start in range(0, rows, _CHUNK):
            random = np.random.default_rng([self.seed, NAMES.index(self.name), start])
            if self.name == "real":
                # Every image comes back once a round, each time with other noise.
                own = np.arange(start, start + _CHUNK) % len(self.centres)
            else:
                own = random.integers(0, len(self.centres), _CHUNK)
            drawn = self._draw(own, random)
            keep = min(_CHUNK, rows - start)
            yield own[:keep], drawn[:keep]

    def queries(self, which: int, count: int = QUERIES) -> tuple[Ints, Floats]:
        """Cluster numbers and vectors that are in no row; one lot for each `which`."""
        random = self._apart(which)
        own = random.integers(0, len(self.centres), count)
        return own, self._draw(own, random)

    def around(self, cluster: int, which: int, count: int) -> Floats:
        """Further vectors of one cluster, in no row."""
        return self._draw(np.full(count, cluster), self._apart(which))

    def _apart(self, which: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, NAMES.index(self.name), 1 << 40, which])


def make_source(name: str, seed: int, latents: tuple[Path, Path] | None = None) -> Source:
    """The generator of a set.

    Parameters
    ----------
    name
        *easy*: 1,000 clusters far from each other, a third of the dimensions dead
        (all but constant, as in a VAE whose posterior collapsed there).  *hard*:
        1,000 clusters that overlap, with ever narrower dimensions.  *real*:
        z_mean of images with noise of their posterior, z = mu + sigma * epsilon.
    seed
        Of everything drawn.
    latents
        For *real*: ``.npy`` files of z_mean and z_log_var.
    """
    random = np.random.default_rng([seed, NAMES.index(name)])
    if name == "easy":
        centres = random.standard_normal((CLUSTERS, DIM), dtype=np.float32)
        scales = np.full((1, DIM), 0.2, np.float32)
        centres[:, DIM - DEAD :] = 0
        scales[:, DIM - DEAD :] = 0.02
        return Source(name, seed, centres, scales)
    if name == "hard":
        # Widths falling like 1 / (1 + j / 8): the noise is as wide as the centres lie apart.
        widths = (1 / (1 + np.arange(DIM, dtype=np.float32) / 8))[None]
        centres = random.standard_normal((CLUSTERS, DIM), dtype=np.float32) * widths
        return Source(name, seed, centres, widths)
    if latents is None:
        raise ValueError("the set real needs latents")
    centres = np.ascontiguousarray(np.load(latents[0]), np.float32)
    scales = np.exp(0.5 * np.load(latents[1])).astype(np.float32)
    if centres.ndim != 2 or centres.shape != scales.shape:
        raise ValueError(
            f"{latents[0]} is {centres.shape}, {latents[1]} is {scales.shape}: "
            "give z_mean and z_log_var of the same rows, [n, d] each"
        )
    return Source(name, seed, centres, scales)


def nearest(blocks: Iterable[Floats], queries: Floats, k: int) -> Ints:
    """Exact neighbours by number, counted through the blocks: int64 ``[q, k]``.

    FAISS finds candidates in float32; what is nearest is settled in float64.
    """
    import faiss

    best = np.full((len(queries), 0), 0.0)
    found = np.full((len(queries), 0), -1, np.int64)
    first = 0
    against = queries.astype(np.float64)
    for block in blocks:
        _, places = faiss.knn(queries, np.ascontiguousarray(block), min(k + _MORE, len(block)))
        exact = np.empty(places.shape)
        for number, line in enumerate(places):
            exact[number] = ((block[line] - against[number]) ** 2).sum(axis=1)
        best = np.concatenate([best, exact], axis=1)
        found = np.concatenate([found, places + first], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(best, order, axis=1)
        found = np.take_along_axis(found, order, axis=1)
        first += len(block)
    return found


class Rows:
    """The vectors of a set on disk, read part by part so that they are no part of the memory."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with open(file, "rb") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            self._offset = stream.tell()
        if dtype != np.float32:
            raise ValueError(f"{file} is {dtype}, float32 was expected")
        self.count, self.dim = shape

    def parts(self, size: int = 100_000) -> Iterator[tuple[int, Floats]]:
        """Number of the first row, and vectors, of each part."""
        with open(self.file, "rb") as stream:
            stream.seek(self._offset)
            for start in range(0, self.count, size):
                count = min(size, self.count - start)
                part = np.fromfile(stream, np.float32, count * self.dim)
                yield start, part.reshape(count, self.dim)

    def sample(self, count: int, seed: int = 0) -> Floats:
        """So many different rows, to train on."""
        chosen = np.random.default_rng(seed).choice(self.count, min(count, self.count), False)
        return np.asarray(self.mapped()[np.sort(chosen)])

    def mapped(self) -> Floats:
        """All of them, mapped."""
        mapped: Floats = np.load(self.file, mmap_mode="r")
        return mapped


def make(source: Source, rows: int, folder: Path) -> None:
    """Write a set: vectors, its clusters, queries to tune with and to measure with, the truth.

    Nothing is done where that has been done; a set half written is written anew.
    """
    stamp = folder / "set.json"
    if stamp.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    dim = source.centres.shape[1]
    vectors = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows, dim))
    clusters = np.empty(rows, np.int64)
    first = 0
    for own, chunk in source.chunks(rows):
        vectors[first : first + len(chunk)] = chunk
        clusters[first : first + len(chunk)] = own
        first += len(chunk)
    vectors.flush()
    np.save(folder / "clusters.npy", clusters)
    del vectors
    stored = Rows(folder / "rows.npy")
    for which, name in enumerate(("tune", "test")):
        _, queries = source.queries(which)
        np.save(folder / f"{name}.npy", queries)
        found = nearest((part for _, part in stored.parts(500_000)), queries, K)
        np.save(folder / f"{name}-truth.npy", found)
    temporary = folder / "set.json.new"
    temporary.write_text(json.dumps({"name": source.name, "rows": rows, "dim": dim}))
    os.replace(temporary, stamp)


def load(folder: Path, name: str) -> tuple[Floats, Ints]:
    """The queries ``"tune"`` or ``"test"`` and their true neighbours."""
    return np.load(folder / f"{name}.npy"), np.load(folder / f"{name}-truth.npy")
