"""Many latents to pictures: decoded in batches, written by threads meanwhile.

What is written comes in three kinds: a file an image in a folder, one ``.npy``
of all, and contact sheets.  Memory does not grow with their number.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentdb.base.cores import core_count
from latentdb.base.errors import InvalidInputError
from latentdb.base.files import make_output_folder, open_output, write_unsynced
from latentdb.base.progress import Progress, Report
from latentdb.images import jpeg
from latentdb.images.render import check_picture, sheet, to_picture, write_picture
from latentdb.model.codec import BATCH, Codec
from latentdb.model.config import ModelConfig
from latentdb.output.figures import write_images
from latentdb.search.targets import Target
from latentdb.store.segment import Floats, Ints
from latentdb.store.snapshot import Snapshot

PathLike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]
Named = tuple[Sequence[str], Floats]  # names, and float32 [n, d]
FORMATS = ("png", "jpeg", "webp", "npy")
QUALITY = 96  # from here on TurboJPEG uses the accurate transform, as Pillow always does
_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_SLICE = 32  # images a thread writes before it takes others
_AHEAD = 4  # slices a thread that may wait
_NAME_BYTES = 200  # of a file; file systems take 255
_COLUMNS, _LINES = 10, 12  # of a page of a contact sheet
_PAGE_PIXELS = 24 << 20  # values, of the images on a page
_BATCH_BYTES = 32 << 20  # of decoded pixels, which are four times that as they leave the decoder


def batch_size(config: ModelConfig) -> int:
    """How many images to decode at a time."""
    return max(1, min(BATCH, _BATCH_BYTES // math.prod(config.preprocessing.shape)))


class Sink(Protocol):
    """Where decoded images go."""

    def opened(self) -> AbstractContextManager[object]:
        """What holds while images come; leaving it makes the files final."""

    def put(self, names: Sequence[str], images: Pixels) -> Iterable[Callable[[], object]]:
        """Take a batch; gives what may be done later, by any thread."""

    def end(self) -> Iterable[Callable[[], object]]:
        """The same for what is left after the last batch."""

    @property
    def written(self) -> list[str]:
        """The files, in order."""


def decode_all(
    codec: Codec,
    batches: Iterable[Named],
    total: int,
    sinks: Sequence[Sink],
    report: Report | None = None,
) -> tuple[str, ...]:
    """Decode latents batch by batch into sinks.

    Parameters
    ----------
    codec
        Of the store.
    batches
        Names and latents, at most some hundreds at a time.
    total
        How many there are altogether.
    sinks
        What is done with them.
    report
        Called with the progress.

    Returns
    -------
    tuple of str
        The files written.
    """
    done = 0
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink.opened())
        submit = stack.enter_context(_writers())  # left, and so at rest, before the sinks are
        for names, latents in batches:
            images = codec.decode(latents)
            for sink in sinks:
                for work in sink.put(names, images):
                    submit(work)
            done += len(names)
            if report is not None:
                report(Progress("decoding", done, total))
        for sink in sinks:
            for work in sink.end():
                submit(work)
    return tuple(path for sink in sinks for path in sink.written)


@contextmanager
def _writers() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Threads to write in; whoever gives them more than a few slices waits."""
    waiting: deque[Future[object]] = deque()
    count = core_count()
    pool = ThreadPoolExecutor(count, "latentdb-write")

    def submit(work: Callable[[], object]) -> None:
        waiting.append(pool.submit(work))
        while len(waiting) > _AHEAD * count or (waiting and waiting[0].done()):
            waiting.popleft().result()

    try:
        yield submit
        for future in waiting:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def kind_of(out: PathLike | None, kind: str | None, *, one_file: bool) -> str:
    """What a place and a format mean together: a format, or ``"picture"`` for one file.

    Parameters
    ----------
    out, kind
        As of `Reader.decode_to`.
    one_file
        Whether one picture of all may be meant.

    Raises
    ------
    InvalidInputError
        If they do not fit each other.
    """
    if kind is not None and kind not in FORMATS:
        raise InvalidInputError(f"format {kind!r} is unknown: use one of {', '.join(FORMATS)}")
    if out is None:
        if kind is not None:
            raise InvalidInputError(f"format {kind!r} needs a place: give out as well")
        return "png"
    name = os.fspath(out)
    folder = os.path.isdir(name) or name.endswith(os.sep) or not Path(name).suffix
    array = not folder and Path(name).suffix.lower() == ".npy"
    if array or kind == "npy":
        if not array or kind not in (None, "npy"):
            raise InvalidInputError(
                f"{name}: format npy goes with one file ending in .npy, the others with a folder"
            )
        return "npy"
    if folder:
        return kind or "png"
    check_picture(name)
    if not one_file or kind is not None:
        raise InvalidInputError(
            f"{name} is one picture: give a folder for one file each, a .npy file, "
            "or contact sheets (sheet)"
        )
    return "picture"


