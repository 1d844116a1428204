"""The model inside a store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import CorruptStoreError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.model.codec import Codec
from tests.cli.running import run, run_json


def test_the_stores_model_is_the_one_it_was_made_with(store: Path, model: Path) -> None:
    with LatentDB.open(store) as db:
        assert db.codec.files == Codec.from_folder(model).files
        assert db.info().model == Codec.from_folder(model).config


@pytest.mark.parametrize("name", ["encoder.keras", "decoder.keras", "model.json"])
def test_a_damaged_model_file_is_named_before_it_is_parsed(store: Path, name: str) -> None:
    path = store / "model" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with LatentDB.open(store) as db:
        with pytest.raises(CorruptStoreError, match=f"{name} is damaged: its checksum is"):
            db.decode("disc/000.png")
        # A query by id does not need the model.
        assert db.query("disc/000.png", k=1)[0].id == "disc/000.png"


def test_a_manifest_of_another_model_is_noticed(store: Path) -> None:
    from latentdb.store import manifest

    content = json.loads((store / "MANIFEST.json").read_text())["manifest"]
    content["model"]["encoder_fingerprint"] = "0" * 16
    changed = manifest._manifest(content)
    (store / "MANIFEST.json").write_bytes(manifest.dump(changed))
    with (
        LatentDB.open(store) as db,
        pytest.raises(CorruptStoreError, match="not the model that the manifest names"),
    ):
        db.decode(np.zeros((1, 4), np.float32))


def without_compiled(store: Path) -> None:
    """Make a store as versions without compiled models left it."""
    from dataclasses import replace

    from latentdb.onnx.compiled import compiled_name
    from latentdb.store import manifest

    now = manifest.read(store)
    assert now.model is not None
    files = tuple(file for file in now.model.files if compiled_name(file.name) is None)
    manifest.commit(store, replace(now, model=replace(now.model, files=files)))
    for path in (store / "model").glob("*.onnx"):
        path.unlink()


def test_a_damaged_compiled_file_is_reported_and_tensorflow_is_used(store: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = store / "model" / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with (
        LatentDB.open(store) as db,
        pytest.warns(RuntimeWarning, match=r"decoder\.onnx is damaged.*tensorflow is used instead"),
    ):
        db.decode("disc/000.png")
    report = LatentDB.verify(store)
    assert [problem.file for problem in report.problems] == ["model/decoder.onnx"]
    report = LatentDB.verify(store, repair=True)
    assert "compiled again" in report.problems[0].repair
    assert LatentDB.verify(store).problems == ()
    with LatentDB.open(store) as db:
        assert set(db.codec.files) & {"encoder.onnx", "decoder.onnx"} == {"encoder.onnx"}
        assert db.decode("disc/000.png").shape == (1, 16, 16, 3)


def test_a_compiled_file_of_another_model_is_found(store: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from latentdb.store.store import Store

    forged = onnx.load(store / "model" / "encoder.onnx")
    forged.metadata_props[0].value = "0" * 16
    with Store.open(store).writer() as writer:
        writer.set_compiled({"encoder.onnx": forged.SerializeToString()})
    problems = LatentDB.verify(store).problems
    assert [problem.what for problem in problems] == [
        "it was compiled from model 0000000000000000, not from this store's"
    ]


def test_an_old_store_is_compiled_by_the_first_writer_that_encodes(
    store: Path, images: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    without_compiled(store)
    with LatentDB.open(store) as db:
        assert not db.info().compiled
        assert db.index_images(images).added == 0  # nothing to encode: tensorflow stays out
        assert not db.info().compiled
    more = tmp_path / "more"
    more.mkdir()
    with Image.open(images / "disc/000.png") as image:  # a copy would not be encoded
        image.rotate(180).save(more / "new.png")
    with LatentDB.open(store) as db:
        assert db.index_images(more).added == 1
        assert db.info().compiled
        expected = db.vectors(["more/new.png"])
    with LatentDB.open(store) as db:
        assert np.allclose(db.codec.encode(_read(db, more / "new.png"))[0], expected, atol=1e-5)
        assert not db.codec.used_tensorflow
        assert db.query(more / "new.png", k=1)[0].distance < 1e-4
        # Replaced files are not named twice.
        assert len({file.name for file in db._snapshot().manifest.model.files}) == 5
    assert LatentDB.verify(store).problems == ()


def _read(db: LatentDB, path: Path) -> np.ndarray:
    from latentdb.images.decode import read_image

    return np.stack([read_image(path, db.codec.config.preprocessing)])


def test_the_precision_of_a_store_is_kept_and_never_mixed(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdb.base.errors import LatentDBError, MissingExtraError, ModelMismatchError
    from latentdb.onnx import runtime

    pytest.importorskip("onnxruntime")
    try:
        runtime.check_precision("bf16")
    except LatentDBError as error:
        with pytest.raises(type(error)):
            LatentDB.create(tmp_path / "no.ldb", model=model, precision="bf16")
        assert not (tmp_path / "no.ldb").exists()
        return
    path = tmp_path / "low.ldb"
    with LatentDB.create(path, model=model, precision="bf16") as db:
        db.index_images(images / "disc")
    with LatentDB.open(path) as db, LatentDB.create(tmp_path / "full.ldb", model=model) as full:
        info = db.info().model
        assert info is not None
        assert info.precision == "bf16"
        full.index_images(images / "disc")
        worst = np.abs(db.vectors(["000.png"]) - full.vectors(["000.png"])).max()
        assert 1e-6 < worst < 0.1
        db.check_precision("bf16")
        db.check_precision(None)
        with pytest.raises(ModelMismatchError, match=r"precision float32 was asked for.* in bf16"):
            db.check_precision("float32")
    monkeypatch.setattr(runtime, "_is_installed", lambda name: name != "openvino")
    with LatentDB.open(path) as db:
        with pytest.raises(MissingExtraError, match="bf16"):
            db.index_images(images / "square")
        with pytest.warns(RuntimeWarning, match="float32 is used here"):
            assert db.query(images / "disc/000.png", k=1)[0].id == "000.png"


def test_an_unknown_precision_makes_no_store(model: Path, tmp_path: Path) -> None:
    from latentdb.base.errors import ModelError

    with pytest.raises(ModelError, match="precision 'fp8' is unknown"):
        LatentDB.create(tmp_path / "no.ldb", model=model, precision="fp8")
    assert not (tmp_path / "no.ldb").exists()


def choosing(model: Path, folder: Path, **about: Any) -> Path:
    """The model, whose training is said to have chosen a metric."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "model.json").read_text())
    config["about"] |= about
    (folder / "model.json").write_text(json.dumps(config))
    return folder


