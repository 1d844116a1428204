"""The rows of a store as one file for other programs."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentdb.base.errors import InvalidInputError, MissingExtraError, StoreError
from latentdb.base.files import as_path, os_reason, sync_folder, try_remove
from latentdb.exchange.row_reader import VECTOR_COLUMN
from latentdb.store.columns import Value
from latentdb.store.segment import Floats, Ints, Segment
from latentdb.store.snapshot import Snapshot

FORMATS = (".h5", ".npy", ".parquet", ".csv")
_ROWS = 16_384  # at a time


def export(snapshot: Snapshot, rows: Ints, out: str | os.PathLike[str]) -> int:
    """Write rows to one file, whole or not at all.

    ``.npy`` holds z_mean alone, float32 ``[n, d]``.  The others hold every row
    exactly, and `latentdb.exchange.importing` reads them back: its id, its path (empty
    where it has none), z_mean, z_log_var where every row has it, and metadata.

    ``.h5``: ``z_mean`` and ``z_log_var`` float32 ``[n, d]``, ``id`` and ``path``
    as UTF-8 strings, and one data set a metadata key under ``metadata/``, with a
    second one, ``KEY.missing``, if any of its values is missing.

    ``.parquet``: one column each, z_mean and z_log_var as lists of a fixed size.

    ``.csv``: columns ``id``, ``path``, the metadata keys, ``z_mean_0`` and so on,
    ``z_log_var_0`` and so on, with as many digits as a float32 has.  An empty cell
    is a missing value, so that an empty text reads back as missing; and a file of
    text has no types, so that text which looks like numbers reads back as numbers
    in a store that has no such column yet.

    Parameters
    ----------
    snapshot
        The version to export.
    rows
        Row numbers, in the order wanted.
    out
        Ends in one of `FORMATS`; a file that is there is replaced.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InvalidInputError
        If the ending is another, or text has a null character.
    StoreError
        If there is no room, or it cannot be written.
    MissingExtraError
        For ``.parquet``, without pyarrow.
    """
    target = as_path(out)
    if target.suffix not in FORMATS:
        raise InvalidInputError(
            f"{target}: cannot export to {target.suffix!r}, expected one of {', '.join(FORMATS)}"
        )
    if target.suffix == ".parquet":
        _pyarrow()
    if target.suffix == ".csv":
        for key in filter(VECTOR_COLUMN.match, snapshot.manifest.columns):
            raise InvalidInputError(
                f"metadata {key!r} has the name of a vector's column in .csv: "
                "export to .h5 or .parquet"
            )
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(snapshot, rows, target)
        _WRITERS[target.suffix](snapshot, rows, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        os.replace(temporary, target)
        sync_folder(target.absolute().parent)
        return size
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise StoreError(f"{target} cannot be written: {reason}") from error
    finally:
        try_remove(temporary)


def _check_room(snapshot: Snapshot, rows: Ints, target: Path) -> None:
    """Tell a full disk before much is written to it."""
    size = sum(segment.entry.file.bytes + _text_bytes(segment) for segment in snapshot.segments)
    each = size // max(1, sum(len(segment) for segment in snapshot.segments))
    if target.suffix == ".csv":
        each += 24 * snapshot.dim  # 16 characters a number, for the 4 bytes of z_mean and z_log_var
    needed = len(rows) * (each + 32 * (3 + len(snapshot.manifest.columns))) + (4 << 20)
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed:
        raise StoreError(f"{target} needs about {needed} bytes, {free} are free: make room")


def _text_bytes(segment: Segment) -> int:
    """What the text of metadata takes when every row has its own."""
    total = 0
    for key, kind in segment.columns.items():
        column = segment.column(key)
        if kind == "str" and column.categories:
            sizes = np.array([len(text.encode()) for text in column.categories])
            total += int(sizes[np.clip(column.values, 0, len(sizes) - 1)].sum())
    return total


@dataclass(frozen=True, eq=False)
class _Block:
    """Some rows, read."""

    part: slice
    means: Floats
    log_vars: Floats | None
    ids: list[str]
    paths: list[str | None]
    metadata: dict[str, list[Value]]


def _blocks(snapshot: Snapshot, rows: Ints) -> Iterator[_Block]:
    for start in range(0, len(rows), _ROWS):
        numbers = rows[start : start + _ROWS]
        facts = snapshot.facts(numbers)
        yield _Block(
            slice(start, start + len(numbers)),
            snapshot.vectors(numbers),
            snapshot.log_vars(numbers) if _has_log_var(snapshot) else None,
            [name for name, _, _ in facts],
            [path for _, path, _ in facts],
            {key: [record.get(key) for _, _, record in facts] for key in snapshot.manifest.columns},
        )


def _has_log_var(snapshot: Snapshot) -> bool:
    return all(segment.has_log_var for segment in snapshot.segments)


def _fingerprint(snapshot: Snapshot) -> dict[str, str]:
    model = snapshot.manifest.model
    return {} if model is None else {"encoder_fingerprint": model.encoder_fingerprint}


def _write_npy(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), snapshot.dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), _ROWS):
            file.write(snapshot.vectors(rows[start : start + _ROWS]).tobytes())


def _write_csv(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    names = ["z_mean", "z_log_var"] if _has_log_var(snapshot) else ["z_mean"]
    numbers = [f"{name}_{place}" for name in names for place in range(snapshot.dim)]
    form = ",".join(["%.9g"] * snapshot.dim)  # nine digits tell every float32 from the next
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", *snapshot.manifest.columns, *numbers])
        for block in _blocks(snapshot, rows):
            cells = [[_cell(value) for value in column] for column in block.metadata.values()]
            vectors = [block.means] if block.log_vars is None else [block.means, block.log_vars]
            for place, name in enumerate(block.ids):
                texts = ",".join(form % tuple(array[place].tolist()) for array in vectors)
                row = [name, block.paths[place] or "", *(column[place] for column in cells)]
                writer.writerow(row + texts.split(","))


def _cell(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("a .parquet file", "parquet") from error
    return pyarrow, parquet


def _write_parquet(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    pa, parquet = _pyarrow()
    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    columns = snapshot.manifest.columns
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), snapshot.dim)
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        *(pa.field(key, kinds[kind]) for key, kind in columns.items()),
        pa.field("z_mean", vector, nullable=False),
    ]
    if _has_log_var(snapshot):
        fields.append(pa.field("z_log_var", vector, nullable=False))
    about = {"format": "latentdb export", **_fingerprint(snapshot)}
    schema = pa.schema(fields, metadata=about)
    texts = ["id", "path", *(key for key, kind in columns.items() if kind == "str")]
    with (
        path.open("wb") as file,
        parquet.ParquetWriter(file, schema, use_dictionary=texts) as writer,
    ):
        for block in _blocks(snapshot, rows):
            arrays = [block.ids, block.paths, *block.metadata.values()]
            arrays = [pa.array(values, field.type)
                      for values, field in zip(arrays, fields, strict=False)]  # fmt: skip
            for values in (block.means, block.log_vars):
                if values is not None:
                    arrays.append(
                        pa.FixedSizeListArray.from_arrays(values.reshape(-1), type=vector)
                    )
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_h5(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    with _Unfailing(path) as raw:
        _fill_h5(snapshot, rows, raw)
        raw.check()


def _fill_h5(snapshot: Snapshot, rows: Ints, raw: _Unfailing) -> None:
    import h5py

    text = h5py.string_dtype("utf-8")
    types = {"str": text, "int": "<i8", "float": "<f8", "bool": "?"}
    fill: dict[str, Value] = {"str": "", "int": 0, "float": np.nan, "bool": False}
    shape = (len(rows), snapshot.dim)
    columns = snapshot.manifest.columns
    with h5py.File(raw, "w") as file:
        file.attrs["format"] = "latentdb export"
        file.attrs["dim"] = snapshot.dim
        for name, value in _fingerprint(snapshot).items():
            file.attrs[name] = np.bytes_(value.encode())
        means = file.create_dataset("z_mean", shape, "<f4")
        ids = file.create_dataset("id", shape[:1], text)
        paths = file.create_dataset("path", shape[:1], text)
        log_vars = None
        if _has_log_var(snapshot):
            log_vars = file.create_dataset("z_log_var", shape, "<f4")
        for key, kind in columns.items():
            file.create_dataset(f"metadata/{key}", shape[:1], types[kind])
        for block in _blocks(snapshot, rows):
            means[block.part] = block.means
            if log_vars is not None:
                log_vars[block.part] = block.log_vars
            raw.check()
            ids[block.part] = block.ids
            paths[block.part] = [name or "" for name in block.paths]
            for key, values in block.metadata.items():
                if any(isinstance(value, str) and "\0" in value for value in values):
                    raise InvalidInputError(
                        f"metadata {key!r} has text with a null, which HDF5 text cannot hold: "
                        "export to .parquet or .csv"
                    )
                empty = fill[columns[key]]
                filled = [empty if value is None else value for value in values]
                file[f"metadata/{key}"][block.part] = filled
                if None in values:
                    name = f"metadata/{key}.missing"
                    missing = file.require_dataset(name, shape[:1], bool)
                    missing[block.part] = [value is None for value in values]
            raw.check()


class _Unfailing(io.RawIOBase):
    """A file for HDF5, which ends the process when a write fails: it never hears of it.

    The first error is kept, and raised by `check`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def close(self) -> None:
        self._file.close()
        super().close()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size, end = len(rest), self._file.tell() + len(rest)
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        self._file.seek(end)
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


_WRITERS = {".h5": _write_h5, ".npy": _write_npy, ".parquet": _write_parquet, ".csv": _write_csv}
