"""Training that goes on from a model: settings, layers, and that it is never worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.model.earlier_model import EarlierModel
from latentdb.model.outcome import TrainReport
from latentdb.model.training import train_model
from tests.conftest import make_images


def prints(done: TrainReport) -> tuple[str, str | None]:
    return done.config.encoder_fingerprint, done.config.decoder_fingerprint


def test_more_epochs_make_it_better_with_its_own_settings(
    images: Path, trained: TrainReport, tmp_path: Path
) -> None:
    done = train_model([images], tmp_path / "m", start=trained.path, epochs=4, batch=16)
    assert done.psnr > trained.psnr
    assert done.config.preprocessing == trained.config.preprocessing
    about, before = done.config.about, trained.config.about
    for name in ("architecture", "beta", "seed", "images"):
        assert about[name] == before[name]
    assert about["from"] == trained.config.encoder_fingerprint
    first = (tmp_path / "m" / "history.csv").read_text().splitlines()[1]
    assert first.startswith("0,")


def test_what_does_not_get_better_stays_as_it_was(
    images: Path, trained: TrainReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdb.model import stages

    monkeypatch.setattr(stages, "_annealed", lambda share: 1e3)  # it only wrecks the weights
    done = train_model([images], tmp_path / "m", start=trained.path, epochs=1)
    assert prints(done) == prints(trained)
    assert done.notes[-1] == ("nothing got better: the model is the one that training went on from")
    assert done.best_epoch == 0


def test_the_mlp_goes_on_too(images: Path, tmp_path: Path) -> None:
    made = train_model([images], tmp_path / "m", arch="mlp", latent_dim=3, epochs=2)
    done = train_model([images], tmp_path / "n", start=made.path, epochs=3)
    assert done.config.about["architecture"] == "mlp"
    assert done.losses["val_loss"] < made.losses["val_loss"]


def test_a_linear_model_grows_convolutions(images: Path, tmp_path: Path) -> None:
    fast = train_model([images], tmp_path / "fast", latent_dim=4, preset="fast")
    done = train_model([images], tmp_path / "m", start=fast.path, epochs=4, batch=16)
    assert done.config.about["preset"] == "reconstruction"
    assert done.psnr > fast.psnr
    assert len(EarlierModel.from_folder(done.path).layers) > len(
        EarlierModel.from_folder(fast.path).layers
    )
    same = train_model([images], tmp_path / "n", start=fast.path, minutes=1e-9)
    assert prints(same) == prints(fast)


def test_semantic_dimensions_go_on_or_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentdb.model import presets, stages

    monkeypatch.setattr(presets, "_SEMANTIC_IMAGES", 10)
    monkeypatch.setattr(presets, "_LEARNT", 1.0)
    monkeypatch.setattr(stages, "_WARM_UP_STEPS", 5)
    images = make_images(tmp_path / "images", 40)
    made = train_model([images], tmp_path / "m", latent_dim=16, epochs=16)
    assert made.config.about["semantic_dims"] == 4

    def measured(done: TrainReport) -> tuple[float, float]:
        lines = (Path(done.path) / "history.csv").read_text().splitlines()
        rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
        losses = [float(row["val_contrastive_loss"]) for row in rows if row["val_contrastive_loss"]]
        return done.psnr, -min(losses, default=0.0)

    on = train_model([images], tmp_path / "n", start=made.path, epochs=16)
    assert on.config.about["preset"] == "balanced"
    assert on.psnr >= made.psnr - 0.01  # in 8 bits
    if prints(on) != prints(made):
        assert measured(on)[1] >= measured(made)[1]
    monkeypatch.setattr(presets, "_SEMANTIC_IMAGES", 1000)
    kept = train_model([images], tmp_path / "o", start=made.path, epochs=4)
    assert (
        kept.notes[0] == "the semantic dimensions stay as they are: they take at least 1,000 images"
    )
    assert kept.config.about["semantic_dims"] == 4
    before, after = (EarlierModel.from_folder(done.path).layers for done in (made, kept))
    for name in before:
        if name.startswith("trunk") and name != "trunk_mean":
            for one, other in zip(before[name], after[name], strict=True):
                np.testing.assert_array_equal(one, other)


def test_features_that_moved_add_what_they_added(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentdb.model import fitting
    from latentdb.model.network import ConvNetwork, Design
    from latentdb.model.pca import fit_pca
    from tests.model.test_pca import correlated

    monkeypatch.setattr(fitting, "_RIDGE", 1e-6)
    images = correlated(60, (16, 16, 3))
    design = Design((16, 16, 3), 6, semantic_dims=2)
    network = ConvNetwork(design, fit_pca(images, 6), beta=0.1, seed=0)
    random = np.random.default_rng(0)
    mean = network.layers["trunk_mean"]
    mean.set_weights([random.normal(0, 0.1, w.shape).astype("f4") for w in mean.get_weights()])
    before = fitting.sample_means(network, images)
    trunk = network.layers["trunk2"]
    trunk.set_weights(
        [w + random.normal(0, 0.05, w.shape).astype("f4") for w in trunk.get_weights()]
    )
    moved = fitting.sample_means(network, images)
    fitting.fit_trunk_mean(network, images, before)
    after = fitting.sample_means(network, images)
    assert np.abs(moved - before)[:, :4].max() > 0.05
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=0.01)


def test_models_and_settings_that_do_not_fit_are_refused(
    images: Path, trained: TrainReport, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    settings: tuple[tuple[str, str, Any], ...] = (
        ("architecture", "arch", "conv"),
        ("latent size", "latent_dim", 4),
        ("number of channels", "channels", 3),
        ("resize rule", "resize", "crop"),
    )
    for noun, name, value in settings:
        with pytest.raises(InvalidInputError, match=f"the {noun} is that of the model which"):
            train_model([images], out, start=trained.path, **{name: value})
    with pytest.raises(InvalidInputError, match="the preset fast trains nothing"):
        train_model([images], out, start=trained.path, preset="fast")
    changed = Path(shutil.copytree(trained.path, tmp_path / "changed"))
    config = json.loads((changed / "model.json").read_text())
    config["about"]["architecture"] = "given"
    (changed / "model.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="it is no model that latentdb train wrote; train a new"):
        train_model([images], out, start=changed)
    config["about"] |= {"architecture": "conv", "semantic_dims": 2}
    (changed / "model.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its network is that of another version of latentdb"):
        train_model([images], out, start=changed)
    assert not out.exists()
