"""Milvus: a collection of rows, indexed by HNSW; a server, or a file through milvus-lite."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from latentdb.ann.exact import Block, scan
from latentdb.ann.ranking import rank
from latentdb.base.errors import EngineError, FilterError, MissingExtraError
from latentdb.engines.conditions import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Missing,
    OneOf,
    TextTest,
)
from latentdb.engines.engine import DIGEST, ID, PATH, ROW, VECTOR, Collection, Engine, EngineRows
from latentdb.store.columns import Value
from latentdb.store.rows import Floats, Ints

_STATES = "latentdb_collections"
_MAX_TEXT = 65_535  # bytes of a VARCHAR
_MAX_QUERIES = 1_000  # of one search
_MAX_EF = 16_384
_SCANNED = 4_096  # rows of a filter that are all compared


@contextmanager
def open_milvus(uri: str, name: str) -> Iterator[Milvus]:
    """A collection of a server (``http://HOST:PORT``) or of a file."""
    try:
        with _logging_as_it_is():
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise MissingExtraError("Milvus", "milvus") from error
    for logger in ("pymilvus", "grpc"):  # they log whatever they raise
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        client = MilvusClient(uri)
    except MilvusException as error:
        hint = "" if _is_server(uri) else f": is {uri} open in another process?"
        raise EngineError(f"Milvus: {_one_line(error.message)}{hint}") from error
    try:
        yield Milvus(client, name, is_file=not _is_server(uri))
    except MilvusException as error:
        raise EngineError(f"Milvus: {_one_line(error.message)}") from error
    finally:
        client.close()
        if not _is_server(uri):  # or the file stays locked until this process ends
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(uri)


@contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keep the handlers of others: pymilvus configures logging anew, which closes them."""
    configure = logging.config.dictConfig

    def ignore(config: Any) -> None:
        del config

    logging.config.dictConfig = ignore
    try:
        yield
    finally:
        logging.config.dictConfig = configure


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://", "tcp://"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


class Milvus(Engine):
    """A collection of Milvus: see `Engine`."""

    name = "Milvus"
    noun = "collection"
    efforts = (16, 32, 64, 128, 256, 512, 1024)  # ef

    def __init__(self, client: Any, collection: str, *, is_file: bool) -> None:
        super().__init__(collection)
        self._client = client
        self._is_file = is_file

    def _find(self) -> tuple[bool, str | None]:
        exists = self._client.has_collection(self._collection)
        state = self._states().get(self._collection)
        if exists and state is not None:
            self._load(self._collection, self._index())
        return exists, state

    def _load(self, collection: str, index: Any) -> None:
        from pymilvus.exceptions import MilvusException

        try:
            self._client.load_collection(collection)
        except MilvusException:
            if not self._is_file:
                raise
            # Milvus-lite reads an index that it is still writing, or that a kill cut short.
            self._client.drop_index(collection, index[0].field_name)  # waits for who writes
            self._client.create_index(collection, index)
            self._client.load_collection(collection)

    def _index(self) -> Any:
        index = self._client.prepare_index_params()
        build = {"M": 16, "efConstruction": 200}
        index.add_index(VECTOR, index_type="HNSW", metric_type="L2", params=build)
        return index

    def _states_index(self) -> Any:
        index = self._client.prepare_index_params()
        index.add_index("unused", index_type="FLAT", metric_type="L2")
        return index

    def _states(self) -> dict[str, str]:
        if not self._client.has_collection(_STATES):
            return {}
        self._load(_STATES, self._states_index())
        found = self._client.query(
            _STATES, filter='name != ""', output_fields=["name", "state"], limit=1_000
        )
        return {row["name"]: row["state"] for row in found}

    def lock(self) -> None:
        return  # a file is open in one process at a time; a server has no locks to offer

    def create(self, collection: Collection) -> None:
        from pymilvus import DataType

        if not self._client.has_collection(_STATES):
            schema = self._client.create_schema(enable_dynamic_field=False)
            schema.add_field("name", DataType.VARCHAR, is_primary=True, max_length=256)
            schema.add_field("state", DataType.VARCHAR, max_length=_MAX_TEXT)
            schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # Milvus demands a vector
            self._client.create_collection(
                _STATES,
                schema=schema,
                index_params=self._states_index(),
                consistency_level="Strong",
            )
        if self._client.has_collection(self._collection):
            self._client.drop_collection(self._collection)
        types = {
            "str": DataType.VARCHAR,
            "int": DataType.INT64,
            "float": DataType.DOUBLE,
            "bool": DataType.BOOL,
            "date": DataType.INT64,
            "datetime": DataType.INT64,
        }
        schema = self._client.create_schema(enable_dynamic_field=False)
        schema.add_field(ROW, DataType.INT64, is_primary=True)
        schema.add_field(DIGEST, DataType.INT64)
        for key, name in collection.fields.items():
            type_ = types[collection.columns.get(key, "str")]
            most = {"max_length": _MAX_TEXT} if type_ == DataType.VARCHAR else {}
            schema.add_field(name, type_, nullable=key != ID, **most)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=collection.dim)
        self._client.create_collection(
            self._collection,
            schema=schema,
            index_params=self._index(),
            consistency_level="Strong",
        )
        self.record(collection)

    def _keep(self, state: str) -> None:
        self._client.upsert(
            _STATES, [{"name": self._collection, "state": state, "unused": [0.0, 0.0]}]
        )

    def digests(self, first: int, last: int, limit: int) -> tuple[Ints, Ints]:
        found = self._client.query(
            self._collection,
            filter=f"{ROW} >= {first} and {ROW} <= {last}",
            output_fields=[ROW, DIGEST],
            limit=limit,
        )
        pairs = np.array([(row[ROW], row[DIGEST]) for row in found], np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def vectors(self, rows: Ints) -> Floats:
        found = self._client.get(self._collection, rows.tolist(), output_fields=[ROW, VECTOR])
        held = {row[ROW]: row[VECTOR] for row in found}
        return np.array([held[row] for row in rows.tolist()], np.float32)

    def upsert(self, rows: EngineRows) -> None:
        held = self.held()
        fields = held.fields
        data = []
        for number, row in enumerate(rows.rows.tolist()):
            entry: dict[str, Any] = {ROW: row, DIGEST: int(rows.digests[number])}
            entry[ID], entry[PATH] = _text(rows.ids[number]), _text(rows.paths[number])
            for key in held.columns:
                entry[fields[key]] = _text(rows.metadata[key][number])
            entry[VECTOR] = rows.vectors[number]
            data.append(entry)
        self._client.upsert(self._collection, data)

    def delete(self, rows: Ints) -> None:
        self._client.delete(self._collection, ids=rows.tolist())

    def build_index(self) -> None:
        # Until it is flushed and loaded again, milvus-lite compares every row.
        self._client.release_collection(self._collection)
        self._client.flush(self._collection)
        self._load(self._collection, self._index())

    def search(
        self, queries: Floats, k: int, where: Condition | None, effort: int
    ) -> tuple[Floats, Ints]:
        expression = "" if where is None else _Printer(self.held()).print(where)
        if where is not None:
            # The graph may have no path to the few rows that a strict filter leaves.
            rows, kept = self._count(""), self._count(expression)
            if kept <= _SCANNED:
                return self._scan(queries, k, expression, kept)
            effort = min(effort * rows // kept, _MAX_EF)
        distances = np.full((len(queries), k), np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(queries), _MAX_QUERIES):
            answers = self._client.search(
                self._collection,
                data=list(queries[start : start + _MAX_QUERIES]),
                limit=k,
                filter=expression,
                search_params={"metric_type": "L2", "params": {"ef": max(effort, k)}},
            )
            for number, hits in enumerate(answers, start):
                found[number, : len(hits)] = [hit[ROW] for hit in hits]
                squares = [max(hit["distance"], 0.0) for hit in hits]
                distances[number, : len(hits)] = np.sqrt(squares)
        return distances, found

    def _count(self, expression: str) -> int:
        (found,) = self._client.query(
            self._collection, filter=expression, output_fields=["count(*)"]
        )
        return int(found["count(*)"])

    def _scan(self, queries: Floats, k: int, expression: str, kept: int) -> tuple[Floats, Ints]:
        """The nearest of all rows of an expression, which are fetched."""
        data = self._client.query(
            self._collection, filter=expression, output_fields=[ROW, VECTOR], limit=max(kept, 1)
        )
        if not data:
            empty = np.full((len(queries), k), np.inf, np.float32)
            return empty, np.full(empty.shape, -1, np.int64)
        numbers = np.array([row[ROW] for row in data], np.int64)
        order = numbers.argsort()
        numbers = numbers[order]
        vectors = np.array([data[at][VECTOR] for at in order], np.float32)
        found = scan([Block(numbers, vectors)], queries, k)
        return rank(queries, found.rows, lambda rows: vectors[numbers.searchsorted(rows)], k)


def _text(value: Value | None) -> Value | None:
    if isinstance(value, str) and len(value.encode()) > _MAX_TEXT:
        raise EngineError(
            f"a text of {len(value.encode()):,} bytes ({value[:40]!r}...) does not fit: "
            f"Milvus holds at most {_MAX_TEXT:,}"
        )
    return value


class _Printer:
    """A condition in the language of Milvus."""

    def __init__(self, held: Collection) -> None:
        self._fields: Mapping[str, str] = held.fields

    def print(self, condition: Condition) -> str:
        match condition:
            case AllOf(parts):
                return "(" + " and ".join(map(self.print, parts)) + ")"
            case AnyOf(parts):
                return "(" + " or ".join(map(self.print, parts)) + ")"
            case Compare(key, operator, value):
                test = f"{self._fields[key]} {operator} {_literal(value)}"
                return self._present(key, test) if operator == "!=" else test
            case OneOf(key, values, negated):
                listed = f"[{', '.join(map(_literal, values))}]"
                test = f"{self._fields[key]} {'not in' if negated else 'in'} {listed}"
                return self._present(key, test) if negated else test
            case Missing(key, negated):
                return f"{self._fields[key]} is {'not ' if negated else ''}null"
            case TextTest(key, test, text, negated):
                if any(sign in text for sign in "%_\\"):
                    raise FilterError(
                        f"filter looks for {text!r} in a way that Milvus does not: "
                        "ask the store itself, without --on"
                    )
                start = "" if test == "startswith" else "%"
                end = "" if test == "endswith" else "%"
                field = self._fields[key]
                found = f"{field} like {_literal(start + text + end)}"
                return self._present(key, f"not ({found})") if negated else found

    def _present(self, key: str, test: str) -> str:
        """A test that a missing value would pass."""
        return f"({self._fields[key]} is not null and {test})"


def _literal(value: Value) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        raise FilterError(f"filter compares with {value}, which Milvus does not know")
    return json.dumps(value, ensure_ascii=False)
