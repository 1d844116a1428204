"""Images that are in memory already, as pixels of one size."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.images.decode import Preprocessing, decode_pixels, read_image
from latentdb.images.pixel_range import Pixels

if TYPE_CHECKING:
    from PIL import Image as PILImage

ImageLike: TypeAlias = "NDArray[Any] | PILImage.Image | bytes | str | os.PathLike[str]"

_CHANNELS = (), (1,), (3,), (4,)
_ACCEPTED = (
    "give uint8, or floats in 0..1, of shape [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], a PIL "
    "image, the bytes of an image file, or its path"
)


def is_image(value: Any) -> bool:
    """Whether a value is an image in memory: a PIL image, bytes, or an array with pixels.

    An array of two axes is one only if it is uint8: ``[n, d]`` are vectors.
    """
    if isinstance(value, np.ndarray):
        return value.ndim == 3 or (value.ndim == 2 and value.dtype == np.uint8)
    return isinstance(value, bytes | bytearray) or _is_pil(value)


def _is_pil(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "tobytes")


def to_pixels(image: ImageLike, spec: Preprocessing, name: str) -> Pixels:
    """An image in memory, or the file at a path, as `latentdb.images.decode` reads files.

    Parameters
    ----------
    image
        An array of uint8, or of floats in 0..1; a PIL image; bytes of a file; a path.
    spec
        Size, channels and resize rule.
    name
        What to call it in an error.

    Returns
    -------
    ndarray
        uint8 ``[height, width, channels]``.

    Raises
    ------
    InvalidInputError
        If it is something else, or an array whose values could be misread.
    ImageError
        If a file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image, spec)
    if isinstance(image, bytes | bytearray):
        return decode_pixels(bytes(image), spec, name=name)
    if isinstance(image, np.ndarray):
        array = _as_uint8(image, name)
        if array.shape == spec.shape:
            return array
        return decode_pixels(_png(_to_pil(array), name), spec, name=name)
    if _is_pil(image):
        return decode_pixels(_png(_upright(image), name), spec, name=name)
    raise InvalidInputError(f"{name} is a {type(image).__name__}: {_ACCEPTED}")


def _as_uint8(array: NDArray[Any], name: str) -> Pixels:
    if (
        array.ndim not in (2, 3)
        or 0 in array.shape
        or array.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3):
            hint = "; this one has its channels first: transpose it"
        raise InvalidInputError(f"{name} has shape {list(array.shape)}: {_ACCEPTED}{hint}")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise InvalidInputError(f"{name} is of {array.dtype}: {_ACCEPTED}")
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 1:  # NaN too
        raise InvalidInputError(f"{name} has floats from {low:g} to {high:g}: {_ACCEPTED}")
    return np.asarray(np.rint(array * 255), np.uint8)


def _to_pil(array: Pixels) -> PILImage.Image:
    from PIL import Image

    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _upright(image: Any) -> PILImage.Image:
    from PIL import ImageOps

    upright: PILImage.Image = ImageOps.exif_transpose(image)
    return upright


def _png(image: PILImage.Image, name: str) -> bytes:
    """The image as a PNG without compression, so that one reader serves all."""
    if image.mode in ("CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La"):
        image = image.convert("RGBA" if image.mode.endswith("a") else "RGB")
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=0)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{name} is a PIL image of mode {image.mode}: {_ACCEPTED}"
        ) from error
    return buffer.getvalue()
