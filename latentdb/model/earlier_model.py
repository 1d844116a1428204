"""A trained model that training goes on from: its settings, and its weights by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.kerasfile.convert import load_model
from latentdb.model.codec import Codec
from latentdb.model.config import KERAS, NETWORK_FILES, ModelConfig

if TYPE_CHECKING:
    from latentdb.model.network import ConvNetwork, Design

Layers = Mapping[str, list[NDArray[np.float32]]]  # weights by the name of their layer
_LINEAR = {"linear_mean", "linear_image", "z_log_var"}  # of a network without convolutions


@dataclass(frozen=True)
class EarlierModel:
    """A model that `latentdb train` wrote, with what training took for it.

    Attributes
    ----------
    name
        Its folder, for errors.
    codec
        The model itself.
    """

    name: str
    codec: Codec

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> EarlierModel:
        """The model of a folder.

        Raises
        ------
        ModelError
            If it is damaged, or of other makes.
        """
        model = cls(str(Path(folder)), Codec.from_folder(folder))
        known = model.config.format == KERAS and model.codec.has_decoder
        if not known or model.architecture not in ("conv", "mlp"):
            raise model._refused("it is no model that latentdb train wrote")
        return model

    @property
    def config(self) -> ModelConfig:
        return self.codec.config

    @property
    def architecture(self) -> str:
        return str(self.config.about.get("architecture"))

    @property
    def beta(self) -> float | None:
        """The weight of its KL loss; None if it is not known."""
        found = self.config.about.get("beta")
        return float(found) if isinstance(found, int | float) else None

    @property
    def seed(self) -> int | None:
        found = self.config.about.get("seed")
        return found if type(found) is int else None

    @property
    def preset(self) -> str:
        """What training it further aims at; the closed form alone is no aim."""
        return str(self.config.about.get("preset")) if self.semantic_dims else "reconstruction"

    @cached_property
    def layers(self) -> Layers:
        """The weights of encoder and decoder; imports tensorflow."""
        found: dict[str, list[NDArray[np.float32]]] = {}
        for file in NETWORK_FILES[KERAS]:
            network = load_model(self.codec.files[file], f"{file} in {self.name}")
            found |= {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
        return found

    @property
    def semantic_dims(self) -> int:
        """How many of its dimensions are semantic."""
        found = self.config.about.get("semantic_dims")
        return found if type(found) is int and 0 <= found < self.config.latent_dim else 0

    @property
    def is_linear(self) -> bool:
        """Whether it has no convolutions: principal components alone."""
        return set(self.layers) == _LINEAR

    def design(self) -> Design:
        """The parts of its convolutional network."""
        from latentdb.model.network import Design

        return Design(
            self.config.preprocessing.shape,
            self.config.latent_dim,
            self.semantic_dims,
            not self.is_linear,
        )

    def restore(self, network: ConvNetwork) -> None:
        """Give a network the weights of this model; what a linear one lacks stays at its start.

        Raises
        ------
        ModelError
            If the model has other layers.
        """
        own = {name: layer for name, layer in network.layers.items() if layer.weights}
        self._restore({name: own[name] for name in _LINEAR} if self.is_linear else own)

    def restore_mlp(self, vae: Any) -> None:
        """The same for the mlp architecture."""
        networks = (vae.encoder, vae.decoder)
        self._restore(
            {layer.name: layer for part in networks for layer in part.layers if layer.weights}
        )

    def _restore(self, own: Mapping[str, Any]) -> None:
        def shapes(weights: Any) -> list[tuple[int, ...]]:
            return [tuple(weight.shape) for weight in weights]

        expected = {name: shapes(layer.weights) for name, layer in own.items()}
        if {name: shapes(values) for name, values in self.layers.items()} != expected:
            raise self._refused("its network is that of another version of latentdb")
        for name, values in self.layers.items():
            own[name].set_weights(values)

    def _refused(self, reason: str) -> ModelError:
        return ModelError(f"training cannot go on from {self.name}: {reason}; train a new model")

    def check_left_out(self, given: Mapping[str, Any]) -> None:
        """Refuse settings that are the model's own.

        Raises
        ------
        InvalidInputError
            If one of them, by name, is not None.
        """
        stated = [name for name, value in given.items() if value is not None]
        if stated:
            raise InvalidInputError(
                f"{stated[0]} is that of the model which training goes on from: leave it out"
            )
