"""What a training aims at: the stages of each preset, and what decides about semantic dimensions.

Imports keras at its head; see `vae`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from latentdb.model.earlier_model import EarlierModel
from latentdb.model.fitting import fit_linear_decoder, fit_scales
from latentdb.model.network import ConvNetwork, Design, pooling
from latentdb.model.pca import area_pooled, fit_pca
from latentdb.model.stages import (
    CONTRAST,
    RECONSTRUCTION,
    VIEWED_IMAGES,
    Budget,
    Stage,
    Trainer,
    same_weights,
)
from latentdb.model.vae import VAE, Training, TrainingStep, ctrl_c_sets

_BETA = 0.005
_VALIDATION_IMAGES = 2_000  # that choose the best weights
_SEMANTIC_IMAGES = 2_000  # fewer teach the semantic dimensions nothing
_SEMANTIC_SECONDS = 90.0
_LEARNT = 0.65  # contrastive loss, of that at the start
_CONTRAST_SHARE = {"balanced": 0.75, "retrieval": 0.95}
_SEMANTIC_SHARE = {"balanced": 4, "retrieval": 2}  # one in so many dimensions is semantic
_TRUNK = ("trunk0", "trunk1", "trunk2")

Pixels = NDArray[np.uint8]
_TrainerOf = Callable[..., Trainer]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """The outcome of `train_network`.

    Attributes
    ----------
    vae
        The trained model.
    linear
        The linear VAE of the same size in closed form: the baseline.
    training
        History, and why it stopped.
    semantic_dims
        How many of the latent dimensions are semantic.
    notes
        What was decided on the way, for people.
    """

    vae: VAE
    linear: VAE
    training: Training
    semantic_dims: int
    notes: tuple[str, ...]


def train_network(
    training: Pixels,
    validation: Pixels,
    *,
    latent_dim: int,
    preset: str = "balanced",
    earlier: EarlierModel | None = None,
    beta: float = _BETA,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int = 10,
    batch: int | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[TrainingStep], None] | None = None,
) -> TrainedNetwork:
    """Train the convolutional VAE from its closed form, or from a trained one.

    Parameters
    ----------
    training, validation
        uint8 ``[n, height, width, channels]``; validation images give no
        gradients.
    latent_dim
        Dimensions of z_mean.
    preset
        ``"balanced"``, ``"reconstruction"``, ``"retrieval"`` or ``"fast"``, the
        closed form alone.
    earlier
        A model of the same shape and size to go on from; the outcome is never worse
        on the validation images.
    beta
        Weight of the KL loss.
    epochs, minutes
        The learning rates are annealed until the first of these limits.
    patience
        Epochs without better reconstructions after which training stops.
    batch
        Images per gradient step of reconstruction; by default 64, or an eighth of
        the images where that is less, at least 8.
    seed
        Seeds weights, order, views and sampling.
    clock
        Gives the seconds that `minutes` limits.
    report
        Called after every step and every epoch.

    Raises
    ------
    InvalidInputError
        If the size of the images does not fit the network.
    """
    shape = training.shape[1], training.shape[2], training.shape[3]
    factor = pooling(shape)
    budget = Budget(None if minutes is None else 60.0 * minutes, epochs, clock)
    inner = area_pooled(training, factor)
    pca = fit_pca(inner, latent_dim, seed=seed)
    linear = ConvNetwork(Design(shape, latent_dim, convolutions=False), pca, beta=beta, seed=seed)
    if preset == "fast":
        done = Training((), 0, "closed form", budget.elapsed)
        return TrainedNetwork(linear.vae, linear.vae, done, 0, ())
    trainer_of = partial(
        Trainer,
        training=inner,
        validation=area_pooled(validation[:_VALIDATION_IMAGES], factor),
        beta=beta,
        budget=budget,
        patience=patience,
        seed=seed,
        interrupted=threading.Event(),
        report=report,
    )
    batch = batch or min(64, max(8, len(inner) // 8))
    obstacle = _obstacle(preset, latent_dim, shape[2], len(training), minutes)
    course = _Course(preset, batch, obstacle, partial(ConvNetwork, pca=pca, beta=beta, seed=seed))
    if earlier is not None:
        return course.further(earlier, linear, trainer_of)
    return course.anew(Design(shape, latent_dim), linear, trainer_of)


@dataclass(frozen=True)
class _Course:
    """The stages of a preset, from the closed form or from a trained model.

    Attributes
    ----------
    preset, batch
        Of `train_network`, not ``"fast"``.
    obstacle
        Why semantic dimensions cannot be trained; empty if they can, or the preset
        has none.
    network_of
        The network of a design.
    """

    preset: str
    batch: int
    obstacle: str
    network_of: Callable[[Design], ConvNetwork]

    def _reconstruction(self, *, semantic: int) -> Stage:
        frozen = _TRUNK if semantic else ()
        return Stage(RECONSTRUCTION, 1.0, 1.5e-3, self.batch, frozen=frozen)

    @property
    def _contrast(self) -> Stage:
        return Stage(CONTRAST, _CONTRAST_SHARE[self.preset], 2e-3, VIEWED_IMAGES)

    def anew(self, plain: Design, linear: ConvNetwork, trainer_of: _TrainerOf) -> TrainedNetwork:
        semantic = 0
        notes: tuple[str, ...] = ()
        if self.obstacle:
            reason = f"without semantic dimensions: {self.obstacle}"
            notes = (f"trained for reconstruction alone, {reason}",)
        elif self.preset in _SEMANTIC_SHARE:
            semantic = plain.latent_dim // _SEMANTIC_SHARE[self.preset]
        network = self.network_of(replace(plain, semantic_dims=semantic))
        trainer = trainer_of(network)
        stages = [self._contrast] if semantic else []
        last = _run(trainer, [*stages, self._reconstruction(semantic=semantic)])
        done = trainer.outcome
        closed = TrainedNetwork(linear.vae, linear.vae, replace(done, best_epoch=0), 0, ())
        if semantic and not _has_learnt(done.history):
            note = "the semantic dimensions had no time to learn: the model is the closed form"
            return replace(closed, notes=(note,))
        if last.kind == CONTRAST:  # interrupted there: the decoder does not know these latents
            fit_linear_decoder(network, trainer.sample)
            both = trainer, trainer_of(linear)
            ratio, limit = (one.validate(RECONSTRUCTION)[0] for one in both)
            if self.preset == "balanced" and ratio < limit:
                note = (
                    "interrupted before the decoder was trained, which would be worse than "
                    "principal components: the model is the closed form"
                )
                return replace(closed, notes=(note,))
        fit_scales(network, trainer.sample)
        network.settle()
        return TrainedNetwork(network.vae, linear.vae, done, semantic, notes)

    def further(
        self, earlier: EarlierModel, linear: ConvNetwork, trainer_of: _TrainerOf
    ) -> TrainedNetwork:
        """Goes on from a model; gives it back as it was where nothing got better."""
        design = earlier.design()
        semantic = design.semantic_dims
        notes: tuple[str, ...] = ()
        network = self.network_of(replace(design, convolutions=True))
        earlier.restore(network)
        trainer = trainer_of(network, trained=True)
        before, first = trainer.weights(), trainer.measures()
        stages = [self._reconstruction(semantic=semantic)]
        if self.preset in _SEMANTIC_SHARE and not semantic:
            notes = ("the model has no semantic dimensions: trained for reconstruction alone",)
        elif self.preset in _SEMANTIC_SHARE and self.obstacle:
            notes = (f"the semantic dimensions stay as they are: {self.obstacle}",)
        elif self.preset in _SEMANTIC_SHARE:
            stages.insert(0, self._contrast)
        _run(trainer, stages)
        done, last = trainer.outcome, trainer.measures()
        is_better = all(new >= old for new, old in zip(last, first, strict=True))
        if not is_better or same_weights(trainer.weights(), before):
            notes = (*notes, "nothing got better: the model is the one that training went on from")
            network = self.network_of(design)
            earlier.restore(network)
            done = replace(done, best_epoch=0)
        else:
            fit_scales(network, trainer.sample)
        network.settle()
        return TrainedNetwork(network.vae, linear.vae, done, semantic, notes)


def _run(trainer: Trainer, stages: Sequence[Stage]) -> Stage:
    """Run stages until Ctrl-C; the one that ran last."""
    with ctrl_c_sets(trainer.interrupted):
        for stage in stages:
            trainer.run(stage)
            if trainer.interrupted.is_set():
                break
    return stage


def _has_learnt(history: Sequence[TrainingStep]) -> bool:
    """Whether the views of an image are nearer to each other than at the start."""
    losses = [
        step.losses["val_contrastive_loss"]
        for step in history
        if "val_contrastive_loss" in step.losses
    ]
    return min(losses) < _LEARNT * losses[0]


def closed_form(training: Pixels, latent_dim: int, *, beta: float, seed: int) -> VAE:
    """The linear VAE of images, as `train_network` gives it for the preset ``"fast"``."""
    shape = training.shape[1], training.shape[2], training.shape[3]
    pca = fit_pca(area_pooled(training, pooling(shape)), latent_dim, seed=seed)
    design = Design(shape, latent_dim, convolutions=False)
    return ConvNetwork(design, pca, beta=beta, seed=seed).vae


def turn_on_determinism() -> None:
    """Make tensorflow's operations deterministic, for the rest of the process.

    It slows other models of the process, makes unseeded random ops an error, and
    tensorflow has no public way to turn it off: for a process that only trains.
    """
    tf.config.experimental.enable_op_determinism()


def _obstacle(
    preset: str, latent_dim: int, channels: int, images: int, minutes: float | None
) -> str:
    """Why a preset's semantic dimensions cannot be trained; empty if they can, or it has none.

    Views change colours, and of grey digits even PCA finds better neighbours than
    dimensions trained on views.
    """
    if preset not in _SEMANTIC_SHARE:
        return ""
    if channels != 3:
        return "the images are grey"
    if images < _SEMANTIC_IMAGES:
        return f"they take at least {_SEMANTIC_IMAGES:,} images"
    if minutes is not None and 60 * minutes < _SEMANTIC_SECONDS:
        return f"they take at least {_SEMANTIC_SECONDS / 60:.1f} minutes"
    if latent_dim < 2 * _SEMANTIC_SHARE[preset]:
        return f"{latent_dim} dimensions are too few"
    return ""
