"""Rows as Arrow record batches, through pyarrow: a column each, vectors as lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from latentdb.base.arrow import require_pyarrow
from latentdb.exchange.row_writer import has_log_var, model_attributes, read_blocks
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot


def schema_of(snapshot: Snapshot) -> Any:
    """The columns id, path, the metadata, z_mean and z_log_var (lists of a fixed size)."""
    pa, _ = require_pyarrow()
    types = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "datetime": pa.timestamp("us"),
    }
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), snapshot.dim)
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        *(pa.field(key, types[type_]) for key, type_ in snapshot.manifest.columns.items()),
        pa.field("z_mean", vector, nullable=False),
    ]
    if has_log_var(snapshot):
        fields.append(pa.field("z_log_var", vector, nullable=False))
    return pa.schema(fields, {"format": "latentdb export", **model_attributes(snapshot)})


def batches(snapshot: Snapshot, rows: Ints, schema: Any) -> Iterator[Any]:
    """Rows as record batches of the schema, a limited number in memory at a time."""
    pa, _ = require_pyarrow()
    vector = schema.field("z_mean").type
    for block in read_blocks(snapshot, rows):
        scalars = [block.ids, block.paths, *block.metadata.values()]
        arrays = [
            pa.array(values, field.type) for values, field in zip(scalars, schema, strict=False)
        ]
        for vectors in (block.z_mean, block.z_log_var):
            if vectors is not None:
                arrays.append(pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), type=vector))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def reader(snapshot: Snapshot, rows: Ints) -> Any:
    """A ``pyarrow.RecordBatchReader`` of rows, which reads them as they are asked for.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """
    pa, _ = require_pyarrow()
    schema = schema_of(snapshot)
    return pa.RecordBatchReader.from_batches(schema, batches(snapshot, rows, schema))
