"""The convolutional VAE: a linear one in closed form, plus convolutional branches.

Encoder and decoder are sums of a Dense layer, which starts as the principal
components of the images, and of convolutional branches, whose last layers start
at zero.  So the untrained network reconstructs as PCA does, and training adds to it.

Some latent dimensions can be *semantic*: they start without weight in the decoder,
and learn from views of the same image what pixels alone do not tell (see `stages`).

Imports keras at its head; see `vae`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else tensorflow logs to stderr

import keras
import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError
from latentdb.kerasfile.runtime import restored_random
from latentdb.kerasfile.sampling import Sampling
from latentdb.model.pca import PCA
from latentdb.model.vae import VAE, check_build

MAX_SIDE = 64  # the network computes at most at this size; larger images are area-averaged
_LEAST_SIDE = 24  # that a larger image is reduced to
_TRUNK_SIDE = 40  # above it, the encoder's convolutions start from half the size
_TRUNK_FILTERS = (32, 64, 128)
# One at a quarter of the size, too, would make encoding 1.4 times as slow (ONNX Runtime, 32 px).
_RESIDUAL = "trunk2_residual"
_GRID_FILTERS = 96
_DECODER_FILTERS = (64, 32, 24)  # after each doubling of the size
_REFINER_FILTERS = 32
_PIXEL_MEAN, _PIXEL_DEVIATION = 0.47, 0.25

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Design:
    """Which parts a network has.

    Attributes
    ----------
    shape
        Height, width and channels of an image.
    latent_dim
        Dimensions of z_mean.
    semantic_dims
        How many of them, the last ones, are semantic.
    convolutions
        Whether there are convolutional branches at all.
    """

    shape: tuple[int, int, int]
    latent_dim: int
    semantic_dims: int = 0
    convolutions: bool = True

    @property
    def linear_dims(self) -> int:
        return self.latent_dim - self.semantic_dims

    @property
    def inner_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the network computes at."""
        factor = pooling(self.shape)
        return self.shape[0] // factor, self.shape[1] // factor, self.shape[2]


