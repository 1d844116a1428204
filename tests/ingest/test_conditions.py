"""Images are encoded under the condition in their metadata, and again where that changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError
from latentdb.database import LatentDB
from latentdb.images.decode import read_image
from latentdb.model.config import ModelOptions
from tests.conftest import draw_shape, make_images
from tests.ingest.test_archives import tar_of

CLASSES = ("disc", "square")
OPTIONS = ModelOptions(condition="label", categories=CLASSES, pixel_range="0..1")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return make_images(tmp_path / "shapes", 3)


@pytest.fixture
def db(conditional: Path, tmp_path: Path) -> LatentDB:
    files = {name: conditional / f"{name}.keras" for name in ("encoder", "decoder")}
    return LatentDB.create(tmp_path / "s.ldb", **files, options=OPTIONS)


def latent(db: LatentDB, path: Path, label: str) -> np.ndarray:  # type: ignore[type-arg]
    pixels = read_image(path, db.codec.config.preprocessing)
    return db.codec.with_condition(label).encode(pixels[None])[0][0]


def test_labels_of_folders_are_the_condition(db: LatentDB, shapes: Path) -> None:
    db.index_images(shapes, labels_from_folders=True)
    for name in ("disc/000.png", "square/001.png"):
        own = latent(db, shapes / name, name.split("/")[0])
        assert np.allclose(db.vectors([name])[0], own, atol=1e-6)
        other = latent(db, shapes / name, "square" if name[0] == "d" else "disc")
        assert not np.allclose(own, other, atol=1e-2)


def test_a_changed_label_is_encoded_again(db: LatentDB, shapes: Path) -> None:
    db.index_images(shapes, labels_from_folders=True)
    assert db.index_images(shapes, labels_from_folders=True).unchanged == 6
    done = db.index_images(shapes, metadata={"id": ["disc/000.png"], "label": ["square"]})
    assert (done.updated, done.encoded, done.unchanged) == (1, 1, 5)
    own = latent(db, shapes / "disc/000.png", "square")
    assert np.allclose(db.vectors(["disc/000.png"])[0], own, atol=1e-6)
    # Moved to the folder of another class, its content is that of its row.
    shutil.move(shapes / "disc" / "001.png", shapes / "square" / "101.png")
    db.index_images(shapes, labels_from_folders=True)
    assert "disc/001.png" not in db
    own = latent(db, shapes / "square/101.png", "square")
    assert np.allclose(db.vectors(["square/101.png"])[0], own, atol=1e-6)


def test_copies_of_one_image_have_their_own_classes(db: LatentDB, shapes: Path) -> None:
    shutil.copy(shapes / "disc" / "000.png", shapes / "square" / "900.png")
    db.index_images(shapes, labels_from_folders=True)
    names = ["disc/000.png", "square/900.png"]
    for name, found in zip(names, db.vectors(names), strict=True):
        own = latent(db, shapes / "disc/000.png", name.split("/")[0])
        assert np.allclose(found, own, atol=1e-6)


def test_one_condition_for_all_images_of_a_run(db: LatentDB, shapes: Path) -> None:
    db.index_images(shapes, condition="square", labels_from_folders=True)
    assert {row.metadata["label"] for row in db.rows()} == {"square"}
    own = latent(db, shapes / "disc/000.png", "square")
    assert np.allclose(db.vectors(["disc/000.png"])[0], own, atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"'star' is no condition.*one of disc, square"):
        db.index_images(shapes, condition="star")


def test_images_without_an_accepted_condition_are_bad(db: LatentDB, shapes: Path) -> None:
    with pytest.raises(InvalidInputError, match="no metadata 'label': give it by --metadata FILE"):
        db.index_images(shapes)
    (shapes / "star").mkdir()
    draw_shape("disc", 99).save(shapes / "star" / "000.png")
    draw_shape("disc", 98).save(shapes / "top.png")
    done = db.index_images(shapes, labels_from_folders=True)
    assert done.added == 6
    reasons = {Path(bad.path).name: bad.reason for bad in done.bad}
    assert "no 'label' in the metadata" in reasons["top.png"]
    assert (
        "'star' is no condition of this model: expected one of disc, square" in reasons["000.png"]
    )


def test_members_of_archives(db: LatentDB, tmp_path: Path) -> None:
    pictures = {f"{kind}/{n}.png": draw_shape(kind, n) for n in range(2) for kind in CLASSES}
    folder = tmp_path / "pictures"
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    archive = tmp_path / "all.tar"
    tar_of(archive, {name: (folder / name).read_bytes() for name in pictures})
    db.index_images(archive, labels_from_folders=True)
    for name in pictures:
        own = latent(db, folder / name, name.split("/")[0])
        assert np.allclose(db.vectors([name])[0], own, atol=1e-6)
    db.index_images(archive, condition="disc")
    own = latent(db, folder / "square/0.png", "disc")
    assert np.allclose(db.vectors(["square/0.png"])[0], own, atol=1e-6)


def test_images_in_memory(db: LatentDB, shapes: Path) -> None:
    image = np.asarray(draw_shape("disc", 5))
    db.add_images(["a", "b"], [image, image], metadata={"label": ["disc", "square"]})
    first, second = db.vectors(["a", "b"])
    assert not np.allclose(first, second, atol=1e-2)
    with pytest.raises(InvalidInputError, match="no 'label' in the metadata"):
        db.add_images(["c"], [image])


def test_a_condition_cannot_be_edited(db: LatentDB, conditional: Path, tmp_path: Path) -> None:
    image = np.asarray(draw_shape("disc", 5))
    db.add_images(["a"], [image], metadata={"label": ["disc"]})
    for edit in (
        lambda: db.update(["a"], {"label": "square"}),
        lambda: db.rename_column("label", "kind"),
        lambda: db.drop_column("label"),
    ):
        with pytest.raises(InvalidInputError, match="is the condition of this store's model"):
            edit()
    files = {"encoder": conditional / "plain.keras", "decoder": conditional / "decoder.keras"}
    with LatentDB.create(tmp_path / "d.ldb", **files, options=OPTIONS) as decoded:
        decoded.add_images(["a"], [image], metadata={"label": ["disc"]})
        before = decoded.decode(["a"])
        decoded.update(["a"], {"label": "square"})  # no latent depends on it
        assert not np.array_equal(decoded.decode(["a"]), before)
