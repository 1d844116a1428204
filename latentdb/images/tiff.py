"""TIFF layouts: which ones Pillow decodes right, which ones tifffile has to, which have no pixels.

Pillow reads some layouts wrongly without an error: 16-bit samples in separate
planes as noise, signed samples as unsigned.  So the layout is read first, here,
and Pillow gets only those that a test compared with tifffile.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError
from latentdb.images.formats import RAW_ADVICE

if TYPE_CHECKING:
    from PIL import Image as PILImage

_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_ENTRIES, _MAX_VALUES = 4096, 64
_NEEDED = frozenset((256, 257, 258, 259, 262, 273, 277, 279, 284, 317, 324, 325, 338, 339))
_MAX_SAMPLES = 1 << 30
_SILENT = logging.NullHandler()  # one: a logger takes the same handler once
_UNKNOWN = -1
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _CMYK: 4,
    _YCBCR: 3,
    _LAB: 3,
}
_COMPRESSIONS = {
    1: "none",
    2: "CCITT",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34887: "LERC",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_CCITT, _JPEG = (2, 3, 4), (6, 7)
_LOSSLESS = (5, 8, 32773, 32946, 34925, 50000)
_JPEG2000, _WEBP = (33003, 33004, 33005, 34712), 50001
# What tifffile decodes to a bounded size: imagecodecs gets the size that the layout says, and a
# WebP has at most 16,384 pixels a side.  A JPEG or JPEG XL in a tile may have any size.
_BOUNDED = (1, *_LOSSLESS, *_JPEG2000, _WEBP)
_RAW_PHOTOMETRICS, _RAW_COMPRESSIONS = (32803, 34892), (32767, 32769, 32770, 34713, 65000, 65535)
_CODESTREAM = b"\xff\x4f\xff\x51"  # the start of JPEG 2000, and its size marker
_ASSOCIATED, _UNASSOCIATED = 1, 2


@dataclass(frozen=True)
class Layout:
    """How the first image of a TIFF stores its pixels: the tags, with their defaults.

    Attributes
    ----------
    bits, sample_formats
        One per sample.
    extra
        What the samples beyond the colours are: 0 unspecified, 1 associated
        alpha, 2 unassociated alpha.
    is_raw
        Whether it is camera raw, or the preview of such a file.
    has_tiles_as_strips
        Whether tiles are listed under the tags of strips, which Pillow takes for strips.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    sample_formats: tuple[int, ...]
    samples: int
    compression: int
    photometric: int
    planar: int
    predictor: int
    extra: tuple[int, ...]
    orientation: int
    inks: int
    is_big_endian: bool
    is_bigtiff: bool
    is_raw: bool
    has_tiles_as_strips: bool = False

    @property
    def colours(self) -> int:
        """Samples that are colours, by the photometric interpretation."""
        return _COLOURS.get(self.photometric, self.samples)

    @property
    def has_palette(self) -> bool:
        return self.photometric == _PALETTE


def read_layout(data: bytes) -> Layout | None:
    """The layout of the first image of a TIFF; None if its directory is damaged."""
    try:
        tags = _read_tags(data)
        samples = tags.get(277, (len(tags.get(258, (1,))),))[0]
        width, height = tags[256][0], tags[257][0]
    except (struct.error, KeyError, IndexError, ValueError, OverflowError):
        return None
    strips = len(tags.get(273, ()))
    if strips > 1 and len(tags.get(279, ())) < strips:
        return None  # strips of unknown length: readers guess differently
    photometric = tags.get(262, (_UNKNOWN,))[0]
    bits = tags.get(258, (1,))[: max(1, samples)]
    formats = tags.get(339, (1,))[: max(1, samples)]
    spread = max(1, min(samples, _MAX_VALUES))
    raw = (
        photometric in _RAW_PHOTOMETRICS
        or tags.get(259, (1,))[0] in _RAW_COMPRESSIONS
        or 50706 in tags  # DNGVersion
        or data[8:10] == b"CR"
        or (tags.get(254, (0,))[0] & 1 == 1 and 330 in tags)
    )
    return Layout(
        width,
        height,
        bits * spread if len(bits) == 1 else bits,
        formats * spread if len(formats) == 1 else formats,
        samples,
        tags.get(259, (1,))[0],
        photometric,
        tags.get(284, (1,))[0],
        tags.get(317, (1,))[0],
        tags.get(338, ()),
        tags.get(274, (1,))[0],
        tags.get(332, (1,))[0],
        data[:2] == b"MM",
        data[2:4] in (b"\0+", b"+\0"),
        raw,
        322 in tags and 324 not in tags,
    )


