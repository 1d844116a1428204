"""What the writers of all formats share: the rows of a snapshot, read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from latentdb.store.columns import Value
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

BLOCK_ROWS = 16_384

# Writes the rows of a snapshot, given by their numbers, to an open, empty file.
RowWriter = Callable[[Snapshot, Ints, IO[bytes]], None]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Consecutive rows of an export, in memory.

    Attributes
    ----------
    positions
        Of the rows in the export.
    z_mean, z_log_var
        float32 ``[n, d]``; z_log_var is None unless every row of the store has it.
    ids, paths
        One a row; the path is None where a row has none.
    metadata
        Values of all rows by key; None is missing.
    """

    positions: slice
    z_mean: Floats
    z_log_var: Floats | None
    ids: list[str]
    paths: list[str | None]
    metadata: dict[str, list[Value]]


def block_slices(count: int) -> Iterator[slice]:
    """Positions of `count` rows, a block at a time."""
    for start in range(0, count, BLOCK_ROWS):
        yield slice(start, min(count, start + BLOCK_ROWS))


def read_blocks(snapshot: Snapshot, rows: Ints) -> Iterator[RowBlock]:
    """Rows with everything that the store has of them, a block at a time."""
    for positions in block_slices(len(rows)):
        numbers = rows[positions]
        facts = snapshot.records(numbers)
        yield RowBlock(
            positions,
            snapshot.vectors(numbers),
            snapshot.log_vars(numbers) if has_log_var(snapshot) else None,
            [name for name, _, _ in facts],
            [path for _, path, _ in facts],
            {key: [record.get(key) for _, _, record in facts] for key in snapshot.manifest.columns},
        )


def has_log_var(snapshot: Snapshot) -> bool:
    """Whether every row has z_log_var."""
    return all(segment.has_log_var for segment in snapshot.segments)


def model_attributes(snapshot: Snapshot) -> dict[str, str]:
    """What a file says of the model that made its latents; empty for a store without a model."""
    model = snapshot.manifest.model
    return {} if model is None else {"encoder_fingerprint": model.encoder_fingerprint}
