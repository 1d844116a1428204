"""A store of a conditional VAE: rows are decoded as their own class, or as another."""

from __future__ import annotations

import io
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.database import LatentDB
from latentdb.explorer.blends import Blend, Part
from latentdb.explorer.views import Views
from latentdb.model.config import ModelOptions
from latentdb.reader import Reader
from tests.cli.running import run, run_error, run_json

OPTIONS = ModelOptions(condition="label", categories=("disc", "square"), pixel_range="0..1")
DISC, SQUARE = "disc/000.png", "square/000.png"
KIND = "label =="


@pytest.fixture(scope="module")
def path(conditional: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose encoder and decoder are conditional; it is only read."""
    folder = tmp_path_factory.mktemp("stores") / "s.ldb"
    files = {name: conditional / f"{name}.keras" for name in ("encoder", "decoder")}
    with LatentDB.create(folder, **files, options=OPTIONS) as db:
        db.index_images(images, labels_from_folders=True)
    return folder


@pytest.fixture
def db(path: Path) -> Reader:
    return Reader.open(path)


def test_rows_are_decoded_as_what_they_are(db: Reader) -> None:
    codec = db.codec
    expected = [
        codec.with_condition(name.split("/")[0]).decode(db.vectors([name]))[0]
        for name in (DISC, SQUARE)
    ]
    assert np.array_equal(db.decode([DISC, SQUARE]), expected)
    assert np.array_equal(db.decode(where='label == "disc"')[0], expected[0])
    assert not np.array_equal(db.with_condition("square").decode(DISC)[0], expected[0])


def test_an_image_as_another_class(db: Reader, tmp_path: Path) -> None:
    other = db.with_condition("square")
    expected = db.codec.with_condition("square").decode(db.vectors([DISC]))
    assert np.array_equal(other.decode([DISC]), expected)
    other.decode_to([DISC], tmp_path / "as.npy")
    assert np.array_equal(np.load(tmp_path / "as.npy"), expected)
    other.decode_to(None, tmp_path / "all.npy")
    whole = db.codec.with_condition("square").decode(db.vectors())
    assert np.array_equal(np.load(tmp_path / "all.npy"), whole)
    db.decode_to(None, tmp_path / "own.npy")
    assert np.array_equal(np.load(tmp_path / "own.npy"), db.decode(db.ids()))
    assert np.array_equal(other.with_condition(None).decode(DISC), db.decode(DISC))
    assert np.array_equal(pickle.loads(pickle.dumps(other)).decode(DISC), expected)


def test_what_is_no_row_needs_a_condition(db: Reader, tmp_path: Path) -> None:
    blend = db.blend([DISC, SQUARE])
    for decode in (
        lambda: db.decode(blend),
        lambda: db.write(blend, tmp_path / "blend.png"),
        lambda: db.sample(2, out=tmp_path / "samples.png"),
        lambda: db.query(np.asarray(Image.new("RGB", (16, 16)))),
    ):
        with pytest.raises(InvalidInputError, match=r"give --condition VALUE.*one of disc, square"):
            decode()
    assert not list(tmp_path.iterdir())
    disc = db.with_condition("disc")
    assert np.array_equal(disc.decode(blend), db.codec.with_condition("disc").decode(blend[None]))
    assert db.position(blend).drift is None  # which has to decode it
    assert disc.position(blend).drift is not None
    disc.sample(2, out=tmp_path / "samples.png")
    disc.traverse(SQUARE, out=tmp_path / "walk.png")
    assert {file.name for file in tmp_path.iterdir()} == {"samples.png", "walk.png"}


def test_the_page_decodes_a_row_as_what_it_is(db: Reader) -> None:
    views = Views(db)
    disc, square = (int(row) for row in db._snapshot().find([DISC, SQUARE]))
    parts = [Part(row, 1.0) for row in (disc, square)]
    both = views.decode([Blend((part,)) for part in parts])
    pixels = np.asarray(Image.open(io.BytesIO(both)))
    expected = db.decode([DISC, SQUARE])
    assert np.array_equal(pixels, np.concatenate(list(expected), axis=1).squeeze())
    assert views.traverse(Blend((parts[0],)), dims="0", reach=2, steps=3)
    ends = (Blend((part,)) for part in parts)
    with pytest.raises(InvalidInputError, match="--condition VALUE"):
        views.decode([Blend(tuple(parts))])
    with pytest.raises(InvalidInputError, match="--condition gives one"):
        views.decode([Blend((parts[0],)), Blend(tuple(parts))])
    with pytest.raises(InvalidInputError, match="--condition VALUE"):
        views.interpolate(*ends, steps=3, method="linear", kind="png")


def test_an_image_file_is_encoded_under_the_condition(db: Reader, images: Path) -> None:
    (found,) = db.with_condition("disc").query(images / DISC, k=1)
    assert (found.id, round(found.distance, 4)) == (DISC, 0)
    (found,) = db.with_condition("square").query(images / DISC, k=1)
    assert round(found.distance, 2) > 0


def test_pictures_without_their_files_are_decoded(path: Path, images: Path, tmp_path: Path) -> None:
    moved = tmp_path / "shapes"
    shutil.copytree(images, moved)
    with LatentDB.open(shutil.copytree(path, tmp_path / "s.ldb")) as db:
        db.index_images(moved, labels_from_folders=True)
        db.relocate(images, moved)
        assert db.measure_errors() == len(db)
        shutil.rmtree(moved)
        with pytest.warns(UserWarning, match="missing or changed"):
            db.sheet(SQUARE, db.query(SQUARE, k=3), tmp_path / "sheet.png")
        db.show(SQUARE, out=tmp_path / "row.png")
        db.outliers(n=2, sheet=tmp_path / "outliers.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 100


def test_what_reads_with_one_condition_writes_nothing(path: Path) -> None:
    with (
        LatentDB.open(path).with_condition("disc") as db,
        pytest.raises(InvalidInputError, match="with_condition is for reading"),
    ):
        db.delete([DISC])


def test_a_site_is_refused(db: Reader, tmp_path: Path) -> None:
    for store in (db, db.with_condition("disc")):
        with pytest.raises(ModelError, match="latentdb serve --condition VALUE"):
            store.export_site(tmp_path / "site")
    assert not list(tmp_path.iterdir())


def test_a_store_without_a_condition_takes_none(store: Path) -> None:
    with Reader.open(store) as db, pytest.raises(InvalidInputError, match="is not conditional"):
        db.with_condition("disc")
    assert "is not conditional" in run_error("decode", store, DISC, "--condition", 3, "--out", "x")


def test_commands(path: Path, conditional: Path, images: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "x.png", tmp_path / "made.ldb"
    pair = (DISC, SQUARE)
    for command in (
        ("decode", path, DISC, "--out", out),
        ("decode", path, "--recipe", f"id:{DISC}", "--out", out),
        ("blend", path, *pair, "--query", 1, "--out", out),
        ("average", path, "--out", out),
        ("interpolate", path, *pair, "--out", out),
        ("sample", path, "-n", 2, "--out", out),
        ("traverse", path, "--out", out),
        ("cluster", path, "-n", 2, "--out", out),
        ("directions", path, "--out", out),
        ("direction", path, "--from", f"{KIND} 'disc'", "--to", f"{KIND} 'square'", "--out", out),
        ("query", path, images / DISC),
    ):
        run(*command, "--condition", "square")
        out.unlink(missing_ok=True)
        if command[:3] != ("decode", path, DISC):
            assert re.search("one of disc, square|--condition gives one", run_error(*command))
        message = run_error(*command, "--condition", "star")
        assert message == (
            "Error: label 'star' is no condition of this model: expected one of disc, square"
        )
    assert "condition label of encoder and decoder: one of disc, square" in run("info", path).stdout
    assert run_json("info", path)["model"]["condition"]["categories"] == ["disc", "square"]
    files = [f"--{name}={conditional / name}.keras" for name in ("encoder", "decoder")]
    index = ("index", made, images / "disc")
    assert "--condition KEY names the metadata" in run_error(*index, *files)
    options = ["--categories", "disc,square", "--pixel-range", "0..1"]
    assert (
        "no metadata 'label'" in run(*index, *files, *options, "--condition=label", code=1).stderr
    )
    assert not made.exists()
    run(*index, *files, *options, "--condition", "label=square")
    run("index", made, images / "square", "--condition", "label=disc")
    with Reader.open(made) as db:
        rows = {row.id: row.metadata["label"] for row in db.rows()}
    assert {label for name, label in rows.items() if name.startswith("square/")} == {"disc"}
    assert list(rows.values()).count("square") == 40
    for wrong, message in (
        ("kind=disc", "that of this store is label"),
        ("=disc", "give KEY, or KEY=VALUE"),
        ("label=", "give KEY, or KEY=VALUE"),
    ):
        assert message in run_error("index", made, images, "--condition", wrong, code=2)
