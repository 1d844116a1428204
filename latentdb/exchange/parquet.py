"""Rows in a Parquet file, through pyarrow: a column each, vectors as lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from latentdb.base.arrow import require_pyarrow
from latentdb.exchange import arrow
from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.row_reader import RowReader, number_column
from latentdb.store.columns import Column, absent
from latentdb.store.rows import Floats, Ints, Rows
from latentdb.store.snapshot import Snapshot

_BATCH_ROWS = 16_384
_BUFFER_BYTES = 1 << 20  # without it, a whole column of a row group is read at once
# Characters of the ids or paths of a batch: in a dictionary, one text may stand for many.
_MAX_TEXT = 1 << 30


def write(snapshot: Snapshot, rows: Ints, file: IO[bytes]) -> None:
    """Write the columns of `latentdb.exchange.arrow.schema_of`."""
    _, parquet = require_pyarrow()
    schema = arrow.schema_of(snapshot)
    texts = [field.name for field in schema if _is_text(field.type)]
    with parquet.ParquetWriter(file, schema, use_dictionary=texts) as writer:
        for batch in arrow.batches(snapshot, rows, schema):
            writer.write_batch(batch)


class ParquetReader(RowReader):
    """Columns of ids, paths, z_mean and z_log_var (lists), and metadata."""

    def __init__(self, path: Path, columns: ColumnNames) -> None:
        super().__init__(path)
        pa, parquet = require_pyarrow()
        self._errors = pa.ArrowException
        with self.reading():
            self._file = pa.OSFile(os.fspath(path))
            try:
                schema = parquet.read_schema(self._file)
                texts = [field.name for field in schema if _is_text(field.type)]
                # pre_buffer would keep in memory all that was read.
                self._parquet = parquet.ParquetFile(
                    self._file, read_dictionary=texts, buffer_size=_BUFFER_BYTES, pre_buffer=False
                )
                self._read_schema(schema, columns)
            except BaseException as error:
                self._file.close()
                if isinstance(error, self._errors):
                    raise ValueError(str(error)) from error
                raise

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def _read_schema(self, schema: Any, columns: ColumnNames) -> None:
        import pyarrow as pa

        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise self.refuse(f"has column {min(twice)!r} twice: rename one")
        vector = columns.find_vector(
            schema.names,
            self.refuse,
            noun="column",
            holds=lambda name: _is_vector(schema.field(name).type),
        )
        id_ = columns.require_id(
            schema.names,
            self.refuse,
            noun="column",
            holds=lambda name: _value_type(schema.field(name).type) in ("str", "int"),
        )
        self.name_columns(id_, vector)
        self._roles = dict(self.named)
        self._roles.update({name: name for name in ("path", "z_log_var") if name in schema.names})
        for role, name in self._roles.items():
            self._check_role(role, schema.field(name))
        for field in schema:
            type_ = _value_type(field.type)
            if field.name in self._roles.values():
                continue
            if type_ is None and self.is_own:
                raise self.refuse(
                    f"column {field.name!r} holds {field.type}, expected text, numbers, booleans "
                    "or dates"
                )
            if type_ is None:
                self.left_out.append(field.name)
            elif not pa.types.is_null(field.type) and self.accepts(field.name):
                self.types[field.name] = type_
        self.rows = self._parquet.metadata.num_rows
        self.has_log_var = "z_log_var" in self._roles
        for role in ("z_mean", "z_log_var")[: 1 + self.has_log_var]:
            name = self._roles[role]
            self.check_dim(self._vector_dim(name, schema.field(name).type), role)
        fingerprint = (schema.metadata or {}).get(b"encoder_fingerprint")
        self.fingerprint = None if fingerprint is None else fingerprint.decode()

    def _check_role(self, role: str, field: Any) -> None:
        type_ = _value_type(field.type)
        if role in ("id", "path"):
            valid, wanted = type_ == "str" or (role == "id" and type_ == "int"), "text"
        else:
            valid, wanted = _is_vector(field.type), "lists of numbers"
        if not valid:
            raise self.refuse(f"column {field.name!r} holds {field.type}, expected {wanted}")

    def _vector_dim(self, name: str, arrow_type: Any) -> int:
        import pyarrow as pa

        if pa.types.is_fixed_size_list(arrow_type):
            return int(arrow_type.list_size)
        for batch in self._parquet.iter_batches(batch_size=1, columns=[name]):
            if batch.num_rows:
                return len(batch.column(0)[0].as_py() or ())
        raise self.refuse(f"column {name!r} has no rows, and is of no fixed width")

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        rows = min(_BATCH_ROWS, self.batch_rows)
        batches = self._parquet.iter_batches(batch_size=rows, columns=columns)
        while True:
            with self.reading():
                try:
                    batch = next(batches, None)
                    if batch is not None:
                        batch.validate(full=True)
                except self._errors as error:
                    raise ValueError(str(error)) from error
            if batch is None:
                return
            yield batch

    def ids(self) -> Iterator[list[str]]:
        first = 0
        for batch in self._batches([self._roles["id"]]):
            with self.reading():
                names = self._names(batch.column(self._roles["id"]), "id", first)
            yield names
            first += len(names)

    def pieces(self) -> Iterator[Rows]:
        first = 0
        for batch in self._batches([*dict.fromkeys(self._roles.values()), *self.types]):
            with self.reading():
                data = {role: batch.column(name) for role, name in self._roles.items()}
                paths = self._names(data["path"], "path", first) if "path" in data else []
                log_vars = None
                if self.has_log_var:
                    log_vars = self._vectors(data["z_log_var"], "z_log_var", first)
                rows = Rows(
                    self._names(data["id"], "id", first),
                    self._vectors(data["z_mean"], "z_mean", first),
                    log_vars,
                    paths if any(paths) else None,
                    columns={key: self._column(key, batch.column(key)) for key in self.types},
                )
            yield rows
            first += len(rows)

    def _names(self, array: Any, name: str, first: int) -> list[str]:
        import pyarrow as pa

        if name == "id" and array.null_count:
            missing = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            raise self.refuse(f"row {first + missing[0]} has no id")
        if pa.types.is_integer(array.type):
            return [str(value) for value in array.to_pylist()]
        column = self._column(name, array)
        codes = column.values + 1
        if column.missing is not None:
            codes[column.missing] = 0
        table = ["", *column.categories]
        if np.array([len(text) for text in table])[codes].sum() > _MAX_TEXT:
            raise self.refuse(f"column {name!r} has over {_MAX_TEXT} characters from row {first}")
        return [table[code] for code in codes]

    def _vectors(self, array: Any, name: str, first: int) -> Floats:
        import pyarrow as pa

        if array.null_count or array.flatten().null_count:
            raise self.refuse(f"column {self.shown(name)!r} has missing values from row {first} on")
        if not pa.types.is_fixed_size_list(array.type):
            lengths = np.diff(array.offsets.to_numpy())
            wrong = np.flatnonzero(lengths != self.dim)
            if len(wrong):
                raise self.refuse(
                    f"{self.shown(name)} of row {first + wrong[0]} has {lengths[wrong[0]]} "
                    f"numbers, expected {self.dim}"
                )
        values = array.flatten().to_numpy(zero_copy_only=False)
        return self.vectors(values.reshape(len(array), self.dim), name, first)

    def _column(self, key: str, array: Any) -> Column:
        import pyarrow as pa

        missing = array.is_null().to_numpy(zero_copy_only=False)
        type_ = _value_type(array.type) or "str"
        if type_ == "date":
            array = array.cast(pa.date32()).cast(pa.int32())
        elif type_ == "datetime":  # those with a time zone are stored in UTC
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
        if type_ != "str":
            values = array.fill_null(False if type_ == "bool" else 0)
            numbers = values.to_numpy(zero_copy_only=False)
            return number_column(type_, numbers, missing, f"{self.path}: {key}")
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        used, positions = np.unique(codes[~missing], return_inverse=True)
        if not len(used):
            return absent("str", len(array))
        texts = array.dictionary.take(pa.array(used)).to_pylist()
        # A dictionary may hold a text twice, or a null.
        table = {
            text: code for code, text in enumerate(t for t in dict.fromkeys(texts) if t is not None)
        }
        mapped = np.array([table.get(text, -1) for text in texts], "<i4")
        values = np.zeros(len(array), "<i4")
        values[~missing] = mapped[positions]
        missing = missing | (values < 0)
        values[missing] = 0
        return Column("str", values, missing if missing.any() else None, tuple(table))


def _is_text(arrow_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return bool(pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type))


def _is_list(arrow_type: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    return any(test(arrow_type) for test in tests)


def _is_vector(arrow_type: Any) -> bool:
    return _is_list(arrow_type) and _value_type(arrow_type.value_type) in ("float", "int")


def _value_type(arrow_type: Any) -> str | None:
    """Metadata type of an Arrow type; text for a column of nulls; None where there is none."""
    import pyarrow as pa

    if _is_text(arrow_type) or pa.types.is_null(arrow_type):
        return "str"
    if pa.types.is_boolean(arrow_type):
        return "bool"
    if pa.types.is_integer(arrow_type):
        return "int"
    if pa.types.is_date(arrow_type):
        return "date"
    if pa.types.is_timestamp(arrow_type):
        return "datetime"
    return "float" if pa.types.is_floating(arrow_type) else None