def refusal(layout: Layout) -> str | None:
    """Why the pixels of a layout cannot be used, whatever reads them; None if they can."""
    bits, formats = set(layout.bits), set(layout.sample_formats)
    kind = next(iter(formats)) if len(formats) == 1 else 0
    if layout.is_raw:
        return f"camera raw in a TIFF: {RAW_ADVICE}"
    size = "/".join(map(str, sorted(bits)))
    if kind in (5, 6):
        return f"{size}-bit complex pixels are not an image: save it with 8 or 16 bits"
    if kind == 3:
        return f"{size}-bit float pixels have no fixed range: save it with 8 or 16 bits"
    if kind == 2:
        return f"signed {size}-bit pixels have no fixed range: save it as unsigned"
    if kind not in (1, 4):
        return "its samples have several formats: save it as 8-bit RGB"
    if len(bits) != 1 or not bits <= set(range(1, 17)):
        return (
            f"{size}-bit pixels have no fixed range: save it with 8 or 16 bits"
            if max(bits) > 16
            else f"its samples have {size} bits: save it as 8-bit RGB"
        )
    if layout.photometric == _UNKNOWN:
        return "its header does not say whether it is grey or RGB: save it again"
    if layout.photometric not in _COLOURS:
        return f"its colours are of kind {layout.photometric}, which is not read: save it as RGB"
    if layout.width * layout.height * layout.samples > _MAX_SAMPLES:
        return (
            f"decompression bomb: {layout.width}x{layout.height} pixels of {layout.samples} samples"
        )
    if layout.samples < layout.colours:
        return f"{layout.samples} bands where its colours need {layout.colours}"
    if layout.photometric == _CMYK and layout.inks != 1:
        return "its inks are not cyan, magenta, yellow and black: save it as RGB"
    alpha = set(layout.extra) & {_ASSOCIATED, _UNASSOCIATED}
    if layout.colours == 1 and layout.samples > 2 and not alpha:
        return f"{layout.samples} bands that no tag calls colours: save three of them as RGB"
    return None


def is_right_in_pillow(layout: Layout) -> bool:
    """Whether Pillow decodes a layout that is not refused to the pixels it stores."""
    bits, extras = layout.bits[0], layout.samples - layout.colours
    photometric, compression = layout.photometric, layout.compression
    if layout.has_tiles_as_strips:
        return False
    if layout.is_big_endian and (layout.is_bigtiff or (photometric == 0 and bits == 16)):
        return False
    if compression in _CCITT:
        return bits == 1 and layout.samples == 1
    if compression in _JPEG:
        plain = extras == 0 and bits == 8
        return plain and (layout.planar == 1 or layout.samples == 1)
    if compression != 1 and compression not in _LOSSLESS:
        return False
    if photometric == _YCBCR:
        return bits == 8 and extras == 0 and layout.planar == 1 and compression != 1
    if layout.predictor not in (1, 2):
        return False
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE):
        widths = (1, 2, 4, 8) if photometric == _PALETTE else (1, 2, 4, 8, 16)
        if extras == 0:
            return bits in widths
        if photometric != _BLACK_IS_ZERO or bits != 8 or layout.planar != 1:
            return False
        return extras == 1 and layout.extra in ((), (0,), (_UNASSOCIATED,))
    if photometric == _LAB:
        return bits == 8 and extras == 0 and layout.planar == 1
    if bits not in (8, 16) or (bits == 16 and layout.planar != 1):
        return False
    if photometric == _CMYK:
        return extras == 0
    if extras == 0:
        return True
    alone = extras == 1 and len(layout.extra) == 1
    return alone and (layout.planar == 1 or layout.extra == (_UNASSOCIATED,))


def read_pixels(data: bytes, layout: Layout, name: str) -> PILImage.Image:
    """The first image of a TIFF by tifffile: mode L, RGB, RGBA or CMYK, not oriented.

    Raises
    ------
    ImageError
        If tifffile is not installed, or cannot decode the layout either.
    """
    what = _described(layout)
    if layout.compression not in _BOUNDED:
        raise ImageError(name, f"TIFF with {what} is not read: save it with deflate")
    if layout.photometric in (_YCBCR, _LAB) and layout.compression != _WEBP:
        raise ImageError(name, f"TIFF with {what} is not read: save it as RGB")
    if layout.compression in _JPEG2000 and not _tiles_are_bounded(data):
        raise ImageError(name, "decompression bomb: a JPEG 2000 tile is larger than any image")
    try:
        import imagecodecs  # noqa: F401 - without it tifffile inflates to any size
        import tifffile
    except ImportError:
        reason = f"TIFF with {what} needs an extra: pip install 'latentdb[tiff]'"
        raise ImageError(name, reason) from None
    # Without a handler, logging prints what tifffile finds odd on stderr: the error says it.
    logging.getLogger("tifffile").addHandler(_SILENT)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            array = page.asarray(maxworkers=1)
            colormap = getattr(page, "colormap", None)
        if layout.planar == 2 and layout.samples > 1:
            array = np.moveaxis(array, 0, -1)
        array = array.reshape(layout.height, layout.width, layout.samples)
    except MemoryError:
        raise
    except Exception as error:  # tifffile and the codecs raise almost anything
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, f"TIFF with {what}: {text}") from error
    return _to_image(array, layout, colormap)


