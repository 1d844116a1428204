"""What a database answers: small, frozen, and the same in Python and in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentdb.store.columns import Value
from latentdb.store.segment import Floats

if TYPE_CHECKING:
    from latentdb.model.config import ModelConfig
    from latentdb.store.manifest import IndexEntry


@dataclass(frozen=True)
class Match:
    """One neighbour: rank from 1, true distance, and what the store has of it."""

    rank: int
    id: str
    distance: float
    path: str | None
    metadata: Mapping[str, Value]


@dataclass(frozen=True)
class Matches:
    """The answer to a query.

    Attributes
    ----------
    metric
        ``"l2"``: Euclidean distance of z_mean; or another of `latentdb.ann.metrics`.
    exact
        Whether every row that could match was compared; otherwise the recall
        is the one `LatentDB.info` tells.
    scanned
        Vectors that were compared.
    matches
        Nearest first; fewer than asked for only if there are no more.
    """

    metric: str
    exact: bool
    scanned: int
    matches: tuple[Match, ...]

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __getitem__(self, place: int) -> Match:
        return self.matches[place]


@dataclass(frozen=True)
class Average:
    """A mean latent, float32 ``[d]``, and of how many rows."""

    vector: Floats
    rows: int


@dataclass(frozen=True)
class Info:
    """What a store is: see `LatentDB.info`.

    Attributes
    ----------
    rows, deleted_rows
        Alive, and deleted but still on disk.
    bytes
        On disk, of this version.
    compiled
        Whether the model has a compiled form, for which tensorflow is not needed.
    covered_rows
        Rows in the search index; the others are scanned.
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
    why: str = ""
