"""Which metric finds the neighbours that mean the same, measured without labels.

A copy of an image in another crop, brightness and contrast means the same.  The
score is the share of held-out images that are among the ten nearest of their copy,
the others being training images.

It follows the accuracy of a vote of the ten nearest (PCA of 4, 16 and 64 dimensions,
not, half and fully whitened, by l2 and centred cosine: rank correlation .89 on
CIFAR-10, .90 on MNIST).  The overlap of the neighbours of image and copy does not:
hubs, which are near to everything, are common to both, and it prefers l2 where labels
prefer centred cosine by 11 points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.metrics import CENTERED_COSINE, L2, Space
from latentdb.images.decode import to_pil

LEAST_IMAGES = 100  # held out; of fewer the score is noise
MAX_IMAGES = 1_000
MAX_OTHERS = 3_000
_NEAREST = 10
_MARGIN = 0.02  # of the score, beyond two standard errors, that another metric than l2 takes
_AREA = 0.6  # least area of a crop
_BRIGHTNESS, _CONTRAST = 0.4, 0.4

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Encode = Callable[[Pixels], Floats]  # [n, height, width, channels] to [n, d]


@dataclass(frozen=True, eq=False)
class Agreement:
    """The score of each metric, and the one to use.

    Attributes
    ----------
    l2, centered_cosine
        0 to 1: share of held-out images among the ten nearest of their copy.
    metric
        ``"centered_cosine"`` where it is clearly higher, otherwise ``"l2"``.
    centre
        float64 ``[d]``: the mean of the training images' latents.
    """

    l2: float
    centered_cosine: float
    metric: str
    centre: NDArray[np.float64]

    @property
    def best(self) -> float:
        """The score of `metric`."""
        return self.centered_cosine if self.metric == CENTERED_COSINE else self.l2


def neighbour_agreement(
    encode: Encode, held_out: Pixels, others: Floats, *, seed: int = 0
) -> Agreement | None:
    """The label-free scores of an encoder; None if fewer than 100 images are held out.

    Parameters
    ----------
    encode
        Images to z_mean.
    held_out
        uint8 ``[n, height, width, channels]``; at most 1,000 are used.
    others
        float32 ``[m, d]``: z_mean of training images; at most 3,000 are used.
    seed
        Of the copies.
    """
    if len(held_out) < LEAST_IMAGES:
        return None
    images, others = held_out[:MAX_IMAGES], others[:MAX_OTHERS]
    latents, copies = encode(images), encode(augmented(images, seed=seed))
    centre = others.mean(axis=0, dtype=np.float64)
    found = {
        space.metric: _found(
            *(space.embed(part, None) for part in (latents, copies, others)),
        )
        for space in (Space(L2), Space(CENTERED_COSINE, centre))
    }
    gains = found[CENTERED_COSINE].astype(np.float64) - found[L2]
    clear = gains.mean() - 2 * gains.std() / np.sqrt(len(gains)) > _MARGIN
    return Agreement(
        float(found[L2].mean()),
        float(found[CENTERED_COSINE].mean()),
        CENTERED_COSINE if clear else L2,
        centre,
    )


def _found(latents: Floats, copies: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which images are among the ten nearest of their copies; equally near ones are before."""
    own = np.square(copies - latents, dtype=np.float64).sum(axis=1)
    doubles = others.astype(np.float64)
    lengths = np.square(doubles).sum(axis=1)
    distances = lengths - 2 * copies.astype(np.float64) @ doubles.T
    distances += np.square(copies, dtype=np.float64).sum(axis=1)[:, None]
    return np.asarray((distances <= own[:, None] + 1e-9).sum(axis=1) < _NEAREST)


def augmented(images: Pixels, *, seed: int = 0) -> Pixels:
    """Copies that mean the same: cropped, brighter or darker, of more or less contrast.

    Colour images are mirrored at random, too; grey ones may be digits.
    """
    from PIL import Image

    random = np.random.default_rng([seed, 3])
    count, height, width, channels = images.shape
    copies = np.empty_like(images)
    for number in range(count):
        side = np.sqrt(random.uniform(_AREA, 1))
        top, left = random.uniform(0, 1 - side, 2) * (height, width)
        box = (left, top, left + side * width, top + side * height)
        crop = to_pil(images[number]).resize((width, height), Image.Resampling.BILINEAR, box=box)
        values = np.asarray(crop, np.float32).reshape(height, width, channels)
        mirrored = random.random() < 0.5
        if mirrored and channels == 3:
            values = values[:, ::-1]
        contrast = random.uniform(1 - _CONTRAST, 1 + _CONTRAST)
        brightness = random.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS)
        mean = values.mean()
        copies[number] = np.rint(((values - mean) * contrast + mean) * brightness).clip(0, 255)
    return copies
