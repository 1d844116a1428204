"""PostgreSQL with pgvector: a table of rows, indexed by HNSW."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np

from latentdb.base.errors import EngineError, MissingExtraError
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
_TYPES = {
    "str": 'text COLLATE "C"',  # compared by code points, as the store compares
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "date": "bigint",
    "datetime": "bigint",
}
_COPIED = {"str": "text", "int": "int8", "float": "float8", "bool": "bool"}
_COPIED |= dict.fromkeys(("date", "datetime"), "int8")
_INDEXED_DIM = 2_000  # dimensions up to which pgvector has an HNSW index
_SCANNED = 4_096  # rows of a filter that are all compared
_INDEX_MEMORY = "512MB"  # a graph that does not fit is built several times slower


@contextmanager
def open_postgresql(dsn: str, name: str) -> Iterator[PostgreSQL]:
    """A collection of a database; the extension ``vector`` is created if it is not there."""
    try:
        import psycopg
        from psycopg.types import TypeInfo
    except ImportError as error:
        raise MissingExtraError("PostgreSQL", "postgresql") from error
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            vector = TypeInfo.fetch(connection, "vector")
            if vector is None:
                raise EngineError("PostgreSQL has no extension vector: install pgvector there")
            _register(connection, vector.oid)
            yield PostgreSQL(connection, name, vector.oid)
    except psycopg.Error as error:
        raise EngineError(f"PostgreSQL: {' '.join(str(error).split())}") from error


def _register(connection: Any, vector_oid: int) -> None:
    """Let a connection send vectors in pgvector's binary form."""
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class VectorDumper(Dumper):  # type: ignore[misc,unused-ignore]
        format = Format.BINARY
        oid = vector_oid

        def dump(self, obj: _Vector) -> bytes:
            return obj

    connection.adapters.register_dumper(_Vector, VectorDumper)


