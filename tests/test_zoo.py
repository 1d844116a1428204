"""Model files of many makes, by the code of scripts/model_zoo: taken exactly, or refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from zoo_parts.honest import NEW, OLD, tf_keras_version  # noqa: E402
from zoo_parts.hostile import HOSTILE  # noqa: E402
from zoo_parts.kinds import Kind, attempt  # noqa: E402

from latentdb.codec import Codec  # noqa: E402
from latentdb.foreign import load_model  # noqa: E402

MADE = [kind for kind in (*NEW, *HOSTILE) if kind.quick]


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.name)
def test_a_model_file_is_taken_exactly_or_refused(kind: Kind, tmp_path: Path) -> None:
    outcome = attempt(kind, tmp_path)
    assert outcome.good, outcome.told


@pytest.mark.skipif(tf_keras_version() is None, reason="tf-keras is not installed")
@pytest.mark.parametrize("kind", OLD, ids=lambda kind: kind.name)
def test_old_formats_of_tf_keras(kind: Kind, tmp_path: Path) -> None:
    outcome = attempt(kind, tmp_path)
    assert outcome.good, outcome.told


def test_a_file_that_tf_keras_wrote() -> None:
    """tests/data/tf_keras_vae.h5: nested, with a Lambda; beside it what tf-keras 2.21 gave."""
    codec = Codec.from_files(ROOT / "tests/data/tf_keras_vae.h5")
    assert codec.card.preprocessing.shape == (8, 8, 1)
    assert codec.card.has_z_log_var
    theirs = np.load(ROOT / "tests/data/tf_keras_vae.npz")
    values = np.random.default_rng(3).random((4, 8, 8, 1)).astype(np.float32)
    latents = np.random.default_rng(4).normal(size=(4, 4)).astype(np.float32)
    z_mean = load_model(codec.files["encoder.keras"], "x")(values)[0]
    images = load_model(codec.files["decoder.keras"], "x")(latents)
    assert np.abs(np.asarray(z_mean) - theirs["z_mean"]).max() < 1e-5
    assert np.abs(np.asarray(images) - theirs["images"]).max() < 1e-5
