"""Ready-made rows in a Parquet file, through pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentdb.base.errors import MissingExtraError
from latentdb.exchange.row_reader import RowReader, number_column
from latentdb.store.columns import Column, absent
from latentdb.store.segment import Floats, Rows

_DATA = ("id", "path", "z_mean", "z_log_var")
_ROWS = 16_384  # at a time
_BUFFER = 1 << 20  # or a column of a row group is read at once
_MOST_TEXT = 1 << 30  # characters of the ids or paths of a batch: one may stand for many


class ParquetReader(RowReader):
    """Columns ``id``, ``path``, ``z_mean`` and ``z_log_var`` (lists), and metadata."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError("a .parquet file", "parquet") from error
        self._errors = pa.ArrowException
        with self.reading():
            self._file = pa.OSFile(os.fspath(path))
            try:
                schema = parquet.read_schema(self._file)
                texts = [field.name for field in schema if _is_text(field.type)]
                # Without pre_buffer, which would keep all that was read.
                self._parquet = parquet.ParquetFile(
                    self._file, read_dictionary=texts, buffer_size=_BUFFER, pre_buffer=False
                )
                self._take(schema)
            except BaseException as error:
                self._file.close()
                if isinstance(error, self._errors):
                    raise ValueError(str(error)) from error
                raise

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def _take(self, schema: Any) -> None:
        import pyarrow as pa

        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice:
            raise self.refuse(f"has column {min(twice)!r} twice: rename one")
        for name in ("id", "z_mean"):
            if name not in schema.names:
                raise self.refuse(f"has no column {name!r}, expected id and z_mean")
        for field in schema:
            kind = _kind(field.type)
            if field.name in ("id", "path"):
                good = kind == "str" or (field.name == "id" and kind == "int")
            elif field.name in _DATA:
                good = _is_list(field.type) and _kind(field.type.value_type) in ("float", "int")
            else:
                good = kind is not None
            if not good:
                wanted = {"id": "text", "path": "text"}.get(field.name, "text, numbers or booleans")
                if field.name in ("z_mean", "z_log_var"):
                    wanted = "lists of numbers"
                raise self.refuse(f"column {field.name!r} holds {field.type}, expected {wanted}")
            if field.name not in _DATA and kind is not None and not pa.types.is_null(field.type):
                self.kinds[field.name] = kind
        self.check_keys(self.kinds)
        self.rows = self._parquet.metadata.num_rows
        self.has_log_var = "z_log_var" in schema.names
        for name in ("z_mean", "z_log_var")[: 1 + self.has_log_var]:
            self.check_dim(self._width(name, schema.field(name).type), name)
        stated = (schema.metadata or {}).get(b"encoder_fingerprint")
        self.fingerprint = None if stated is None else stated.decode()

    def _width(self, name: str, kind: Any) -> int:
        import pyarrow as pa

        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._parquet.iter_batches(batch_size=1, columns=[name]):
            if batch.num_rows:
                return len(batch.column(0)[0].as_py() or ())
        raise self.refuse(f"column {name!r} has no rows, and is of no fixed width")

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        rows = min(_ROWS, self._step)
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
        for batch in self._batches(["id"]):
            with self.reading():
                names = self._names(batch.column("id"), "id", first)
            yield names
            first += len(names)

    def pieces(self) -> Iterator[Rows]:
        names = [name for name in _DATA if name in self._parquet.schema_arrow.names]
        first = 0
        for batch in self._batches([*names, *self.kinds]):
            with self.reading():
                paths = self._names(batch.column("path"), "path", first) if "path" in names else []
                log_vars = None
                if self.has_log_var:
                    log_vars = self._vectors(batch.column("z_log_var"), "z_log_var", first)
                rows = Rows(
                    self._names(batch.column("id"), "id", first),
                    self._vectors(batch.column("z_mean"), "z_mean", first),
                    log_vars,
                    paths if any(paths) else None,
                    columns={key: self._column(key, batch.column(key)) for key in self.kinds},
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
        lost = np.zeros(len(column), bool) if column.missing is None else column.missing
        lengths = np.array([0, *map(len, column.categories)])[np.where(lost, 0, column.values + 1)]
        if lengths.sum() > _MOST_TEXT:
            raise self.refuse(f"column {name!r} has over {_MOST_TEXT} characters from row {first}")
        table = ["", *column.categories]
        return [table[code] for code in np.where(lost, 0, column.values + 1)]

    def _vectors(self, array: Any, name: str, first: int) -> Floats:
        import pyarrow as pa

        if array.null_count or array.flatten().null_count:
            raise self.refuse(f"column {name!r} has missing values from row {first} on")
        if not pa.types.is_fixed_size_list(array.type):
            lengths = np.diff(array.offsets.to_numpy())
            other = np.flatnonzero(lengths != self.dim)
            if len(other):
                raise self.refuse(
                    f"{name} of row {first + other[0]} has {lengths[other[0]]} numbers, "
                    f"expected {self.dim}"
                )
        values = array.flatten().to_numpy(zero_copy_only=False)
        return self.vectors(values.reshape(len(array), self.dim), name, first)

    def _column(self, key: str, array: Any) -> Column:
        import pyarrow as pa

        missing = array.is_null().to_numpy(zero_copy_only=False)
        kind = _kind(array.type) or "str"
        if kind != "str":
            values = array.fill_null(False if kind == "bool" else 0)
            plain = values.to_numpy(zero_copy_only=False)
            return number_column(kind, plain, missing, f"{self.path}: {key}")
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        codes = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        used, places = np.unique(codes[~missing], return_inverse=True)
        if not len(used):
            return absent("str", len(array))
        texts = array.dictionary.take(pa.array(used)).to_pylist()
        # A dictionary may have a text twice, or none.
        table = {
            text: code for code, text in enumerate(t for t in dict.fromkeys(texts) if t is not None)
        }
        mapped = np.array([table.get(text, -1) for text in texts], "<i4")
        values = np.zeros(len(array), "<i4")
        values[~missing] = mapped[places]
        missing = missing | (values < 0)
        values[missing] = 0
        return Column("str", values, missing if missing.any() else None, tuple(table))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _kind(kind: Any) -> str | None:
    """Of a column of metadata; text where nothing is in it; None where it cannot be one."""
    import pyarrow as pa

    if _is_text(kind) or pa.types.is_null(kind):
        return "str"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    return "float" if pa.types.is_floating(kind) else None
