"""Train a model: from image files to a model folder."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.metrics import CENTERED_COSINE, L2
from latentdb.base.cores import core_count
from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.outputs import check_new_folder, write_folder
from latentdb.base.progress import Progress, Report
from latentdb.base.wording import counted
from latentdb.images.decode import Preprocessing, probe, read_image
from latentdb.images.discover import BadFile, ImageFile, Search, discover
from latentdb.images.render import contact_sheet
from latentdb.kerasfile.runtime import load_keras, save
from latentdb.model.codec import BATCH, CONFIG_FILE, Codec
from latentdb.model.config import ModelConfig
from latentdb.model.fingerprint import fingerprints
from latentdb.model.label_free import MAX_OTHERS, neighbour_agreement
from latentdb.model.picture_page import picture_page
from latentdb.model.posterior import statistics
from latentdb.model.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from latentdb.model.presets import TrainedNetwork
    from latentdb.model.vae import VAE, TrainingStep

HISTORY_FILE = "history.csv"
PICTURE_FILE = "reconstructions.png"
PAGE_FILE = "pictures.png"
LATENT_DIM = 64
MAX_FILES = 1_000_000  # a random sample of a larger collection is used
MAX_BYTES = 2 << 30  # pixels held in memory
MIN_IMAGES = 10
ARCHITECTURES = ("conv", "mlp")
PRESETS = ("balanced", "reconstruction", "retrieval", "fast")
MINUTES = 10.0  # of training, where neither minutes nor epochs are given
_EPOCHS = {"conv": 200, "mlp": 100}
_MLP_BETA = 0.3
_BASELINE_IMAGES = 2_000  # held out, that baselines are measured on at a time
_PROBED_FILES = 100  # whose headers decide the default image size and channels
_LARGEST_SIZE = 64  # of the default image size, in pixels
_PICTURE_IMAGES = 10  # columns of reconstructions.png


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


def train_model(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    arch: str = "conv",
    preset: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str = "stretch",
    background: str = "white",
    latent_dim: int = LATENT_DIM,
    beta: float | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int = 10,
    validation: float = 0.1,
    batch: int | None = None,
    seed: int = 0,
    strict: bool = False,
    deterministic: bool = False,
    report: Report | None = None,
) -> TrainReport:
    """Train a VAE on images and write a model folder.

    The folder holds ``encoder.keras``, ``decoder.keras``, ``model.json``,
    ``history.csv``, ``reconstructions.png`` (validation images above their
    reconstructions) and ``pictures.png`` (samples and traversals, too), and the compiled
    files with the extra ``fast``.  It is synced, and appears complete or not at all.
    Ctrl-C ends training early with the best weights so far.

    Parameters
    ----------
    sources
        Folders and image files; a random sample of them if they exceed 2 GiB of
        pixels.
    out
        The folder to write; must not exist, or be empty.
    arch
        ``"conv"``, which starts at the principal components, or ``"mlp"``.
    preset
        What ``"conv"`` aims at: ``"balanced"`` (default), ``"reconstruction"``,
        ``"retrieval"``, or ``"fast"``, the principal components alone.
    image_size, channels
        Height and width, and 1 or 3; by default derived from the images.
    resize
        ``"stretch"``, ``"crop"`` or ``"pad"``.
    background
        What shows through transparent pixels: ``"white"``, ``"black"``,
        ``"checker"`` or ``"R,G,B"``.
    latent_dim
        Dimensions of z_mean.
    beta
        Weight of the KL loss; by default 0.005 for ``"conv"``, 0.3 for ``"mlp"``.
    epochs, minutes
        Limits; by default 200 epochs for ``"conv"``, in 10 minutes if neither is
        given, and 100 epochs for ``"mlp"``.
    patience
        Epochs without progress on the held-out images after which training stops.
    validation
        Share of the images that is held out.
    batch
        Images per gradient step; by default 64 for ``"conv"`` (less below 512
        images), 128 for ``"mlp"`` (32 below 10,000 images).
    seed
        Seeds the split, the weights, the order and the sampling.
    strict
        Raise an error at unreadable files instead of skipping them.
    deterministic
        As in `latentdb.model.vae.train`; the command line sets it.
    report
        Called with the progress.

    Raises
    ------
    AlreadyExistsError
        If `out` exists and is not an empty folder.
    InvalidInputError
        If there are too few images or an option is invalid.
    """
    target = Path(out)
    _check_choices(arch, preset)
    if epochs is None and minutes is None and arch == "conv":
        minutes = MINUTES
    epochs = _EPOCHS[arch] if epochs is None else epochs
    _check_options(epochs, minutes, validation, batch or 1, beta or 0, patience)
    random = np.random.default_rng(seed)
    check_new_folder(target)  # training takes minutes
    files, bad, found = _sample(sources, random, report)
    spec = _preprocessing(files, image_size, channels, resize, background)
    files = files[: max(MIN_IMAGES, MAX_BYTES // int(np.prod(spec.shape)))]
    pixels, unreadable = _read(files, spec, report)
    bad += unreadable
    if strict and bad:
        raise ImageError(bad[0].path, bad[0].reason)
    if len(pixels) < MIN_IMAGES:
        reason = f"; the first unreadable one: {bad[0].path}: {bad[0].reason}" if bad else ""
        raise InvalidInputError(
            f"{counted(len(pixels), 'readable image')} cannot train a model: "
            f"give at least {MIN_IMAGES}{reason}"
        )
    held_out = min(len(pixels) - 1, max(1, round(validation * len(pixels))))
    if report is not None:
        report(Progress("loading tensorflow", 0, None))
    load_keras()
    from latentdb.model import presets

    if deterministic:
        presets.turn_on_determinism()
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        "epochs": epochs,
        "minutes": minutes,
        "patience": patience,
        "seed": seed,
        "report": None if report is None else _step_report(report, epochs, minutes),
    }
    if arch == "mlp":
        beta = _MLP_BETA if beta is None else beta
        batch = batch or (128 if len(pixels) >= 10_000 else 32)
        outcome = _train_mlp(pixels, held_out, beta=beta, batch=batch, **settings)
    else:
        beta, preset = presets.BETA if beta is None else beta, preset or PRESETS[0]
        outcome = presets.train_network(
            pixels[held_out:], pixels[:held_out],
            preset=preset, beta=beta, batch=batch, **settings,
        )  # fmt: skip
    about = {
        "architecture": arch,
        **({"preset": preset, "semantic_dims": outcome.semantic_dims} if preset else {}),
        "beta": beta,
        "seed": seed,
        "images": len(pixels) - held_out,
        "validation_images": held_out,
    }
    return _write(target, outcome, spec, pixels, held_out, about, tuple(bad), found)


def _check_choices(arch: str, preset: str | None) -> None:
    if arch not in ARCHITECTURES:
        choices = ", ".join(ARCHITECTURES)
        raise InvalidInputError(f"architecture {arch!r} is unknown: use one of {choices}")
    if preset is not None and preset not in PRESETS:
        raise InvalidInputError(f"preset {preset!r} is unknown: use one of {', '.join(PRESETS)}")
    if preset is not None and arch == "mlp":
        raise InvalidInputError(
            f"preset {preset!r} is not one of the mlp architecture, which has none: use conv"
        )


def _check_options(
    epochs: int,
    minutes: float | None,
    validation: float,
    batch: int,
    beta: float,
    patience: int,
) -> None:
    checks = (
        (epochs >= 1, f"{epochs} epochs: give at least 1"),
        (minutes is None or 0 < minutes < 1e6, f"{minutes} minutes: give more than 0"),
        (0 < validation < 1, f"a validation share of {validation}: give one between 0 and 1"),
        (1 <= batch <= 65_536, f"a batch of {batch}: give 1 to 65,536"),
        (0 <= beta < float("inf"), f"a beta of {beta}: give 0 or more"),
        (patience >= 1, f"a patience of {patience}: give at least 1 epoch"),
    )
    for holds, message in checks:
        if not holds:
            raise InvalidInputError(message)


def _sample(
    sources: Sequence[str | os.PathLike[str]], random: np.random.Generator, report: Report | None
) -> tuple[list[ImageFile], list[BadFile], int]:
    """Image files in random order, unreadable ones, and the number of image files found.

    At most `MAX_FILES` are returned: a uniform sample (Vitter's reservoir, 1985).
    """
    Search.of(sources).require_images()
    files: list[ImageFile] = []
    bad: list[BadFile] = []
    found = 0
    for item in discover(sources):
        if isinstance(item, BadFile):
            bad.append(item)
            continue
        found += 1
        if len(files) < MAX_FILES:
            files.append(item)
        else:
            position = int(random.integers(found))
            if position < MAX_FILES:
                files[position] = item
        if report is not None and found % 1000 == 0:
            report(Progress("finding images", found, None))
    return [files[position] for position in random.permutation(len(files))], bad, found


def _preprocessing(
    files: Sequence[ImageFile],
    image_size: tuple[int, int] | None,
    channels: int | None,
    resize: str,
    background: str,
) -> Preprocessing:
    """The given size and channels; by default the median size up to 64, and grey if all are."""
    if image_size is not None and channels is not None:
        return Preprocessing(
            *image_size, channels, resize=resize, background=background, icc="srgb"
        )
    shapes = []
    for file in files[:_PROBED_FILES]:
        try:
            shapes.append(probe(file.path))
        except ImageError:
            continue  # reported when it is read
    if channels is None:
        channels = max((shape.channels for shape in shapes), default=3)
    if image_size is None:
        sides = [min(shape.height, shape.width) for shape in shapes]
        side = min(int(median(sides or [_LARGEST_SIZE])), _LARGEST_SIZE)
        image_size = side, side
    return Preprocessing(*image_size, channels, resize=resize, background=background, icc="srgb")


def _read(
    files: Sequence[ImageFile], spec: Preprocessing, report: Report | None
) -> tuple[NDArray[np.uint8], list[BadFile]]:
    pixels = np.empty((len(files), *spec.shape), np.uint8)
    bad: list[BadFile] = []
    count = 0

    def read(file: ImageFile) -> NDArray[np.uint8] | BadFile:
        try:
            return read_image(file.path, spec)
        except ImageError as error:
            return BadFile(error.path, error.reason)

    with ThreadPoolExecutor(core_count()) as pool:
        for start in range(0, len(files), 1024):
            for outcome in pool.map(read, files[start : start + 1024]):
                if isinstance(outcome, BadFile):
                    bad.append(outcome)
                else:
                    pixels[count] = outcome
                    count += 1
            if report is not None:
                report(Progress("reading images", count + len(bad), len(files), len(bad)))
    return pixels[:count], bad


def _train_mlp(
    pixels: NDArray[np.uint8],
    held_out: int,
    *,
    latent_dim: int,
    beta: float,
    seed: int,
    **settings: Any,
) -> TrainedNetwork:
    """The mlp architecture trained, with the same baseline as the convolutional one."""
    from latentdb.model import presets, vae

    training, validation = pixels[held_out:], pixels[:held_out]
    shape = training.shape[1], training.shape[2], training.shape[3]
    model = vae.build_mlp(shape, latent_dim, beta=beta, seed=seed)
    done = vae.train(model, training, validation, seed=seed, **settings)
    linear = presets.closed_form(training, latent_dim, beta=beta, seed=seed)
    return presets.TrainedNetwork(model, linear, done, 0, ())


def _step_report(
    report: Report, epochs: int, minutes: float | None
) -> Callable[[TrainingStep], None]:
    """Progress in seconds of the time limit, or else in batches of all epochs."""

    def report_step(step: TrainingStep) -> None:
        losses = "  ".join(f"{name} {value:.1f}" for name, value in step.losses.items())
        within = "" if step.epoch_done else f"  batch {step.batch:,} of {step.batches:,}"
        stage = f"epoch {step.epoch}{within}  {losses}"
        if minutes is not None:
            report(Progress(stage, int(step.seconds), int(60 * minutes)))
        else:
            done = max(0, step.epoch - 1) * step.batches + step.batch
            report(Progress(stage, done, epochs * step.batches))

    return report_step


def _write(
    target: Path,
    outcome: TrainedNetwork,
    spec: Preprocessing,
    pixels: NDArray[np.uint8],
    held_out: int,
    about: dict[str, Any],
    bad: tuple[BadFile, ...],
    found: int,
) -> TrainReport:
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
    mean_psnr = float(ratios.mean())
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
        "validation_psnr_db": round(mean_psnr, 3),
        "baselines_psnr_db": {name: round(value, 3) for name, value in baselines.items()},
        "active_dims": int(statistics([(others, None)], latent_dim).active().sum()),
        **_metric(codec, outcome.linear, pixels, held_out, others, about["seed"]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("latentdb", "tensorflow", "keras", "numpy")},
        },
    }
    config = replace(config, about=about)
    rows = (validation[:_PICTURE_IMAGES], reconstructions[:_PICTURE_IMAGES])
    picture = io.BytesIO()
    contact_sheet([[(image, "") for image in row] for row in rows]).save(picture, "PNG")
    files = codec.files
    del files[CONFIG_FILE]
    files |= {HISTORY_FILE: _history(training.history).encode(), PICTURE_FILE: picture.getvalue()}
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
    files[PAGE_FILE] = page.getvalue()
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
        psnr=mean_psnr,
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
        "pca": float(np.concatenate(ratios).mean()),
        "mean_image": float(psnr(validation, mean[None]).mean()),
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
