"""Images in a column of a Parquet file, as Hugging Face data sets have them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from datetime import date
from functools import partial
from typing import Any

from latentdb.base.errors import ImageError, MissingExtraError
from latentdb.images.discover import BadFile
from latentdb.images.members import (
    Found,
    Member,
    Values,
    check_size,
    is_number,
    member_path,
    reading,
    scalars,
)

_BATCH_ROWS = 64


class ParquetSource:
    """A Parquet file with a column of bytes, or of ``{"bytes", "path"}``.

    Ids are the paths of that column, or else the name of the file and a row number; the
    other columns of texts, numbers and booleans are metadata, with the names of classes.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def _opened(self) -> tuple[Any, str]:
        """The file, and the name of its column of images."""
        try:
            from pyarrow import parquet, types
        except ImportError as error:
            raise MissingExtraError("Images in .parquet", "parquet") from error
        file = parquet.ParquetFile(self._path)
        for field in file.schema_arrow:
            kind = field.type
            if types.is_struct(kind):
                kind = next((inner.type for inner in kind if inner.name == "bytes"), None)
            if kind is not None and (types.is_binary(kind) or types.is_large_binary(kind)):
                return file, field.name
        names = ", ".join(file.schema_arrow.names)
        raise ValueError(f'no column of images (bytes, or {{"bytes", "path"}}) among {names}')

    def members(self) -> Iterator[Member | BadFile | None]:
        """The images, a few rows of the file in memory at a time."""
        try:
            with reading(self._path):
                mtime = os.stat(self._path).st_mtime_ns
                file, column = self._opened()
                classes = _class_names(file.schema_arrow)
                stem = os.path.splitext(os.path.basename(self._path))[0]
                digits = len(str(max(file.metadata.num_rows - 1, 0)))
                number = 0
                for batch in file.iter_batches(_BATCH_ROWS):
                    for record in batch.to_pylist():
                        name = f"{stem}/{number:0{digits}d}"
                        yield self._member(record, column, number, name, mtime, classes)
                        number += 1
        except ImageError as error:
            yield BadFile(error.path, error.reason)

    def _member(
        self,
        record: dict[str, Any],
        column: str,
        number: int,
        name: str,
        mtime: int,
        classes: dict[str, list[str]],
    ) -> Member | BadFile:
        path = member_path(self._path, str(number))
        data, given = _content(record.pop(column))
        bad = check_size(path, len(data))
        if bad is not None:
            return bad
        for key, names in classes.items():
            value = record.get(key)
            if isinstance(value, int) and 0 <= value < len(names):
                record[key] = names[value]
        dated = {k: v.isoformat() if isinstance(v, date) else v for k, v in record.items()}
        values: Values = scalars(dated)
        return Member(given or name, path, len(data), mtime, lambda: data, values)

    def find(self, names: Collection[str]) -> Iterator[Found]:
        asked = {int(name): name for name in names if is_number(name)}
        file, column = self._opened()
        first = 0
        for group in range(file.metadata.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            here = [number for number in sorted(asked) if first <= number < end]
            if here:
                values = file.read_row_group(group, columns=[column]).column(column)
                for number in here:
                    data = _content(values[number - first].as_py())[0]
                    yield asked[number], partial(bytes, data)
            first = end


def _content(value: Any) -> tuple[bytes, str | None]:
    """The content of an image and its path."""
    if isinstance(value, dict):
        path = value.get("path")
        return value.get("bytes") or b"", path if isinstance(path, str) and path else None
    return value or b"", None


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of the classes of columns, from what Hugging Face writes into the file."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"]
        return {
            key: [str(name) for name in feature["names"]]
            for key, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
