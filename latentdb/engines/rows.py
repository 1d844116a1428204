"""The rows of a version as an engine gets them, each with a digest of all that is pushed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date

import numpy as np
import xxhash

from latentdb.engines.engine import EngineRows
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.store.columns import Value
from latentdb.store.dates import from_value
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

BATCH_ROWS, _BATCH_BYTES = 4_096, 8 << 20  # of vectors: engines take messages of up to 64 MiB


def _plain(value: Value) -> Value:
    """A date or a time as the number that the store keeps."""
    return from_value(value) if isinstance(value, date) else value


def batch_rows(dim: int) -> int:
    """Rows that are sent at a time."""
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // (4 * dim)))


def live_batches(snapshot: Snapshot, size: int) -> Iterator[Ints]:
    """Row numbers of the rows alive, ascending, at most so many at a time."""
    rows = snapshot.live_rows()
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def read_engine_rows(embedded: EmbeddedRows, rows: Ints) -> EngineRows:
    """Rows with their digests."""
    snapshot = embedded.snapshot
    vectors = np.ascontiguousarray(embedded.fetch(rows))
    records = snapshot.records(rows)
    keys = list(snapshot.manifest.columns)
    values = [[_plain(metadata.get(key)) for key in keys] for _, _, metadata in records]
    digests = [
        xxhash.xxh3_64_intdigest(json.dumps([name, path, held]).encode() + vector.tobytes())
        for (name, path, _), held, vector in zip(records, values, vectors, strict=True)
    ]
    return EngineRows(
        rows,
        np.array(digests, np.uint64).astype(np.int64),
        [name for name, _, _ in records],
        [path for _, path, _ in records],
        {key: [held[number] for held in values] for number, key in enumerate(keys)},
        vectors,
    )
