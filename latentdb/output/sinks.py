"""Any number of latents to image files: decoded in batches, written by threads meanwhile.

A sink is a folder with one file per image, one ``.npy`` file of all pixels, or
contact sheets.  Memory does not grow with the number of latents.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import numpy as np

from latentdb.base.cores import core_count
from latentdb.base.errors import InvalidInputError
from latentdb.base.outputs import (
    STDOUT,
    Output,
    as_output,
    make_output_folder,
    open_output,
    write_output,
    write_unsynced,
)
from latentdb.base.progress import Progress, Report
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import (
    Cell,
    contact_sheet,
    encode_pixels,
    enlarge,
    enlargement,
    grid,
    one_line,
    picture_format,
    write_picture,
)
from latentdb.model.codec import BATCH, Codec
from latentdb.model.config import ModelConfig
from latentdb.model.outcome import psnr
from latentdb.output.figures import check_count, check_scale, write_images
from latentdb.output.file_names import FileNames, numbered
from latentdb.search.targets import Target
from latentdb.store.columns import Value
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

PathLike = str | os.PathLike[str]
# Names, float32 [n, d], and the metadata with which a conditional model decodes them.
Conditions: TypeAlias = Sequence[Mapping[str, Value]] | None
NamedLatents: TypeAlias = tuple[Sequence[str], Floats, Conditions]
Task: TypeAlias = Callable[[], object]
# Of names: uint8 [height, width, channels] of the image each was encoded from, if there is one.
ReadOriginals: TypeAlias = Callable[[Sequence[str]], Sequence[Pixels | None]]
MANIFEST_FILE = "manifest.csv"
_MANIFEST_HEADER = ("id", "file")
FORMATS = ("png", "jpeg", "webp", "npy")
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # of one file per image
_TASK_IMAGES = 32  # files written by one task
_PENDING_TASKS = 4  # per thread, before the decoder has to wait
_COLUMNS, _LINES = 10, 12  # of one contact sheet
_MISSING = 235  # the grey in place of an original that is not there
_SHEET_VALUES = 24 << 20  # uint8 values of the images on one contact sheet
_BATCH_BYTES = 32 << 20  # of uint8 pixels; the decoder returns float32, four times as many


def batch_size(config: ModelConfig) -> int:
    """How many latents to decode at a time."""
    return max(1, min(BATCH, _BATCH_BYTES // math.prod(config.preprocessing.shape)))


@dataclass(frozen=True)
class DecodedFile:
    """An image in a folder: the id it was decoded from, and its file."""

    id: str
    file: str


@dataclass(frozen=True)
class Decoded:
    """The files that a call wrote: a sequence of their paths.

    Attributes
    ----------
    written
        The files, in order.
    files
        Of those in a folder: which id each one is of.
    """

    written: tuple[str, ...]
    files: tuple[DecodedFile, ...]

    def __len__(self) -> int:
        return len(self.written)

    def __iter__(self) -> Iterator[str]:
        return iter(self.written)

    def __getitem__(self, position: int) -> str:
        return self.written[position]


class Sink(Protocol):
    """A destination of decoded images."""

    def open(self) -> AbstractContextManager[object]:
        """A context in which images are written; leaving it makes the files final."""

    def write(self, names: Sequence[str], images: Pixels) -> Iterable[Task]:
        """Take a batch; yields tasks that any thread may run later."""

    def flush(self) -> Iterable[Task]:
        """Tasks for what is left after the last batch."""

    @property
    def written(self) -> list[str]:
        """The files, in order."""


def decode_all(
    codec: Codec,
    batches: Iterable[NamedLatents],
    total: int,
    sinks: Sequence[Sink],
    report: Report | None = None,
) -> Decoded:
    """Decode latents batch by batch into sinks.

    Parameters
    ----------
    codec
        Of the store.
    batches
        Names and latents, at most a few hundred at a time.
    total
        Number of latents.
    sinks
        Each gets every image.
    report
        Called with the progress after each batch.

    Returns
    -------
    Decoded
        The files written.
    """
    done = 0
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink.open())
        submit = stack.enter_context(_task_threads())  # exits before the sinks do
        for names, latents, conditions in batches:
            images = codec.decode(latents, conditions)
            for sink in sinks:
                for task in sink.write(names, images):
                    submit(task)
            done += len(names)
            if report is not None:
                report(Progress("decoding", done, total))
        for sink in sinks:
            for task in sink.flush():
                submit(task)
    files = (file for sink in sinks if isinstance(sink, FolderSink) for file in sink.files)
    return Decoded(tuple(path for sink in sinks for path in sink.written), tuple(files))


@contextmanager
def _task_threads() -> Iterator[Callable[[Task], None]]:
    """A function that runs tasks in threads; it waits while too many are pending."""
    pending: deque[Future[object]] = deque()
    count = core_count()
    pool = ThreadPoolExecutor(count, "latentdb-write")

    def submit(task: Task) -> None:
        pending.append(pool.submit(task))
        while len(pending) > _PENDING_TASKS * count or (pending and pending[0].done()):
            pending.popleft().result()

    try:
        yield submit
        for future in pending:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def output_format(out: PathLike | None, format: str | None, *, one_file: bool) -> str:
    """What to write for an output path and a format: a format, or ``"picture"`` for one file.

    Parameters
    ----------
    out, format
        As of `Reader.decode_to`.
    one_file
        Whether all images may go into one picture.

    Raises
    ------
    InvalidInputError
        If the two do not fit each other.
    """
    if format is not None and format not in FORMATS:
        raise InvalidInputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    if out is None:
        if format is not None:
            raise InvalidInputError(f"format {format!r} needs an output path (out)")
        return "png"
    path = os.fspath(out)
    suffix = Path(path).suffix.lower()
    is_folder = path != STDOUT and (os.path.isdir(path) or path.endswith(os.sep) or not suffix)
    is_npy = suffix == ".npy" and not is_folder
    if is_npy or format == "npy":
        if not is_npy or format not in (None, "npy"):
            raise InvalidInputError(
                f"{path}: format npy needs one file ending in .npy, the other formats a folder"
            )
        return "npy"
    if is_folder:
        return format or "png"
    picture_format(path)
    if not one_file or format is not None:
        raise InvalidInputError(
            f"{path} is one picture: give a folder for one file per image, a .npy file, "
            "or contact sheets (sheet)"
        )
    return "picture"


def row_batches(
    snapshot: Snapshot,
    rows: Ints,
    size: int,
    conditions: Callable[[Snapshot, Ints], Conditions],
) -> Iterator[NamedLatents]:
    """Ids, latents and conditions of rows, in batches of `size`."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield snapshot.ids(part), snapshot.vectors(part), conditions(snapshot, part)


