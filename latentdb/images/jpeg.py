"""JPEG markers, the decoder of simplejpeg, and files whose coded pixels were lost.

simplejpeg (extra ``fast``) uses the same libjpeg-turbo as Pillow, but decodes
from memory to memory without the GIL.  At the same scale it gives the same
pixels.  Files that are not plain are left to Pillow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from latentdb.images.pixel_range import Pixels

START = b"\xff\xd8\xff"
ZERO_RUN = 512  # bytes: the smallest unit that disks and file systems lose
_DENOMINATORS = (8, 4, 2, 1)
_EOI, _SOS, _DHT, _APP1, _APP2 = 0xD9, 0xDA, 0xC4, 0xE1, 0xE2
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
_HUFFMAN = (*_SEQUENTIAL, *_PROGRESSIVE)
_FRAME_HEADER = struct.Struct(">BHHB")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_ICC = b"ICC_PROFILE\0"
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
# The end of a scan: any marker but a stuffed zero, a restart or a fill byte.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class Frame:
    """What the markers before the first scan of a JPEG say.

    Attributes
    ----------
    height, width
        Pixels as stored, before any EXIF orientation.
    components
        1 for grey, 3 for colour, 4 for CMYK.
    plain
        Whether it is Huffman-coded with 8 bits, sequential or progressive.
    has_metadata
        Whether there is an EXIF or XMP segment, which may hold an orientation.
    has_profile
        Whether there is an ICC profile.
    """

    height: int
    width: int
    components: int
    plain: bool
    has_metadata: bool
    has_profile: bool


def read_frame(data: bytes) -> Frame | None:
    """The frame header of a JPEG; None if a marker before its first scan is damaged."""
    frame: Frame | None = None
    has_metadata = has_profile = False
    offset, size = 2, len(data)
    # Not by `_segments`: a generator takes 2 of the 28 us that a 32 px image takes in all.
    while offset + 4 <= size and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == _SOS:
            if frame and (has_metadata or has_profile):
                return replace(frame, has_metadata=has_metadata, has_profile=has_profile)
            return frame
        if marker == _EOI:
            return None
        if marker == 0xFF or marker in _STANDALONE:
            offset += 1 if marker == 0xFF else 2
            continue
        length = data[offset + 2] << 8 | data[offset + 3]
        if length < 2:
            return None
        if marker in _FRAME_MARKERS:
            if frame is not None or length < 8 or offset + 10 > size:
                return None
            bits, height, width, components = _FRAME_HEADER.unpack_from(data, offset + 4)
            plain = bits == 8 and marker in _HUFFMAN
            frame = Frame(height, width, components, plain, False, False)
        has_metadata = has_metadata or marker == _APP1
        if marker == _APP2 and data.startswith(_ICC, offset + 4):
            has_profile = True
        offset += 2 + length
    return None


def scale_denominator(height: int, width: int, min_size: tuple[int, int]) -> int:
    """The largest of 1, 2, 4 and 8 by which a JPEG may be reduced while it is decoded.

    Parameters
    ----------
    min_size
        The least width and height of the result.  The rule is that of Pillow's
        ``draft``, so both decoders choose the same scale.
    """
    largest = min(width // min_size[0], height // min_size[1])
    return next(step for step in _DENOMINATORS if largest >= step or step == 1)


@cache
def simplejpeg_decoder() -> Callable[..., Any] | None:
    """simplejpeg's decoder; None where the extra ``fast`` is not installed."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    decoder: Callable[..., Any] = decode_jpeg
    return decoder


