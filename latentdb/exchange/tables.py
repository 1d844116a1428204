"""Metadata tables: CSV in its dialects, JSON, Parquet, and tables that are in memory."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from latentdb.base.arrow import require_pyarrow
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.files import os_reason
from latentdb.images.formats import SUFFIXES
from latentdb.ingest.table import Table
from latentdb.store import dates
from latentdb.store.cells import parse_cell, parse_cells
from latentdb.store.columns import RESERVED, make_columns

ID_COLUMNS = (
    "id", "path", "file", "filename", "file_name", "image",
    "filepath", "file_path", "image_path", "img", "key",
)  # fmt: skip
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
TableLike = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Any
_DELIMITERS = (",", ";", "\t", "|")
_UNNAMED = re.compile(r"(Unnamed: [0-9]+)?\Z")  # an index that pandas wrote, and read again
_BLOCK = 1 << 20  # bytes that are decoded at a time to find an encoding
_LOOKED_AT = 20  # names of images that show which column has them
_SHOWN = 12  # columns that an error lists

_Raw = dict[str, list[Any]]  # the values of each column


def read_table(
    source: TableLike, image_column: str | None = None, stored: Mapping[str, str] | None = None
) -> Table:
    """Read metadata: a file, or a table in memory.

    One column names the image: `image_column`, or one of `ID_COLUMNS` in any case, where
    one that has names of image files goes before the others.  The other columns are
    metadata, but for those without a name and of a reserved one, which the notes tell.

    Parameters
    ----------
    source
        A file (CSV with a header; JSON: a list of objects, or one a line; Parquet), a dict
        of columns, a list of dicts, a dict of dicts by image, or a table of pandas, polars
        or pyarrow.
    image_column
        Name of the column with the ids or paths of images.
    stored
        Types of the store's columns: cells of CSV stay text for a column of text.

    Raises
    ------
    NotFoundError, InvalidInputError
        If a file is not there, or it is no such table.
    MissingExtraError
        For Parquet, without pyarrow.
    """
    notes: list[str] = []
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        raw = _read_file(Path(source), image_column, stored or {}, notes)
    else:
        name = f"the metadata ({type(source).__name__})"
        raw = _from_memory(source, image_column, name)
    column = _image_column(raw, image_column)
    if column is None:
        shown = ", ".join(islice(raw, _SHOWN)) + (", ..." if len(raw) > _SHOWN else "")
        wanted = repr(image_column) if image_column else f"one of {', '.join(ID_COLUMNS)}"
        raise InvalidInputError(
            f"{name} has columns {shown or '(none)'}: one must name the image ({wanted}); "
            "another is given by --metadata-column (metadata_column=)"
        )
    names = _names(name, column, raw.pop(column))
    _leave_out(raw, notes)
    return Table(name, names, make_columns(raw, len(names)), tuple(notes))


def _image_column(raw: Mapping[str, Sequence[Any]], wanted: str | None) -> str | None:
    found = _named_columns(raw, wanted)
    for key in found:
        first = raw[key][:_LOOKED_AT]
        if len(first) and all(_is_image_name(value) for value in first):
            return key
    return found[0] if found else None


def _is_image_name(value: Any) -> bool:
    return isinstance(value, str) and os.path.splitext(value)[1].lower() in SUFFIXES


def _named_columns(names: Iterable[str], wanted: str | None) -> list[str]:
    """The columns that may name images, those written as in `ID_COLUMNS` first."""
    given = [name for name in names if isinstance(name, str)]
    sought = ID_COLUMNS if wanted is None else (wanted,)
    exact = [column for column in sought if column in given]
    folded = {name.casefold(): name for name in reversed(given)}
    other = [folded[column.casefold()] for column in sought if column.casefold() in folded]
    # "filename" before "ID", which may be that of something else.
    return list(dict.fromkeys(exact + other))


def _names(source: str, column: str, values: Sequence[Any]) -> list[str]:
    names: list[str] = []
    seen: set[str] = set()
    for number, value in enumerate(values, start=1):
        plain = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
        if isinstance(plain, os.PathLike):
            plain = os.fspath(plain)
        if plain == "" or not isinstance(plain, str | int | float) or isinstance(plain, bool):
            raise InvalidInputError(f"{source}, record {number}, has no {column}: name its image")
        name = str(plain)
        if name in seen:
            raise InvalidInputError(f"{source} names {name!r} twice: keep one row of it")
        seen.add(name)
        names.append(name)
    return names


def _leave_out(raw: _Raw, notes: list[str]) -> None:
    """Drop the columns that cannot be metadata, and say so."""
    unnamed = [key for key in raw if isinstance(key, str) and _UNNAMED.match(key)]
    reserved = [key for key in raw if key in RESERVED]
    for key in (*unnamed, *reserved):
        del raw[key]
    if unnamed:
        notes.append("a column without a name (the index of a table?) was left out")
    for key in reserved:
        notes.append(f"column {key!r} was left out: the name is reserved, rename it to keep it")


# --- tables in memory ----------------------------------------------------------------


def _from_memory(source: Any, image_column: str | None, name: str) -> _Raw:
    if hasattr(source, "to_pydict"):  # pyarrow
        return dict(source.to_pydict())
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        if hasattr(source, "index"):  # pandas
            raw = {key: list(values) for key, values in source.to_dict("list").items()}
            if image_column is None and not _named_columns(raw, None):
                raw = {"id": list(source.index), **raw}
            return raw
        return dict(source.to_dict(as_series=False))  # polars
    if hasattr(source, "__arrow_c_stream__"):
        return dict(require_pyarrow()[0].table(source).to_pydict())
    if isinstance(source, Mapping):
        if source and all(isinstance(value, Mapping) for value in source.values()):
            return _columns({"id": key, **value} for key, value in source.items())
        return {key: _plain_list(name, key, values) for key, values in source.items()}
    if isinstance(source, Sequence) and all(isinstance(item, Mapping) for item in source):
        return _columns(source)
    raise InvalidInputError(
        f"{name} cannot be read: expected a file ({', '.join(FORMATS)}), a dict of columns, "
        "a list of dicts, or a table of pandas, polars or pyarrow"
    )


def _plain_list(source: str, key: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        raise InvalidInputError(
            f"{source}: {key!r} is a single {type(values).__name__}: "
            "expected the values of all rows"
        )
    return list(values)


def _columns(records: Iterable[Mapping[str, Any]]) -> _Raw:
    raw: _Raw = {}
    for before, record in enumerate(records):
        for key, value in record.items():
            raw.setdefault(key, [None] * before).append(value)
        for column in raw.values():
            if len(column) == before:
                column.append(None)
    return raw


# --- files ---------------------------------------------------------------------------


def _read_file(
    file: Path, image_column: str | None, stored: Mapping[str, str], notes: list[str]
) -> _Raw:
    if not os.path.isfile(file):
        raise NotFoundError(
            f"{file} does not exist: expected a metadata file ({', '.join(FORMATS)})"
        )
    suffix = file.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            raw = _read_csv(file, image_column, notes)
            name = _image_column(raw, image_column)
            return {
                key: cells if key == name else _typed(file, key, cells, stored.get(key), notes)
                for key, cells in raw.items()
            }
        if suffix in (".jsonl", ".ndjson", ".json"):
            raw = _read_json(file)
            name = _image_column(raw, image_column)
            texts = [key for key in raw if key != name and _is_text(raw[key])]
            typed = {key: _dated(file, key, raw[key], stored.get(key), notes) for key in texts}
            return {**raw, **typed}
        if suffix == ".parquet":
            return _read_parquet(file)
    except UnicodeDecodeError as error:
        name = error.encoding.upper()
        raise InvalidInputError(f"{file} is not {name} text: {error.reason}") from error
    except OSError as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{file} cannot be read: {os_reason(error)}") from error
    raise InvalidInputError(f"{file}: cannot read {suffix!r}, expected one of {', '.join(FORMATS)}")


def _encoding(file: Path, notes: list[str]) -> str:
    """UTF-8, UTF-16 by its mark or its zeros, or else Latin-1, which is noted."""
    with file.open("rb") as stream:
        head = stream.read(4)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if head[:1] and not head[0] and head[1:2] != b"\0":
            return "utf-16-be"
        if head[1:2] == b"\0" and head[0]:
            return "utf-16-le"
        stream.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block := stream.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            notes.append(
                f"{file} is not UTF-8 (byte 0x{byte:02x}): it was read as Latin-1 (Windows-1252)"
            )
            return "cp1252"
    return "utf-8-sig"


@contextmanager
def _opened_text(file: Path, encoding: str, newline: str | None = None) -> Iterator[Any]:
    # Five bytes are undefined in Windows-1252.
    errors = "replace" if encoding == "cp1252" else "strict"
    with file.open(newline=newline, encoding=encoding, errors=errors) as stream:
        yield stream


def _read_csv(file: Path, image_column: str | None, notes: list[str]) -> _Raw:
    encoding = _encoding(file, notes)
    delimiter, spaced = _dialect(file, encoding, image_column)
    with _opened_text(file, encoding, newline="") as stream:
        # Strict, or an open quote takes the rest of the file.
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            cells: list[list[str]] = [[] for _ in header]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InvalidInputError(
                        f"{file}, line {reader.line_num}, has {len(row)} cells: "
                        f"its header has {len(header)}"
                    )
                for column, cell in zip(cells, row, strict=True):
                    column.append(cell)
        except csv.Error as error:
            raise InvalidInputError(f"{file}, line {reader.line_num}: {error}") from error
    unnamed = [place for place, key in enumerate(header) if not key]
    # An ending delimiter makes a column that has nothing: not worth a note.
    for place in unnamed:
        if any(cells[place]):
            notes.append("a column without a name (the index of a table?) was left out")
            break
    kept = [place for place, key in enumerate(header) if key]
    named = [header[place] for place in kept]
    if len(set(named)) != len(named):
        raise InvalidInputError(f"{file} has a column name twice: {', '.join(header)}")
    return {header[place]: cells[place] for place in kept}


def _typed(
    file: Path, key: str, cells: Sequence[str], stored: str | None, notes: list[str]
) -> list[Any]:
    """The values of a column's cells; a note if some of them alone are dates."""
    values = parse_cells(cells, "str" if stored == "str" else None)
    return _dated(file, key, values, stored, notes) if _is_text(values) else values


