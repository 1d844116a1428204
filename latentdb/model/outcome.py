"""What training leaves: the files of a model folder, and a report."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.metrics import CENTERED_COSINE, L2
from latentdb.base.outputs import write_folder
from latentdb.images.decode import Preprocessing
from latentdb.images.discover import BadFile
from latentdb.kerasfile.runtime import save
from latentdb.model.codec import BATCH, Codec
from latentdb.model.config import CONFIG_FILE, ModelConfig
from latentdb.model.fingerprint import fingerprints
from latentdb.model.label_free import MAX_OTHERS, neighbour_agreement
from latentdb.model.picture_page import picture_page
from latentdb.model.posterior import statistics
from latentdb.model.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from latentdb.model.presets import TrainedNetwork
    from latentdb.model.vae import VAE, TrainingStep

HISTORY_FILE = "history.csv"
PAGE_FILE = "pictures.png"
_BASELINE_IMAGES = 2_000  # held out, that baselines are measured on at a time
_EXACT = 100.0  # dB that an image reconstructed exactly counts; JSON has no infinity


@dataclass(frozen=True)
class TrainReport:
    """The outcome of `train_model`.

    Attributes
    ----------
    path
        The model folder.
    config
        What its model.json says.
    images, validation_images
        How many were trained on, and held out.
    found
        Image files in the sources; more than these two together if a sample was
        used.
    bad
        Files that could not be read.
    epochs, best_epoch
        Epochs begun, and the one whose weights were saved.
    stopped
        ``"epochs"``, ``"minutes"``, ``"converged"``, ``"interrupted"`` or
        ``"closed form"``.
    losses
        Losses of the best epoch by name.
    psnr
        Peak signal-to-noise ratio of the validation images' reconstructions, the
        mean over images, in dB.
    baselines
        The same ratio, on the same images, of the principal
        components of the same number (``"pca"``) and of the mean training image
        (``"mean_image"``).
    seconds
        Wall time of the training, without loading.
    notes
        What was decided on the way, for people.
    """

    path: str
    config: ModelConfig
    images: int
    validation_images: int
    found: int
    bad: tuple[BadFile, ...]
    epochs: int
    best_epoch: int
    stopped: str
    losses: dict[str, float]
    psnr: float
    baselines: dict[str, float]
    seconds: float
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """What the model is worth against its baselines, and what to change."""
        found = verdict_of(self.config)
        assert found is not None  # training records what it is made of
        return found


def psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images, in dB.

    Where latentdb states one number for many images, it is the mean of these.
    ``10 log10(255^2 / mean squared error)``; infinite for equal images.

    Parameters
    ----------
    images, others
        uint8 ``[n, height, width, channels]``.
    """
    difference = images.astype(np.float64) - others.astype(np.float64)
    errors = np.square(difference).reshape(len(images), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(255.0**2 / errors))


def mean_psnr(ratios: NDArray[np.float64]) -> float:
    """The mean of dB, in which an exact image counts 100: one would make it infinite."""
    return float(np.minimum(ratios, _EXACT).mean())