def pooling(shape: tuple[int, int, int]) -> int:
    """The whole factor by which images of a shape are reduced for the network.

    Raises
    ------
    InvalidInputError
        If height and width have no common divisor that makes them small enough.
    """
    longest = max(shape[:2])
    for factor in range(-(-longest // MAX_SIDE), longest // _LEAST_SIDE + 1):
        if shape[0] % factor == 0 and shape[1] % factor == 0:
            return factor
    if longest <= MAX_SIDE:
        return 1
    step = 1 << (-(-longest // MAX_SIDE) - 1).bit_length()
    sides = [max(step, step * round(side / step)) for side in shape[:2]]
    raise InvalidInputError(
        f"image size {shape[0]}x{shape[1]} cannot be reduced to at most {MAX_SIDE} pixels a side: "
        f"use multiples of {step}, such as {sides[0]}x{sides[1]}"
    )


class ConvNetwork:
    """The layers of a `Design`, callable on tensors and usable in keras models.

    Attributes
    ----------
    design
        Its parts.
    vae
        The whole as a keras model, with ``.encoder`` and ``.decoder``.
    """

    def __init__(self, design: Design, pca: PCA, *, beta: float, seed: int) -> None:
        check_build(design.latent_dim)
        self.design = design
        with restored_random(seed):
            self._make_layers()
            self.vae = self._build(beta, seed)
        self._start(pca, beta)

    # --- layers ------------------------------------------------------------------

    def _make_layers(self) -> None:
        layers, design = keras.layers, self.design
        self.layers: dict[str, Any] = {}

        def add(name: str, kind: Any, *args: Any, **kwargs: Any) -> None:
            self.layers[name] = kind(*args, **kwargs, name=name)

        def add_convolution(name: str, filters: int, kernel: int, strides: int = 1) -> None:
            add(
                name, layers.Conv2D, filters, kernel,
                strides=strides, padding="same", use_bias=False,
            )  # fmt: skip
            # Statistics are set by `stages`, from whole images: momentum 1 leaves them alone.
            add(f"{name}_norm", layers.BatchNormalization, momentum=1.0)
            add(f"{name}_relu", layers.ReLU)

        height, width, channels = design.inner_shape
        add("flatten", layers.Flatten)
        add("linear_mean", layers.Dense, design.linear_dims)
        add("z_log_var", layers.Dense, design.latent_dim, kernel_initializer="zeros")
        add("linear_image", layers.Dense, height * width * channels)
        add("linear_pixels", layers.Reshape, design.inner_shape)
        if not design.convolutions:
            return
        add(
            "scaled", layers.Rescaling, 1 / _PIXEL_DEVIATION,
            offset=-_PIXEL_MEAN / _PIXEL_DEVIATION,
        )  # fmt: skip
        for number, filters in enumerate(_TRUNK_FILTERS):
            add_convolution(f"trunk{number}", filters, 3 if number else 4, strides=2)
        add_convolution(_RESIDUAL, _TRUNK_FILTERS[-1], 3)
        zero = {"kernel_initializer": "zeros"}
        add("trunk_mean", layers.Dense, design.linear_dims, **zero)
        if design.semantic_dims:
            add("semantic", layers.Dense, design.semantic_dims, use_bias=False)
            add("semantic_norm", layers.BatchNormalization, momentum=1.0, center=False)
        doublings = 3 if max(height, width) <= _TRUNK_SIDE else 4
        self._grid = -(-height // 2**doublings), -(-width // 2**doublings), _GRID_FILTERS
        add("grid", layers.Dense, int(np.prod(self._grid)), activation="relu")
        for number in range(doublings - 1):
            add_convolution(f"decoder{number}", 4 * _DECODER_FILTERS[number], 3)
        add_convolution("half_map", _REFINER_FILTERS, 4, strides=2)
        add_convolution("quarter_map", 2 * _REFINER_FILTERS, 3, strides=2)
        add_convolution("refiner", _REFINER_FILTERS, 3)
        add("refined", layers.Conv2D, 4 * channels, 3, padding="same", **zero)

    @property
    def trunk_shape(self) -> tuple[int, int]:
        """Height and width that the encoder's convolutions take."""
        height, width, _ = self.design.inner_shape
        halved = max(height, width) > _TRUNK_SIDE
        return (-(-height // 2), -(-width // 2)) if halved else (height, width)

    def trunk_input(self, images: Any) -> Any:
        """Images of the design's inner shape, at the size that `trunk` takes."""
        if self.trunk_shape == self.design.inner_shape[:2]:
            return images
        return keras.layers.AveragePooling2D(2, padding="same", name="halved")(images)

    def trunk(self, images: Any, *, training: bool = False) -> Any:
        """The last feature map of the encoder's convolutions.

        Parameters
        ----------
        images
            Floats in 0..1 of any height and width.
        """
        hidden = self.layers["scaled"](images)
        for number in range(len(_TRUNK_FILTERS)):
            hidden = self._convolve(f"trunk{number}", hidden, training)
        block = self._convolve(_RESIDUAL, hidden, training)
        return keras.layers.Add(name="trunk2_sum")([hidden, block])

    def semantics(self, features: Any, *, training: bool = False) -> Any:
        """The semantic dimensions of feature maps of `trunk`, of variance 1."""
        pooled = keras.layers.GlobalAveragePooling2D(name="trunk_pooled")(features)
        return self.layers["semantic_norm"](self.layers["semantic"](pooled), training=training)

    def means(self, images: Any, *, training: bool = False) -> Any:
        """z_mean of images of the design's inner shape."""
        layers, design = keras.layers, self.design
        flat = self.layers["flatten"](images)
        parts = [self.layers["linear_mean"](flat)]
        if not design.convolutions:
            return parts[0]
        small = self.trunk_input(images)
        features = self.trunk(small, training=training)
        parts.append(self.layers["trunk_mean"](layers.Flatten(name="trunk_flat")(features)))
        if not design.semantic_dims:
            return layers.Add(name="z_mean")(parts)
        total = layers.Add(name="free_mean")(parts)
        semantic = self.semantics(features, training=training)
        return layers.Concatenate(name="z_mean")([total, semantic])

    def log_variances(self, z_mean: Any) -> Any:
        return self.layers["z_log_var"](z_mean)

    def pixels(self, z: Any, *, training: bool = False) -> Any:
        """Images of the design's inner shape, not clipped to 0..1.

        The convolutions take the linear image as well as the latents: from those alone
        they learn several times as slowly (CIFAR-10, 120 CPU seconds: 0.49 dB above
        PCA instead of 0.03).
        """
        linear = self.layers["linear_pixels"](self.layers["linear_image"](z))
        if not self.design.convolutions:
            return linear
        layers = keras.layers
        hidden = layers.Reshape(self._grid, name="grid_map")(self.layers["grid"](z))
        half_map = self._convolve("half_map", linear, training)
        quarter_map = self._convolve("quarter_map", half_map, training)
        height, width, channels = self.design.inner_shape
        half = -(-height // 2), -(-width // 2)
        quarter = -(-half[0] // 2), -(-half[1] // 2)
        side = self._grid[:2]
        last = max(number for number in range(3) if f"decoder{number}" in self.layers)
        for number, filters in enumerate(_DECODER_FILTERS[: last + 1]):
            hidden = self._convolve(f"decoder{number}", hidden, training)
            hidden, side = _doubled(hidden, side, filters, f"decoder{number}")
            if number >= last - 1:
                near, wanted = (half_map, half) if number == last else (quarter_map, quarter)
                hidden, side = _cropped(hidden, side, wanted, f"decoder{number}_crop"), wanted
                hidden = layers.Concatenate(name=f"decoder{number}_maps")([hidden, near])
        hidden = self.layers["refined"](self._convolve("refiner", hidden, training))
        hidden, side = _doubled(hidden, half, channels, "refined")
        hidden = _cropped(hidden, side, (height, width), "refined_crop")
        return layers.Add(name="pixels")([linear, hidden])

    def _convolve(self, name: str, hidden: Any, training: bool) -> Any:
        hidden = self.layers[f"{name}_norm"](self.layers[name](hidden), training=training)
        return self.layers[f"{name}_relu"](hidden)

    # --- models ------------------------------------------------------------------

    def _build(self, beta: float, seed: int) -> VAE:
        layers, design = keras.layers, self.design
        factor = pooling(design.shape)
        inputs = keras.Input(design.shape, name="encoder_input")
        inner = inputs
        if factor > 1:
            inner = layers.AveragePooling2D(factor, name="reduced")(inputs)
        z_mean = self.means(inner)
        z_log_var = self.log_variances(z_mean)
        z = Sampling(seed=seed, name="z")([z_mean, z_log_var])
        encoder = keras.Model(inputs, [z_mean, z_log_var, z], name="encoder")
        encoder.output_names = ["z_mean", "z_log_var", "z"]
        z_sampling = keras.Input((design.latent_dim,), name="z_sampling")
        pixels = self.pixels(z_sampling)
        if factor > 1:
            pixels = layers.UpSampling2D(factor, interpolation="bilinear", name="enlarged")(pixels)
        image = layers.ReLU(max_value=1.0, name="image")(pixels)
        decoder = keras.Model(z_sampling, image, name="decoder")
        return VAE(encoder, decoder, beta=beta)

    def _start(self, pca: PCA, beta: float) -> None:
        """Set the linear layers to half-whitened principal components.

        The posterior's variance is the optimum of the loss for a linear decoder
        with columns of length q: ``(beta / 2) / (q^2 + beta / 2)``.
        """
        design = self.design
        linear = pca.first(design.linear_dims)
        scales = linear.scales
        varies = scales > 0
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=varies)
        kernel = linear.components * inverse
        self.layers["linear_mean"].set_weights([kernel, -(pca.mean @ kernel)])
        rows = np.zeros((design.latent_dim, len(pca.mean)), np.float32)
        rows[: design.linear_dims] = (linear.components * scales).T
        self.layers["linear_image"].set_weights([rows, pca.mean])
        log_variances = np.full(design.latent_dim, -3, np.float32)
        half = max(beta, 1e-6) / 2
        log_variances[: design.linear_dims] = np.log(half / (scales.astype(np.float64) ** 2 + half))
        log_var = self.layers["z_log_var"]
        log_var.set_weights([log_var.get_weights()[0], log_variances])

    def settle(self) -> None:
        """Let the normalisations follow their batches again, as keras makes them."""
        for layer in self.layers.values():
            if hasattr(layer, "momentum"):
                layer.momentum = 0.99

    def rescale(self, factors: Floats) -> None:
        """Multiply every latent dimension by a factor; reconstructions stay the same.

        Parameters
        ----------
        factors
            float32 ``[d]``, positive.
        """
        free = factors[: self.design.linear_dims]
        for name in ("linear_mean", "trunk_mean"):
            if name in self.layers:
                kernel, bias = self.layers[name].get_weights()
                self.layers[name].set_weights([kernel * free, bias * free])
        if self.design.semantic_dims:
            norm = self.layers["semantic_norm"]
            gamma, *statistics = norm.get_weights()
            norm.set_weights([gamma * factors[self.design.linear_dims :], *statistics])
        for name in ("linear_image", "grid", "z_log_var"):
            if name in self.layers:
                kernel, bias = self.layers[name].get_weights()
                bias = bias + 2 * np.log(factors) if name == "z_log_var" else bias
                self.layers[name].set_weights([kernel / factors[:, None], bias])


def _cropped(hidden: Any, side: tuple[int, int], wanted: tuple[int, int], name: str) -> Any:
    if side == wanted:
        return hidden
    crop = ((0, side[0] - wanted[0]), (0, side[1] - wanted[1]))
    return keras.layers.Cropping2D(crop, name=name)(hidden)


def _doubled(
    hidden: Any, side: tuple[int, int], filters: int, name: str
) -> tuple[Any, tuple[int, int]]:
    """Depth to space: four times the filters become twice the height and width."""
    layers = keras.layers
    height, width = side
    split = layers.Reshape((height, width, 2, 2, filters), name=f"{name}_split")(hidden)
    moved = layers.Permute((1, 3, 2, 4, 5), name=f"{name}_moved")(split)
    doubled = layers.Reshape((2 * height, 2 * width, filters), name=f"{name}_doubled")(moved)
    return doubled, (2 * height, 2 * width)