def of_rows(snapshot: Snapshot, rows: Ints, size: int) -> Iterator[Named]:
    """Ids and latents of row numbers, batch by batch."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield snapshot.ids(part), snapshot.vectors(part)


def of_targets(targets: Sequence[Target], size: int) -> Iterator[Named]:
    """The same of targets."""
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        yield [target.name for target in part], np.stack([target.vector for target in part])


class Row:
    """A sink of one picture: the image itself, several in rows, or a GIF that moves."""

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._images: list[Pixels] = []
        self.written = [os.fspath(path)]

    def opened(self) -> AbstractContextManager[object]:
        return nullcontext()

    def put(self, names: Sequence[str], images: Pixels) -> Iterable[Callable[[], object]]:
        del names  # a row has no captions
        self._images.append(images)
        return ()

    def end(self) -> Iterable[Callable[[], object]]:
        return (lambda: write_images(np.concatenate(self._images), self._path),)


class Folder:
    """A sink of one file an image, named after it.

    What may not stand in a file name becomes ``_``, and a name that is taken
    gets a number.

    Parameters
    ----------
    path
        Made if it is not there.
    kind
        ``"png"``, ``"jpeg"`` or ``"webp"``.
    """

    def __init__(self, path: PathLike, kind: str = "png") -> None:
        self._path = os.fspath(path)
        self._kind = kind
        self._taken: set[str] = set()
        self.written: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        make_output_folder(self._path)
        yield

    def put(self, names: Sequence[str], images: Pixels) -> Iterable[Callable[[], object]]:
        paths = [self._named(name) for name in names]
        self.written += paths
        for start in range(0, len(paths), _SLICE):
            part = slice(start, start + _SLICE)
            yield lambda part=part: _write_slice(  # type: ignore[misc]
                paths[part], images[part], self._kind
            )

    def end(self) -> Iterable[Callable[[], object]]:
        return ()

    def _named(self, name: str) -> str:
        stem = re.sub(r"[^\w.-]+", "_", os.path.splitext(name)[0]).lstrip(".") or "image"
        stem = stem.encode()[-_NAME_BYTES:].decode(errors="ignore")  # ids differ at their ends
        free, number = stem, 1
        while free in self._taken:
            number += 1
            free = f"{stem}-{number}"
        self._taken.add(free)
        return os.path.join(self._path, free + _ENDINGS[self._kind])


def _write_slice(paths: Sequence[str], images: Pixels, kind: str) -> None:
    for path, pixels in zip(paths, images, strict=True):
        write_unsynced(path, _encoded(pixels, kind))


def _encoded(pixels: Pixels, kind: str) -> bytes:
    if kind == "jpeg":
        data = jpeg.encode(pixels, QUALITY)
        if data is not None:
            return data
    buffer = io.BytesIO()
    options: dict[str, Any] = {
        # Level 1 takes a third of the time of level 6 and a twentieth more bytes.
        "png": {"compress_level": 1},
        "jpeg": {"quality": QUALITY, "subsampling": 0},
        "webp": {"quality": QUALITY},
    }[kind]
    to_picture(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


class Array:
    """A sink of one ``.npy`` file, uint8 ``[n, height, width, channels]``.

    Written from its beginning to its end, and not mapped: pages of a mapped
    file count as memory of the process, and a full disk would kill it.

    Parameters
    ----------
    path
        Replaced when it is whole.
    total
        How many images come.
    """

    def __init__(self, path: PathLike, total: int, config: ModelConfig) -> None:
        self._path = path
        self._shape = (total, *config.preprocessing.shape)
        self._file: IO[bytes] | None = None
        self.written = [os.fspath(path)]

    @contextmanager
    def opened(self) -> Iterator[None]:
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        with open_output(self._path) as self._file:
            np.lib.format.write_array_header_1_0(self._file, header)
            yield

    def put(self, names: Sequence[str], images: Pixels) -> Iterable[Callable[[], object]]:
        del names  # their order is that of the rows
        if self._file is not None:
            self._file.write(np.ascontiguousarray(images).data)
        return ()

    def end(self) -> Iterable[Callable[[], object]]:
        return ()


class Pages:
    """A sink of contact sheets: one picture, or numbered ones where it takes several.

    Parameters
    ----------
    path
        Of the picture; pages of several have their number before the ending.
    total
        How many images come.
    """

    def __init__(self, path: PathLike, total: int, config: ModelConfig) -> None:
        check_picture(path)
        self._path = Path(path)
        cells = max(
            1, min(_COLUMNS * _LINES, _PAGE_PIXELS // math.prod(config.preprocessing.shape))
        )
        self._columns = max(1, min(_COLUMNS, math.isqrt(cells)))
        self._cells = cells
        self._pages = max(1, -(-total // cells))
        self._waiting: list[tuple[Pixels, str]] = []
        self.written: list[str] = []

    def opened(self) -> AbstractContextManager[object]:
        return nullcontext()

    def put(self, names: Sequence[str], images: Pixels) -> Iterable[Callable[[], object]]:
        captions = (" ".join(name.split()) for name in names)
        self._waiting += zip(images, captions, strict=True)
        while len(self._waiting) >= self._cells:
            page, self._waiting = self._waiting[: self._cells], self._waiting[self._cells :]
            yield self._page(page)

    def end(self) -> Iterable[Callable[[], object]]:
        if self._waiting or not self.written:
            yield self._page(self._waiting)

    def _page(self, cells: Sequence[tuple[Pixels, str]]) -> Callable[[], object]:
        path = self._path
        if self._pages > 1:
            number = str(len(self.written) + 1).zfill(len(str(self._pages)))
            path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        self.written.append(os.fspath(path))
        lines = [cells[at : at + self._columns] for at in range(0, len(cells), self._columns)]
        return lambda: write_picture(path, sheet(lines))
