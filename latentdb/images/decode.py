"""Image files of twelve formats, decoded to uint8 pixels of one size.

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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.files import os_reason
from latentdb.images import colour, jpeg, tiff
from latentdb.images.formats import describe, identify, largest_size
from latentdb.images.pixel_range import Pixels, parse_pixel_range

if TYPE_CHECKING:
    from PIL import Image as PILImage

RESIZE_RULES = ("stretch", "crop", "pad")
MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb warning
MAX_FILE_BYTES = 1 << 30
Box = tuple[float, float, float, float]
# O_NONBLOCK: opening a pipe must not wait for a writer.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_ORIENTATION_TAG = 0x0112  # of EXIF
# Fields of `Preprocessing` that came later: older versions of latentdb refuse their names, so
# a record has them only where they say something else than those versions do.
_LATER_FIELDS = {"background": "white", "icc": "ignore"}


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
    background
        What shows through transparent pixels: ``"white"``, ``"black"``,
        ``"checker"`` or a colour as ``"R,G,B"``.
    icc
        ``"srgb"``: the colours of an image with an embedded profile are converted.
        ``"ignore"``: its numbers are taken as they are stored, as in models from
        before there was a choice.
    """

    height: int
    width: int
    channels: int
    pixel_range: str = "0..1"
    resize: str = "stretch"
    background: str = "white"
    icc: str = "ignore"

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
        colour.parse_background(self.background)
        if self.icc not in colour.ICC_RULES:
            raise InvalidInputError(
                f"ICC rule {self.icc!r} is unknown: use one of {', '.join(colour.ICC_RULES)}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def to_record(self) -> dict[str, Any]:
        """The fields as a model config and its fingerprint hold them."""
        values = asdict(self)
        return {key: value for key, value in values.items() if _LATER_FIELDS.get(key) != value}


def read_bytes(path: str) -> bytes:
    """The content of an image file, or of an image in an archive (``shards/0.tar!cat/1.jpg``).

    Raises
    ------
    ImageError
        If it is missing, unreadable, empty, not a regular file, or over 1 GiB.
    """
    if is_member(path):
        from latentdb.images.sources import read_member

        return read_member(path)
    return read_file(path)[0]


def is_member(path: str) -> bool:
    """Whether a path is of an image in an archive, and not of a file with ``!`` in its name."""
    return "!" in path and not os.path.lexists(path)


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
            later = os.fstat(descriptor)
            if len(data) < size or (later.st_size, later.st_mtime_ns) != (size, status.st_mtime_ns):
                raise ImageError(path, "it changed while it was read: is it still being written?")
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

    EXIF orientation is applied, transparency is composited over the background,
    16-bit grey is scaled to 8 bits, an embedded ICC profile is converted to sRGB
    where the model asks for it.  JPEG is decoded at the smallest DCT scale that is
    at least twice the target, by simplejpeg where that is installed and the
    file is plain, else by Pillow.  The rest is one antialiased resize (area
    weighted, triangle filter).

    Parameters
    ----------
    data
        Content of a file in one of `latentdb.images.formats.FORMATS`; of several
        frames or pages the first is decoded.
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


def has_vanished(data: bytes, pixels: Pixels, name: str) -> bool:
    """Whether an image with transparent parts is one colour in its decoded pixels.

    Such is white art over white: its latent is that of an empty image.
    """
    if pixels[0, 0].tobytes() != pixels[-1, -1].tobytes() or data.startswith(jpeg.START):
        return False
    if not (pixels == pixels[0, 0]).all():
        return False
    try:
        image = _open(data, name)
        if not image.has_transparency_data:
            return False
        alpha = (image.convert("LA") if image.mode == "La" else image.convert("RGBA")).getextrema()
        return bool(alpha[-1][0] < 255)  # type: ignore[index]
    except Exception:  # a TIFF that only tifffile reads, most likely
        return False


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
    profile, orientation = None, 1
    if frame.has_metadata or (frame.has_profile and spec.icc == "srgb"):
        header = _open(data, name)
        orientation = _orientation(header)
        if spec.icc == "srgb" and colour.changes_colours(
            header.info.get("icc_profile"), header.mode
        ):
            profile = header.info["icc_profile"]
    if pixels.shape == spec.shape and orientation == 1 and denominator == 1 and profile is None:
        return pixels
    content = frame.width / denominator, frame.height / denominator
    image = colour.to_srgb(to_pil(pixels), profile)
    return _orient(image, content, orientation, spec.channels)


def read_image(path: str | os.PathLike[str], spec: Preprocessing) -> Pixels:
    """Read an image file as `decode_pixels` does."""
    return decode_pixels(read_bytes(os.fspath(path)), spec, name=os.fspath(path))


@dataclass(frozen=True)
class ImageShape:
    """Height, width and channels of an image before any resize, EXIF orientation applied."""

    height: int
    width: int
    channels: int


def probe(path: str, data: bytes | None = None) -> ImageShape:
    """The shape of an image file, or of its content if given, by its header alone.

    Raises
    ------
    ImageError
        If it has no readable header.
    """
    data = read_bytes(path) if data is None else data
    layout = _tiff_layout(data, path)
    if layout is not None:
        height, width = layout.height, layout.width
        if layout.orientation in range(5, 9):
            height, width = width, height
        return ImageShape(height, width, 1 if layout.colours == 1 and not layout.has_palette else 3)
    image = _open(data, path)
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    return ImageShape(height, width, 1 if grey else 3)


def _open(data: bytes, name: str) -> PILImage.Image:
    """A file by the plugin of its format, its size checked before any pixel is decoded."""
    from PIL import Image

    format = identify(data, name)
    if format is None:
        raise ImageError(name, describe(data))
    _ignore_bomb_warnings()
    try:
        if format == "HEIF":
            image = _open_heif(data, name)
        else:
            Image.init()
            if format not in Image.OPEN:
                raise ImageError(name, f"{format}, which this build of Pillow does not read")
            # The plugin itself, not Image.open, which does not say why it refuses a file.
            image = Image.OPEN[format][0](io.BytesIO(data), "")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"decompression bomb: over {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged header makes Pillow raise almost anything
        reason = jpeg.unsupported(data) if format == "JPEG" else None
        reason = reason or f"damaged header ({format}): {_one_line(error)}"
        raise ImageError(name, reason) from error
    _check_size(*largest_size(data, image.size, format), name)
    return image


def _open_heif(data: bytes, name: str) -> PILImage.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        reason = "HEIC and HEIF need an extra: pip install 'latentdb[heif]'"
        raise ImageError(name, reason) from None
    image: PILImage.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call,unused-ignore]
    return image