def decode(
    data: bytes, frame: Frame, min_size: tuple[int, int], out: Pixels | None = None
) -> tuple[Pixels, int] | None:
    """Pixels of a plain JPEG, decoded at the smallest DCT scale that `min_size` allows.

    Parameters
    ----------
    data, frame
        The file and its frame header.
    min_size
        The least width and height of the result.
    out
        Array to write the pixels to, if they have its shape and are not reduced.

    Returns
    -------
    pixels, denominator
        uint8 ``[height, width, 1 or 3]`` (`out` itself, if they were written to
        it), and the denominator of the scale.  None where Pillow has to decode
        the file: without simplejpeg, if it is not plain or CMYK, and if libjpeg
        gives any warning.
    """
    decoder = simplejpeg_decoder()
    if decoder is None or not frame.plain or frame.components not in (1, 3):
        return None
    if not frame.height or not frame.width:
        return None
    step = scale_denominator(frame.height, frame.width, min_size)
    shape = -(-frame.height // step), -(-frame.width // step), frame.components
    options: dict[str, Any] = {}
    if step > 1:
        options = {"min_height": shape[0], "min_width": shape[1], "min_factor": step}
    elif out is not None and out.shape == shape and out.flags.c_contiguous:
        options = {"buffer": out}
    try:
        pixels = decoder(data, "RGB" if frame.components == 3 else "GRAY", **options)
    except ValueError:  # damaged or unsupported: strict mode makes warnings errors
        return None
    if "buffer" in options:
        pixels = out
    return (pixels, step) if pixels.shape == shape else None


def unsupported(data: bytes) -> str | None:
    """Why an intact JPEG cannot be decoded: its depth; None if that is 8 bits."""
    for marker, start, end in _segments(data, 2):
        if marker in _FRAME_MARKERS and end - start >= 6:
            bits = data[start]
            return None if bits == 8 else f"{bits}-bit JPEG is not read: save it with 8 bits"
    return None


def encode(pixels: Pixels, quality: int) -> bytes | None:
    """uint8 ``[height, width, 1 or 3]`` as a JPEG without chroma subsampling.

    None without simplejpeg.
    """
    try:
        from simplejpeg import encode_jpeg
    except ImportError:
        return None
    grey = pixels.shape[-1] == 1
    spaces = ("GRAY", "Gray") if grey else ("RGB", "444")
    return bytes(encode_jpeg(np.ascontiguousarray(pixels), quality, *spaces))


def find_zero_run(data: bytes) -> int | None:
    """Offset from which the coded pixels of a JPEG were lost and read as zeros; None if nowhere.

    libjpeg decodes zeros as pixels, so Pillow reads such a file without an
    error.  What zero bits stand for is said by the Huffman tables of the file.
    Where it is "no change" (as in a plain area under optimised tables), a run of
    zeros is valid; where it adds a coefficient to every block, no encoder wrote it.

    Parameters
    ----------
    data
        A JPEG file.  Only runs of at least `ZERO_RUN` bytes inside a scan count.
    """
    zeros = bytes(ZERO_RUN)
    if data.find(zeros) < 0:
        return None
    tables: dict[int, int] = {}  # table class and number -> symbol of its all-zero code
    progressive = False
    offset = 2
    while True:
        scan_header = None
        for marker, start, end in _segments(data, offset):
            if marker == _DHT:
                tables |= _zero_code_symbols(data[start:end])
            elif marker in _FRAME_MARKERS:
                if marker not in _HUFFMAN:
                    return None  # arithmetic coding and lossless have other rules
                progressive = marker in _PROGRESSIVE
            elif marker == _SOS:
                scan_header = (start, end)
                break
            elif marker == _EOI:
                return None
        if scan_header is None:
            return None
        start, end = scan_header
        following = _SCAN_END.search(data, end)
        offset = len(data) if following is None else following.start()
        found = data.find(zeros, end, offset)
        if found >= 0 and not _zeros_are_valid(data[start:end], tables, progressive):
            return found


def _segments(data: bytes, offset: int) -> Iterator[tuple[int, int, int]]:
    """Each marker with the bounds of its content, up to the end of the file or to damage."""
    size = len(data)
    while offset + 1 < size and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # fill
            offset += 1
            continue
        offset += 2
        if marker in _STANDALONE:
            continue
        if marker == _EOI:
            yield marker, offset, offset
            return
        if offset + 2 > size:
            return
        length = data[offset] << 8 | data[offset + 1]
        if length < 2 or offset + length > size:
            return
        yield marker, offset + 2, offset + length
        offset += length


def _zero_code_symbols(content: bytes) -> dict[int, int]:
    """The symbol of the all-zero code of each Huffman table: its first."""
    symbols = {}
    while len(content) > 17:
        count = sum(content[1:17])
        if count:
            symbols[content[0]] = content[17]
        content = content[17 + count :]
    return symbols


def _zeros_are_valid(header: bytes, tables: dict[int, int], progressive: bool) -> bool:
    """Whether an encoder may have written zero bits without end in a scan.

    Parameters
    ----------
    header
        Content of the scan's SOS segment.
    """
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
        return approximation >> 4 > 0 or dc  # a refinement scan has raw bits, no codes
    # An end-of-band run is valid; a coefficient and a run of sixteen zeros (0xF0) are not.
    return all(symbol is not None and not symbol & 15 and symbol != 0xF0 for symbol in ac)