def target_batches(
    targets: Sequence[Target], size: int, conditions: Conditions = None
) -> Iterator[NamedLatents]:
    """Names, latents and conditions of targets, in batches of `size`."""
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        own = None if conditions is None else conditions[start : start + size]
        yield [target.name for target in part], np.stack([target.vector for target in part]), own


def stored_ids(snapshot: Snapshot) -> Iterator[str]:
    """All ids of a store; they are read when the first is asked for."""
    yield from snapshot.ids(snapshot.live_rows())


class PictureSink:
    """One picture: the image itself, several as rows of a sheet, or an animated GIF."""

    def __init__(self, path: PathLike, scale: int = 1) -> None:
        as_output(path).check()
        self._path, self._scale = path, scale
        self._images: list[Pixels] = []
        self.written = [os.fspath(path)]

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def write(self, names: Sequence[str], images: Pixels) -> Iterable[Task]:
        del names  # there are no captions
        self._images.append(images)
        return ()

    def flush(self) -> Iterable[Task]:
        return (
            lambda: write_images(enlarge(np.concatenate(self._images), self._scale), self._path),
        )


class FolderSink:
    """A folder with one file per image, named after its id: see `FileNames`.

    ``manifest.csv`` says which file is of which id; files of earlier runs stay listed.

    Parameters
    ----------
    path
        Made if it does not exist.
    format
        ``"png"``, ``"jpeg"`` or ``"webp"``.
    names
        Ids of all images, in the order in which they are written.
    collection
        Ids whose files must not be the same; those of `names` by default.
    scale
        Whole factor by which the images are enlarged.

    Raises
    ------
    AlreadyExistsError
        If a file exists, unless `path` is an `Output` that says otherwise.
    """

    def __init__(
        self,
        path: PathLike,
        format: str,
        names: Sequence[str],
        collection: Iterable[str] | None = None,
        scale: int = 1,
    ) -> None:
        self._output = as_output(path)
        self._format, self._scale = format, scale
        naming = FileNames(
            SUFFIXES[format], dict.fromkeys(names) if collection is None else collection
        )
        self._names = naming.paths(names)
        self.written = [os.path.join(path, name) for name in self._names]
        self.files = list(map(DecodedFile, names, self.written))
        self._output.check(self.written)
        self._manifest = os.path.join(path, MANIFEST_FILE)
        if read_manifest(self._manifest) is None:  # it is another file of that name
            self._output.check([self._manifest])
        self._done = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        make_output_folder(self._output, SUFFIXES[self._format], self._names)
        yield
        self._write_manifest()

    def write(self, names: Sequence[str], images: Pixels) -> Iterable[Task]:
        paths = self.written[self._done : self._done + len(names)]
        self._done += len(names)
        for start in range(0, len(paths), _TASK_IMAGES):
            part = slice(start, start + _TASK_IMAGES)
            yield partial(self._write_files, paths[part], images[part])

    def _write_files(self, paths: Sequence[str], images: Pixels) -> None:
        for path, pixels in zip(paths, enlarge(images, self._scale), strict=True):
            data = encode_pixels(pixels, self._format)
            write_unsynced(path, data, overwrite=self._output.overwrite)

    def flush(self) -> Iterable[Task]:
        return ()

    def _write_manifest(self) -> None:
        of_file = read_manifest(self._manifest) or {}
        for file, name in zip(self.files, self._names, strict=True):
            of_file[name] = file.id
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_MANIFEST_HEADER)
        writer.writerows((name, file) for file, name in of_file.items())
        data = text.getvalue().encode(errors="backslashreplace")
        write_output(Output(self._manifest, overwrite=True), data)