class PostgreSQL(Engine):
    """A table in a PostgreSQL database: see `Engine`."""

    name = "PostgreSQL"
    noun = "table"
    efforts = (20, 40, 80, 160, 320, 640, 1000)  # hnsw.ef_search, 1,000 at most

    def __init__(self, connection: Any, table: str, vector_oid: int) -> None:
        from psycopg import sql

        super().__init__(table)
        self._connection = connection
        self._table = sql.Identifier(table)
        self._index = sql.Identifier(f"{table}_hnsw")
        self._vector_oid = vector_oid

    def _sql(self, text: str, **parts: Any) -> Any:
        """A statement with the names of the table and of its own columns filled in."""
        from psycopg import sql

        names = {"row": ROW, "digest": DIGEST, "vector": VECTOR}
        own = {key: sql.Identifier(name) for key, name in names.items()}
        return sql.SQL(text).format(table=self._table, index=self._index, **own, **parts)

    def _find(self) -> tuple[bool, str | None]:
        find = "SELECT to_regclass(%s) IS NOT NULL"
        (exists,) = self._connection.execute(find, [f'"{self._collection}"']).fetchone()
        (known,) = self._connection.execute(find, [_STATES]).fetchone()
        state = None
        if known:
            state = self._connection.execute(
                f"SELECT state FROM {_STATES} WHERE name = %s", [self._collection]
            ).fetchone()
        return bool(exists), None if state is None else str(state[0])

    def lock(self) -> None:
        # The server goes on building the index for a client that was killed.
        self._connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [self._collection])

    def create(self, collection: Collection) -> None:
        from psycopg import sql

        fields = [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_TYPES[type_]))
            for name, type_ in _field_types(collection).items()
        ]
        with self._connection.transaction():
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_STATES} (name text PRIMARY KEY, state text)"
            )
            self._connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
            self._connection.execute(
                self._sql(
                    "CREATE TABLE {table} ({row} bigint PRIMARY KEY, {digest} bigint NOT NULL, "
                    "{fields}, {vector} vector({dim}) NOT NULL)",
                    fields=sql.SQL(", ").join(fields),
                    dim=sql.Literal(collection.dim),
                )
            )
            self.record(collection)

    def _keep(self, state: str) -> None:
        self._connection.execute(
            f"INSERT INTO {_STATES} VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET state = EXCLUDED.state",
            [self._collection, state],
        )

    def digests(self, first: int, last: int, limit: int) -> tuple[Ints, Ints]:
        query = self._sql(
            "SELECT {row}, {digest} FROM {table} WHERE {row} BETWEEN %s AND %s LIMIT %s"
        )
        found = self._connection.execute(query, [first, last, limit], binary=True).fetchall()
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def vectors(self, rows: Ints) -> Floats:
        query = self._sql("SELECT {row}, {vector}::real[] FROM {table} WHERE {row} = ANY(%s)")
        found = dict(self._connection.execute(query, [rows.tolist()]).fetchall())
        return np.array([found[row] for row in rows.tolist()], np.float32)

    def upsert(self, rows: EngineRows) -> None:
        from psycopg import sql

        held = self.held()
        names = [ROW, DIGEST, *held.fields.values(), VECTOR]
        copied = [_COPIED[type_] for type_ in _field_types(held).values()]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        updates = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names[1:]
        )
        metadata = [rows.metadata[key] for key in held.columns]
        packed = rows.vectors.astype(">f4")
        head = struct.pack(">HH", rows.vectors.shape[1], 0)
        connection = self._connection
        with connection.transaction():
            connection.execute(self._sql("CREATE TEMP TABLE staged (LIKE {table}) ON COMMIT DROP"))
            copy_in = sql.SQL("COPY staged ({}) FROM STDIN (FORMAT BINARY)").format(columns)
            with connection.cursor() as cursor, cursor.copy(copy_in) as copy:
                copy.set_types(["int8", "int8", *copied, self._vector_oid])
                for number, (row, digest) in enumerate(
                    zip(rows.rows.tolist(), rows.digests.tolist(), strict=True)
                ):
                    values = [_text(rows.ids[number]), _text(rows.paths[number])]
                    values += [_text(column[number]) for column in metadata]
                    vector = _Vector(head + packed[number].tobytes())
                    copy.write_row((row, digest, *values, vector))
            connection.execute(
                self._sql(
                    "INSERT INTO {table} ({columns}) SELECT {columns} FROM staged "
                    "ON CONFLICT ({row}) DO UPDATE SET {updates}",
                    columns=columns,
                    updates=updates,
                )
            )

    def delete(self, rows: Ints) -> None:
        query = self._sql("DELETE FROM {table} WHERE {row} = ANY(%s)")
        self._connection.execute(query, [rows.tolist()])

    def build_index(self) -> None:
        if self.held().dim > _INDEXED_DIM:
            return  # every search compares every row
        self._connection.execute("SET maintenance_work_mem = '" + _INDEX_MEMORY + "'")
        self._connection.execute(
            self._sql(
                "CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw ({vector} vector_l2_ops)"
            )
        )
        self._connection.execute(self._sql("ANALYZE {table}"))

    def search(
        self, queries: Floats, k: int, where: Condition | None, effort: int
    ) -> tuple[Floats, Ints]:
        selected, values = self._selected(where)
        query = self._sql(
            "SELECT {row}, {vector} <-> %b AS distance FROM {selected} ORDER BY distance LIMIT %s",
            selected=selected,
        )
        distances = np.full((len(queries), k), np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        with self._connection.transaction():
            settings = {
                "hnsw.ef_search": str(effort),
                "hnsw.iterative_scan": "strict_order",  # or a filter leaves fewer than k
                "hnsw.max_scan_tuples": str(2**31 - 1),
            }
            for name, value in settings.items():
                self._connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            for number, vector in enumerate(queries.astype(">f4")):
                packed = _Vector(struct.pack(">HH", len(vector), 0) + vector.tobytes())
                found = self._connection.execute(query, [packed, *values, k]).fetchall()
                rows[number, : len(found)] = [row for row, _ in found]
                distances[number, : len(found)] = [distance for _, distance in found]
        return distances, rows

    def _selected(self, where: Condition | None) -> tuple[Any, list[Any]]:
        """What a search selects from, and the values of its placeholders."""
        if where is None:
            return self._table, []
        condition, values = _Printer(self.held().fields).print(where)
        found = self._connection.execute(
            self._sql("SELECT {row} FROM {table} WHERE {condition} LIMIT %s", condition=condition),
            [*values, _SCANNED + 1],
        ).fetchall()
        if len(found) > _SCANNED:
            return self._sql("{table} WHERE {condition}", condition=condition), values
        # The planner does not look below an OFFSET, and so cannot take the index of vectors.
        few = self._sql("(SELECT * FROM {table} WHERE {row} = ANY(%s) OFFSET 0) AS few")
        return few, [[row for (row,) in found]]


class _Vector(bytes):
    """A vector in pgvector's binary form: its size, 0, and float32 numbers, big endian."""


def _field_types(collection: Collection) -> dict[str, str]:
    """Type of each field, in order."""
    types = {ID: "str", PATH: "str", **collection.columns}
    return {name: types[key] for key, name in collection.fields.items()}


def _text(value: Value | None) -> Value | None:
    if isinstance(value, str) and "\0" in value:
        raise EngineError(
            f"{value!r} has a null character, which PostgreSQL does not hold: change it first"
        )
    return value


class _Printer:
    """A condition in SQL, with its values apart."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self._values: list[Any] = []

    def print(self, condition: Condition) -> tuple[Any, list[Any]]:
        """SQL, and the values of its placeholders."""
        return self._condition(condition), self._values

    def _condition(self, condition: Condition) -> Any:
        from psycopg import sql

        match condition:
            case AllOf(parts) | AnyOf(parts):
                word = " AND " if isinstance(condition, AllOf) else " OR "
                return sql.SQL("({})").format(sql.SQL(word).join(map(self._condition, parts)))
            case Compare(key, operator, value):
                signs = {"==": "=", "!=": "<>"}
                self._add(value)
                return self._test(key, f" {signs.get(operator, operator)} %s")
            case OneOf(key, values, negated):
                if not values:
                    return self._test(key, " IS NOT NULL") if negated else sql.SQL("false")
                for value in values:
                    self._add(value)
                marks = ", ".join(["%s"] * len(values))
                return self._test(key, f" {'NOT ' if negated else ''}IN ({marks})")
            case Missing(key, negated):
                return self._test(key, " IS NOT NULL" if negated else " IS NULL")
            case TextTest(key, test, text, negated):
                self._add(text)
                field = sql.Identifier(self._fields[key])
                forms = {
                    "startswith": "starts_with({}, %s)",
                    "endswith": "right({0}, length(%s)) = %s",
                    "contains": "strpos({}, %s) > 0",
                }
                if test == "endswith":
                    self._add(text)
                form = f"NOT ({forms[test]})" if negated else forms[test]
                return sql.SQL(form).format(field)

    def _test(self, key: str, test: str) -> Any:
        from psycopg import sql

        return sql.Identifier(self._fields[key]) + sql.SQL(test)

    def _add(self, value: Value) -> None:
        # As a decimal a float is compared exactly with a bigint.
        self._values.append(Decimal(value) if isinstance(value, float) else value)
