"""Results of a search, as arrays of row numbers and as matches; what `info` returns.

Field names are the keys of ``--json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.ann.metrics import KL
from latentdb.base.arrow import require_pyarrow
from latentdb.store.columns import Value
from latentdb.store.roots import Root
from latentdb.store.rows import Floats, Ints

if TYPE_CHECKING:
    from latentdb.model.config import ModelConfig
    from latentdb.store.manifest import IndexEntry
    from latentdb.store.snapshot import Snapshot


_SHOWN = 50  # matches in a notebook or a repr
_MATCH_COLUMNS = ("rank", "id", "distance", "path")


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest rows of a batch of queries, as arrays.

    Attributes
    ----------
    distances
        float32 ``[q, k]``, ascending; infinity where there are fewer than k.
    rows
        int64 ``[q, k]`` row numbers; -1 where there are fewer.
    exact
        Whether every row that could match was compared.
    scanned
        Vectors that were compared, over all queries.
    """

    distances: Floats
    rows: Ints
    exact: bool
    scanned: int

    def within(self, radius: float) -> Hits:
        """Only the rows within a distance."""
        far = self.distances > radius
        distances = np.where(far, np.float32(np.inf), self.distances)
        return Hits(distances, np.where(far, -1, self.rows), self.exact, self.scanned)

    @classmethod
    def concat(cls, parts: Sequence[Hits]) -> Hits:
        """The hits of several batches, of the same k, as one."""
        return cls(
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.rows for part in parts]),
            all(part.exact for part in parts),
            sum(part.scanned for part in parts),
        )


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a store.

    Attributes
    ----------
    id, path
        Its id, and the image file that it came from; None for none.
    metadata
        Values by column; a missing value is left out.
    z_mean, z_log_var
        float32 ``[d]``; z_log_var is None in a store that has none.
    """

    id: str
    path: str | None
    metadata: Mapping[str, Value]
    z_mean: Floats
    z_log_var: Floats | None

    def __repr__(self) -> str:
        return f"Row(id={self.id!r}, path={self.path!r}, metadata={dict(self.metadata)!r})"


@dataclass(frozen=True)
class Match:
    """One neighbour: rank from 1, distance, and what the store has of the row."""

    rank: int
    id: str
    distance: float
    path: str | None
    metadata: Mapping[str, Value]


@dataclass(frozen=True, repr=False)
class Matches:
    """The result of one query: a sequence of `Match`.

    pandas, polars and pyarrow take it as it is (``pyarrow.table(matches)``), through the Arrow
    C stream of pyarrow.

    Attributes
    ----------
    metric
        One of `latentdb.ann.metrics.METRICS`.
    exact
        Whether every row that could match was compared.
    scanned
        Vectors that were compared.
    matches
        Nearest first; fewer than k only if no more rows can match.
    recall
        Share of the true neighbours that is promised, on average over queries: 1 if
        `exact`, else the target of the index; None under kl, which promises nothing.
    """

    metric: str
    exact: bool
    scanned: int
    matches: tuple[Match, ...]
    recall: float | None

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __getitem__(self, position: int) -> Match:
        return self.matches[position]

    def __repr__(self) -> str:
        from latentdb.search.summary import match_lines

        promise = "no recall promised" if self.recall is None else f"recall {self.recall}"
        how = "every row compared" if self.exact else promise
        head = f"<Matches: {len(self.matches)} by {self.metric}, {how}>"
        more = len(self) - _SHOWN
        lines = match_lines(replace(self, matches=self.matches[:_SHOWN]))
        return "\n".join([head, *lines, *([f"and {more:,} more"] if more > 0 else [])])

    def _columns(self) -> dict[str, list[Value]]:
        """The matches by column: rank, id, distance, path, and the metadata of any of them."""
        keys = dict.fromkeys(key for match in self for key in match.metadata)
        columns: dict[str, list[Value]] = {
            name: [getattr(match, name) for match in self] for name in _MATCH_COLUMNS
        }
        for key in keys:
            name = f"metadata.{key}" if key in columns else key
            columns[name] = [match.metadata.get(key) for match in self]
        return columns

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of rank, id, distance, path and metadata, a match each."""
        import pandas

        return pandas.DataFrame(self._columns())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        pa, _ = require_pyarrow()
        types = {"rank": pa.int64(), "id": pa.string(), "path": pa.string()}
        types["distance"] = pa.float64()
        columns = {
            name: pa.array(values, types.get(name)) for name, values in self._columns().items()
        }
        stream: object = pa.table(columns).__arrow_c_stream__(requested_schema)
        return stream

    def _repr_html_(self) -> str:
        """The matches as a strip of thumbnails, for a notebook."""
        from latentdb.images.thumbnails import strip

        return strip(
            [
                (match.path, f"{match.rank}: {match.distance:.3f}", match.id)
                for match in self.matches[:_SHOWN]
            ]
        )


@dataclass(frozen=True)
class Average:
    """A mean latent, float32 ``[d]``, and the number of rows it is the mean of."""

    vector: Floats
    rows: int


@dataclass(frozen=True)
class Info:
    """The state of a store: see `LatentDB.info`.

    Attributes
    ----------
    rows, deleted_rows
        Live rows, and rows that are deleted but still on disk.
    bytes
        Size on disk of this version.
    compiled
        Whether the model has a compiled form, for which tensorflow is not needed.
    covered_rows
        Rows in the search index; the others are scanned.
    default_metric
        Metric of queries that name none.
    roots
        Folders that images were indexed from, and what ids of each begin with.
    buried
        Images that were deleted, which indexing does not bring back.
    dtype
        Of the latents on disk: ``"float32"`` or ``"float16"``.
    why
        After `LatentDB.optimize`: why there is no index, or not the one preferred.
    """

    path: str
    uuid: str
    version: int
    rows: int
    deleted_rows: int
    dim: int
    segments: int
    bytes: int
    columns: Mapping[str, str]
    model: ModelConfig | None
    compiled: bool
    recall_target: float
    search: str
    index: IndexEntry | None
    covered_rows: int
    default_metric: str
    roots: tuple[Root, ...] = ()
    buried: int = 0
    dtype: str = "float32"
    why: str = ""


def to_matches(
    snapshot: Snapshot, metric: str, hits: Hits, number: int, excluded: set[int], k: int | None
) -> Matches:
    """At most k hits of query `number`, with ids and metadata, without the excluded rows."""
    rows, distances = hits.rows[number], hits.distances[number]
    if excluded or (len(rows) and rows[-1] < 0):
        selected = (rows >= 0) & ~np.isin(rows, list(excluded))
        rows, distances = rows[selected], distances[selected]
    rows, distances = rows[:k], distances[:k]
    facts = zip(distances.tolist(), snapshot.records(rows), strict=True)
    return Matches(
        metric,
        hits.exact,
        hits.scanned // len(hits.rows),
        tuple(
            Match(rank, name, distance, path, metadata)
            for rank, (distance, (name, path, metadata)) in enumerate(facts, 1)
        ),
        _promised_recall(snapshot, metric, hits),
    )


def _promised_recall(snapshot: Snapshot, metric: str, hits: Hits) -> float | None:
    if hits.exact:
        return 1.0
    entry = snapshot.manifest.index
    return None if metric == KL or entry is None else entry.recall_target
