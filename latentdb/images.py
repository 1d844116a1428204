"""Pixels in and out: find image files, read them as one size, write pictures.

One reader serves training, indexing and querying, so that an image always
becomes the same pixels.  A file that cannot be read raises `ImageError` with
its reason; nothing is ever put in its place.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.errors import ImageError, InvalidInputError, NotFoundError
from latentdb.files import told, write_output

if TYPE_CHECKING:
    from PIL import Image as PILImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
)
RESIZE_RULES = ("stretch", "crop", "pad")
PIXEL_RANGES = ("0..1", "-1..1", "0..255")
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
MAX_FILE_BYTES = 1 << 30
Box = tuple[float, float, float, float]
_ORIENTATION_TAG = 0x0112
_CELL = 96  # pixels of a picture in a sheet, unless it is larger
_CAPTION = 14


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of an encoder: part of the model.

    Attributes
    ----------
    height, width
        Pixels.
    channels
        1 (grey) or 3 (RGB).
    pixel_range
        What the model was trained on: ``"0..1"``, ``"-1..1"`` or ``"0..255"``.
    resize
        ``"stretch"`` to the size, ``"crop"`` the centre to its aspect ratio
        first, or ``"pad"`` with black to its aspect ratio.
    """

    height: int
    width: int
    channels: int
    pixel_range: str = "0..1"
    resize: str = "stretch"

    def __post_init__(self) -> None:
        for number in (self.height, self.width, self.channels):
            if type(number) is not int:
                raise InvalidInputError(f"image size or channels {number!r}: give whole numbers")
        if not (1 <= self.height <= 8192 and 1 <= self.width <= 8192):
            raise InvalidInputError(
                f"image size {self.height}x{self.width} cannot be used: give 1 to 8192 pixels"
            )
        if self.channels not in (1, 3):
            raise InvalidInputError(f"{self.channels} channels cannot be read: use 1 or 3")
        if self.pixel_range not in PIXEL_RANGES:
            raise InvalidInputError(
                f"pixel range {self.pixel_range!r} is unknown: use one of {PIXEL_RANGES}"
            )
        if self.resize not in RESIZE_RULES:
            raise InvalidInputError(
                f"resize rule {self.resize!r} is unknown: use one of {RESIZE_RULES}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class ImageFile:
    """One image file found under a source.

    Attributes
    ----------
    id
        Path relative to the folder given, with ``/``; the name of a file given
        by itself.
    path
        Absolute path.
    size, mtime_ns
        Bytes and time of the last change when it was found.
    """

    id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class BadFile:
    """A file that was skipped, and why."""

    path: str
    reason: str


def discover(sources: Sequence[str | os.PathLike[str]]) -> Iterator[ImageFile | BadFile]:
    """Find image files: folders recursively in sorted order, files as given.

    In folders only names with an image suffix count, and hidden names do not.
    Links are followed, except back to a folder that is being searched.

    Parameters
    ----------
    sources
        Folders and files.

    Yields
    ------
    ImageFile or BadFile
        A `BadFile` where a folder or a file cannot be looked at.

    Raises
    ------
    NotFoundError
        If a source does not exist; before anything is yielded.
    """
    paths = [Path(os.path.abspath(source)) if os.fspath(source) else Path() for source in sources]
    if not all(os.fspath(source) for source in sources):
        raise InvalidInputError("a source is the empty text: give a folder or image files")
    if not paths:
        raise InvalidInputError("no images were named: give a folder or image files")
    for path in paths:
        if not os.path.exists(path):
            raise NotFoundError(f"{path} does not exist: give a folder or image files")
    return _discover(paths)


def require_images(sources: Sequence[str | os.PathLike[str]]) -> None:
    """Make sure that there is something to read, before anything is made for it.

    Raises
    ------
    NotFoundError
        If a source does not exist.
    InvalidInputError
        If there is no image file in any.
    """
    if next(discover(sources), None) is None:
        named = ", ".join(os.fspath(source) for source in sources)
        endings = ", ".join(sorted(SUFFIXES))
        raise InvalidInputError(f"no images in {named}: expected files ending in {endings}")


def _discover(paths: Sequence[Path]) -> Iterator[ImageFile | BadFile]:
    for path in paths:
        if path.is_dir():
            yield from _walk(str(path))
        else:
            yield _found(str(path), path.name)


def _walk(top: str) -> Iterator[ImageFile | BadFile]:
    # A stack of its own: folders may lie deeper than Python's goes.
    todo: list[tuple[str, str, tuple[str, ...]] | tuple[str, str, None]] = [(top, "", ())]
    while todo:
        path, name, parents = todo.pop()
        if parents is None:
            yield _found(path, name)
            continue
        real = os.path.realpath(path)
        if real in parents:
            continue
        try:
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield BadFile(path, told(error))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                todo.append((entry.path, f"{name}{entry.name}/", (*parents, real)))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                todo.append((entry.path, name + entry.name, None))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # said of it as of a file


def _found(path: str, name: str) -> ImageFile | BadFile:
    try:
        name.encode()
        path.encode()
    except UnicodeEncodeError:
        return BadFile(os.fsencode(path).decode(errors="replace"), "name is not valid UTF-8")
    try:
        status = os.stat(path)
    except OSError as error:
        return BadFile(path, told(error))
    if not stat.S_ISREG(status.st_mode):
        return BadFile(path, "not a regular file")
    return ImageFile(name, path, status.st_size, status.st_mtime_ns)


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises
    ------
    ImageError
        If it vanished, cannot be read, is empty, no file, or over 1 GiB.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(path, "not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(path, f"{status.st_size} bytes, over the limit of 1 GiB")
            data = file.read()
    except OSError as error:
        raise ImageError(path, told(error)) from error
    except ImageError:
        raise
    except ValueError as error:  # a null, or half of a surrogate pair
        raise ImageError(path, str(error)) from error
    if not data:
        raise ImageError(path, "empty file")
    return data


def _open_regular(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for ever


def decode_pixels(data: bytes, spec: Preprocessing, *, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of an image file to the size of an encoder.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey
    is scaled to 8 bits.  JPEG is decoded at the smallest DCT scale that is at
    least twice the target; the rest is done by an antialiased (area-weighted
    triangle) resize.

    Parameters
    ----------
    data
        JPEG, PNG, WebP, GIF or TIFF (the first frame), or BMP.
    spec
        Size, channels and resize rule.
    name
        What to call the image in an error.

    Returns
    -------
    ndarray
        uint8 ``[height, width, channels]``.

    Raises
    ------
    ImageError
        If it is no such image, damaged, or too large to unpack.
    """
    return np.asarray(_fit(*_open(data, name, spec), spec)).reshape(spec.shape)


def read_image(path: str | os.PathLike[str], spec: Preprocessing) -> NDArray[np.uint8]:
    """Read an image file as `decode_pixels` does."""
    return decode_pixels(read_bytes(os.fspath(path)), spec, name=os.fspath(path))


@dataclass(frozen=True)
class ImageShape:
    """What an image file is before any resize: upright height and width, and its channels."""

    height: int
    width: int
    channels: int


def probe(path: str) -> ImageShape:
    """Look at the header of an image file only.

    Raises
    ------
    ImageError
        If it has no readable header.
    """
    data = read_bytes(path)
    image = _header(data, path)
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) >= 5:  # of TIFF Pillow has turned it
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    return ImageShape(height, width, 1 if grey else 3)


def _header(data: bytes, name: str) -> PILImage.Image:
    from PIL import Image, UnidentifiedImageError

    _silence()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(name, f"not one of {', '.join(FORMATS)}, or its header is damaged") from (
            error
        )
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"decompression bomb: over {MAX_PIXELS} pixels") from error
    except Exception as error:  # a damaged header makes Pillow raise almost anything
        raise ImageError(name, f"damaged header: {_told(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            name,
            f"decompression bomb: {image.width}x{image.height} is over {MAX_PIXELS} pixels",
        )
    return image


def _silence() -> None:
    # A bomb is refused by our own limit.  Not catch_warnings: it is not safe in threads.
    from PIL import Image

    if not any(entry[2] is Image.DecompressionBombWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: PILImage.Image) -> int:
    try:
        value = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return value if 1 <= value <= 8 else 1


def _open(data: bytes, name: str, spec: Preprocessing) -> tuple[PILImage.Image, Box]:
    """Upright, over white, in mode L or RGB, at least the size needed where it was.

    And the part of it that is image: at a DCT scale the sides are rounded up.
    """
    from PIL import Image

    image = _header(data, name)
    try:
        if image.format == "PNG":
            image.verify()  # the checksums of the pixels, which load() skips
            image = _header(data, name)
        part = None
        if image.format in ("JPEG", "MPO"):  # many phones' JPEG is MPO
            longest = 2 * max(spec.height, spec.width)
            drafted = image.draft(None, _draft_size(image.size, longest, spec.resize))
            part = None if drafted is None else drafted[1][2:]
        image.load()
        if image.format == "PNG" and data[25] == 0 and data[24] in (2, 4):  # packed grey
            clear = image.info.get("transparency")
            if isinstance(clear, int):
                image.info["transparency"] = clear * 255 // (2 ** data[24] - 1)
        orientation = _orientation(image)
        box = _upright(image.size, part or image.size, orientation)
        turn = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(orientation)
        image = _eight_bits(image, name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        mode = "L" if spec.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        return image if turn is None else image.transpose(turn), box
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "too large for the memory at hand") from error
    except Exception as error:  # damaged pixels make Pillow raise almost anything
        raise ImageError(name, f"damaged or truncated: {_told(error)}") from error


def _upright(size: tuple[int, int], part: tuple[float, float], orientation: int) -> Box:
    """Where the upper left `part` of an image lies after it was turned upright."""
    (width, height), (right, bottom) = size, part
    if orientation >= 5:
        width, height, right, bottom = height, width, bottom, right
    left = width - right if orientation in (2, 3, 6, 7) else 0.0
    top = height - bottom if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + right, top + bottom


def _draft_size(size: tuple[int, int], longest: int, rule: str) -> tuple[int, int]:
    """The least size a DCT-scaled JPEG may have, whichever way up it is.

    ``draft`` scales both sides alike and keeps both at least as asked.  A
    padded image needs only its long side; the others need both.
    """
    if rule != "pad":
        return longest, longest
    ratio = longest / max(size)
    return max(1, math.ceil(size[0] * ratio)), max(1, math.ceil(size[1] * ratio))


def _eight_bits(image: PILImage.Image, name: str) -> PILImage.Image:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # convert("L") would clip 16 bits to white.
        wide = np.asarray(image).astype(np.uint32)
        tags = getattr(image, "tag_v2", {})
        top = 2 ** int(tags.get(258, (16,))[0]) - 1  # 12 bits in 16, of some TIFFs
        grey = (wide * 255 + top // 2) // top
        if tags.get(262) == 0:
            grey = 255 - grey  # white is zero: Pillow turns only 8 bits round
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[wide == clear] = 255
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(name, "32-bit pixels have no fixed range: save it with 8 or 16 bits")
    return image


def _fit(image: PILImage.Image, box: Box, spec: Preprocessing) -> PILImage.Image:
    from PIL import Image

    size = (spec.width, spec.height)
    if image.size == size and box == (0, 0, *size):
        return image
    method = Image.Resampling.BILINEAR
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    scales = spec.width / width, spec.height / height
    if spec.resize == "crop":
        wanted = spec.width / max(scales), spec.height / max(scales)
        left += (width - wanted[0]) / 2
        top += (height - wanted[1]) / 2
        inside = (left, top, min(right, left + wanted[0]), min(bottom, top + wanted[1]))
        return image.resize(size, method, inside)
    if spec.resize == "pad":
        scale = min(scales)  # no side vanishes
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = Image.new(image.mode, size)
        place = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas.paste(image.resize(inner, method, box), place)
        return canvas
    return image.resize(size, method, box)


# --- pictures out --------------------------------------------------------------------


def to_picture(pixels: NDArray[np.uint8]) -> PILImage.Image:
    """uint8 ``[height, width, 1 or 3]`` as a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def check_picture(path: str | os.PathLike[str]) -> str:
    """The Pillow format of a picture's name, before any work is done for it.

    Raises
    ------
    InvalidInputError
        If the ending is none of PNG, JPEG, WebP, GIF, BMP or TIFF.
    """
    from PIL import Image

    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind not in FORMATS:
        raise InvalidInputError(f"{os.fspath(path)}: cannot write {suffix!r} files, use .png")
    return kind


def write_picture(path: str | os.PathLike[str], picture: PILImage.Image, **options: Any) -> None:
    """Write a Pillow image whole or not at all, in the format of the suffix.

    Raises
    ------
    InvalidInputError
        If the suffix is none of PNG, JPEG, WebP, GIF, BMP or TIFF.
    StoreError
        If it cannot be written.
    """
    kind = check_picture(path)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=kind, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:  # too large for it
        width, height = picture.size
        raise InvalidInputError(
            f"{os.fspath(path)}: {width}x{height} pixels cannot be written as {kind} "
            f"({_told(error)}): use .png"
        ) from error
    write_output(path, buffer.getvalue())


def write_pixels(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """Write one image, uint8 ``[height, width, channels]``, as `write_picture` does."""
    write_picture(path, to_picture(pixels))


def write_animation(path: str | os.PathLike[str], frames: NDArray[np.uint8]) -> None:
    """Write uint8 ``[n, height, width, channels]`` as a GIF that goes there and back."""
    kind = check_picture(path)
    if kind not in ("GIF", "WEBP", "PNG"):
        raise InvalidInputError(f"{os.fspath(path)}: {kind} does not move, use .gif")
    pictures = [_enlarged(frame) for frame in frames]
    loop = pictures + pictures[-2:0:-1]
    write_picture(path, loop[0], save_all=True, append_images=loop[1:], duration=100, loop=0)


def sheet(
    rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]],
) -> PILImage.Image:
    """Lay pictures out in rows, each with a caption below it.

    Parameters
    ----------
    rows
        Rows of (uint8 ``[height, width, channels]``, caption); the lines of a
        caption stand below each other.
    """
    from PIL import Image, ImageDraw, ImageFont

    laid = [[(_enlarged(pixels), caption) for pixels, caption in row] for row in rows]
    font = ImageFont.load_default(size=11)
    gap = 4
    lines = [max((len(caption.splitlines()) for _, caption in row), default=0) for row in rows]
    cell = max((picture.width for row in laid for picture, _ in row), default=_CELL)
    heights = [
        max((picture.height for picture, _ in row), default=0) + _CAPTION * count
        for row, count in zip(laid, lines, strict=True)
    ]
    width = gap + max((len(row) for row in laid), default=0) * (cell + gap)
    canvas = Image.new("RGB", (max(width, 1), gap + sum(heights) + gap * len(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    top = gap
    for row, height in zip(laid, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            left = gap + column * (cell + gap)
            canvas.paste(picture, (left, top))
            for number, line in enumerate(caption.splitlines()):
                place = (left, top + picture.height + 1 + number * _CAPTION)
                draw.text(place, _clipped(line, cell, draw, font), fill="black", font=font)
        top += height + gap
    return canvas


def _clipped(text: str, width: int, draw: Any, font: Any) -> str:
    """The end of a caption that fits: ids differ at their ends."""
    if draw.textlength(text, font=font) <= width:
        return text
    kept = ""
    for letter in reversed(text):  # what fits is short, the whole may be long
        if draw.textlength("…" + letter + kept, font=font) > width:
            break
        kept = letter + kept
    return "…" + kept


def _enlarged(pixels: NDArray[np.uint8]) -> PILImage.Image:
    """Small images are shown enlarged by whole factors, pixel for pixel."""
    from PIL import Image

    picture = to_picture(pixels).convert("RGB")
    factor = max(1, math.ceil(_CELL / max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
