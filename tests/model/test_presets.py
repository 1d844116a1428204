"""Presets: what they train, that nothing is below the closed form, and how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from latentdb.model.outcome import psnr
from tests.conftest import draw_shape
from tests.model.test_pca import correlated

SHAPE = (16, 16, 3)


def rebuilt(vae: Any, images: np.ndarray) -> np.ndarray:
    values = np.asarray(vae.decoder(vae.encoder(images.astype(np.float32) / 255)[0]))
    return np.rint(255 * values).astype(np.uint8)


def test_no_training_is_below_its_start() -> None:
    from latentdb.model import presets

    images = correlated(120, SHAPE)
    done = presets.train_network(images[20:], images[:20], latent_dim=4, epochs=3)
    before, after = (
        psnr(images[:20], rebuilt(vae, images[:20])).mean() for vae in (done.linear, done.vae)
    )
    assert after > before - 0.01  # in 8 bits
    assert [step.epoch for step in done.training.history] == [0, 1, 2, 3]
    assert done.training.history[done.training.best_epoch].losses["val_psnr"] == pytest.approx(
        max(step.losses["val_psnr"] for step in done.training.history)
    )


def test_time_that_is_over_leaves_the_closed_form() -> None:
    from latentdb.model import presets

    images = correlated(60, SHAPE)
    done = presets.train_network(images[10:], images[:10], latent_dim=4, minutes=1e-9)
    assert done.training.stopped == "minutes"
    assert np.array_equal(rebuilt(done.vae, images), rebuilt(done.linear, images))
    fast = presets.train_network(images[10:], images[:10], latent_dim=4, preset="fast")
    assert (fast.training.stopped, fast.training.history) == ("closed form", ())
    assert len(fast.vae.encoder.layers) < 8


def test_the_learning_rate_follows_the_clock() -> None:
    from latentdb.model import presets

    ticks = iter(np.arange(0, 1e6, 0.5))
    images = correlated(60, SHAPE)
    done = presets.train_network(
        images[10:], images[:10], latent_dim=4, minutes=1, clock=lambda: float(next(ticks))
    )
    assert done.training.stopped == "minutes"
    assert done.training.seconds == pytest.approx(60, abs=5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": 1}, "the images are grey"),
        ({"images": 1999}, "they take at least 2,000 images"),
        ({"minutes": 1.0}, r"they take at least 1\.5 minutes"),
        ({"latent_dim": 3}, "3 dimensions are too few"),
    ],
)
def test_semantic_dimensions_take_colours_images_and_time(
    changes: dict[str, Any], reason: str
) -> None:
    from latentdb.model.presets import _obstacle

    enough = {"channels": 3, "images": 2000, "minutes": 1.5, "latent_dim": 64}
    assert _obstacle("balanced", **enough) == ""
    assert _obstacle("reconstruction", **enough | changes) == ""
    assert _obstacle("balanced", **enough | changes) == reason.replace("\\", "")


def test_semantic_dimensions_learn_views_and_ctrl_c_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from latentdb.model import presets, stages
    from latentdb.model.vae import TrainingStep

    monkeypatch.setattr(presets, "_SEMANTIC_IMAGES", 10)
    monkeypatch.setattr(presets, "_LEARNT", 1.0)
    monkeypatch.setattr(stages, "_WARM_UP_STEPS", 5)
    images = np.stack([np.asarray(draw_shape("disc", number)) for number in range(80)])

    def train(report: Callable[[TrainingStep], None] | None) -> presets.TrainedNetwork:
        return presets.train_network(
            images[16:], images[:16], latent_dim=16, epochs=50, report=report
        )

    done = train(None)
    contrast = [step.losses.get("val_contrastive_loss") for step in done.training.history]
    assert done.semantic_dims == 4
    assert contrast[0] is not None
    assert min(value for value in contrast if value is not None) < contrast[0]
    assert contrast[-1] is None  # of reconstruction alone

    def interrupt(step: TrainingStep) -> None:
        if step.epoch == 5 and not step.epoch_done:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(presets, "_LEARNT", 0.1)
    stopped = train(interrupt)
    assert stopped.training.stopped == "interrupted"
    assert stopped.training.history[-1].epoch == 5
    assert stopped.vae is stopped.linear
    assert stopped.notes[0].startswith("the semantic dimensions had no time to learn")

    # Its decoder is fitted to what was learnt; where that is below PCA, it is the closed form.
    monkeypatch.setattr(presets, "_LEARNT", 1.0)
    kept = train(interrupt)
    assert kept.training.stopped == "interrupted"
    assert (kept.vae is kept.linear) == (kept.semantic_dims == 0)
    before, after = (
        psnr(images[:16], rebuilt(vae, images[:16])).mean() for vae in (kept.linear, kept.vae)
    )
    assert after > before - 0.01
