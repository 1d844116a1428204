"""Which format a file has: by its first bytes, by its name, and what else it may be.

The content decides.  The name counts where the content does not say: in a
folder, where a file is opened only if its ending is one of an image or none at
all, and for TGA, which has no signature.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

# The formats that are read, as Pillow names them; HEIF by pillow-heif.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
)
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif"),
        *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif", ".tga", ".ico"),
        *(".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc"),
        *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
        *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
RAW_ADVICE = "export it as JPEG or TIFF"
HEAD_BYTES = 64  # of a file that tell its format

# A usual ending: a letter, then few letters or digits.  "photo.2021-06" and a hash have none.
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9_+-]{0,9}|\.(?:7z|3gp|3fr|3ds|3mf)", re.IGNORECASE)
_JSON = re.compile(rb'\{\s*["}]|\[\s*[\[{"\]0-9-]')
_TGA_FOOTER = b"TRUEVISION-XFILE."
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # sizes of the header after the file's own
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\1\0", "ICO"),
)
_OTHERS = (
    (b"version https://git-lfs.github.com/", "a git-LFS pointer, not the image: run git lfs pull"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"gimp xcf", "a GIMP document"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ\0", "xz-compressed data"),
    (b"(\xb5/\xfd", "zstd-compressed data"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"DDS ", "a DDS texture"),
    (b"v/1\x01", "an OpenEXR image, whose pixels have no fixed range"),
    (b"#?RADIANCE", "a Radiance HDR image, whose pixels have no fixed range"),
    (b"Pf\n", "a PFM image, whose float pixels have no fixed range"),
    (b"PF\n", "a PFM image, whose float pixels have no fixed range"),
    (b"P7\n", "a PAM image"),
    (b"\0\0\2\0\1\0", "a cursor"),
    (b"icns", "an ICNS icon"),
    (b"qoif", "a QOI image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"II\xbc\x01", "a JPEG XR image"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
    (b"FUJIFILMCCD-RAW", f"camera raw (Fujifilm RAF): {RAW_ADVICE}"),
    (b"IIRO", f"camera raw (Olympus ORF): {RAW_ADVICE}"),
    (b"IIRS", f"camera raw (Olympus ORF): {RAW_ADVICE}"),
    (b"MMOR", f"camera raw (Olympus ORF): {RAW_ADVICE}"),
    (b"IIU\0", f"camera raw (Panasonic RW2): {RAW_ADVICE}"),
    (b"FOVb", f"camera raw (Sigma X3F): {RAW_ADVICE}"),
    (b"\0MRM", f"camera raw (Minolta MRW): {RAW_ADVICE}"),
)


def sniff(head: bytes) -> str | None:
    """The format of a file that begins with these bytes; None if it is not one that is read.

    TGA has no signature: see `identify`.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
        if brands & set(_AVIF_BRANDS):
            return "AVIF"
        return "HEIF" if brands & set(_HEIF_BRANDS) else None
    # Netpbm: P1 to P6, then white space or a comment.
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#":
        return "PPM"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") not in _BMP_HEADERS:
        return None  # text may begin with BM
    return next((format for start, format in _SIGNATURES if head.startswith(start)), None)


def identify(data: bytes, name: str) -> str | None:
    """The format of a whole file, by its content; None if it is not one that is read.

    TGA without a footer and DIB have no signature: there `name` decides, and the
    header has to be possible.
    """
    found = sniff(data[:HEAD_BYTES])
    if found is not None or len(data) < 18:
        return found
    if data[-18:-1] == _TGA_FOOTER:
        return "TGA"
    suffix = ending(name)
    if suffix in (".tga", ".icb", ".vda", ".vst"):
        return "TGA" if data[1] < 2 and data[2] in (1, 2, 3, 9, 10, 11) else None
    if suffix == ".dib" and int.from_bytes(data[:4], "little") in _BMP_HEADERS:
        return "DIB"
    return None


def largest_size(data: bytes, size: tuple[int, int], format: str) -> tuple[int, int]:
    """Width and height that decoding a file may take: those of an inner image, if larger."""
    if format == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        if start >= 0 and len(data) >= start + 24:
            right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
            size = max(size, (right - left, bottom - top), key=lambda each: each[0] * each[1])
    elif format == "ICO":
        # An entry says at most 256 pixels, but may hold a PNG of any size.
        for start in (found.start() for found in re.finditer(b"\x89PNG\r\n\x1a\n", data)):
            if len(data) >= start + 24:
                inner: tuple[int, int] = struct.unpack_from(">2I", data, start + 16)
                size = max(size, inner, key=lambda each: each[0] * each[1])
    return size


def describe(data: bytes) -> str:
    """What a file is that is no image of `FORMATS`, in a few words for an error."""
    head = data[:1024]
    for start, text in _OTHERS:
        if head.startswith(start):
            return text
    if head[4:8] == b"ftyp":
        if head[8:12] == b"crx ":
            return f"camera raw (Canon CR3): {RAW_ADVICE}"
        return f"a video or another ISO media file (brand {head[8:12].decode('latin-1').strip()!r})"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:4] == b"RIFF":
        return f"a RIFF file ({head[8:12].decode('latin-1').strip()!r}), not WebP"
    if not data.strip(b"\0"):
        return "nothing but zero bytes: its content was lost"
    content = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if content.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, as a failed download leaves"
    if b"<svg" in content:
        return "an SVG drawing, which has no pixels"
    if content.startswith(b"<?xml"):
        return "an XML document"
    if _JSON.match(content) and _is_text(head):
        return "a JSON document"
    if _is_text(head):
        return "a text file"
    return f"not one of {', '.join(FORMATS)}, or its first bytes are damaged"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return bool(text) and all(char.isprintable() or char in "\t\r\n\f" for char in text)


def ending(name: str) -> str:
    """The ending of a file name in lower case, with its dot; "" for a name without a usual one."""
    dot = name.rfind(".")
    found = name[dot:] if dot > 0 else ""
    return found.lower() if _ENDING.fullmatch(found) else ""


def passed_over_text(endings: Mapping[str, int]) -> str:
    """How many files were passed over for their ending: ``.txt 3, .nef 2 (camera raw)``."""
    ordered = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{name or 'no ending'} {count:,}" + (" (camera raw)" if name in RAW_SUFFIXES else "")
        for name, count in ordered
    )
