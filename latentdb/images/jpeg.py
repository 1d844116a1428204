"""JPEG: its markers read as data, and the fast decoder for the plain ones.

simplejpeg (extra ``fast``) wraps the same libjpeg-turbo as Pillow, but decodes
from memory to memory and lets other threads run meanwhile.  Asked for the same
scale it gives the same pixels; whatever is not plain is left to Pillow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

START = b"\xff\xd8\xff"
HOLE = 512  # bytes: the least that disks and file systems lose at once
_SCALES = (8, 4, 2, 1)
_EOI, _SOS, _DHT, _APP1 = 0xD9, 0xDA, 0xC4, 0xE1
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_PLAIN = (*_SEQUENTIAL, *_PROGRESSIVE)
_FRAME = struct.Struct(">BHHB")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
# The end of a scan: any marker but a stuffed zero, a restart or a fill byte.
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class Frame:
    """What the markers before the first scan of a JPEG say.

    Attributes
    ----------
    height, width
        Pixels as stored, not turned.
    components
        1 for grey, 3 for colour, 4 for CMYK.
    plain
        Huffman-coded with 8 bits, sequential or progressive.
    tagged
        Whether there is EXIF or XMP, which may tell an orientation.
    """

    height: int
    width: int
    components: int
    plain: bool
    tagged: bool


def frame(data: bytes) -> Frame | None:
    """Read the markers of a JPEG up to its first scan; None if they are damaged."""
    found: Frame | None = None
    tagged = False
    place, size = 2, len(data)
    # `_segments` in place: of small images this is what reading takes longest after decoding.
    while place + 4 <= size and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SOS:
            return replace(found, tagged=True) if found is not None and tagged else found
        if marker == _EOI:
            return None
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        length = data[place + 2] << 8 | data[place + 3]
        if length < 2:
            return None
        if marker in _FRAMES:
            if found is not None or length < 8 or place + 10 > size:
                return None
            bits, height, width, components = _FRAME.unpack_from(data, place + 4)
            plain = bits == 8 and marker in _PLAIN
            found = Frame(height, width, components, plain, False)
        tagged = tagged or marker == _APP1
        place += 2 + length
    return None


def scale(height: int, width: int, least: tuple[int, int]) -> int:
    """By how much a JPEG may be reduced while it is decoded: 1, 2, 4 or 8.

    Parameters
    ----------
    least
        Width and height that have to be left.  The rule is that of Pillow's
        ``draft``, so that either decoder reduces alike.
    """
    most = min(width // least[0], height // least[1])
    return next(step for step in _SCALES if most >= step or step == 1)


@cache
def decoder() -> Callable[..., Any] | None:
    """simplejpeg's decoder; None where the extra ``fast`` is not installed."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    found: Callable[..., Any] = decode_jpeg
    return found


