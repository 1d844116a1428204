"""Train a model: from image files to a model folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.base.outputs import check_new_folder
from latentdb.base.progress import Progress, Report
from latentdb.base.wording import counted
from latentdb.images.sampling import draw_images
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.earlier_model import EarlierModel
from latentdb.model.outcome import TrainReport, write_model

if TYPE_CHECKING:
    from latentdb.model.presets import TrainedNetwork
    from latentdb.model.vae import TrainingStep

LATENT_DIM = 64
MAX_LATENT_DIM = 4_096
MAX_BYTES = 2 << 30  # pixels held in memory
MIN_IMAGES = 10
ARCHITECTURES = ("conv", "mlp")
PRESETS = ("balanced", "reconstruction", "retrieval", "fast")
MINUTES = 10.0  # of training, where neither minutes nor epochs are given
_EPOCHS = {"conv": 200, "mlp": 100}
_BETAS = {"conv": 0.005, "mlp": 0.3}  # near an autoencoder: a larger one costs detail


def train_model(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    start: str | os.PathLike[str] | None = None,
    arch: str | None = None,
    preset: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    resize: str | None = None,
    background: str | None = None,
    latent_dim: int | None = None,
    beta: float | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int = 10,
    validation: float = 0.1,
    batch: int | None = None,
    seed: int | None = None,
    strict: bool = False,
    deterministic: bool = False,
    report: Report | None = None,
) -> TrainReport:
    """Train a VAE on images and write a model folder.

    The folder holds ``encoder.keras``, ``decoder.keras``, ``model.json``,
    ``history.csv`` and ``pictures.png`` (reconstructions, samples, traversals), and the
    compiled files with the extra ``fast``.  It is synced, and appears complete or not at
    all.  Ctrl-C ends training early with the best weights so far.

    Parameters
    ----------
    sources
        Folders, image files and archives, as `LatentDB.index_images` takes; a random
        sample of their images if they exceed 2 GiB of pixels.
    out
        The folder to write; must not exist, or be empty.
    start
        A model folder to go on from, on these images or others.  Architecture, latent
        size and how images are read are its own; preset, beta and seed are, where they
        are not given.  The new model is never worse on the held-out images.
    arch
        ``"conv"`` (default), which starts at the principal components, or ``"mlp"``.
    preset
        What ``"conv"`` aims at: ``"balanced"`` (default), ``"reconstruction"``,
        ``"retrieval"``, or ``"fast"``, the principal components alone.
    image_size, channels
        Height and width, and 1 or 3; by default derived from the images.
    resize
        ``"stretch"`` (default), ``"crop"`` or ``"pad"``.
    background
        What shows through transparent pixels: ``"white"`` (default), ``"black"``,
        ``"checker"`` or ``"R,G,B"``.
    latent_dim
        Dimensions of z_mean; 64 by default.
    beta
        Weight of the KL loss; by default 0.005 for ``"conv"``, 0.3 for ``"mlp"``.
    epochs, minutes
        Limits; by default 200 epochs in 10 minutes for ``"conv"``, where one of them
        alone has no limit of the other, and 100 epochs for ``"mlp"``.
    patience
        Epochs without progress on the held-out images after which training stops.
    validation
        Share of the images that is held out.
    batch
        Images per gradient step; by default 64 for ``"conv"`` (less below 512
        images), 128 for ``"mlp"`` (32 below 10,000 images).
    seed
        Seeds the split, the weights, the order and the sampling; 0 by default.
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
    ModelError
        If training cannot go on from `start`.
    """
    target = Path(out)
    earlier = None if start is None else EarlierModel.from_folder(start)
    own = {
        "the architecture": arch, "the image size": image_size,
        "the number of channels": channels, "the resize rule": resize,
        "the background": background, "the latent size": latent_dim,
    }  # fmt: skip
    if earlier is not None:
        earlier.check_left_out(own)
        arch, latent_dim = earlier.architecture, earlier.config.latent_dim
        beta = earlier.beta if beta is None else beta
        seed = earlier.seed if seed is None else seed
        if preset is None and arch == "conv":
            preset = earlier.preset
    arch, latent_dim, seed = arch or "conv", _or(latent_dim, LATENT_DIM), _or(seed, 0)
    _check_choices(arch, preset, goes_on=earlier is not None)
    beta = _BETAS[arch] if beta is None else beta
    if arch == "conv":
        preset = preset or PRESETS[0]
    if epochs is None and (minutes is None or arch == "mlp"):
        epochs, minutes = _EPOCHS[arch], MINUTES if arch == "conv" else minutes
    _check_options(epochs, minutes, validation, _or(batch, 1), beta, patience, latent_dim, seed)
    random = np.random.default_rng(seed)
    check_new_folder(target)  # training takes minutes
    sample = draw_images(sources, random, report)
    if earlier is None:
        spec = sample.preprocessing(
            image_size, channels, resize=resize or "stretch", background=background or "white"
        )
    else:
        spec = earlier.config.preprocessing
    most = max(MIN_IMAGES, MAX_BYTES // int(np.prod(spec.shape)))
    pixels, unreadable = sample.read(most, spec, report)
    bad = sample.bad + unreadable
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
        "earlier": earlier,
        "beta": beta,
        "epochs": epochs,
        "minutes": minutes,
        "patience": patience,
        "seed": seed,
        "report": None if report is None else _step_report(report, epochs, minutes),
    }
    if arch == "mlp":
        settings["batch"] = batch or (128 if len(pixels) >= 10_000 else 32)
        outcome = _train_mlp(pixels, held_out, **settings)
    else:
        outcome = presets.train_network(
            pixels[held_out:], pixels[:held_out], preset=preset or PRESETS[0], batch=batch,
            **settings,
        )  # fmt: skip
    about = {
        "architecture": arch,
        **({"preset": preset, "semantic_dims": outcome.semantic_dims} if preset else {}),
        "beta": beta,
        "seed": seed,
        "images": len(pixels) - held_out,
        "validation_images": held_out,
        **({"from": earlier.config.encoder_fingerprint} if earlier is not None else {}),
    }
    return write_model(target, outcome, spec, pixels, held_out, about, tuple(bad), sample.found)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_choices(arch: str, preset: str | None, *, goes_on: bool) -> None:
    if arch not in ARCHITECTURES:
        choices = ", ".join(ARCHITECTURES)
        raise InvalidInputError(f"architecture {arch!r} is unknown: use one of {choices}")
    if preset is not None and preset not in PRESETS:
        raise InvalidInputError(f"preset {preset!r} is unknown: use one of {', '.join(PRESETS)}")
    if preset is not None and arch == "mlp":
        raise InvalidInputError(
            f"preset {preset!r} is not one of the mlp architecture, which has none: use conv"
        )
    if goes_on and preset == "fast":
        raise InvalidInputError(
            "the preset fast trains nothing, so it cannot go on from a model: use another"
        )


def _check_options(
    epochs: int | None,
    minutes: float | None,
    validation: float,
    batch: int,
    beta: float,
    patience: int,
    latent_dim: int,
    seed: int,
) -> None:
    checks = (
        (epochs is None or epochs >= 1, f"{epochs} epochs: give at least 1"),
        (minutes is None or 0 < minutes < 1e6, f"{minutes} minutes: give more than 0"),
        (0 < validation < 1, f"a validation share of {validation}: give one between 0 and 1"),
        (1 <= batch <= 65_536, f"a batch of {batch}: give 1 to 65,536"),
        (0 <= beta < float("inf"), f"a beta of {beta}: give 0 or more"),
        (patience >= 1, f"a patience of {patience}: give at least 1 epoch"),
        (
            1 <= latent_dim <= MAX_LATENT_DIM,
            f"a latent size of {latent_dim}: give 1 to {MAX_LATENT_DIM:,} dimensions",
        ),
        (0 <= seed < 2**31, f"a seed of {seed}: give 0 to {2**31 - 1:,}"),
    )
    for holds, message in checks:
        if not holds:
            raise InvalidInputError(message)


def _train_mlp(
    pixels: NDArray[np.uint8],
    held_out: int,
    *,
    latent_dim: int,
    earlier: EarlierModel | None,
    beta: float,
    seed: int,
    **settings: Any,
) -> TrainedNetwork:
    """The mlp architecture trained, with the same baseline as the convolutional one."""
    from latentdb.model import presets, vae

    training, validation = pixels[held_out:], pixels[:held_out]
    shape = training.shape[1], training.shape[2], training.shape[3]
    model = vae.build_mlp(shape, latent_dim, beta=beta, seed=seed)
    if earlier is not None:
        earlier.restore_mlp(model)
    done = vae.train(
        model, training, validation, seed=seed, trained=earlier is not None, **settings
    )
    linear = presets.closed_form(training, latent_dim, beta=beta, seed=seed)
    return presets.TrainedNetwork(model, linear, done, 0, ())


def _step_report(
    report: Report, epochs: int | None, minutes: float | None
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
            report(Progress(stage, done, (epochs or 1) * step.batches))

    return report_step
