"""The rows of a store as one file for other programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentdb.errors import InvalidInputError, StoreError
from latentdb.files import remove, sync_folder, told
from latentdb.segment import Ints
from latentdb.store import Snapshot

FORMATS = (".h5", ".npy")
_ROWS = 16_384  # at a time


def export(snapshot: Snapshot, rows: Ints, out: str | os.PathLike[str]) -> int:
    """Write rows to one file, whole or not at all.

    ``.npy`` holds z_mean alone, float32 ``[n, d]``.  ``.h5`` holds ``z_mean``,
    ``z_log_var`` where every row has it, ``id`` and ``path`` as UTF-8 strings,
    and one data set a metadata key under ``metadata/`` (where values are
    missing: an empty string or NaN, or for whole numbers and truth values a
    second data set, ``KEY.missing``).

    Parameters
    ----------
    snapshot
        The version to export.
    rows
        Row numbers, in the order wanted.
    out
        Ends in ``.h5`` or ``.npy``; a file that is there is replaced.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    InvalidInputError
        If the ending is another.
    StoreError
        If there is no room, or it cannot be written.
    """
    target = Path(out)
    if target.suffix not in FORMATS:
        raise InvalidInputError(
            f"{target}: cannot export to {target.suffix!r}, expected one of {', '.join(FORMATS)}"
        )
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(snapshot, rows, target)
        (_write_npy if target.suffix == ".npy" else _write_h5)(snapshot, rows, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        os.replace(temporary, target)
        sync_folder(target.absolute().parent)
        return size
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:
        reason = told(error) if isinstance(error, OSError) else str(error)
        raise StoreError(f"{target} cannot be written: {reason}") from error
    finally:
        remove(temporary)


def _check_room(snapshot: Snapshot, rows: Ints, target: Path) -> None:
    """HDF5 ends the process when it meets a full disk, so look before."""
    each = sum(segment.entry.file.bytes for segment in snapshot.segments)
    each //= max(1, sum(len(segment) for segment in snapshot.segments))
    needed = len(rows) * (each + 32) + (4 << 20)
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed:
        raise StoreError(f"{target} needs about {needed} bytes, {free} are free: make room")


def _parts(rows: Ints) -> Iterator[tuple[slice, Ints]]:
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + len(rows[start : start + _ROWS]))
        yield part, rows[part]


def _write_npy(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), snapshot.dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, numbers in _parts(rows):
            file.write(snapshot.vectors(numbers).tobytes())


def _write_h5(snapshot: Snapshot, rows: Ints, path: Path) -> None:
    import h5py

    text = h5py.string_dtype("utf-8")
    shape = (len(rows), snapshot.dim)
    manifest = snapshot.manifest
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "latentdb export"
        file.attrs["dim"] = snapshot.dim
        if manifest.model is not None:
            file.attrs["encoder_fingerprint"] = manifest.model.encoder_fingerprint
        means = file.create_dataset("z_mean", shape, "<f4")
        ids = file.create_dataset("id", (len(rows),), text)
        paths = file.create_dataset("path", (len(rows),), text)
        has_log_var = all(segment.z_log_var is not None for segment in snapshot.segments)
        log_vars = file.create_dataset("z_log_var", shape, "<f4") if has_log_var else None
        columns = {
            key: _column(file, f"metadata/{key}", kind, len(rows), text)
            for key, kind in manifest.columns.items()
        }
        for part, numbers in _parts(rows):
            means[part] = snapshot.vectors(numbers)
            if log_vars is not None:
                log_vars[part] = snapshot.log_vars(numbers)
            ids[part] = snapshot.ids(numbers)
            paths[part] = [name or "" for name in snapshot.paths(numbers)]
            records = snapshot.metadata(numbers)
            for key, (values, missing) in columns.items():
                column = [record.get(key) for record in records]
                empty: Any = {"str": "", "float": np.nan}.get(manifest.columns[key], 0)
                values[part] = [empty if value is None else value for value in column]
                if missing is not None:
                    missing[part] = [value is None for value in column]


def _column(file: Any, name: str, kind: str, rows: int, text: Any) -> tuple[Any, Any]:
    types = {"str": text, "int": "<i8", "float": "<f8", "bool": "?"}
    values = file.create_dataset(name, (rows,), types[kind])
    if kind in ("str", "float"):
        return values, None
    return values, file.create_dataset(f"{name}.missing", (rows,), "?")