def _tiles_are_bounded(data: bytes) -> bool:
    """Whether no JPEG 2000 codestream in the file declares more than `_MAX_SAMPLES`."""
    start = data.find(_CODESTREAM)
    while start >= 0:
        if len(data) >= start + 42:
            right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
            bands = struct.unpack_from(">H", data, start + 40)[0]
            if max(0, right - left) * max(0, bottom - top) * bands > _MAX_SAMPLES:
                return False
        start = data.find(_CODESTREAM, start + 4)
    return True


def _to_image(array: NDArray[Any], layout: Layout, colormap: NDArray[Any] | None) -> PILImage.Image:
    """uint ``[height, width, samples]`` as an 8-bit image."""
    from PIL import Image

    if layout.photometric == _PALETTE and colormap is not None:
        table = (colormap.T >> 8 if colormap.max() > 255 else colormap.T).astype(np.uint8)
        return Image.fromarray(table[array[..., 0]])
    white = 2 ** layout.bits[0] - 1
    levels = ((array.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    colours = levels[..., : layout.colours]
    if layout.photometric == _WHITE_IS_ZERO:
        colours = 255 - colours
    if layout.colours == 1:
        image = Image.fromarray(np.ascontiguousarray(colours[..., 0]))
    else:
        mode = "CMYK" if layout.colours == 4 else "RGB"
        image = Image.frombytes(mode, colours.shape[1::-1], colours.tobytes())
    extras = enumerate(layout.extra[: layout.samples - layout.colours], layout.colours)
    found = next((item for item in extras if item[1] in (_ASSOCIATED, _UNASSOCIATED)), None)
    if found is None:
        return image
    alpha = np.ascontiguousarray(levels[..., found[0]])
    image = image.convert("RGB")
    if found[1] == _ASSOCIATED:  # the colours are multiplied by it
        divided = np.asarray(image) * np.uint32(255) // np.maximum(alpha, 1)[..., None]
        image = Image.fromarray(np.minimum(divided, 255).astype(np.uint8))
    image.putalpha(Image.fromarray(alpha))
    return image


def _described(layout: Layout) -> str:
    compression = _COMPRESSIONS.get(layout.compression, f"number {layout.compression}")
    planes = " in separate planes" if layout.planar == 2 and layout.samples > 1 else ""
    samples = f"{layout.samples} x " if layout.samples > 1 else ""
    return f"{samples}{layout.bits[0]}-bit pixels{planes}, compression {compression}"


@cache
def silence_libtiff() -> None:
    """Keep libtiff, inside Pillow, from printing its messages on stderr: the errors say it."""
    import ctypes

    from PIL import _imaging  # noqa: F401 - so that libtiff is loaded

    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "libtiff" in line}
        for path in paths:
            library = ctypes.CDLL(path)
            for function in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                setter: Callable[..., Any] = getattr(library, function)
                setter(None)
    except (OSError, AttributeError, IndexError):
        return  # another system, or libtiff inside another library: its messages are printed


def _read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers among the tags of the first directory, of each at most 64 values."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
    if count > _MAX_ENTRIES:
        raise ValueError("too many tags")
    entry = struct.Struct(order + ("HHQ" if big else "HHI"))
    inline = 8 if big else 4
    offset += 8 if big else 2
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(offset, offset + count * (entry.size + inline), entry.size + inline):
        tag, kind, values = entry.unpack_from(data, start)
        if kind not in _TYPES or not values or tag in tags:
            continue
        form = struct.Struct(f"{order}{min(values, _MAX_VALUES)}{_TYPES[kind]}")
        at = start + entry.size
        if struct.calcsize(_TYPES[kind]) * values > inline:
            at = struct.unpack_from(order + ("Q" if big else "I"), data, at)[0]
        if at + form.size <= len(data):
            tags[tag] = form.unpack_from(data, at)
        elif tag in _NEEDED:
            raise ValueError("a tag points outside the file")
    return tags
