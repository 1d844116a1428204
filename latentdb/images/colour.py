"""Decoded images to 8-bit sRGB over a background: depth, ICC profile, transparency."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from latentdb.base.errors import ImageError, InvalidInputError

if TYPE_CHECKING:
    from PIL import Image as PILImage

BACKGROUNDS = ("white", "black", "checker")
ICC_RULES = ("ignore", "srgb")
Colour = tuple[int, int, int]
_NAMED: dict[str, Colour] = {"white": (255, 255, 255), "black": (0, 0, 0)}
# Neither white nor black art vanishes on these two greys.
_CHECKER: tuple[Colour, Colour] = ((102, 102, 102), (153, 153, 153))
_SQUARES = 8  # of a checker along the shorter side
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262  # of TIFF
_GREY_MODES = ("1", "L", "LA", "La")
_MAX_ICC_BYTES = 4 << 20
_ROUNDING = 2  # levels: a profile that changes no colour by more is sRGB itself


def parse_background(text: str) -> Colour | None:
    """The colour of a background; None for the checker.

    Raises
    ------
    InvalidInputError
        If it is none of white, black, checker and R,G,B.
    """
    if text == "checker":
        return None
    if text in _NAMED:
        return _NAMED[text]
    parts = text.split(",") if isinstance(text, str) else []
    if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise InvalidInputError(
        f"background {text!r} is unknown: use white, black, checker or R,G,B with 0 to 255 each"
    )


def to_eight_bits(image: PILImage.Image, name: str) -> PILImage.Image:
    """An image with 16-bit grey pixels scaled to 8 bits; any other image as it is.

    Raises
    ------
    ImageError
        If its pixels have no fixed range.
    """
    from PIL import Image

    wide = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith("I;16") or wide:
        # convert("L") would clip 16 bits to white.
        values = np.asarray(image).astype(np.uint32)
        tags = getattr(image, "tag_v2", {})
        white = 2 ** int(tags.get(_BITS_TAG, (16,))[0]) - 1  # some TIFFs store 12 bits in 16
        grey = (values * 255 + white // 2) // white
        if tags.get(_PHOTOMETRIC_TAG) == 0:  # white is zero: Pillow inverts only 8 bits
            grey = 255 - grey
        levels = Image.fromarray(grey.astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
            levels = Image.merge("LA", (levels, Image.fromarray(alpha)))
        if "icc_profile" in image.info:
            levels.info["icc_profile"] = image.info["icc_profile"]
        return levels
    if image.mode in ("I", "F"):
        raise ImageError(name, "32-bit pixels have no fixed range: save it with 8 or 16 bits")
    return image


def flatten(image: PILImage.Image, background: Colour | None, icc: str) -> PILImage.Image:
    """An image without transparency, in sRGB if `icc` says so.

    Parameters
    ----------
    image
        With 8 bits a sample.
    background
        What shows through transparent pixels; None for a checker.
    icc
        ``"srgb"``: convert an image with an embedded profile.  ``"ignore"``: keep
        the stored numbers.
    """
    profile = image.info.get("icc_profile") if icc == "srgb" else None
    if not image.has_transparency_data:
        return to_srgb(image, profile)
    from PIL import Image

    is_grey = image.mode in _GREY_MODES
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    image = image.convert("RGBA")
    if profile:
        alpha = image.getchannel("A")
        image = to_srgb(image.convert("L" if is_grey else "RGB"), profile).convert("RGB")
        image.putalpha(alpha)
    return Image.alpha_composite(_backdrop(image.size, background), image)


def to_srgb(image: PILImage.Image, profile: bytes | None) -> PILImage.Image:
    """An image without alpha, its colours converted from a profile to sRGB.

    A damaged profile, and one of another colour space than the image, is ignored.
    """
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_ICC_BYTES:
        return image
    if image.mode == "P":
        image = image.convert("RGB")
    elif image.mode == "1":
        return image
    transform = _transform_to_srgb(profile, image.mode)
    if transform is None:
        return image
    from PIL import ImageCms

    converted = ImageCms.applyTransform(image, transform)
    return image if converted is None else converted


def changes_colours(profile: bytes | None, mode: str) -> bool:
    """Whether `to_srgb` changes an image of this mode."""
    usable = isinstance(profile, bytes) and 128 <= len(profile) <= _MAX_ICC_BYTES
    return usable and _transform_to_srgb(profile, mode) is not None


@lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> Any:
    """The transform of LittleCMS from a profile; None if it is unusable or sRGB itself."""
    from PIL import Image, ImageCms

    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (
        ImageCms.PyCMSError,
        OSError,
        ValueError,
        TypeError,
    ):  # a stranger's profile: LittleCMS refuses it with several errors
        return None
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1)
        before = Image.fromarray(grid.reshape(27, 27, 3))
    elif mode == "L":
        before = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    else:
        return transform
    after = ImageCms.applyTransform(before, transform)
    reference = np.asarray(before.convert("RGB")).astype(int)
    same = np.abs(np.asarray(after).astype(int) - reference).max() <= _ROUNDING
    return None if same else transform


def _backdrop(size: tuple[int, int], background: Colour | None) -> PILImage.Image:
    """An opaque RGBA image of one colour, or a checker."""
    from PIL import Image

    if background is not None:
        return Image.new("RGBA", size, (*background, 255))
    side = max(1, min(size) // _SQUARES)
    rows, columns = (np.arange(length) // side for length in (size[1], size[0]))
    squares = (rows[:, None] + columns[None]) % 2
    return Image.fromarray(np.array(_CHECKER, np.uint8)[squares]).convert("RGBA")
