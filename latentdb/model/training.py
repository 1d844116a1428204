"""Train a model: from image files to a model folder."""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.cores import core_count
from latentdb.base.errors import AlreadyExistsError, ImageError, InvalidInputError
from latentdb.base.files import write_folder
from latentdb.base.progress import Progress, Report
from latentdb.base.wording import counted
from latentdb.images.decode import Preprocessing, probe, read_image
from latentdb.images.discover import BadFile, ImageFile, discover, require_images
from latentdb.images.render import contact_sheet
from latentdb.kerasfile.runtime import load_keras, save
from latentdb.model.codec import CONFIG_FILE, Codec, fingerprints
from latentdb.model.config import ModelConfig

if TYPE_CHECKING:
    from latentdb.model.vae import VAE, Training, TrainingStep

HISTORY_FILE = "history.csv"
PICTURE_FILE = "reconstructions.png"
LATENT_DIM = 64
MAX_FILES = 1_000_000  # a random sample of a larger collection is used
MAX_BYTES = 2 << 30  # pixels held in memory
MIN_IMAGES = 10
_PROBED_FILES = 100  # whose headers decide the default image size and channels
_SIZE_BOUNDS = (16, 64)  # of the default image size, in pixels
_SIZE_MULTIPLE = 16  # as the four stride-2 convolutions need
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
        ``"epochs"``, ``"minutes"``, ``"converged"`` or ``"interrupted"``.
    losses
        Losses of the best epoch by name.
    psnr
        Mean peak signal-to-noise ratio of the validation images'
        reconstructions, in dB.
    seconds
        Wall time of the training loop.
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
    seconds: float


def psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images, in dB.

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
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str = "stretch",
    latent_dim: int = LATENT_DIM,
    beta: float = 0.3,
    epochs: int = 100,
    minutes: float | None = None,
    patience: int = 5,
    validation: float = 0.1,
    batch: int | None = None,
    seed: int = 0,
    strict: bool = False,
    deterministic: bool = False,
    report: Report | None = None,
) -> TrainReport:
    """Train a VAE on images and write a model folder.

    The folder holds ``encoder.keras``, ``decoder.keras``, ``model.json``,
    ``history.csv`` and ``reconstructions.png`` (validation images above their
    reconstructions), and the compiled files with the extra ``fast``.  It is synced,
    and appears complete or not at all.  Ctrl-C ends training early with the best weights so
    far.

    Parameters
    ----------
    sources
        Folders and image files; a random sample of them if they exceed 2 GiB of
        pixels.
    out
        The folder to write; must not exist, or be empty.
    arch
        ``"conv"`` or ``"mlp"``.
    image_size, channels
        Height and width, and 1 or 3; by default derived from the images.
    resize
        ``"stretch"``, ``"crop"`` or ``"pad"``.
    latent_dim
        Dimensions of z_mean.
    beta
        Weight of the KL loss.
    epochs, minutes, patience
        When to stop: see `latentdb.model.vae.train`.
    validation
        Share of the images that is held out.
    batch
        Images per gradient step; by default 128, or 32 below 10,000 images.
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
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExistsError(f"{target} exists: give --out another path, or remove it first")
    _check_options(epochs, minutes, validation, batch or 1, beta, patience)
    random = np.random.default_rng(seed)
    files, bad, found = _sample(sources, random, report)
    spec = _preprocessing(files, arch, image_size, channels, resize)
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
    if batch is None:
        batch = 128 if len(pixels) >= 10_000 else 32
    held_out = min(len(pixels) - 1, max(1, round(validation * len(pixels))))
    if report is not None:
        report(Progress("loading tensorflow", 0, None))
    load_keras()
    from latentdb.model import vae

    model = vae.build_vae(spec.shape, latent_dim, arch=arch, beta=beta, seed=seed)
    training = vae.train(
        model,
        pixels[held_out:],
        pixels[:held_out],
        epochs=epochs,
        minutes=minutes,
        patience=patience,
        batch=batch,
        seed=seed,
        deterministic=deterministic,
        report=None if report is None else _step_report(report, epochs, minutes),
    )
    about = {
        "architecture": arch,
        "beta": beta,
        "seed": seed,
        "batch": batch,
        "images": len(pixels) - held_out,
        "validation_images": held_out,
    }
    return _write(target, model, training, spec, pixels[:held_out], about, tuple(bad), found)


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
    require_images(sources)
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
    arch: str,
    image_size: tuple[int, int] | None,
    channels: int | None,
    resize: str,
) -> Preprocessing:
    """The given size and channels; by default the median size in bounds, and grey if all are."""
    if image_size is not None and channels is not None:
        return Preprocessing(*image_size, channels, resize=resize)
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
        side = statistics.median(sides or [_SIZE_BOUNDS[1]])
        side = min(max(side, _SIZE_BOUNDS[0] if arch == "conv" else 1), _SIZE_BOUNDS[1])
        if arch == "conv":
            side = _SIZE_MULTIPLE * round(side / _SIZE_MULTIPLE)
        image_size = int(side), int(side)
    return Preprocessing(*image_size, channels, resize=resize)


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


def _step_report(
    report: Report, epochs: int, minutes: float | None
) -> Callable[[TrainingStep], None]:
    """Progress in seconds of the time limit, or else in batches of all epochs."""

    def report_step(step: TrainingStep) -> None:
        losses = "  ".join(f"{name} {value:.1f}" for name, value in step.losses.items())
        stage = f"epoch {step.epoch}  {losses}"
        if minutes is not None:
            report(Progress(stage, int(step.seconds), int(60 * minutes)))
        else:
            done = (step.epoch - 1) * step.batches + step.batch
            report(Progress(stage, done, epochs * step.batches))

    return report_step


def _write(
    target: Path,
    model: VAE,
    training: Training,
    spec: Preprocessing,
    validation: NDArray[np.uint8],
    about: dict[str, Any],
    bad: tuple[BadFile, ...],
    found: int,
) -> TrainReport:
    encoder, decoder = save(model.encoder), save(model.decoder)
    latent_dim = int(model.decoder.input_shape[1])
    hashes = fingerprints(encoder, decoder, spec, str(target))
    config = ModelConfig(spec, latent_dim, *hashes, has_z_log_var=True)
    codec = Codec(config, encoder, decoder).compiled()
    reconstructions = codec.decode(codec.encode(validation)[0])
    mean_psnr = float(psnr(validation, reconstructions).mean())
    losses = next(
        (step.losses for step in training.history if step.epoch == training.best_epoch), {}
    )
    about |= {
        "epochs": len(training.history),
        "best_epoch": training.best_epoch,
        "stopped": training.stopped,
        "training_seconds": round(training.seconds, 1),
        "losses": losses,
        "validation_psnr_db": round(mean_psnr, 3),
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
    files |= {HISTORY_FILE: _history(training).encode(), PICTURE_FILE: picture.getvalue()}
    # The config is the last: no part of a folder is a model.
    write_folder(target, {**files, CONFIG_FILE: config.to_json().encode()})
    return TrainReport(
        path=str(target),
        config=config,
        images=about["images"],
        validation_images=about["validation_images"],
        found=found,
        bad=bad,
        epochs=len(training.history),
        best_epoch=training.best_epoch,
        stopped=training.stopped,
        losses=losses,
        psnr=mean_psnr,
        seconds=training.seconds,
    )


def _history(training: Training) -> str:
    text = io.StringIO()
    names = sorted({name for step in training.history for name in step.losses})
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "seconds", *names])
    for step in training.history:
        values = [f"{step.losses[name]:.6g}" for name in names]
        writer.writerow([step.epoch, f"{step.seconds:.1f}", *values])
    return text.getvalue()
