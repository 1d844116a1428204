"""The label-free score: what it is of good, bad and collapsed latents, and what it chooses."""

from __future__ import annotations

import numpy as np

from latentdb.model.label_free import augmented, neighbour_agreement
from tests.model.test_pca import correlated

SHAPE = (12, 10, 3)


def test_copies_are_like_their_images_and_the_seed_decides() -> None:
    images = correlated(120, SHAPE)
    copies = augmented(images, seed=1)
    assert copies.shape == images.shape
    assert copies.dtype == np.uint8
    assert np.array_equal(copies, augmented(images, seed=1))
    assert not np.array_equal(copies, augmented(images, seed=2))
    rising = np.tile(np.arange(0, 200, 20, dtype=np.uint8)[None, None, :, None], (110, 12, 1, 1))
    assert (np.diff(augmented(rising).astype(int), axis=2) >= 0).all()  # grey: not mirrored


def test_few_images_have_no_score() -> None:
    images = blocks(99)
    assert neighbour_agreement(means, images, means(images)) is None


def blocks(count: int) -> np.ndarray:
    """Grey images of 3x3 squares."""
    values = np.random.default_rng(0).integers(40, 200, (count, 3, 3), dtype=np.uint8)
    return np.kron(values, np.ones((1, 4, 4), np.uint8))[..., None]


def means(images: np.ndarray) -> np.ndarray:
    """Mean brightness of the squares: near for an image and its copy."""
    parts = images.reshape(len(images), 3, 4, 3, 4).mean(axis=(2, 4))
    return parts.reshape(len(images), 9).astype(np.float32)


def test_latents_that_say_something_score_above_noise_and_collapsed_ones_nothing() -> None:
    images = blocks(600)
    held_out, training = images[:150], images[150:]
    random = np.random.default_rng(0)

    def noise(pixels: np.ndarray) -> np.ndarray:
        return random.standard_normal((len(pixels), 8), dtype=np.float32)

    def collapsed(pixels: np.ndarray) -> np.ndarray:
        return np.full((len(pixels), 8), 0.3, np.float32)

    good, bad, none = (
        neighbour_agreement(encode, held_out, encode(training))
        for encode in (means, noise, collapsed)
    )
    assert good is not None
    assert bad is not None
    assert none is not None
    assert good.best > bad.best + 0.1
    assert (none.l2, none.centered_cosine, none.metric) == (0, 0, "l2")


def test_centred_cosine_is_chosen_where_only_the_direction_means_something() -> None:
    images = blocks(600)
    random = np.random.default_rng(0)

    def stretched(pixels: np.ndarray) -> np.ndarray:
        vectors = means(pixels)
        vectors -= vectors.mean(axis=1, keepdims=True)
        factors = np.exp(random.standard_normal((len(pixels), 1)))
        return (vectors * factors + 5).astype(np.float32)

    chosen = neighbour_agreement(stretched, images[:200], stretched(images[200:]))
    assert chosen is not None
    assert chosen.metric == "centered_cosine"
    assert chosen.best == chosen.centered_cosine > chosen.l2
    assert chosen.centre.shape == (9,)