def _is_text(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


def _dated(
    file: Path, key: str, values: Sequence[str | None], stored: str | None, notes: list[str]
) -> list[Any]:
    """Texts as dates if all are of one kind; a note if some of them alone are."""
    if stored != "str":
        texts = [value for value in values if value is not None]
        kinds = [found and found[0] for found in map(dates.parse, texts)]
        first = next((kind for kind in kinds if kind), None)
        if first is not None and set(kinds) == {first}:
            return [None if value is None else parse_cell(first, value) for value in values]
        if first is not None:
            other = texts[next(place for place, kind in enumerate(kinds) if kind != first)]
            notes.append(
                f"column {key!r} of {file} is text, not dates, as of {other!r}: "
                "write all of them as 2020-01-31, or as 2020-01-31 12:00:00"
            )
    return list(values)


def _dialect(file: Path, encoding: str, image_column: str | None) -> tuple[str, bool]:
    """The delimiter under which the header has an image column, and whether blanks follow it."""
    headers = {}
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    for delimiter in sorted(_DELIMITERS, key=lambda each: each != usual):
        with _opened_text(file, encoding, newline="") as stream:
            try:
                headers[delimiter] = next(csv.reader(stream, delimiter=delimiter), [])
            except csv.Error:
                continue
    for delimiter, header in headers.items():
        if _named_columns([name.strip() for name in header], image_column):
            return delimiter, _is_spaced(header)
    delimiter = max(headers, key=lambda each: len(headers[each]), default=usual)
    return delimiter, _is_spaced(headers.get(delimiter, []))


def _is_spaced(header: Sequence[str]) -> bool:
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def _read_json(file: Path) -> _Raw:
    with _opened_text(file, "utf-8-sig") as stream:
        if file.suffix.lower() != ".json":
            return _columns(_json_lines(file, stream))
        try:
            content = json.load(stream)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise InvalidInputError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, list | dict):
        raise InvalidInputError(f"{file} is neither a list nor an object: give a list of objects")
    return _from_memory(content, None, str(file))


def _json_lines(file: Path, stream: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{file}, line {number}, is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InvalidInputError(f"{file}, line {number}, is not a JSON object")
        yield record


def _read_parquet(file: Path) -> _Raw:
    pa, parquet = require_pyarrow()
    try:
        return dict(parquet.read_table(os.fspath(file)).to_pydict())
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            f"{file} is not a Parquet file that can be read: {reason}"
        ) from error
