"""The model inside a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import CorruptStoreError
from latentdb.database import LatentDB
from latentdb.model.codec import Codec


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
        expected = db.vectors(["disc/000.png"])
    more = tmp_path / "more"
    more.mkdir()
    (more / "new.png").write_bytes((images / "disc/000.png").read_bytes())
    with LatentDB.open(store) as db:
        assert db.index_images(more).added == 1
        assert db.info().compiled
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
