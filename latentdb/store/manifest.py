"""The manifest: one JSON file that describes a version of a store, replaced atomically.

A version consists of exactly the files that its manifest names.  Any other file
is being written, or waits for garbage collection.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from latentdb.ann.metrics import CENTERED_COSINE, COSINE, L2, METRICS
from latentdb.ann.plan import PREFERENCES
from latentdb.base.errors import (
    CorruptStoreError,
    NotFoundError,
    StoreError,
    StoreNotFoundError,
)
from latentdb.base.files import read_limited, replace_atomically
from latentdb.store.columns import COLUMN_TYPES, check_key, is_name
from latentdb.store.dates import LIMITS
from latentdb.store.roots import MAX_ROOTS, Root
from latentdb.store.similar import similar_store

# Version 1 had segments without a layout.  Before version 3, which only manifests with a cosine
# metric or a centre have, "cosine" was centred and the index had the centre.  Before version 4,
# which only manifests with tombstones have, garbage collection would delete their file.  Before
# version 5, which only manifests with either have, there were no dates, and keys were names.
# Before version 6, which only manifests with float16 have, latents were float32.
FORMAT_VERSION = 6
_READABLE = range(1, FORMAT_VERSION + 1)
MANIFEST = "MANIFEST.json"
PREVIOUS = "MANIFEST.previous"
TEMPORARY_MANIFEST = ".MANIFEST."  # prefix of a manifest that is not in force yet
FOLDERS = ("segments", "index", "model")
QUARANTINE, HISTORY = "quarantine", "history"
RECIPES, PLAN = "recipes", "plan"  # of no version: see the modules of these names
FLOAT32, FLOAT16 = "float32", "float16"
DTYPES = (FLOAT32, FLOAT16)
MAX_DIM = 65_536
MAX_ROW = 2**48  # row numbers ever given: a million a second for nine years
MAX_BYTES = 256 << 20  # of a manifest
_SEGMENT = re.compile(r"segments/[A-Za-z0-9_-]+\.h5\Z")
_DELETIONS = re.compile(r"segments/[A-Za-z0-9_-]+\.deleted\Z")
_TOMBSTONES = re.compile(r"segments/[A-Za-z0-9_-]+\.tombstones\Z")
_INDEX = re.compile(r"index/[A-Za-z0-9_-]+\.faiss\Z")
_MODEL = re.compile(r"model/([A-Za-z0-9_-]+\.){1,2}(keras|json|onnx)\Z")
_CHECKSUM = re.compile(r"[0-9a-f]{32}\Z")
# So that older manifests keep their bytes.
_LEFT_OUT_IF_EMPTY = ("roots", "tombstones")
_LEFT_OUT = (("default_metric", L2), ("dtype", FLOAT32))


@dataclass(frozen=True)
class FileEntry:
    """An immutable file of the store: name under its folder, bytes, checksum."""

    name: str
    bytes: int
    checksum: str


@dataclass(frozen=True)
class LayoutEntry:
    """Offset, bytes and checksum of the layout in a segment file."""

    offset: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class SegmentEntry:
    """An immutable HDF5 file of rows, whose row numbers lie in first..last.

    A segment of format version 1 has no layout.
    """

    file: FileEntry
    rows: int
    first_row: int
    last_row: int
    layout: LayoutEntry | None = None


@dataclass(frozen=True)
class DeletionsEntry:
    """The file of deleted row numbers that a segment or the index still holds.

    Attributes
    ----------
    file
        int64 row numbers, ascending.
    rows
        How many they are.
    in_segments
        How many of them a segment still holds; the others were compacted away.
    """

    file: FileEntry
    rows: int
    in_segments: int


@dataclass(frozen=True)
class TombstonesEntry:
    """The file of the images that were deleted, and their number."""

    file: FileEntry
    rows: int


@dataclass(frozen=True)
class IndexEntry:
    """The search index, and what was measured when it was built.

    Attributes
    ----------
    file
        The serialized FAISS index.
    kind
        Structure and quantiser (``"ivf-sq8"``, ``"ivf-sq4"``, ``"hnsw-sq8"``).
    rows_below
        It holds every live row with a smaller number; larger ones are unindexed.
    rows
        How many rows it holds.
    parameters
        Of the search: see `latentdb.ann.tuning.Tuning`.
    recall_target, recall_measured
        Recall@``recall_k``: the target, and what was measured on held-out rows.
    queries
        How many rows the recall was measured on.
    build_seconds
        Wall time of building and tuning.
    metric
        Metric it was built for.
    trained_rows
        Rows in the store when it was last built from scratch.
    milliseconds
        Median time of one query when it was tuned.
    """

    file: FileEntry
    kind: str
    rows_below: int
    rows: int
    parameters: Mapping[str, int]
    recall_target: float
    recall_measured: float
    recall_k: int
    queries: int
    build_seconds: float
    metric: str = "l2"
    trained_rows: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True)
class ModelEntry:
    """The model that made the latents."""

    encoder_fingerprint: str
    decoder_fingerprint: str | None
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Settings:
    """How the store is to be searched.

    Attributes
    ----------
    recall
        The recall target: least share of the true neighbours to find.
    exact_rows
        Up to this many rows an index was measured to be no faster than a scan.
    memory
        Bytes that the index may take; 0 for no limit.
    prefer
        ``"build"`` or ``"latency"``: see `latentdb.ann.plan.plan`.
    metric
        Metric that the index is built for.
    centre
        What centred cosine is measured around, in an index and without; empty until
        it is recorded.
    default_metric
        Metric of queries that name none.
    """

    recall: float = 0.99
    exact_rows: int = 0
    memory: int = 0
    prefer: str = "build"
    metric: str = "l2"
    centre: tuple[float, ...] = ()
    default_metric: str = L2


@dataclass(frozen=True)
class Manifest:
    """One committed version of a store.

    Attributes
    ----------
    uuid
        Identifies the store; the same in every version.
    version
        Number of commits.
    dim
        Dimensions of z_mean.
    next_row
        Next row number; numbers are never reused.
    columns
        Type of every metadata key.
    roots
        Folders that images were indexed from; those with the oldest rows first.
    tombstones
        Images that were deleted, and do not come back with the next indexing.
    dtype
        Of z_mean and z_log_var in the segments.
    """

    uuid: str
    version: int
    dim: int
    next_row: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    deletions: DeletionsEntry | None = None
    index: IndexEntry | None = None
    model: ModelEntry | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    roots: tuple[Root, ...] = ()
    tombstones: TombstonesEntry | None = None
    dtype: str = FLOAT32

    @property
    def rows(self) -> int:
        """Rows that are not deleted."""
        return sum(segment.rows for segment in self.segments) - self.deleted_rows

    @property
    def deleted_rows(self) -> int:
        """Deleted rows that are still in a segment."""
        return 0 if self.deletions is None else self.deletions.in_segments

    def files(self) -> list[FileEntry]:
        """All files of this version."""
        files = [segment.file for segment in self.segments]
        parts = (self.deletions, self.index, self.tombstones)
        files += [part.file for part in parts if part is not None]
        files += [] if self.model is None else self.model.files
        return files

    def file_names(self) -> set[str]:
        """Names of all files of this version."""
        return {file.name for file in self.files()}


def unique_name() -> str:
    """32 random hex digits: the name of a file that no version has named yet."""
    return os.urandom(16).hex()


def dump(manifest: Manifest) -> bytes:
    """The bytes of the manifest file, with a checksum over its content."""
    body, version = _canonical(manifest), _least_version(manifest)
    # A line for each segment; quotation marks in a text are escaped, so no text is split.
    lines = body.replace('{"file":{', '\n{"file":{')
    return (
        f'{{"format":"latentdb","format_version":{version},\n'
        f'"checksum":"{_checksum(body, version)}",\n"manifest":{lines}}}\n'
    ).encode()


def _least_version(manifest: Manifest) -> int:
    """The lowest format version whose readers take a manifest for what it is."""
    settings, index = manifest.settings, manifest.index
    if manifest.dtype != FLOAT32:
        return 6
    if any(type_ in LIMITS or not is_name(key) for key, type_ in manifest.columns.items()):
        return 5
    if manifest.tombstones is not None:
        return 4
    metrics = {settings.metric, settings.default_metric, index and index.metric}
    return 3 if settings.centre or metrics & {COSINE, CENTERED_COSINE} else 2


def _rename_cosine(body: Any) -> None:
    """Give the metrics of a manifest before version 3 their names of today."""
    index, settings = body["index"], body["settings"]
    for part in (settings, index or {}):
        if part.get("metric") == COSINE:
            part["metric"] = CENTERED_COSINE
    if index is not None and index.get("centre"):
        settings["centre"] = index["centre"]


def _canonical(body: Any) -> str:
    """Canonical JSON, over which the checksum is computed."""
    return json.dumps(body, default=_fields, sort_keys=True, separators=(",", ":"))


def _fields(part: Any) -> dict[str, Any]:
    fields: dict[str, Any] = vars(part)
    return {
        key: value
        for key, value in fields.items()
        if (value or key not in _LEFT_OUT_IF_EMPTY) and (key, value) not in _LEFT_OUT
    }


def _checksum(text: str, version: int) -> str:
    return sha256(f"{version} {text}".encode()).hexdigest()


def load(data: bytes, name: str) -> Manifest:
    """Parse the bytes of a manifest file; errors call it `name`.

    Raises
    ------
    CorruptStoreError
        If it is not what `dump` wrote, or describes no possible store.
    StoreError
        If a newer latentdb wrote it.
    """
    try:
        document = json.loads(data.decode())
        if document["format"] != "latentdb":
            raise ValueError("its format is not latentdb")
        found = document["format_version"]
        if type(found) is int and found > FORMAT_VERSION:
            raise StoreError(
                f"{name} has format version {found}, this latentdb reads up to {FORMAT_VERSION}: "
                "upgrade it with pip install -U latentdb"
            )
        body = document["manifest"]
        if found not in _READABLE or document["checksum"] != _checksum(_canonical(body), found):
            raise ValueError("its checksum does not match")
        if found < 3:
            _rename_cosine(body)
        return _manifest(body)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptStoreError(
            f"{name} is damaged ({reason}): latentdb verify --repair goes back to the "
            "version before it, latentdb restore to a backup"
        ) from error


def _manifest(body: Any) -> Manifest:
    columns = dict(body["columns"])
    _require(
        all(type_ in COLUMN_TYPES for type_ in columns.values()), "a column has an unknown type"
    )
    for key in columns:
        check_key(key)
    manifest = Manifest(
        uuid=_text(body["uuid"]),
        version=_integer(body["version"]),
        dim=_integer(body["dim"], 1, MAX_DIM),
        next_row=_integer(body["next_row"], most=MAX_ROW),
        segments=tuple(parse_segment(item) for item in body["segments"]),
        deletions=None if body["deletions"] is None else _deletions(body["deletions"]),
        index=None if body["index"] is None else _index(body["index"]),
        model=None if body["model"] is None else _model(body["model"]),
        columns=columns,
        settings=_settings(body["settings"]),
        roots=tuple(_root(item) for item in body.get("roots", ())),
        tombstones=None if body.get("tombstones") is None else _tombstones(body["tombstones"]),
        dtype=_text(body.get("dtype", FLOAT32)),
    )
    _require(manifest.dtype in DTYPES, f"its dtype {manifest.dtype!r} is unknown")
    _require(len(manifest.roots) <= MAX_ROOTS, f"it has more than {MAX_ROOTS:,} roots")
    last = -1
    for segment in manifest.segments:
        _require(segment.first_row > last, "row numbers of segments overlap")
        last = segment.last_row
    _require(last < manifest.next_row, "a segment has row numbers beyond next_row")
    _require(manifest.rows >= 0, "more rows are deleted than there are")
    below = 0 if manifest.index is None else manifest.index.rows_below
    _require(below <= manifest.next_row, "the index has row numbers beyond next_row")
    sides = len(manifest.settings.centre)
    _require(sides in (0, manifest.dim), "the centre has other dimensions")
    centred = manifest.index is not None and manifest.index.metric == CENTERED_COSINE
    _require(sides > 0 or not centred, "the index has no centre")
    centred = manifest.settings.default_metric == CENTERED_COSINE
    _require(sides > 0 or not centred, "the default metric has no centre")
    return manifest


def _require(holds: bool, violation: str) -> None:
    if not holds:
        raise ValueError(violation)


def _integer(value: Any, least: int = 0, most: int = 2**62) -> int:
    _require(type(value) is int and least <= value <= most, f"{value!r} is out of bounds")
    return int(value)


def _fraction(value: Any) -> float:
    _require(type(value) in (int, float) and 0 <= value <= 1, f"{value!r} is not between 0 and 1")
    return float(value)


def _text(value: Any) -> str:
    _require(isinstance(value, str), f"{value!r} is not text")
    return str(value)


def _file(item: Any, pattern: re.Pattern[str]) -> FileEntry:
    name = _text(item["name"])
    _require(pattern.match(name) is not None, f"file name {name!r} is not allowed")
    return FileEntry(name, _integer(item["bytes"], 1), _digest(item["checksum"]))


def _digest(value: Any) -> str:
    digest = _text(value)
    _require(_CHECKSUM.match(digest) is not None, f"malformed checksum {digest!r}")
    return digest


def parse_segment(item: Any) -> SegmentEntry:
    """A segment as JSON states it; ValueError, KeyError or TypeError for what is none."""
    first, last = _integer(item["first_row"]), _integer(item["last_row"])
    rows = _integer(item["rows"], 1)
    _require(rows <= last - first + 1, "a segment has more rows than row numbers")
    layout = item.get("layout")
    return SegmentEntry(
        _file(item["file"], _SEGMENT),
        rows,
        first,
        last,
        None if layout is None else _layout(layout),
    )


def _layout(item: Any) -> LayoutEntry:
    return LayoutEntry(
        _integer(item["offset"]), _integer(item["bytes"], 1), _digest(item["checksum"])
    )


def _deletions(item: Any) -> DeletionsEntry:
    rows = _integer(item["rows"], 1)
    in_segments = _integer(item["in_segments"], 0, rows)
    return DeletionsEntry(_file(item["file"], _DELETIONS), rows, in_segments)


def _tombstones(item: Any) -> TombstonesEntry:
    return TombstonesEntry(_file(item["file"], _TOMBSTONES), _integer(item["rows"], 1))


def _root(item: Any) -> Root:
    path, prefix = _text(item["path"]), _text(item["prefix"])
    _require(path.startswith("/"), f"root {path!r} is not absolute")
    _require(not prefix or prefix.endswith("/"), f"prefix {prefix!r} does not end with /")
    return Root(path, prefix)


def _index(item: Any) -> IndexEntry:
    metric = item.get("metric", "l2")
    _require(metric in METRICS, "its metric is unknown")
    return IndexEntry(
        file=_file(item["file"], _INDEX),
        kind=_text(item["kind"]),
        rows_below=_integer(item["rows_below"]),
        rows=_integer(item["rows"], 1),
        parameters={_text(key): _integer(value) for key, value in item["parameters"].items()},
        recall_target=_fraction(item["recall_target"]),
        recall_measured=_fraction(item["recall_measured"]),
        recall_k=_integer(item["recall_k"], 1),
        queries=_integer(item["queries"], 1),
        build_seconds=_number(item["build_seconds"]),
        metric=metric,
        trained_rows=_integer(item.get("trained_rows", 0)),
        milliseconds=_number(item.get("milliseconds", 0.0)),
    )


def _number(value: Any) -> float:
    _require(
        type(value) in (int, float) and math.isfinite(value), f"{value!r} is not a finite number"
    )
    return float(value)


def _settings(item: Any) -> Settings:
    metric, prefer = item.get("metric", "l2"), item.get("prefer", "build")
    default = item.get("default_metric", L2)
    _require({metric, default} <= set(METRICS) and prefer in PREFERENCES, "settings are unknown")
    return Settings(
        _fraction(item["recall"]),
        _integer(item["exact_rows"]),
        _integer(item.get("memory", 0)),
        prefer,
        metric,
        tuple(_number(value) for value in item.get("centre", ())),
        default,
    )


def _model(item: Any) -> ModelEntry:
    decoder = item["decoder_fingerprint"]
    return ModelEntry(
        _text(item["encoder_fingerprint"]),
        None if decoder is None else _text(decoder),
        tuple(_file(file, _MODEL) for file in item["files"]),
    )


def read(folder: Path) -> Manifest:
    """The current version of a store.

    Raises
    ------
    StoreNotFoundError
        If there is no store in the folder.
    CorruptStoreError, StoreError
        If its manifest cannot be read.
    """
    return load(read_bytes(folder), str(folder / MANIFEST))


def read_bytes(folder: Path) -> bytes:
    """The bytes of the manifest file; the same bytes are the same version.

    Raises
    ------
    StoreNotFoundError
        If there is no store in the folder.
    CorruptStoreError, StoreError
        If the file cannot be read.
    """
    try:
        if os.path.isfile(folder):
            raise NotFoundError(str(folder))
        return read_limited(folder / MANIFEST, MAX_BYTES)
    except NotFoundError as error:
        problem = f"is not a latentdb store (it has no {MANIFEST})"
        if os.path.isfile(folder):
            problem = "is a file, and a latentdb store is a folder"
        elif not os.path.lexists(folder):
            problem = "does not exist"
        elif os.path.lexists(folder / PREVIOUS):
            problem = f"has lost its {MANIFEST} (latentdb verify --repair goes back to {PREVIOUS})"
        raise StoreNotFoundError(
            f"{folder} {problem}: {similar_store(folder, MANIFEST)}make one with latentdb index, "
            "or check the path"
        ) from error


def commit(folder: Path, manifest: Manifest) -> None:
    """Make a version the current one; every file it names must be durable already.

    Raises
    ------
    StoreError
        If it cannot be written, or no reader could parse it; the old version stays then.
    """
    publish(folder, serialize(folder, manifest)[1])


def serialize(folder: Path, manifest: Manifest) -> tuple[Manifest, bytes]:
    """A version as a reader parses it, and the bytes of its manifest file.

    Raises
    ------
    StoreError
        If no reader could parse it.
    """
    data = dump(manifest)
    try:
        read = _manifest(json.loads(data)["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no reader could read the new version ({error})"
        raise StoreError(f"{folder / MANIFEST} was not replaced: {reason}") from error
    return read, data


def publish(folder: Path, data: bytes, before: Callable[[], None] | None = None) -> None:
    """Replace the manifest file by one that was serialized; as `commit`, `replace_atomically`."""
    replace_atomically(folder / MANIFEST, data, before)
