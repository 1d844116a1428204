"""Image files of six formats, decoded to uint8 pixels of one size.

Training, indexing and querying all use this reader, so an image always gives
the same pixels, whichever libraries are installed.  A file that cannot be read
raises `ImageError` with the reason; no placeholder is ever returned.
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

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.files import os_reason
from latentdb.images import jpeg
from latentdb.images.pixel_range import Pixels, parse_pixel_range

if TYPE_CHECKING:
    from PIL import Image as PILImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
RESIZE_RULES = ("stretch", "crop", "pad")
MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb warning
MAX_FILE_BYTES = 1 << 30
Box = tuple[float, float, float, float]
# O_NONBLOCK: opening a pipe must not wait for a writer.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_ORIENTATION_TAG = 0x0112  # of EXIF
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262  # of TIFF


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
        means and standard deviations, see `latentdb.images.pixel_range`.
    resize
        ``"stretch"`` the image to the size, ``"crop"`` its centre to the aspect
        ratio first, or ``"pad"`` it with black to the aspect ratio.
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
        parse_pixel_range(self.pixel_range, self.channels)
        if self.resize not in RESIZE_RULES:
            raise InvalidInputError(
                f"resize rule {self.resize!r} is unknown: use one of {', '.join(RESIZE_RULES)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


def read_bytes(path: str) -> bytes:
    """The content of an image file.

    Raises
    ------
    ImageError
        If it is missing, unreadable, empty, not a regular file, or over 1 GiB.
    """
    return read_file(path)[0]


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """The content of an image file and its `os.stat`; raises as `read_bytes`."""
    try:
        descriptor = os.open(path, _READ_FLAGS)
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                is_folder = stat.S_ISDIR(status.st_mode)
                raise ImageError(path, "is a directory" if is_folder else "not a regular file")
            if size > MAX_FILE_BYTES:
                raise ImageError(path, f"{size:,} bytes, over the limit of 1 GiB")
            data = os.read(descriptor, size)
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more  # a read from a network file system may be short
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ImageError(path, os_reason(error)) from error
    except ImageError:
        raise
    except ValueError as error:  # a null character or a lone surrogate
        raise ImageError(path, str(error)) from error
    if not data:
        raise ImageError(path, "empty file")
    return data, status


def decode_pixels(
    data: bytes, spec: Preprocessing, *, name: str, out: Pixels | None = None
) -> Pixels:
    """Pixels of an image file, at the size of an encoder.

    EXIF orientation is applied, transparency is composited over white, 16-bit
    grey is scaled to 8 bits.  JPEG is decoded at the smallest DCT scale that is
    at least twice the target, by simplejpeg where that is installed and the
    file is plain, else by Pillow.  The rest is one antialiased resize (area
    weighted, triangle filter).

    Parameters
    ----------
    data
        Content of a JPEG, PNG, WebP, GIF, BMP or TIFF file; of several frames or
        pages the first is decoded.
    spec
        Size, channels and resize rule.
    name
        What to call the image in an error.
    out
        Array to write the pixels to: uint8 ``[height, width, channels]``.

    Returns
    -------
    ndarray
        uint8 ``[height, width, channels]``; `out` if it was given.

    Raises
    ------
    ImageError
        If it has another format, is damaged, or too large to decode.
    """
    decoded = _decode_jpeg(data, spec, name, out) if data.startswith(jpeg.START) else None
    if decoded is None:
        decoded = _decode_with_pillow(data, spec, name)
    if isinstance(decoded, np.ndarray):
        pixels = decoded
    else:
        pixels = np.asarray(_resize(*decoded, spec)).reshape(spec.shape)
    if out is None or pixels is out:
        return pixels
    out[...] = pixels
    return out


def to_pil(pixels: Pixels) -> PILImage.Image:
    """uint8 ``[height, width, 1 or 3]`` as a Pillow image."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _decode_jpeg(
    data: bytes, spec: Preprocessing, name: str, out: Pixels | None
) -> Pixels | tuple[PILImage.Image, Box] | None:
    """A JPEG by simplejpeg: pixels if they need no resize, else an image and the box to resize.

    None where Pillow has to decode it.

    Raises
    ------
    ImageError
        If some of its pixels were lost, which Pillow would not report.
    """
    offset = jpeg.find_zero_run(data)
    if offset is not None:
        raise ImageError(name, f"damaged: its pixels are lost (zero bytes) from byte {offset} on")
    frame = jpeg.read_frame(data)
    if frame is None or frame.height * frame.width > MAX_PIXELS:
        return None
    min_size = _min_draft_size((frame.width, frame.height), spec)
    decoded = jpeg.decode(data, frame, min_size, out)
    if decoded is None:
        return None
    pixels, denominator = decoded
    orientation = _orientation(_open(data, name)) if frame.has_metadata else 1
    if pixels.shape == spec.shape and orientation == 1 and denominator == 1:
        return pixels
    content = frame.width / denominator, frame.height / denominator
    return _orient(to_pil(pixels), content, orientation, spec.channels)


def read_image(path: str | os.PathLike[str], spec: Preprocessing) -> Pixels:
    """Read an image file as `decode_pixels` does."""
    return decode_pixels(read_bytes(os.fspath(path)), spec, name=os.fspath(path))


@dataclass(frozen=True)
class ImageShape:
    """Height, width and channels of an image before any resize, EXIF orientation applied."""

    height: int
    width: int
    channels: int


