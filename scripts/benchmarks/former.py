"""The network that `latentdb train` had until November 2026, for comparison."""

from __future__ import annotations

from typing import Any

FILTERS = (32, 64, 64, 64)


def build(shape: tuple[int, int, int], latent_dim: int, *, seed: int) -> Any:
    """Four convolutions of stride 2 in the encoder, four transposed ones in the decoder."""
    import keras

    from latentdb.kerasfile.sampling import Sampling
    from latentdb.model.vae import VAE

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = inputs = keras.Input(shape)
    for filters in FILTERS:
        hidden = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.Activation("gelu")(hidden)
    grid = tuple(hidden.shape[1:])
    hidden = layers.Flatten()(hidden)
    z_mean = layers.Dense(latent_dim, name="z_mean")(hidden)
    z_log_var = layers.Dense(latent_dim, name="z_log_var")(hidden)
    z = Sampling(seed=seed, name="z")([z_mean, z_log_var])
    encoder = keras.Model(inputs, [z_mean, z_log_var, z], name="encoder")
    z_sampling = keras.Input((latent_dim,), name="z_sampling")
    hidden = layers.Dense(grid[0] * grid[1] * grid[2], activation="gelu")(z_sampling)
    hidden = layers.Reshape(grid)(hidden)
    for filters in (*reversed(FILTERS[:-1]), shape[2]):
        activation = "sigmoid" if filters == shape[2] else "gelu"
        hidden = layers.Conv2DTranspose(
            filters, 4, strides=2, padding="same", activation=activation
        )(hidden)
    side = hidden.shape[1:3]
    if tuple(side) != shape[:2]:
        hidden = layers.CenterCrop(*shape[:2])(hidden)
    decoder = keras.Model(z_sampling, hidden, name="decoder")
    return VAE(encoder, decoder, beta=0.3)