def decode(
    data: bytes, found: Frame, least: tuple[int, int], out: Pixels | None = None
) -> tuple[Pixels, int] | None:
    """Decode a plain JPEG, reduced as far as `least` allows.

    Parameters
    ----------
    data, found
        The file and what `frame` says of it.
    least
        Width and height that have to be left.
    out
        Where to put the pixels if they are just of its shape and not reduced.

    Returns
    -------
    pixels, scale
        uint8 ``[height, width, 1 or 3]`` (`out` itself, if they were put
        there), and by how much it was reduced; None
        where Pillow has to do it: without simplejpeg, for CMYK and whatever
        else is not plain, and if libjpeg has anything to complain of.
    """
    run = decoder()
    if run is None or not found.plain or found.components not in (1, 3):
        return None
    if not found.height or not found.width:
        return None
    step = scale(found.height, found.width, least)
    shape = -(-found.height // step), -(-found.width // step), found.components
    options: dict[str, Any] = {}
    if step > 1:
        options = {"min_height": shape[0], "min_width": shape[1], "min_factor": step}
    elif out is not None and out.shape == shape and out.flags.c_contiguous:
        options = {"buffer": out}
    try:
        pixels = run(data, "RGB" if found.components == 3 else "GRAY", **options)
    except ValueError:  # damaged, or unknown to it: strict mode takes warnings for errors
        return None
    if "buffer" in options:
        pixels = out
    return (pixels, step) if pixels.shape == shape else None


def encode(pixels: Pixels, quality: int) -> bytes | None:
    """Write uint8 ``[height, width, 1 or 3]`` as a JPEG; None without simplejpeg.

    Colours keep their full resolution.
    """
    try:
        from simplejpeg import encode_jpeg
    except ImportError:
        return None
    grey = pixels.shape[-1] == 1
    spaces = ("GRAY", "Gray") if grey else ("RGB", "444")
    return bytes(encode_jpeg(np.ascontiguousarray(pixels), quality, *spaces))


def hole(data: bytes) -> int | None:
    """Where the coded pixels of a JPEG were lost and have become zeros; None if nowhere.

    libjpeg takes zeros for pixels: as long as there is data, Pillow makes a
    picture of it without a word.  But zero bits are a code like any other, of
    which the file's own tables say what it stands for.  Where that is "nothing
    changes" (as in a plain area under tables of its own), they are left alone;
    where it is one more ripple in every block, no encoder has written them.

    Parameters
    ----------
    data
        A JPEG file.  The first 512 zero bytes of a scan count.

    Returns
    -------
    int or None
        Their place in the file.
    """
    zeros = bytes(HOLE)
    if data.find(zeros) < 0:
        return None
    tables: dict[int, int] = {}  # by class and number: what the code of zero bits stands for
    progressive = False
    place = 2
    while True:
        scan = None
        for marker, start, end in _segments(data, place):
            if marker == _DHT:
                tables |= _zero_codes(data[start:end])
            elif marker in _FRAMES:
                if marker not in _PLAIN:
                    return None  # arithmetic codes and lossless ones have other rules
                progressive = marker in _PROGRESSIVE
            elif marker == _SOS:
                scan = (start, end)
                break
            elif marker == _EOI:
                return None
        if scan is None:
            return None
        after = _NEXT.search(data, scan[1])
        place = len(data) if after is None else after.start()
        found = data.find(zeros, scan[1], place)
        if found >= 0 and not _may_be_zeros(data[slice(*scan)], tables, progressive):
            return found


def _segments(data: bytes, place: int) -> Any:
    """Markers from a place on, each with the bounds of its content, to the end or to damage."""
    size = len(data)
    while place + 1 < size and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        place += 2
        if marker in _BARE:
            continue
        if marker == _EOI:
            yield marker, place, place
            return
        if place + 2 > size:
            return
        length = data[place] << 8 | data[place + 1]
        if length < 2 or place + length > size:
            return
        yield marker, place + 2, place + length
        place += length


def _zero_codes(content: bytes) -> dict[int, int]:
    """By table: the symbol of its code of zero bits, which is always its first."""
    codes = {}
    while len(content) > 17:
        symbols = sum(content[1:17])
        if symbols:
            codes[content[0]] = content[17]
        content = content[17 + symbols :]
    return codes


def _may_be_zeros(header: bytes, tables: dict[int, int], progressive: bool) -> bool:
    """Whether zero bits without end may be coded pixels in a scan."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return True
    selectors = [header[2 + 2 * number] for number in range(count)]
    first, approximation = header[1 + 2 * count], header[3 + 2 * count]
    dc = all(tables.get(each >> 4) == 0 for each in selectors)
    ac = [tables.get(0x10 | each & 15) for each in selectors]
    if not progressive:
        return dc and not any(ac)  # no difference, then the end of the block
    if first == 0:
        return approximation >> 4 > 0 or dc  # a refinement is bits without a code
    # Runs of blocks that end, but neither coefficients nor sixteen skipped ones.
    return all(symbol is not None and not symbol & 15 and symbol != 0xF0 for symbol in ac)
