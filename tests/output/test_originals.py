"""The images of a store are replaced by no output, whatever is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentdb.base.errors import AlreadyExistsError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.output import originals
from latentdb.output.originals import Originals
from tests.conftest import make_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "flat", 3)


@pytest.fixture
def db(tmp_path: Path, folder: Path, model: Path) -> LatentDB:
    made = LatentDB.create(tmp_path / "flat.ldb", model=model)
    made.index_images(folder)
    return made


def test_decoding_into_the_folder_of_the_images_changes_none(db: LatentDB, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for overwrite in (False, True):
        with pytest.raises(AlreadyExistsError, match=r"disc/000\.png is part of the store or the"):
            db.decode_to(None, folder, overwrite=overwrite)
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


@pytest.mark.parametrize("below", ["", "decoded", "linked"])
def test_no_folder_of_indexed_images_is_filled(db: LatentDB, folder: Path, below: str) -> None:
    out = folder / below
    if below == "linked":
        out = folder.parent / below
        out.symlink_to(folder)
    with pytest.raises(InvalidInputError, match="next index would take these for more"):
        db.decode_to(["disc/001.png"], out, format="jpeg")
    assert {path.suffix for path in folder.rglob("*.*")} == {".png"}
    db.decode_to(["disc/001.png"], out, format="jpeg", overwrite=True)
    assert (out / "disc/001.jpg").is_file()
    db.decode_to(["disc/001.png"], folder.parent / "flatter")  # no part of it
    db.write(db.vectors(["disc/001.png"])[0], folder / "one.jpg")  # one picture may lie there


def test_no_call_replaces_an_image(db: LatentDB, folder: Path) -> None:
    path = folder / "disc/001.png"
    before = path.read_bytes()
    matches = db.query("disc/001.png", k=2)
    vector = db.vectors(["disc/001.png"])[0]
    calls = {
        "write": lambda: db.write(vector, path, overwrite=True),
        "sheet": lambda: db.sheet("disc/001.png", matches, path, overwrite=True),
        "picture": lambda: db.decode_to(["disc/001.png"], path, overwrite=True),
        "contact sheet": lambda: db.decode_to(None, sheet=path, overwrite=True),
        "diagnose": lambda: db.diagnose(out=path, overwrite=True),
        "traverse": lambda: db.traverse(out=path, overwrite=True),
        "sample": lambda: db.sample(2, out=path, overwrite=True),
        "cluster": lambda: db.cluster(2, out=path, overwrite=True),
        "map": lambda: db.map(out=path, overwrite=True),
        "show": lambda: db.show("disc/001.png", out=path, overwrite=True),
    }
    for name, call in calls.items():
        with pytest.raises(AlreadyExistsError, match="which no output replaces"):
            call()
        assert path.read_bytes() == before, name


def test_files_of_the_store_are_not_replaced(db: LatentDB, tmp_path: Path) -> None:
    before = (tmp_path / "flat.ldb/MANIFEST.json").read_bytes()
    for out in ("flat.ldb/MANIFEST.npy", "flat.ldb/segments/x.npy", "flat.ldb"):
        with pytest.raises(AlreadyExistsError, match="is part of the store"):
            db.write(
                db.vectors()[0], tmp_path / out if "." in out[9:] else tmp_path / out / "x.png"
            )
    with pytest.raises(AlreadyExistsError, match="is part of the store"):
        db.export(tmp_path / "flat.ldb/rows.csv", overwrite=True)
    with pytest.raises(AlreadyExistsError, match="is part of the store"):
        db.decode_to(None, tmp_path / "flat.ldb/decoded")
    assert (tmp_path / "flat.ldb/MANIFEST.json").read_bytes() == before


def test_an_image_that_is_away_for_now_keeps_its_place(db: LatentDB, folder: Path) -> None:
    (folder / "disc/001.png").unlink()
    with pytest.raises(AlreadyExistsError, match="which no output replaces"):
        db.decode_to(["disc/001.png"], folder)
    assert not (folder / "disc/001.png").exists()
    db.delete(["disc/001.png"])
    db.decode_to(["square/001.png"], folder / "disc/001.png")


def test_paths_are_compared_by_where_they_lead(
    db: LatentDB, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder / "disc")
    same = ["001.png", "../disc/001.png", str(tmp_path / "link/disc/001.png")]
    other = ["01.png", "../001.png", str(tmp_path / "link/001.png"), "001.PNG"]
    for few in (16, 0):
        monkeypatch.setattr(originals, "_FEW", few)
        known = Originals(db._snapshot())
        assert [known.find([path]) for path in same] == same
        assert known.find(other) is None
        assert known.find([*other, *same]) == same[0]
    assert os.listdir(tmp_path / "link") == os.listdir(folder)
