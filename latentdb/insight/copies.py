"""How far apart copies of an image are, and images that are none: measured on a store's rows."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.images.decode import to_pil
from latentdb.images.pixel_range import Pixels
from latentdb.store.rows import Floats

Doubles = NDArray[np.float64]
Encode = Callable[[Pixels], Floats]  # uint8 [n, height, width, channels] to [n, dim]

NEIGHBOURS = 20  # of each row of the sample, itself left out
_COPIES = 97.5  # percentile of the distances to copies
_MAX_FALSE = 0.01
_REFERENCE = 5  # the neighbour from which distances are extrapolated: more than a few copies
_STEPS = 200  # of the search for the threshold


@dataclass(frozen=True)
class Threshold:
    """The distance below which two images count as copies.

    Attributes
    ----------
    value
        In the metric of the search.
    recall
        Share of mild copies of the sample's images that are within it; None if it was given.
    false_rate
        Expected number of images within it of a row that are no copies: from the distance of
        its 5th neighbour and the local dimension.  None if it was given.
    sample
        Images it was calibrated on; 0 if it was given.
    """

    value: float
    recall: float | None = None
    false_rate: float | None = None
    sample: int = 0


def mild_copy(image: Pixels, rng: np.random.Generator) -> Pixels:
    """What becomes of an image on its way through other hands.

    Brightness and contrast within 4 %, up to 1.5 % cropped at each side, scaled to 0.8 or
    more and back, JPEG of quality 60 to 95.

    Parameters
    ----------
    image
        uint8 ``[height, width, channels]``.
    """
    from PIL import Image

    gain, offset = 1 + rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04) * 255 / 2
    values = np.rint((image - 127.5) * gain + 127.5 + offset).clip(0, 255)
    picture = to_pil(values.astype(np.uint8))
    width, height = picture.size
    left, top, right, bottom = rng.uniform(0, 0.015, 4) * (width, height, width, height)
    scale = rng.uniform(0.8, 1)
    small = max(1, round(scale * width)), max(1, round(scale * height))
    box = left, top, width - right, height - bottom
    picture = picture.resize(small, Image.Resampling.BILINEAR, box=box)
    buffer = io.BytesIO()
    picture.save(buffer, format="jpeg", quality=int(rng.integers(60, 96)))
    with Image.open(buffer) as read:
        picture = read.convert(picture.mode).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image.shape)


def calibrate(
    images: Pixels,
    own: Floats,
    neighbours: Floats,
    encode: Encode,
    distances: Callable[[Floats], Floats],
    *,
    seed: int = 0,
) -> Threshold:
    """The threshold that most mild copies are within, and hardly an image that is none.

    Parameters
    ----------
    images, own
        uint8 ``[n, height, width, channels]``, and their rows in the space of the metric.
    neighbours
        float32 ``[n, 20]``: L2 distances in that space of the nearest others, ascending.
    encode
        Images to that space.
    distances
        The metric's distance from L2 in the space.
    """
    rng = np.random.default_rng([seed, 3])
    copies = encode(np.stack([mild_copy(image, rng) for image in images]))
    gaps = np.linalg.norm(copies.astype(np.float64) - own, axis=1)
    value = float(np.percentile(gaps, _COPIES))
    if false_rate(neighbours, value) > _MAX_FALSE:
        steps = np.linspace(0, value, _STEPS)
        allowed = [step for step in steps if false_rate(neighbours, step) <= _MAX_FALSE]
        value = float(allowed[-1])
    return Threshold(
        float(distances(np.array([value], np.float32))[0]),
        float((gaps <= value).mean()),
        false_rate(neighbours, value),
        len(images),
    )


def false_rate(neighbours: Floats, value: float) -> float:
    """Expected number of images within a distance of a row that are no copies of it.

    Where rows lie evenly in m dimensions, their number grows with the m-th power of the
    distance.  It is extrapolated from the 5th neighbour inwards, so that a few copies do
    not count; m is the maximum likelihood of the neighbours from it on (Hill 1975, censored).

    Parameters
    ----------
    neighbours
        float32 ``[n, k]``: L2 distances of the nearest others, ascending, k above 6.
    """
    tiny = np.finfo(np.float32).tiny
    near = np.maximum(neighbours.astype(np.float64), tiny)
    beyond = near[:, _REFERENCE - 1 :]
    inner = _REFERENCE - 1  # neighbours of which it is only known that they are nearer
    logs = np.log(beyond[:, -1:] / beyond[:, :-1])
    dims = (logs.shape[1] - 1) / np.maximum(logs.sum(axis=1) + inner * logs[:, 0], 1e-9)
    share = np.minimum(value / beyond[:, 0], 1.0)
    return float((inner * share**dims).mean())