def probe(path: str) -> ImageShape:
    """The shape of an image file, read from its header alone.

    Raises
    ------
    ImageError
        If it has no readable header.
    """
    data = read_bytes(path)
    image = _open(data, path)
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) >= 5:  # Pillow applies it to TIFF itself
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    return ImageShape(height, width, 1 if grey else 3)


def _open(data: bytes, name: str) -> PILImage.Image:
    from PIL import Image, UnidentifiedImageError

    _ignore_bomb_warnings()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(name, f"not one of {', '.join(FORMATS)}, or its header is damaged") from (
            error
        )
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"decompression bomb: over {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged header makes Pillow raise almost anything
        raise ImageError(name, f"damaged header: {_one_line(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            name,
            f"decompression bomb: {image.width}x{image.height} is over {MAX_PIXELS:,} pixels",
        )
    return image


def _ignore_bomb_warnings() -> None:
    # MAX_PIXELS refuses a bomb.  warnings.catch_warnings is not thread-safe.
    from PIL import Image

    if not any(entry[2] is Image.DecompressionBombWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: PILImage.Image) -> int:
    try:
        value = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the pixels of a file with damaged EXIF may be intact
        return 1
    return value if 1 <= value <= 8 else 1


def _decode_with_pillow(data: bytes, spec: Preprocessing, name: str) -> tuple[PILImage.Image, Box]:
    """An image in mode L or RGB, oriented, over white; and the box of it to resize."""
    from PIL import Image

    image = _open(data, name)
    try:
        if image.format == "PNG":
            image.verify()  # the checksums of the pixels, which load() skips
            image = _open(data, name)
        content: tuple[float, float] | None = None
        if image.format in ("JPEG", "MPO"):  # many phones write MPO
            drafted = image.draft(None, _min_draft_size(image.size, spec))
            content = None if drafted is None else drafted[1][2:]
        image.load()
        if image.format == "PNG" and data[25] == 0 and data[24] in (2, 4):
            # Pillow scales 2- and 4-bit grey to 8 bits, but not the transparent value.
            transparent = image.info.get("transparency")
            if isinstance(transparent, int):
                image.info["transparency"] = transparent * 255 // (2 ** data[24] - 1)
        orientation = _orientation(image)
        content = content or image.size
        image = _to_eight_bits(image, name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return _orient(image, content, orientation, spec.channels)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "too large for the memory at hand") from error
    except Exception as error:  # damaged pixels make Pillow raise almost anything
        raise ImageError(name, f"damaged or truncated: {_one_line(error)}") from error


def _orient(
    image: PILImage.Image, content: tuple[float, float], orientation: int, channels: int
) -> tuple[PILImage.Image, Box]:
    """An image with its EXIF orientation applied, in mode L or RGB, and the box of its content.

    Parameters
    ----------
    content
        Width and height of the upper left part that holds the image: decoding at
        a DCT scale rounds both sides up.
    """
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    if method is not None:
        image = image.transpose(method)
    right, bottom = content if orientation < 5 else content[::-1]
    left = image.width - right if orientation in (2, 3, 6, 7) else 0.0
    top = image.height - bottom if orientation in (3, 4, 7, 8) else 0.0
    return image, (left, top, left + right, top + bottom)


def _min_draft_size(size: tuple[int, int], spec: Preprocessing) -> tuple[int, int]:
    """The smallest width and height to decode a JPEG to, whatever its orientation.

    ``draft`` scales both sides alike and keeps both at least as large.  An image
    that will be padded needs only its long side; the others need both.
    """
    longest = 2 * max(spec.height, spec.width)
    if spec.resize != "pad":
        return longest, longest
    ratio = longest / max(size)
    return max(1, math.ceil(size[0] * ratio)), max(1, math.ceil(size[1] * ratio))


def _to_eight_bits(image: PILImage.Image, name: str) -> PILImage.Image:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # convert("L") would clip 16 bits to white.
        values = np.asarray(image).astype(np.uint32)
        tags = getattr(image, "tag_v2", {})
        white = 2 ** int(tags.get(_BITS_TAG, (16,))[0]) - 1  # some TIFFs store 12 bits in 16
        grey = (values * 255 + white // 2) // white
        if tags.get(_PHOTOMETRIC_TAG) == 0:  # white is zero: Pillow inverts only 8 bits
            grey = 255 - grey
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(name, "32-bit pixels have no fixed range: save it with 8 or 16 bits")
    return image


def _resize(image: PILImage.Image, box: Box, spec: Preprocessing) -> PILImage.Image:
    """The part of an image inside a box, resized by the rule of `spec`."""
    from PIL import Image

    size = (spec.width, spec.height)
    if image.size == size and box == (0, 0, *size):
        return image
    method = Image.Resampling.BILINEAR
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    scales = spec.width / width, spec.height / height
    if spec.resize == "crop":
        # min(): rounding may make a side longer than the image.
        crop_width = min(spec.width / max(scales), width)
        crop_height = min(spec.height / max(scales), height)
        left += (width - crop_width) / 2
        top += (height - crop_height) / 2
        crop = (left, top, min(right, left + crop_width), min(bottom, top + crop_height))
        return image.resize(size, method, crop)
    if spec.resize == "pad":
        scale = min(scales)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = Image.new(image.mode, size)
        corner = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas.paste(image.resize(inner, method, box), corner)
        return canvas
    return image.resize(size, method, box)