def test_a_store_is_searched_by_the_metric_that_training_chose(
    images: Path, model: Path, tmp_path: Path
) -> None:
    centre = [0.5, -0.25, 0.0, 1.0]
    chosen = choosing(model, tmp_path / "m", metric="centered_cosine", centre=centre)
    path = tmp_path / "s.ldb"
    with LatentDB.create(path, model=chosen) as db:
        assert db.info().default_metric == "centered_cosine"
        db.index_images(images / "disc")
        settings = db._snapshot().manifest.settings
        assert (settings.metric, settings.centre) == ("centered_cosine", tuple(centre))
        vectors = db.vectors(["000.png", "001.png"])
        by_name = db.query("000.png", k=5)
        assert by_name.metric == "centered_cosine"
        assert by_name == db.query("000.png", k=5, metric="centered_cosine")
        centred = vectors - np.array(centre)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        (match,) = (m for m in db.query("000.png", k=40) if m.id == "001.png")
        assert match.distance == pytest.approx(1 - unit[0] @ unit[1], abs=1e-5)
        (many,) = db.query_many(["000.png"], k=5)
        assert many == by_name
        for one, other in zip(
            db.search(vectors), db.search(vectors, metric="centered_cosine"), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert "; by centered_cosine unless --metric is given" in run("info", path).stdout
    assert run_json("query", path, "000.png")["metric"] == "centered_cosine"
    with LatentDB.open(path) as db:
        db.optimize(metric="wasserstein")  # which not every target can be compared by
        assert db.query("000.png").metric == "centered_cosine"
        assert db.optimize(metric="l2").default_metric == "l2"
        assert db.query("000.png").metric == db.query_many(["000.png"])[0].metric == "l2"
        assert db.query("000.png", metric="centered_cosine").metric == "centered_cosine"
    assert "unless --metric" not in run("info", path).stdout


@pytest.mark.parametrize("centre", [None, [0.0] * 3, [0.0, 1.0, 2.0, "x"], "0000"])
def test_a_centre_that_is_none_leaves_l2(centre: Any, model: Path, tmp_path: Path) -> None:
    chosen = choosing(model, tmp_path / "m", metric="centered_cosine", centre=centre)
    with LatentDB.create(tmp_path / "s.ldb", model=chosen) as db:
        assert db.info().default_metric == "l2"


def test_vectors_have_l2_until_optimize_changes_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with LatentDB.create(tmp_path / "s.ldb", dim=3) as db:
        with pytest.raises(InvalidInputError, match="around a centre that this store has not"):
            db.optimize(metric="centered_cosine")
        assert db.info().default_metric == "l2"
        db.add([str(n) for n in range(20)], random.normal(size=(20, 3)))
        assert db.query("3").metric == "l2"
        assert db.optimize(metric="centered_cosine").default_metric == "centered_cosine"
        assert db.query("3").metric == "centered_cosine"
