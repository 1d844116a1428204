"""The variational autoencoder: its layers, its loss and its training loop.

The classic Keras VAE under its classic names: ``encoder`` gives ``[z_mean,
z_log_var, z]``, ``decoder`` takes ``z_sampling``, and ``vae`` is
``decoder(encoder(inputs)[2])``.

Keras is imported at module level here, because the classes derive from its
classes.  Other modules import this one inside functions: tensorflow takes three
to six seconds to load.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else tensorflow logs to stderr

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.kerasfile.runtime import restored_random
from latentdb.kerasfile.sampling import Sampling

INTERMEDIATE = 512
LOSSES = ("loss", "reconstruction_loss", "kl_loss")


class VAE(keras.Model):  # type: ignore[misc]
    """``decoder(encoder(inputs)[2])``, trained on reconstruction + KL loss.

    Both losses are sums over one image, averaged over the batch: the squared
    error over all pixels and channels (pixels in 0..1), and the divergence
    ``-1/2 sum(1 + z_log_var - z_mean^2 - exp(z_log_var))`` of the posterior
    from the standard normal (Kingma & Welling 2013, appendix B), in nats.

    Parameters
    ----------
    encoder, decoder
        Keras models; the encoder gives ``[z_mean, z_log_var, z]``.
    beta
        Weight of the KL loss (Higgins et al., *beta-VAE*, 2017).
    """

    def __init__(self, encoder: Any, decoder: Any, *, beta: float) -> None:
        inputs = encoder.inputs[0]
        super().__init__(inputs, decoder(encoder(inputs)[2]), name="vae")
        self.encoder = encoder
        self.decoder = decoder
        self.beta = beta
        self.trackers = [keras.metrics.Mean(name=name) for name in LOSSES]

    @property
    def metrics(self) -> list[Any]:
        return list(self.trackers)

    def losses(self, images: Any, *, training: bool) -> tuple[Any, Any, Any]:
        """Total, reconstruction and KL loss of a batch: three scalar tensors."""
        z_mean, z_log_var, z = self.encoder(images, training=training)
        error = tf.square(images - self.decoder(z, training=training))
        reconstruction = tf.reduce_mean(tf.reduce_sum(error, axis=[1, 2, 3]))
        divergence = 1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var)
        kl = tf.reduce_mean(-0.5 * tf.reduce_sum(divergence, axis=1))
        return reconstruction + self.beta * kl, reconstruction, kl

    def _track(self, losses: tuple[Any, Any, Any]) -> dict[str, Any]:
        for tracker, value in zip(self.trackers, losses, strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}

    def train_step(self, data: Any) -> dict[str, Any]:
        images = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            losses = self.losses(images, training=True)
        gradients = tape.gradient(losses[0], self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._track(losses)

    def test_step(self, data: Any) -> dict[str, Any]:
        images = data[0] if isinstance(data, tuple) else data
        return self._track(self.losses(images, training=False))


def check_build(latent_dim: int) -> None:
    """Refuse what no network can be built with.

    Raises
    ------
    InvalidInputError, ModelError
        For a latent dimension below 1, and for another keras backend.
    """
    if latent_dim < 1:
        raise InvalidInputError(f"latent dim {latent_dim} is not positive: use 2 to 512")
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"keras uses the backend {keras.backend.backend()!r}, latentdb needs tensorflow: "
            "unset KERAS_BACKEND"
        )


def build_mlp(
    shape: tuple[int, int, int], latent_dim: int, *, beta: float = 0.3, seed: int = 0
) -> VAE:
    """An untrained VAE of dense layers: one of 512 in the encoder, one in the decoder.

    Parameters
    ----------
    shape
        Height, width and channels of an image.
    latent_dim
        Dimensions of the latent space.
    beta
        Weight of the KL loss.
    seed
        Seeds the weights and the sampling layer.

    Returns
    -------
    VAE
        Its parts are ``.encoder`` and ``.decoder``.

    Raises
    ------
    InvalidInputError
        If the latent dimension is not positive.
    """
    check_build(latent_dim)
    layers = keras.layers
    with restored_random(seed):
        encoder_input = keras.Input(shape, name="encoder_input")
        hidden = layers.Flatten(name="flatten")(encoder_input)
        hidden = layers.Dense(INTERMEDIATE, activation="relu", name="encoder_hidden")(hidden)
        z_mean = layers.Dense(latent_dim, name="z_mean")(hidden)
        z_log_var = layers.Dense(latent_dim, name="z_log_var")(hidden)
        z = Sampling(seed=seed, name="z")([z_mean, z_log_var])
        z_sampling = keras.Input((latent_dim,), name="z_sampling")
        hidden = layers.Dense(INTERMEDIATE, activation="relu", name="decoder_hidden")(z_sampling)
        pixels = layers.Dense(math.prod(shape), activation="sigmoid", name="pixels")(hidden)
        image = layers.Reshape(shape, name="image")(pixels)
        encoder = keras.Model(encoder_input, [z_mean, z_log_var, z], name="encoder")
        decoder = keras.Model(z_sampling, image, name="decoder")
        return VAE(encoder, decoder, beta=beta)


@dataclass(frozen=True)
class TrainingStep:
    """The state of training after a batch or an epoch: progress, and a row of the history."""

    epoch: int
    batch: int
    batches: int
    seconds: float
    losses: dict[str, float]
    epoch_done: bool


@dataclass(frozen=True)
class Training:
    """The outcome of `train`.

    Attributes
    ----------
    history
        One entry per epoch, with training and validation losses (``val_``).
    best_epoch
        The epoch whose weights were restored, from 1; 0 for those of the start.
    stopped
        Why training ended: ``"epochs"``, ``"minutes"``, ``"converged"``,
        ``"interrupted"`` or ``"closed form"``.
    seconds
        Wall time of the training loop.
    """

    history: tuple[TrainingStep, ...]
    best_epoch: int
    stopped: str
    seconds: float


class _ImageBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Float batches of images that stay in memory as uint8.

    With a seed, images and batches are shuffled every epoch; keras would shuffle
    batches with the generator of the whole process.
    """

    def __init__(self, pixels: NDArray[np.uint8], batch: int, seed: int | None) -> None:
        super().__init__()
        self.pixels = pixels
        self.batch = batch
        self.random = None if seed is None else np.random.default_rng(seed)
        self.batch_random = random.Random(seed)
        self.order = np.arange(len(pixels))
        self.batches = list(range(len(self)))
        if self.random is not None:
            self.random.shuffle(self.order)

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch)

    def __getitem__(self, number: int) -> tuple[NDArray[np.float32]]:
        start = self.batches[number] * self.batch
        rows = self.order[start : start + self.batch]
        return (self.pixels[rows].astype(np.float32) / np.float32(255.0),)

    def on_epoch_end(self) -> None:  # keras calls it before the first epoch too
        if self.random is not None:
            self.random.shuffle(self.order)
            self.batches = list(range(len(self)))
            self.batch_random.shuffle(self.batches)


