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

from latentdb.model.network import ConvNetwork, Design, pooling
from latentdb.model.pca import area_pooled, fit_pca
from latentdb.model.stages import (
    CONTRAST,
    RECONSTRUCTION,
    VIEWED_IMAGES,
    Budget,
    Stage,
    Trainer,
)
from latentdb.model.vae import VAE, Training, TrainingStep, ctrl_c_sets

BETA = 0.005  # near an autoencoder: a larger one costs detail
_VALIDATION_IMAGES = 2_000  # that choose the best weights
_SEMANTIC_IMAGES = 2_000  # fewer teach the semantic dimensions nothing
_SEMANTIC_SECONDS = 90.0
_LEARNT = 0.65  # contrastive loss, of that at the start
_CONTRAST_SHARE = {"balanced": 0.75, "retrieval": 0.95}
_SEMANTIC_SHARE = {"balanced": 4, "retrieval": 2}  # one in so many dimensions is semantic
_TRUNK = ("trunk0", "trunk1", "trunk2")

Pixels = NDArray[np.uint8]


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
    beta: float = BETA,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int = 10,
    batch: int | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[TrainingStep], None] | None = None,
) -> TrainedNetwork:
    """Train the convolutional VAE from its closed form.

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
    plain = Design(shape, latent_dim, convolutions=False)
    linear = ConvNetwork(plain, pca, beta=beta, seed=seed)
    if preset == "fast":
        done = Training((), 0, "closed form", budget.elapsed)
        return TrainedNetwork(linear.vae, linear.vae, done, 0, ())
    semantic, notes = _semantic_dims(preset, latent_dim, shape[2], len(training), minutes)
    design = Design(shape, latent_dim, semantic)
    network = ConvNetwork(design, pca, beta=beta, seed=seed)
    interrupted = threading.Event()
    make_trainer = partial(
        Trainer,
        training=inner,
        validation=area_pooled(validation[:_VALIDATION_IMAGES], factor),
        beta=beta,
        budget=budget,
        patience=patience,
        seed=seed,
        interrupted=interrupted,
        report=report,
    )
    trainer = make_trainer(network)
    batch = batch or min(64, max(8, len(inner) // 8))
    stages = [Stage(RECONSTRUCTION, 1.0, 1.5e-3, batch)]
    if semantic:
        stages = [
            Stage(CONTRAST, _CONTRAST_SHARE[preset], 2e-3, VIEWED_IMAGES),
            Stage(RECONSTRUCTION, 1.0, 1.5e-3, batch, frozen=_TRUNK),
        ]
    with ctrl_c_sets(interrupted):
        for stage in stages:
            trainer.run(stage)
            if interrupted.is_set():
                break
    record = trainer.record
    done = Training(tuple(record.history), record.best_epoch, record.stopped, budget.elapsed)
    if semantic and not _has_learnt(record.history):
        notes = ("the semantic dimensions had no time to learn: the model is the closed form",)
        return TrainedNetwork(linear.vae, linear.vae, replace(done, best_epoch=0), 0, notes)
    if stage.kind == CONTRAST:  # interrupted there: the decoder does not know these latents
        trainer.fit_linear_decoder()
        ratio, closed = (one.validate(RECONSTRUCTION)[0] for one in (trainer, make_trainer(linear)))
        if preset == "balanced" and ratio < closed:
            notes = (
                "interrupted before the decoder was trained, which would be worse than principal "
                "components: the model is the closed form",
            )
            return TrainedNetwork(linear.vae, linear.vae, replace(done, best_epoch=0), 0, notes)
    trainer.finish()
    return TrainedNetwork(network.vae, linear.vae, done, semantic, notes)


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


def _semantic_dims(
    preset: str, latent_dim: int, channels: int, images: int, minutes: float | None
) -> tuple[int, tuple[str, ...]]:
    """How many dimensions are semantic, and the reason where a preset has none.

    Views change colours, and of grey digits even PCA finds better neighbours than
    dimensions trained on views.
    """
    if preset not in _SEMANTIC_SHARE:
        return 0, ()
    reason = ""
    if channels != 3:
        reason = "the images are grey"
    elif images < _SEMANTIC_IMAGES:
        reason = f"they take at least {_SEMANTIC_IMAGES:,} images"
    elif minutes is not None and 60 * minutes < _SEMANTIC_SECONDS:
        reason = f"they take at least {_SEMANTIC_SECONDS / 60:.1f} minutes"
    elif latent_dim < 2 * _SEMANTIC_SHARE[preset]:
        reason = f"{latent_dim} dimensions are too few"
    if reason:
        return 0, (f"trained for reconstruction alone, without semantic dimensions: {reason}",)
    return latent_dim // _SEMANTIC_SHARE[preset], ()