def _ignore_bomb_warnings() -> None:
    # MAX_PIXELS refuses a bomb.  warnings.catch_warnings is not thread-safe.
    from PIL import Image

    if not any(entry[2] is Image.DecompressionBombWarning for entry in warnings.filters):
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (LookupError, TypeError, AttributeError)):  # its text is about Pillow
        text = "a part of it is missing or not what it should be"
    return text.replace("not identified by this driver", "its header is not valid")


def _orientation(image: PILImage.Image) -> int:
    try:
        value = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the pixels of a file with damaged EXIF may be intact
        return 1
    return value if 1 <= value <= 8 else 1


def _decode_with_pillow(data: bytes, spec: Preprocessing, name: str) -> tuple[PILImage.Image, Box]:
    """An image in mode L or RGB, oriented, over the background; and the box of it to resize."""
    layout = _tiff_layout(data, name)
    if layout is not None:
        tiff.silence_libtiff()
        if not tiff.is_right_in_pillow(layout):
            return _decode_with_tifffile(data, layout, spec, name)
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
        image = colour.to_eight_bits(image, name)
        image = colour.flatten(image, colour.parse_background(spec.background), spec.icc)
        return _orient(image, content, orientation, spec.channels)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "too large for the memory at hand") from error
    except Exception as error:  # damaged pixels make Pillow raise almost anything
        raise ImageError(name, f"damaged or truncated: {_one_line(error)}") from error


def _tiff_layout(data: bytes, name: str) -> tiff.Layout | None:
    """The layout of a TIFF; None for a file of another format.

    Raises
    ------
    ImageError
        If it is damaged, or has pixels that are never read.
    """
    if identify(data, name) != "TIFF":
        return None
    layout = tiff.read_layout(data)
    if layout is None:
        raise ImageError(name, "damaged header: its TIFF directory cannot be read")
    _check_size(layout.width, layout.height, name)
    reason = tiff.refusal(layout)
    if reason is not None:
        raise ImageError(name, reason)
    return layout


def _decode_with_tifffile(
    data: bytes, layout: tiff.Layout, spec: Preprocessing, name: str
) -> tuple[PILImage.Image, Box]:
    """As `_decode_with_pillow`, of a layout that Pillow does not decode right."""
    try:
        image = tiff.read_pixels(data, layout, name)
        image = colour.flatten(image, colour.parse_background(spec.background), spec.icc)
    except MemoryError as error:
        raise ImageError(name, "too large for the memory at hand") from error
    orientation = layout.orientation if 1 <= layout.orientation <= 8 else 1
    return _orient(image, image.size, orientation, spec.channels)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            name, f"decompression bomb: {width}x{height} is over {MAX_PIXELS:,} pixels"
        )
    if not width or not height:
        raise ImageError(name, f"{width}x{height}: it has no pixels")


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
