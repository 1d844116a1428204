"""Rows in an ``.npy`` file: z_mean alone, as numpy saves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.exchange import row_reader
from latentdb.exchange.row_reader import RowReader, read_lines, reading_errors
from latentdb.exchange.row_writer import block_slices
from latentdb.store.rows import Ints, Rows
from latentdb.store.snapshot import Snapshot


def write(snapshot: Snapshot, rows: Ints, file: IO[bytes]) -> None:
    """Write z_mean, float32 ``[n, d]``."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), snapshot.dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for positions in block_slices(len(rows)):
        file.write(snapshot.vectors(rows[positions]).tobytes())


class NpyReader(RowReader):
    """z_mean ``[n, d]``; ids are row numbers, or the lines of a text file."""

    def __init__(self, path: Path, ids_path: Path | None) -> None:
        super().__init__(path)
        self._ids_path = ids_path
        with self.reading():
            self._file = path.open("rb")
            try:
                self._read_header(os.fstat(self._file.fileno()).st_size)
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        self._file.close()

    def _read_header(self, size: int) -> None:
        version = np.lib.format.read_magic(self._file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise self.refuse(f"is of .npy version {version}, expected (1, 0) or (2, 0)")
        shape, self._fortran, self._dtype = read(self._file)
        if self._dtype.kind not in "fiu":
            raise self.refuse(f"holds {self._dtype}, expected numbers")
        if len(shape) != 2:
            raise self.refuse(f"has shape {list(shape)}, expected [rows, dimensions]")
        self.check_dim(shape[1], "z_mean")
        self._offset = self._file.tell()
        needed = shape[0] * shape[1] * self._dtype.itemsize
        if shape[0] < 0 or needed > size - self._offset:
            raise self.refuse(
                f"declares shape {list(shape)}, {needed} bytes, and has {size - self._offset}"
            )
        self.rows = self._count = shape[0]

    def ids(self) -> Iterator[list[str]]:
        if self._ids_path is None:
            for start in range(0, self._count, row_reader.BATCH_ROWS):
                stop = min(self._count, start + row_reader.BATCH_ROWS)
                yield [str(number) for number in range(start, stop)]
            return
        lines = self._read_ids(self._ids_path)
        count = 0
        while batch := list(islice(lines, row_reader.BATCH_ROWS)):
            count += len(batch)
            if count <= self._count:
                yield batch
        if count != self._count:
            raise self.refuse(
                f"has {self._count} rows, and {self._ids_path} {count} ids: give as many"
            )

    @staticmethod
    def _read_ids(path: Path) -> Iterator[str]:
        with reading_errors(path), path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(read_lines(path, stream), start=1):
                name = line.removesuffix("\n").removesuffix("\r")
                if not name:
                    raise InvalidInputError(f"{path}: line {number} is empty, expected an id")
                yield name

    def pieces(self) -> Iterator[Rows]:
        lines = None if self._ids_path is None else self._read_ids(self._ids_path)
        itemsize = self._dtype.itemsize
        for start in range(0, self._count, self.batch_rows):
            rows = min(self.batch_rows, self._count - start)
            with self.reading():
                if self._fortran:
                    values = np.empty((rows, self.dim), self._dtype)
                    for axis in range(self.dim):
                        offset = self._offset + (axis * self._count + start) * itemsize
                        values[:, axis] = self._read_numbers(offset, rows)
                else:
                    offset = self._offset + start * self.dim * itemsize
                    values = self._read_numbers(offset, rows * self.dim).reshape(rows, self.dim)
            ids = [str(number) for number in range(start, start + rows)]
            if lines is not None:
                ids = list(islice(lines, rows))
            yield Rows(ids, self.vectors(values, "z_mean", start))

    def _read_numbers(self, offset: int, count: int) -> NDArray[Any]:
        self._file.seek(offset)
        data = self._file.read(count * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype, count)