def write_model(
    target: Path,
    outcome: TrainedNetwork,
    spec: Preprocessing,
    pixels: NDArray[np.uint8],
    held_out: int,
    about: dict[str, Any],
    bad: tuple[BadFile, ...],
    found: int,
) -> TrainReport:
    """Measure a trained network and write its folder, whose config is `about` and more.

    Parameters
    ----------
    target
        The folder.
    outcome, spec
        The network, and how its images were read.
    pixels, held_out
        uint8 images, of which so many, the first ones, were held out.
    about
        How it was trained.
    bad, found
        Of the report.
    """
    model, training, validation = outcome.vae, outcome.training, pixels[:held_out]
    encoder, decoder = save(model.encoder), save(model.decoder)
    latent_dim = int(model.decoder.input_shape[1])
    hashes = fingerprints(encoder, decoder, spec, str(target))
    config = ModelConfig(spec, latent_dim, *hashes, has_z_log_var=True)
    codec = Codec(config, encoder, decoder).compiled()
    others, others_log_var = codec.encode(pixels[held_out : held_out + MAX_OTHERS])
    z_mean, z_log_var = codec.encode(validation)
    reconstructions = codec.decode(z_mean)
    ratios = psnr(validation, reconstructions)
    mean_ratio = mean_psnr(ratios)
    baselines = _baselines(outcome.linear, pixels[held_out:], validation)
    losses = next(
        (step.losses for step in training.history if step.epoch == training.best_epoch), {}
    )
    epochs = training.history[-1].epoch if training.history else 0
    about |= {
        "epochs": epochs,
        "best_epoch": training.best_epoch,
        "stopped": training.stopped,
        "training_seconds": round(training.seconds, 1),
        "losses": losses,
        "validation_psnr_db": round(mean_ratio, 3),
        "baselines_psnr_db": {name: round(value, 3) for name, value in baselines.items()},
        "active_dims": int(statistics([(others, None)], latent_dim).active().sum()),
        **_metric(codec, outcome.linear, pixels, held_out, others, about["seed"]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("latentdb", "tensorflow", "keras", "numpy")},
        },
    }
    config = replace(config, about=about)
    files = codec.files
    del files[CONFIG_FILE]
    page = io.BytesIO()
    log_variances = None
    if z_log_var is not None and others_log_var is not None:
        log_variances = np.concatenate([z_log_var, others_log_var])
    latents = np.concatenate([z_mean, others])
    picture_page(
        validation,
        reconstructions,
        ratios,
        latents,
        log_variances,
        codec.decode,
        seed=about["seed"],
    ).save(page, "PNG")
    files |= {HISTORY_FILE: _history(training.history).encode(), PAGE_FILE: page.getvalue()}
    # The config is the last: no part of a folder is a model.
    write_folder(target, {**files, CONFIG_FILE: config.to_json().encode()})
    return TrainReport(
        path=str(target),
        config=config,
        images=about["images"],
        validation_images=about["validation_images"],
        found=found,
        bad=bad,
        epochs=epochs,
        best_epoch=training.best_epoch,
        stopped=training.stopped,
        losses=losses,
        psnr=mean_ratio,
        baselines=baselines,
        seconds=training.seconds,
        notes=outcome.notes,
    )


def _metric(
    codec: Codec,
    linear: VAE,
    pixels: NDArray[np.uint8],
    held_out: int,
    others: NDArray[np.float32],
    seed: int,
) -> dict[str, Any]:
    """Label-free neighbour agreement, and the metric that it chooses; empty of few images."""

    validation, training = pixels[:held_out], pixels[held_out : held_out + MAX_OTHERS]
    own = neighbour_agreement(lambda images: codec.encode(images)[0], validation, others, seed=seed)
    if own is None:
        return {}
    pca = neighbour_agreement(
        partial(_encode, linear), validation, _encode(linear, training), seed=seed
    )
    scores = {L2: own.l2, CENTERED_COSINE: own.centered_cosine, "pca": pca.best if pca else 0.0}
    return {
        "neighbour_agreement": {name: round(score, 3) for name, score in scores.items()},
        "metric": own.metric,
        "centre": [round(value, 6) for value in own.centre.tolist()],
    }


def _encode(linear: VAE, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    floats = images.astype(np.float32) / np.float32(255)
    z_mean: NDArray[np.float32]
    z_mean = linear.encoder.predict(floats, batch_size=BATCH, verbose=0)[0]
    return z_mean


def _baselines(
    linear: VAE, training: NDArray[np.uint8], validation: NDArray[np.uint8]
) -> dict[str, float]:
    """Mean PSNR of the closed form and of the mean training image, in dB."""
    ratios = []
    for start in range(0, len(validation), _BASELINE_IMAGES):
        block = validation[start : start + _BASELINE_IMAGES]
        values = linear.decoder.predict(_encode(linear, block), batch_size=BATCH, verbose=0)
        ratios.append(psnr(block, np.rint(255 * values).astype(np.uint8)))
    mean = np.rint(training[:: -(-len(training) // 10_000)].mean(axis=0)).astype(np.uint8)
    return {
        "pca": mean_psnr(np.concatenate(ratios)),
        "mean_image": mean_psnr(psnr(validation, mean[None])),
    }


def _history(history: Sequence[TrainingStep]) -> str:
    """One line per epoch; a loss that an epoch does not have is empty."""
    text = io.StringIO()
    names = sorted({name for step in history for name in step.losses})
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "seconds", *names])
    for step in history:
        values = [f"{step.losses[name]:.6g}" if name in step.losses else "" for name in names]
        writer.writerow([step.epoch, f"{step.seconds:.1f}", *values])
    return text.getvalue()