def read_manifest(path: PathLike) -> dict[str, str] | None:
    """The id of each file in a folder of decoded images; None if another has made that file."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [tuple(row) for row in csv.reader(file)]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error):
        return None
    if rows[:1] != [_MANIFEST_HEADER] or any(len(row) != len(_MANIFEST_HEADER) for row in rows):
        return None
    return {file: name for name, file in rows[1:]}


class NpySink:
    """One ``.npy`` file, uint8 ``[n, height, width, channels]``.

    It is written sequentially, not mapped: pages of a mapped file count as memory
    of the process, and a full disk would kill it.

    Parameters
    ----------
    path
        Replaced atomically at the end.
    total
        Number of images.
    """

    def __init__(self, path: PathLike, total: int, config: ModelConfig) -> None:
        as_output(path).check()
        self._path = path
        self._shape = (total, *config.preprocessing.shape)
        self._file: IO[bytes] | None = None
        self.written = [os.fspath(path)]

    @contextmanager
    def open(self) -> Iterator[None]:
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        with open_output(self._path) as self._file:
            np.lib.format.write_array_header_1_0(self._file, header)
            yield

    def write(self, names: Sequence[str], images: Pixels) -> Iterable[Task]:
        del names  # the images are in the order of the rows
        if self._file is not None:
            self._file.write(np.ascontiguousarray(images).data)
        return ()

    def flush(self) -> Iterable[Task]:
        return ()


class SheetSink:
    """Contact sheets: one picture, or several numbered ones if there are too many images.

    Parameters
    ----------
    path
        Of the picture; several have their number before the suffix.
    total
        Number of images.
    originals
        Instead of images alone: pairs of the original, where there is one, and the image.
    """

    def __init__(
        self,
        path: PathLike,
        total: int,
        config: ModelConfig,
        originals: ReadOriginals | None = None,
    ) -> None:
        picture_format(path)
        self._output = as_output(path)
        self._read_originals = originals
        fitting = _SHEET_VALUES // math.prod(config.preprocessing.shape)
        if originals is not None:
            fitting //= 2
        self._cells = max(1, min(_COLUMNS * _LINES, fitting))
        columns = _COLUMNS if originals is None else _COLUMNS // 2
        self._columns = max(1, min(columns, math.isqrt(self._cells)))
        self._pending: list[Cell] = []
        self._paths = numbered(self._output.path, max(1, -(-total // self._cells)))
        self._output.check(self._paths)
        self.written: list[str] = []

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def write(self, names: Sequence[str], images: Pixels) -> Iterable[Task]:
        captions = list(map(one_line, names))
        if self._read_originals is None:
            self._pending += zip(images, captions, strict=True)
        else:
            self._pending += map(_beside, self._read_originals(names), images, captions)
        while len(self._pending) >= self._cells:
            cells, self._pending = self._pending[: self._cells], self._pending[self._cells :]
            yield self._sheet_task(cells)

    def flush(self) -> Iterable[Task]:
        if self._pending or not self.written:
            yield self._sheet_task(self._pending)

    def _sheet_task(self, cells: Sequence[Cell]) -> Task:
        path = self._paths[len(self.written)]
        self.written.append(path)
        output = replace(self._output, path=path)
        return lambda: write_picture(output, contact_sheet(grid(cells, self._columns)))


def _beside(original: Pixels | None, image: Pixels, caption: str) -> Cell:
    """An original and its reconstruction in one cell, with the PSNR below."""
    if original is not None:
        caption = f"{caption}\n{psnr(original[None], image[None])[0]:.1f} dB"
    shown = np.full_like(image, _MISSING) if original is None else original
    cell = np.concatenate([shown, np.full_like(image[:, :1], 255), image], axis=1)
    return enlarge(cell, enlargement(*image.shape[:2])), caption


def make_sinks(
    out: PathLike | None,
    format: str,
    sheet: PathLike | None,
    names: Sequence[str],
    collection: Iterable[str],
    config: ModelConfig,
    *,
    scale: int = 1,
    originals: ReadOriginals | None = None,
) -> list[Sink]:
    """The sinks for an output path, of the format `output_format` gives, and for sheets.

    `names`, `collection` and `scale` are as of `FolderSink`, `originals` as of `SheetSink`.
    """
    check_scale(scale)
    if scale != 1 and (out is None or format == "npy"):
        raise InvalidInputError("scale is of the pictures that out writes: leave it out")
    if originals is not None and sheet is None:
        raise InvalidInputError("compare is of contact sheets: give sheet, too")
    total = len(names)
    height, width, channels = config.preprocessing.shape
    sinks: list[Sink] = []
    if out is not None and format == "npy":
        sinks.append(NpySink(out, total, config))
    elif out is not None and format == "picture":
        check_count(total, (scale * height, scale * width, channels))
        sinks.append(PictureSink(out, scale))
    elif out is not None:
        sinks.append(FolderSink(out, format, names, collection, scale))
    if sheet is not None:
        sinks.append(SheetSink(sheet, total, config, originals))
    return sinks
