"""What a search engine must do to serve a store."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from latentdb.ann.metrics import Space
from latentdb.base.errors import EngineError
from latentdb.engines.conditions import Condition
from latentdb.store.columns import Value
from latentdb.store.rows import Floats, Ints

MAX_NAME = 60  # characters of a collection or a field: PostgreSQL cuts names at 63 bytes
ROW, DIGEST, ID, PATH, VECTOR = "row_number", "digest", "id", "path", "vector"
_OWN = (ROW, DIGEST, ID, PATH, VECTOR)


@dataclass(frozen=True)
class Collection:
    """What an engine holds of a store: kept in the engine, beside the rows.

    Attributes
    ----------
    store
        The uuid of the store.
    version
        The last version of it that was pushed to the end; 0 for none yet.
    metric, centre
        The space in which its vectors are compared.
    dim
        Dimensions of that space.
    columns
        Type of each metadata key.
    effort
        How far the engine looks for each query, in its own unit.
    recall
        Recall@10 that was measured with that effort, on rows of the store.
    """

    store: str
    version: int
    metric: str
    dim: int
    columns: Mapping[str, str]
    centre: tuple[float, ...] = ()
    effort: int = 0
    recall: float = 0.0

    @property
    def space(self) -> Space:
        """Where its vectors are compared: the centre of the store may be another by now."""
        return Space(self.metric, np.array(self.centre, np.float64) if self.centre else None)

    @property
    def fields(self) -> dict[str, str]:
        """The name in the engine of each metadata key, id and path included."""
        fields, taken = {ID: ID, PATH: PATH}, set(_OWN)
        for key in self.columns:
            plain = re.sub(r"\W|^(?=\d)", "_", key, flags=re.ASCII)[:MAX_NAME] or "_"
            name, number = plain, 1
            while name.lower() in taken:
                number += 1
                name = f"{plain[: MAX_NAME - 8]}_{number}"
            fields[key] = name
            taken.add(name.lower())
        return fields


@dataclass(frozen=True, eq=False)
class EngineRows:
    """Rows as an engine gets them.

    Attributes
    ----------
    rows, digests
        int64 ``[n]``: row numbers, and a digest of all that is pushed of each.
    ids, paths
        Texts; None for no path.
    metadata
        By key: a value for each row, None where it is missing.
    vectors
        float32 ``[n, dim]``.
    """

    rows: Ints
    digests: Ints
    ids: Sequence[str]
    paths: Sequence[str | None]
    metadata: Mapping[str, Sequence[Value | None]]
    vectors: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Ints) -> EngineRows:
        """The rows at positions."""
        where = positions.tolist()
        return EngineRows(
            self.rows[positions],
            self.digests[positions],
            [self.ids[at] for at in where],
            [self.paths[at] for at in where],
            {key: [values[at] for at in where] for key, values in self.metadata.items()},
            self.vectors[positions],
        )


class Engine(ABC):
    """One collection of an engine.  Row numbers are its keys; distances are L2.

    Parameters
    ----------
    collection
        Its name.
    """

    name: ClassVar[str]  # of the engine
    noun: ClassVar[str]  # what it calls a collection
    efforts: ClassVar[tuple[int, ...]]  # that are tried for a recall target, ascending

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._held: Collection | None = None

    def read(self) -> Collection | None:
        """What it holds; None if there is no such collection.

        Raises
        ------
        EngineError
            If there is one that latentdb has not made.
        """
        exists, state = self._find()
        if exists and state is None:
            raise EngineError(
                f"{self.name} has a {self.noun} {self._collection!r} that latentdb has not made: "
                "give another name with --collection"
            )
        if not exists or state is None:
            return None
        held = json.loads(state)
        self._held = Collection(**(held | {"centre": tuple(held["centre"])}))
        return self._held

    def record(self, collection: Collection) -> None:
        """Keep what it holds now."""
        self._held = collection
        self._keep(json.dumps(asdict(collection)))

    def held(self) -> Collection:
        """What it holds, read once.

        Raises
        ------
        EngineError
            If there is no such collection.
        """
        held = self._held or self.read()
        if held is None:
            raise EngineError(
                f"{self.name} has no {self.noun} {self._collection!r}: run latentdb push"
            )
        return held

    @abstractmethod
    def _find(self) -> tuple[bool, str | None]:
        """Whether there is such a collection, and the text that was kept of it."""

    @abstractmethod
    def _keep(self, state: str) -> None:
        """Keep a text of the collection."""

    @abstractmethod
    def lock(self) -> None:
        """Wait for another push to the collection, until this connection is closed."""

    @abstractmethod
    def create(self, collection: Collection) -> None:
        """Make the collection, in place of one that latentdb made before."""

    @abstractmethod
    def digests(self, first: int, last: int, limit: int) -> tuple[Ints, Ints]:
        """At most `limit` row numbers from `first` to `last`, and their digests."""

    @abstractmethod
    def vectors(self, rows: Ints) -> Floats:
        """The vectors of rows, in the order of `rows`."""

    @abstractmethod
    def upsert(self, rows: EngineRows) -> None:
        """Add rows, in place of those of the same number; all of them or none."""

    @abstractmethod
    def delete(self, rows: Ints) -> None:
        """Remove rows."""

    @abstractmethod
    def build_index(self) -> None:
        """Index all rows, so that a search looks at few of them."""

    @abstractmethod
    def search(
        self, queries: Floats, k: int, where: Condition | None, effort: int
    ) -> tuple[Floats, Ints]:
        """The k nearest rows of each query: L2, infinite for none, and row numbers, -1 for none."""