class _ProgressCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Report progress, record the history, and stop at the deadline or on Ctrl-C."""

    def __init__(
        self,
        batches: int,
        limit: float,
        report: Callable[[TrainingStep], None] | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.batches = batches
        self.limit = limit
        self.report = report
        self.clock, self.start = clock, clock()
        self.history: list[TrainingStep] = []
        self.stopped = "epochs"
        self.interrupted = threading.Event()
        self.epoch = 0

    @property
    def seconds(self) -> float:
        return self.clock() - self.start

    def _step(self, batch: int, logs: dict[str, Any], *, done: bool) -> TrainingStep:
        losses = {name: float(value) for name, value in logs.items()}
        return TrainingStep(self.epoch, batch, self.batches, self.seconds, losses, done)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.interrupted.is_set():
            self.stopped = "interrupted"
        elif self.seconds > self.limit:
            self.stopped = "minutes"
        if self.stopped != "epochs":
            self.model.stop_training = True
        if self.report is not None:
            self.report(self._step(batch + 1, logs or {}, done=False))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        step = self._step(self.batches, logs or {}, done=True)
        self.history.append(step)
        if self.report is not None:
            self.report(step)


@contextmanager
def ctrl_c_sets(event: threading.Event) -> Iterator[None]:
    """Set an event at the first Ctrl-C; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def set_event(_number: int, _frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, set_event)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def train(
    vae: VAE,
    training: NDArray[np.uint8],
    validation: NDArray[np.uint8],
    *,
    epochs: int = 100,
    minutes: float | None = None,
    patience: int = 5,
    batch: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    trained: bool = False,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[TrainingStep], None] | None = None,
) -> Training:
    """Train a VAE in place; it ends with the weights of its lowest validation loss.

    The same seed, images and number of epochs give the same weights on the same
    machine, up to the last bits: float32 sums depend on the memory alignment of
    a tensor, and without op determinism on the order of threads.  Generators of
    the process are not touched.

    Parameters
    ----------
    vae
        From `build_mlp`.
    training, validation
        uint8 ``[n, height, width, channels]``; validation images give no
        gradients.
    epochs, minutes
        Limits; training stops at the first one reached.
    patience
        Epochs without a lower validation loss after which training stops.
    batch
        Images per gradient step.
    learning_rate
        Of the Adam optimizer.
    seed
        Seeds the order of the images.
    trained
        Whether it was trained before: its start may be the best, then.
    clock
        Gives the seconds that `minutes` limits.
    report
        Called after every batch and every epoch.

    Returns
    -------
    Training
        History, best epoch, and why it stopped.
    """
    vae.compile(optimizer=keras.optimizers.Adam(learning_rate), jit_compile=False)
    batches, held_out = _ImageBatches(training, batch, seed), _ImageBatches(validation, batch, None)
    start = vae.get_weights()
    first = vae.evaluate(held_out, verbose=0, return_dict=True)["loss"] if trained else math.inf
    limit = math.inf if minutes is None else 60.0 * minutes
    progress = _ProgressCallback(len(batches), limit, report, clock)
    # An epoch cut short by Ctrl-C or the deadline is validated like any other.
    early_stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", mode="min", patience=patience, restore_best_weights=True
    )
    with ctrl_c_sets(progress.interrupted):
        vae.fit(
            batches,
            validation_data=held_out,
            epochs=epochs,
            shuffle=False,  # `_ImageBatches` does
            callbacks=[progress, early_stopping],
            verbose=0,
        )
    stopped = (
        "converged"
        if early_stopping.stopped_epoch and progress.stopped == "epochs"
        else progress.stopped
    )
    seconds = progress.seconds
    best_epoch = early_stopping.best_epoch + 1
    if trained and not (early_stopping.best or math.inf) < first:  # a NaN is not, either
        vae.set_weights(start)
        best_epoch = 0
    return Training(tuple(progress.history), best_epoch, stopped, seconds)
