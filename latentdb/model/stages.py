"""Training of the convolutional VAE in stages that follow the clock.

Each stage anneals its learning rate over its share of the time, and ends with the
best weights of its validations, of which the first is of its start: no stage
makes the network worse.

Imports tensorflow at its head; see `vae`.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else tensorflow logs to stderr

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from latentdb.model.fitting import BLOCK, blocks, fit_trunk_mean, sample_means
from latentdb.model.network import ConvNetwork
from latentdb.model.vae import Training, TrainingStep
from latentdb.model.views import random_views

# Prefixes of the layers that the semantic dimensions are computed by, and "trunk_mean".
SEMANTIC_LAYERS = ("trunk", "semantic")
CONTRAST, RECONSTRUCTION = "contrast", "reconstruction"
VIEWED_IMAGES = 256  # of a step of the contrastive stage, two views each
_TEMPERATURE = 0.2
_VIEW_SHARE = 0.75  # size of a view, of the trunk's input
_AVERAGING = 0.995  # of the exponential moving average of the weights
_DECAY = 0.05  # of the kernels, in the contrastive stage
_WARM_UP = 0.06  # of a stage
_WARM_UP_STEPS = 60
_STATISTICS_IMAGES = 6_144
_MOST_WEIGHT = 20.0  # of an image in the loss: some have next to no error
_MIRROR_SEED = 1  # what is mirrored is drawn apart from the noise

Pixels = NDArray[np.uint8]
Weights = list[NDArray[np.float32]]


class Budget:
    """How much of a training is over, by the clock and by epochs, whichever is further.

    Parameters
    ----------
    seconds, epochs
        Limits; None for none.
    clock
        Gives seconds.
    """

    def __init__(
        self, seconds: float | None, epochs: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.epochs = seconds, epochs
        self._clock = clock
        self._start = clock()
        self.epochs_done = 0.0

    @property
    def elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def progress(self) -> float:
        """From 0 to 1, and beyond."""
        by_time = 0.0 if self.seconds is None else self.elapsed / self.seconds
        by_epochs = 0.0 if self.epochs is None else self.epochs_done / self.epochs
        return max(by_time, by_epochs)

    @property
    def reason(self) -> str:
        """Why it is over: ``"minutes"`` or ``"epochs"``."""
        by_epochs = self.epochs is not None and self.epochs_done >= self.epochs
        return "epochs" if by_epochs else "minutes"


@dataclass(frozen=True)
class Stage:
    """One stage of a training.

    Attributes
    ----------
    kind
        ``"contrast"`` trains the semantic dimensions, ``"reconstruction"`` all others.
    end
        The progress of the whole training at which it ends.
    rate
        Highest learning rate.
    batch
        Images a step.
    frozen
        Prefixes of the names of layers that are not trained; with the trunk's, its
        batch normalisations use the statistics they have.
    """

    kind: str
    end: float
    rate: float
    batch: int
    frozen: tuple[str, ...] = ()

    def trains(self, layer: str) -> bool:
        """Whether the layer of a name is trained."""
        if self.kind == CONTRAST:
            return layer.startswith(SEMANTIC_LAYERS) and layer != "trunk_mean"
        return not layer.startswith(("semantic", *self.frozen))

    @property
    def factors(self) -> Mapping[str, float]:
        """Of the learning rate, by the prefix of a layer's name; 1 for others.

        Adam moves every weight by about the learning rate in a step, which would
        undo the start in ten of them: the closed form is trained slowly, and so
        are layers that start at zero.
        """
        return {"linear_": 0.02, "trunk_mean": 0.2, "z_log_var": 0.2}


@dataclass
class Record:
    """What a training did, filled in as it goes.

    Attributes
    ----------
    history
        One entry per epoch, the first, of number 0, of the start.
    best_epoch
        The entry whose weights the network has.
    stopped
        Why training ended.
    """

    history: list[TrainingStep] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = "epochs"


class Trainer:
    """Trains one network on images that stay in memory.

    Parameters
    ----------
    network
        Trained in place.
    training, validation
        uint8 images of the network's inner shape.
    beta
        Weight of the KL loss.
    budget
        When the training ends.
    patience
        Validations without progress after which a reconstruction stage ends.
    seed
        Seeds order, views and sampling.
    interrupted
        Ends the training early when set.
    report
        Called after every step and every epoch.
    trained
        Whether the network was trained before: its statistics are its own.
    """

    def __init__(
        self,
        network: ConvNetwork,
        training: Pixels,
        validation: Pixels,
        *,
        beta: float,
        budget: Budget,
        patience: int,
        seed: int,
        interrupted: threading.Event,
        report: Callable[[TrainingStep], None] | None,
        trained: bool = False,
    ) -> None:
        self.network = network
        self.record = Record()
        self.interrupted = interrupted
        self.trained = trained
        self._training, self._validation = training, validation
        self._beta = beta
        self._budget = budget
        self._patience = patience
        self._seed = seed
        self._report = report
        self._step_number = 0
        side = max(network.trunk_shape[:2])
        self._view_size = max(8, round(_VIEW_SHARE * side))
        self._reconstruct_batch = tf.function(self._reconstructed)
        self._contrast_batch = tf.function(self._contrast_of_views)

    # --- losses ------------------------------------------------------------------

    def _reconstruction(self, images: Any, seed: Any, *, trunk_training: bool) -> tuple[Any, Any]:
        """Squared error of a batch's images, from sampled z, and KL divergence.

        Its gradient is that of the mean dB, which a model is judged by: every image weighs
        what its own error leaves it, or the few of much detail would decide.
        """
        network = self.network
        z_mean = network.means(images, training=trunk_training)
        z_log_var = network.log_variances(z_mean)
        noise = tf.random.stateless_normal(tf.shape(z_mean), seed)
        z = z_mean + tf.exp(0.5 * z_log_var) * noise
        error = tf.square(images - network.pixels(z, training=True))
        divergence = 1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var)
        kl = -0.5 * tf.reduce_mean(tf.reduce_sum(divergence, axis=1))
        squares = tf.reduce_sum(error, axis=[1, 2, 3])
        mean = tf.reduce_mean(squares)
        weights = tf.stop_gradient(mean / tf.maximum(squares, mean / _MOST_WEIGHT))
        return tf.reduce_mean(weights * squares), kl

    def _mirrored(self, images: Any, seed: Any) -> Any:
        """Half of a batch's images mirrored, if in colour: letters and digits are not the same."""
        if self.network.design.shape[2] != 3:
            return images
        draws = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed + _MIRROR_SEED)
        return tf.where(draws < 0.5, tf.reverse(images, [2]), images)

    def _contrast(self, images: Any, seed: Any, *, training: bool) -> Any:
        """InfoNCE of two views of each image (van den Oord et al. 2018; SimCLR's form)."""
        network = self.network
        images = network.trunk_input(images)
        twice = tf.concat([images, images], axis=0)
        views = random_views(twice, self._view_size, seed)
        semantic = network.semantics(network.trunk(views, training=training), training=training)
        unit = tf.math.l2_normalize(semantic, axis=1)
        logits = tf.matmul(unit, unit, transpose_b=True) / _TEMPERATURE
        count = tf.shape(images)[0]
        logits = tf.linalg.set_diag(logits, tf.fill([2 * count], -1e9))
        partners = tf.concat([tf.range(count, 2 * count), tf.range(count)], axis=0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(partners, logits)
        return tf.reduce_mean(losses)

    def _reconstructed(self, pixels: Any) -> tuple[Any, Any, Any]:
        """dB, squared error and KL divergence of each image, from z_mean."""
        images = tf.cast(pixels, tf.float32) / 255.0
        z_mean = self.network.means(images)
        z_log_var = self.network.log_variances(z_mean)
        error = tf.square(images - tf.clip_by_value(self.network.pixels(z_mean), 0.0, 1.0))
        squares = tf.reduce_sum(error, axis=[1, 2, 3])
        mean = tf.reduce_mean(error, axis=[1, 2, 3])
        divergence = 1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var)
        ratio = -10.0 / math.log(10) * tf.math.log(tf.maximum(mean, 1e-10))
        return ratio, squares, -0.5 * tf.reduce_sum(divergence, axis=1)

    def _contrast_of_views(self, pixels: Any) -> Any:
        images = tf.cast(pixels, tf.float32) / 255.0
        return self._contrast(images, (7, 7), training=False)

    def validate(self, kind: str) -> tuple[float, dict[str, float]]:
        """A score of the held-out images, the higher the better, and their losses."""
        found = [self._reconstruct_batch(block) for block in blocks(self._validation)]
        ratio, squares, kl = (
            float(np.concatenate([np.asarray(block[number]) for block in found]).mean())
            for number in range(3)
        )
        losses = {
            "val_loss": squares + self._beta * kl,
            "val_reconstruction_loss": squares,
            "val_kl_loss": kl,
            "val_psnr": ratio,
        }
        if kind != CONTRAST:
            return ratio, losses
        contrast = float(self._contrast_batch(self._validation[:VIEWED_IMAGES]))
        return -contrast, losses | {"val_contrastive_loss": contrast}

    def _show(self, step: TrainingStep) -> None:
        if self._report is not None:
            self._report(step)

    def measures(self) -> tuple[float, ...]:
        """What the held-out images say, the higher the better: dB, and of the views' contrast."""
        kind = CONTRAST if self.network.design.semantic_dims else RECONSTRUCTION
        score, losses = self.validate(kind)
        return (losses["val_psnr"], score) if kind == CONTRAST else (score,)

    @property
    def sample(self) -> Pixels:
        """Training images that statistics are estimated from."""
        return self._training[:_STATISTICS_IMAGES]

    # --- one stage ---------------------------------------------------------------

    def run(self, stage: Stage) -> None:
        """Train until the stage's end, Ctrl-C or the patience's end; then restore the best."""
        moves_features = stage.kind == CONTRAST and self.trained
        before = sample_means(self.network, self.sample) if moves_features else None
        _StageRun(self, stage).run()
        if before is not None:
            fit_trunk_mean(self.network, self.sample, before)

    @property
    def outcome(self) -> Training:
        """What the stages did so far."""
        record = self.record
        return Training(
            tuple(record.history), record.best_epoch, record.stopped, self._budget.elapsed
        )

    def weights(self) -> Weights:
        """Copies of all variables of the network."""
        return [np.asarray(variable).copy() for variable in self.variables]

    @property
    def variables(self) -> list[Any]:
        return [v for layer in self.network.layers.values() for v in layer.variables]

    def _make_step(self, stage: Stage, optimizer: _Optimizer) -> Callable[..., dict[str, Any]]:
        trunk_training = stage.trains("trunk0")

        def losses(images: Any, seed: Any) -> dict[str, Any]:
            if stage.kind == CONTRAST:
                return {"contrastive_loss": self._contrast(images, seed, training=True)}
            images = self._mirrored(images, seed)
            squares, kl = self._reconstruction(images, seed, trunk_training=trunk_training)
            total = squares + self._beta * kl
            return {"loss": total, "reconstruction_loss": squares, "kl_loss": kl}

        def step(pixels: Any, rate: Any, seed: Any) -> dict[str, Any]:
            values = [variable.value for variable in optimizer.variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                found = losses(tf.cast(pixels, tf.float32) / 255.0, seed)
            gradients = tape.gradient(next(iter(found.values())), values)
            optimizer.apply(gradients, rate)
            return found

        return tf.function(step)  # type: ignore[no-any-return]

    def _estimate_statistics(self, collect: Any, norms: Sequence[Any]) -> None:
        """Set the batch normalisations to the mean statistics of whole images."""
        sample = self.sample
        sums: Weights | None = None
        count = 0
        for block in blocks(sample):
            if len(block) < min(len(sample), BLOCK):
                continue  # the last, smaller one
            collect(block)
            values = [np.asarray(w) for n in norms for w in (n.moving_mean, n.moving_variance)]
            sums = values if sums is None else [a + b for a, b in zip(sums, values, strict=True)]
            count += 1
        for norm, mean, variance in zip(norms, (sums or [])[::2], (sums or [])[1::2], strict=True):
            norm.moving_mean.assign(mean / count)
            norm.moving_variance.assign(variance / count)


class _StageRun:
    """The state of one stage while it runs."""

    def __init__(self, trainer: Trainer, stage: Stage) -> None:
        self.trainer, self.stage = trainer, stage
        network = trainer.network
        trained = {name: layer for name, layer in network.layers.items() if stage.trains(name)}
        variables, factors, decays = [], [], []
        for name, layer in trained.items():
            factor = next((f for p, f in stage.factors.items() if name.startswith(p)), 1.0)
            for variable in layer.trainable_variables:
                if variable.path.endswith("semantic_norm/gamma"):
                    continue  # a scale that cosine does not see
                variables.append(variable)
                factors.append(factor)
                is_kernel = len(variable.shape) > 1 and stage.kind == CONTRAST
                decays.append(_DECAY if is_kernel else 0.0)
        self.optimizer = _Optimizer(variables, factors, decays)
        self.norms = [
            layer for layer in trained.values() if type(layer).__name__ == "BatchNormalization"
        ]
        self.step = trainer._make_step(stage, self.optimizer)
        self.collect = self._make_collector()
        self.best: Weights = []
        self.best_score = -math.inf
        self.waited = 0

    def _make_collector(self) -> Any:
        """A function that leaves the statistics of one batch in the normalisations."""
        network = self.trainer.network
        contrast, trunk = self.stage.kind == CONTRAST, self.stage.trains("trunk0")

        def collect(pixels: Any) -> None:
            images = tf.cast(pixels, tf.float32) / 255.0
            z_mean = network.means(images, training=trunk)
            network.pixels(z_mean, training=not contrast)

        traced = tf.function(collect)

        def run(pixels: Any) -> None:
            for norm in self.norms:  # read while the function is traced
                norm.momentum = 0.0
            try:
                traced(pixels)
            finally:
                for norm in self.norms:
                    norm.momentum = 1.0

        return run

    def run(self) -> None:
        trainer, stage = self.trainer, self.stage
        record, budget = trainer.record, trainer._budget
        self._validate(None)
        random = np.random.default_rng([trainer._seed, len(record.history)])
        batch = min(stage.batch, len(trainer._training))
        shuffled = _shuffled(trainer._training, batch, random)
        begin, start_epochs = budget.progress, budget.epochs_done
        steps, in_epoch = 0, 0
        sums: dict[str, float] = {}
        batches = len(trainer._training) // batch
        while True:
            share = (budget.progress - begin) / max(1e-9, stage.end - begin)
            if share >= 1:
                record.stopped = budget.reason
                break
            if trainer.interrupted.is_set():
                record.stopped = "interrupted"
                break
            rate = stage.rate * _annealed(share) * min(1.0, (steps + 1) / _WARM_UP_STEPS)
            trainer._step_number += 1
            seed = np.array([trainer._seed, trainer._step_number], np.int32)
            found = self.step(next(shuffled), np.float32(rate), seed)
            losses = {name: float(value) for name, value in found.items()}
            if not all(map(math.isfinite, losses.values())):
                break  # the best weights are restored
            steps, in_epoch = steps + 1, in_epoch + 1
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            means = {name: value / in_epoch for name, value in sums.items()}
            budget.epochs_done = start_epochs + steps / batches
            epoch = len(record.history)
            trainer._show(TrainingStep(epoch, in_epoch, batches, budget.elapsed, means, False))
            if in_epoch == batches:
                self._validate(means)
                sums, in_epoch = {}, 0
                patient = stage.kind == CONTRAST or self.waited < trainer._patience
                if not patient and share > 2 * _WARM_UP:
                    record.stopped = "converged"
                    break
        if in_epoch:
            self._validate(means)
        _assign(trainer.variables, self.best)

    def _validate(self, losses: dict[str, float] | None) -> None:
        """Judge the averaged weights; keep them if they are the best so far."""
        trainer = self.trainer
        record = trainer.record
        raw = [np.asarray(variable) for variable in self.optimizer.variables]
        if losses is not None:
            _assign(self.optimizer.variables, self.optimizer.averages())
        is_new = not trainer.trained and (self.stage.kind == CONTRAST or not record.history)
        if losses is not None or is_new:
            trainer._estimate_statistics(self.collect, self.norms)
        score, more = trainer.validate(self.stage.kind)
        if losses is not None or not record.history:
            # Of the start there are no training losses.
            start = {} if losses is None else losses
            number = len(record.history)
            step = TrainingStep(number, 0, 0, trainer._budget.elapsed, {**start, **more}, True)
            record.history.append(step)
            trainer._show(step)
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self.best = [np.asarray(variable) for variable in trainer.variables]
            if losses is not None:
                record.best_epoch = len(record.history) - 1
        else:
            self.waited += 1
        _assign(self.optimizer.variables, raw)


class _Optimizer:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate factor a variable, and averages.

    Keras's optimizers have one rate for all variables.
    """

    def __init__(
        self, variables: Sequence[Any], factors: Sequence[float], decays: Sequence[float]
    ) -> None:
        self.variables = list(variables)
        self._factors, self._decays = factors, decays
        zeros = [tf.zeros(variable.shape) for variable in variables]
        self._means = [tf.Variable(zero, trainable=False) for zero in zeros]
        self._squares = [tf.Variable(zero, trainable=False) for zero in zeros]
        self._averages = [tf.Variable(variable.value, trainable=False) for variable in variables]
        self._count = tf.Variable(0.0, trainable=False)

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Update the variables, in a tensorflow function."""
        first, second, epsilon = 0.9, 0.98, 1e-8
        count = self._count.assign_add(1.0)
        corrected = rate * tf.sqrt(1 - second**count) / (1 - first**count)
        keep = tf.minimum(_AVERAGING, (1 + count) / (10 + count))
        for number, gradient in enumerate(gradients):
            if gradient is None:
                continue
            factor, variable = self._factors[number], self.variables[number].value
            mean = self._means[number].assign_add((1 - first) * (gradient - self._means[number]))
            squares = self._squares[number]
            square = squares.assign_add((1 - second) * (tf.square(gradient) - squares))
            change = corrected * factor * mean / (tf.sqrt(square) + epsilon)
            if self._decays[number]:
                change += rate * factor * self._decays[number] * variable
            new = variable.assign_sub(change)
            average = self._averages[number]
            average.assign_add((1 - keep) * (new - average))

    def averages(self) -> Weights:
        return [average.numpy() for average in self._averages]


def _annealed(share: float) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))


def _shuffled(pixels: Pixels, batch: int, random: np.random.Generator) -> Iterator[Pixels]:
    """Batches without end, in a new order every epoch; what does not fill one waits."""
    while True:
        order = random.permutation(len(pixels))
        for start in range(0, len(order) - batch + 1, batch):
            yield pixels[order[start : start + batch]]


def _assign(variables: Sequence[Any], values: Sequence[NDArray[np.float32]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def same_weights(some: Weights, others: Weights) -> bool:
    """Whether two copies of a network's variables are equal."""
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))
