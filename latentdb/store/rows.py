"""Rows in memory: ids, latents, file stats and metadata, on their way into a segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.store.columns import DTYPES, Column, join

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FileStats:
    """Size, time and content hash of the image files that rows were encoded from.

    Attributes
    ----------
    sizes, mtimes_ns
        int64 ``[n]``: bytes, and time of the last change in nanoseconds.
    digests
        uint64 ``[n]``: xxh3 of the content.
    """

    sizes: Ints
    mtimes_ns: Ints
    digests: NDArray[np.uint64]

    @staticmethod
    def blank(count: int) -> FileStats:
        """Zeros, for rows that came from no image."""
        zeros = np.zeros(count, np.int64)
        return FileStats(zeros, zeros, zeros.astype(np.uint64))

    @staticmethod
    def concat(blocks: Sequence[FileStats]) -> FileStats:
        """The stats of several blocks, one after the other."""
        return FileStats(
            np.concatenate([block.sizes for block in blocks]),
            np.concatenate([block.mtimes_ns for block in blocks]),
            np.concatenate([block.digests for block in blocks]),
        )

    def take(self, positions: Ints | slice) -> FileStats:
        """The stats of some rows: at positions, in their order, or a slice."""
        return FileStats(self.sizes[positions], self.mtimes_ns[positions], self.digests[positions])


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in memory, as they are written into a store.

    Attributes
    ----------
    ids
        Without duplicates.
    z_mean, z_log_var
        float32 ``[n, d]``; z_log_var may be absent.
    paths
        Absolute path of the image of each row, if they have any.
    file_stats
        Of those images.
    columns
        Metadata, by key.
    hashes
        `hash_ids` of the ids, where they were computed already.

    Raises
    ------
    InvalidInputError
        If an array has another length, shape or dtype; ids and values are not looked at.
    """

    ids: Sequence[str]
    z_mean: Floats
    z_log_var: Floats | None = None
    paths: Sequence[str] | None = None
    file_stats: FileStats | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    hashes: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.z_mean.ndim != 2:
            raise InvalidInputError(f"z_mean has shape {self.z_mean.shape}: expected [n, d]")
        _check_array("z_mean", self.z_mean, "f4", (count, self.z_mean.shape[1]))
        if self.z_log_var is not None:
            _check_array("z_log_var", self.z_log_var, "f4", self.z_mean.shape)
        if self.paths is not None and len(self.paths) != count:
            raise InvalidInputError(f"paths are {len(self.paths)} for {count} ids: give one each")
        if self.file_stats is not None:
            _check_array("file sizes", self.file_stats.sizes, "i8", (count,))
            _check_array("file times", self.file_stats.mtimes_ns, "i8", (count,))
            _check_array("file digests", self.file_stats.digests, "u8", (count,))
        if self.hashes is not None:
            _check_array("hashes of ids", self.hashes, "u8", (count,))
        for key, column in self.columns.items():
            _check_array(f"metadata {key!r}", column.values, DTYPES[column.type].str, (count,))
            if column.missing is not None:
                _check_array(f"missing values of {key!r}", column.missing, "?", (count,))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Ints | slice) -> Rows:
        """Some of the rows: at positions, in their order, or a slice."""
        return Rows(
            _take_texts(self.ids, positions),
            self.z_mean[positions],
            None if self.z_log_var is None else self.z_log_var[positions],
            None if self.paths is None else _take_texts(self.paths, positions),
            None if self.file_stats is None else self.file_stats.take(positions),
            {key: column.take(positions) for key, column in self.columns.items()},
            None if self.hashes is None else self.hashes[positions],
        )

    @staticmethod
    def concat(blocks: Sequence[Rows]) -> Rows:
        """The rows of several blocks, one after the other.

        Parameters
        ----------
        blocks
            At least one; all with the metadata keys and dtypes of the first.
            Paths and file stats that only some have are blank for the others;
            z_log_var and hashes are kept where all have them.
        """
        first = blocks[0]
        if len(blocks) == 1:
            return first
        paths, file_stats = None, None
        if any(block.paths is not None for block in blocks):
            paths = [path for block in blocks for path in block.paths or [""] * len(block)]
        if any(block.file_stats is not None for block in blocks):
            file_stats = FileStats.concat(
                [block.file_stats or FileStats.blank(len(block)) for block in blocks]
            )
        return Rows(
            [name for block in blocks for name in block.ids],
            np.concatenate([block.z_mean for block in blocks]),
            _concat_present([block.z_log_var for block in blocks]),
            paths,
            file_stats,
            {
                key: join(column.type, [block.columns[key] for block in blocks])
                for key, column in first.columns.items()
            },
            _concat_present([block.hashes for block in blocks]),
        )


def _check_array(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InvalidInputError(
            f"{name}: received {array.dtype} {list(array.shape)}, "
            f"expected {np.dtype(dtype)} {list(shape)}"
        )


def _take_texts(texts: Sequence[str], positions: Ints | slice) -> Sequence[str]:
    if isinstance(positions, slice):
        return texts[positions]
    return [texts[position] for position in positions.tolist()]


def _concat_present(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if len(present) == len(arrays) else None
