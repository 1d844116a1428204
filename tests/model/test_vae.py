"""The VAE: names, losses, reproducibility, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb.base.errors import InvalidInputError


def pixels(count: int, size: int = 16, channels: int = 1) -> NDArray[np.uint8]:
    """Bright bars on black, at random positions."""
    random = np.random.default_rng(0)
    images = np.zeros((count, size, size, channels), np.uint8)
    for image, column in zip(images, random.integers(0, size - 3, count), strict=True):
        image[:, column : column + 3] = 220
    return images


def test_the_classic_names_and_shapes() -> None:
    from latentdb.model import vae

    built = vae.build_mlp((7, 9, 1), 5)
    assert [layer.name for layer in built.encoder.layers[:1]] == ["encoder_input"]
    assert [output.shape for output in built.encoder.outputs] == [(None, 5)] * 3
    z_mean, z_log_var, z = built.encoder.output_names
    assert (z_mean, z_log_var, z) == ("z_mean", "z_log_var", "z")
    assert built.decoder.inputs[0].name == "z_sampling"
    images = np.random.default_rng(0).random((2, 7, 9, 1), np.float32)
    rebuilt = built(images)
    assert rebuilt.shape == (2, 7, 9, 1)
    assert 0 <= float(np.min(rebuilt)) <= float(np.max(rebuilt)) <= 1


def test_sampling_draws_from_the_posterior() -> None:
    from latentdb.model import vae

    mean = np.full((20_000, 2), 3.0, np.float32)
    log_var = np.full((20_000, 2), np.log(0.25), np.float32)
    drawn = np.asarray(vae.Sampling(seed=1)([mean, log_var]))
    assert drawn.mean() == pytest.approx(3.0, abs=0.02)
    assert drawn.std() == pytest.approx(0.5, abs=0.02)
    again = np.asarray(vae.Sampling(seed=1)([mean, log_var]))
    assert np.array_equal(drawn, again)


def test_the_losses_are_those_of_the_formulas() -> None:
    from latentdb.model import vae

    built = vae.build_mlp((16, 16, 1), 3, beta=0.5)
    images = pixels(8).astype(np.float32) / 255
    z_mean, z_log_var = (np.asarray(part) for part in built.encoder(images)[:2])
    total, reconstruction, kl = (float(part) for part in built.losses(images, training=False))
    expected = -0.5 * (1 + z_log_var - z_mean**2 - np.exp(z_log_var)).sum(axis=1).mean()
    assert kl == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(reconstruction + 0.5 * kl, rel=1e-6)


def test_training_is_reproducible_and_learns() -> None:
    from latentdb.model import vae

    images = pixels(120)
    runs = []
    for _ in range(2):
        built = vae.build_mlp((16, 16, 1), 2, seed=3)
        runs.append(vae.train(built, images[20:], images[:20], epochs=3, batch=20, seed=3))
    first, second = runs
    # Not equal to the last bit: sums in float32 depend on the alignment of a tensor.
    for one, other in zip(first.history, second.history, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
    differently = vae.build_mlp((16, 16, 1), 2, seed=4)
    other_seed = vae.train(differently, images[20:], images[:20], epochs=1, batch=20, seed=4)
    assert other_seed.history[0].losses != pytest.approx(first.history[0].losses, rel=1e-3)
    assert first.history[-1].losses["val_loss"] < first.history[0].losses["val_loss"]
    assert set(first.history[0].losses) == {
        prefix + name for prefix in ("", "val_") for name in vae.LOSSES
    }
    assert (first.stopped, first.best_epoch) == ("epochs", 3)


def test_it_stops_when_validation_stops_improving_with_the_best_weights() -> None:
    from latentdb.model import vae

    images = pixels(60)
    built = vae.build_mlp((16, 16, 1), 2)
    # A rate this high wanders off, so an early epoch stays the best.
    done = vae.train(
        built, images[10:], images[:10], epochs=50, batch=10, patience=2, learning_rate=0.05
    )
    losses = [step.losses["val_loss"] for step in done.history]
    assert done.stopped == "converged"
    assert done.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 2


def test_minutes_end_it() -> None:
    from latentdb.model import vae

    images = pixels(60)
    built = vae.build_mlp((16, 16, 1), 2)
    done = vae.train(built, images[10:], images[:10], epochs=10_000, minutes=0.02, patience=10_000)
    assert done.stopped == "minutes"
    assert len(done.history) < 10_000


def test_ctrl_c_ends_it_with_weights_and_leaves_the_handler_as_it_was() -> None:
    from latentdb.model import vae

    images = pixels(60)
    built = vae.build_mlp((16, 16, 1), 2)
    before = signal.getsignal(signal.SIGINT)

    def report(step: vae.TrainingStep) -> None:
        if (step.epoch, step.batch, step.epoch_done) == (3, 1, False):
            os.kill(os.getpid(), signal.SIGINT)

    done = vae.train(built, images[10:], images[:10], epochs=1000, batch=10, report=report)
    assert done.stopped == "interrupted"
    assert len(done.history) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread() -> None:
    from latentdb.model import vae

    images = pixels(30)
    built = vae.build_mlp((16, 16, 1), 2)
    done: list[vae.Training] = []
    thread = threading.Thread(
        target=lambda: done.append(vae.train(built, images[10:], images[:10], epochs=1))
    )
    thread.start()
    thread.join()
    assert done[0].stopped == "epochs"


def test_what_cannot_be_built_is_refused() -> None:
    from latentdb.model import vae

    with pytest.raises(InvalidInputError, match="latent dim 0"):
        vae.build_mlp((16, 16, 3), 0)


def test_training_that_only_harms_leaves_the_start() -> None:
    from latentdb.model.vae import build_mlp, train

    vae = build_mlp((8, 8, 1), 2)
    before = vae.get_weights()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 8, 1), np.uint8)
    done = train(vae, images[8:], images[:8], epochs=2, learning_rate=100.0, trained=True)
    assert done.best_epoch == 0
    for one, other in zip(vae.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
