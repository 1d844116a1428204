"""Pixels in: image files of many kinds, read as one size.

One reader serves training, indexing and querying, so that an image always
becomes the same pixels, whichever libraries are installed.  A file that cannot
be read raises `ImageError` with its reason; nothing is ever put in its place.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.files import os_reason
from latentdb.images import jpeg
from latentdb.images.pixel_range import parse as parse_range

if TYPE_CHECKING:
    from PIL import Image as PILImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
RESIZE_RULES = ("stretch", "crop", "pad")
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
MAX_FILE_BYTES = 1 << 30
Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]
# Without waiting: a pipe would wait for ever.
_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_ORIENTATION_TAG = 0x0112


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
        What the model was trained on: ``"0..1"``, ``"-1..1"``, ``"0..255"`` or
        means and deviations, as `latentdb.images.pixel_range` says.
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
        parse_range(self.pixel_range, self.channels)
        if self.resize not in RESIZE_RULES:
            raise InvalidInputError(
                f"resize rule {self.resize!r} is unknown: use one of {RESIZE_RULES}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises
    ------
    ImageError
        If it vanished, cannot be read, is empty, no file, or over 1 GiB.
    """
    return read_file(path)[0]


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """The content of an image file, and its size and times; as `read_bytes`."""
    try:
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                folder = stat.S_ISDIR(status.st_mode)
                raise ImageError(path, "is a directory" if folder else "not a regular file")
            if size > MAX_FILE_BYTES:
                raise ImageError(path, f"{size} bytes, over the limit of 1 GiB")
            data = os.read(descriptor, size)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more  # network file systems may give less at a time
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ImageError(path, os_reason(error)) from error
    except ImageError:
        raise
    except ValueError as error:  # a null, or half of a surrogate pair
        raise ImageError(path, str(error)) from error
    if not data:
        raise ImageError(path, "empty file")
    return data, status


def decode_pixels(
    data: bytes, spec: Preprocessing, *, name: str, out: Pixels | None = None
) -> Pixels:
    """Decode the bytes of an image file to the size of an encoder.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey
    is scaled to 8 bits.  JPEG is decoded at the smallest DCT scale that is at
    least twice the target, by simplejpeg where that is installed and the file
    is plain, else by Pillow; the rest is done by an antialiased (area-weighted
    triangle) resize.

    Parameters
    ----------
    data
        JPEG, PNG, WebP, GIF or TIFF (the first frame), or BMP.
    spec
        Size, channels and resize rule.
    name
        What to call the image in an error.
    out
        Where to put the pixels: uint8 ``[height, width, channels]``.

    Returns
    -------
    ndarray
        uint8 ``[height, width, channels]``; `out` if it was given.

    Raises
    ------
    ImageError
        If it is no such image, damaged, or too large to unpack.
    """
    pixels = _plain_jpeg(data, spec, name, out) if data.startswith(jpeg.START) else None
    if pixels is None:
        pixels = np.asarray(_fit(*_open(data, name, spec), spec)).reshape(spec.shape)
    if out is None or pixels is out:
        return pixels
    out[...] = pixels
    return out


def _plain_jpeg(data: bytes, spec: Preprocessing, name: str, out: Pixels | None) -> Pixels | None:
    """A JPEG by the fast decoder; None where Pillow has to do it.

    Raises
    ------
    ImageError
        If a part of it was lost: Pillow would not notice.
    """
    place = jpeg.hole(data)
    if place is not None:
        raise ImageError(name, f"damaged: its pixels are lost (zero bytes) from byte {place} on")
    found = jpeg.frame(data)
    if found is None or found.height * found.width > MAX_PIXELS:
        return None
    size = found.width, found.height
    least = _draft_size(size, 2 * max(spec.height, spec.width), spec.resize)
    decoded = jpeg.decode(data, found, least, out)
    if decoded is None:
        return None
    pixels, scale = decoded
    orientation = _orientation(_header(data, name)) if found.tagged else 1
    if pixels.shape == spec.shape and orientation == 1 and scale == 1:
        return pixels
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if found.components == 1 else pixels)
    part = found.width / scale, found.height / scale
    box = _upright(image.size, part, orientation)
    return np.asarray(_fit(_turned(image, spec, orientation), box, spec)).reshape(spec.shape)


def read_image(path: str | os.PathLike[str], spec: Preprocessing) -> Pixels:
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
        image = _eight_bits(image, name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return _turned(image, spec, orientation), box
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "too large for the memory at hand") from error
    except Exception as error:  # damaged pixels make Pillow raise almost anything
        raise ImageError(name, f"damaged or truncated: {_told(error)}") from error


def _turned(image: PILImage.Image, spec: Preprocessing, orientation: int) -> PILImage.Image:
    """Upright, and in mode L or RGB."""
    from PIL import Image

    mode = "L" if spec.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


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
        # By rounding one side may come out longer than it is.
        wanted = min(spec.width / max(scales), width), min(spec.height / max(scales), height)
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
