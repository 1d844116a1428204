"""The sampling layer of the classic VAE, registered with keras under latentdb's name."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorflow logs to stderr when imported

import keras


@keras.saving.register_keras_serializable(package="latentdb")
class Sampling(keras.layers.Layer):  # type: ignore[misc]
    """Draw z from the posterior: ``z = z_mean + exp(z_log_var / 2) * epsilon``.

    The reparameterisation of Kingma & Welling, *Auto-Encoding Variational
    Bayes* (2013), section 2.4.  A registered layer and not a ``Lambda``: a
    saved ``Lambda`` is code that runs when the file is loaded.

    Parameters
    ----------
    seed
        Seed of the generator of epsilon, saved with the model.
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any) -> Any:
        z_mean, z_log_var = inputs
        epsilon = keras.random.normal(keras.ops.shape(z_mean), seed=self.seed_generator)
        return z_mean + keras.ops.exp(0.5 * z_log_var) * epsilon

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
