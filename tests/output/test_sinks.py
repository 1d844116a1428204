"""Any number of latents to files: folders, .npy files, contact sheets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import (
    AlreadyExistsError,
    InvalidInputError,
    ModelError,
    NotFoundError,
    StoreError,
)
from latentdb.base.progress import Progress
from latentdb.database import LatentDB
from latentdb.images import jpeg
from latentdb.images.render import contact_sheet, encode_pixels
from latentdb.model.codec import Codec
from latentdb.output import sinks
from latentdb.output.sinks import FolderSink, NpySink, SheetSink, decode_all, read_manifest

NAMES = [
    "../../etc/x.png", "/abs.png", "a/b.png", "a_b.jpg", "...", "ok", "ä/" * 200 + "ü.png",
    "a/../b", "..", "a.png", "A.png", "a.jpg", "a.png/x.png", "manifest.csv/x.png",
    "caf\u00e9", "cafe\u0301", "x\n\x1b[31m.png", "a\\b", "name. /x", "v1.5", "e" * 900,
    "f" * 900, "z/" * 5000 + "end.png",
]  # fmt: skip


def test_all_rows_become_one_file_each(store: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with LatentDB.open(store) as db:
        written = db.decode_to(None, tmp_path / "out", report=seen.append)
        expected = db.decode(db.ids())
        ids = db.ids()
    assert [os.path.relpath(path, tmp_path / "out") for path in written] == ids
    for path, pixels in zip(written, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert [(file.id, file.file) for file in written.files] == list(zip(ids, written, strict=True))
    assert read_manifest(tmp_path / "out/manifest.csv") == {name: name for name in ids}
    assert [(at.stage, at.done, at.total) for at in seen] == [("decoding", 80, 80)]


def test_rows_of_an_expression_become_one_array(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "BATCH", 7)  # the last batch is not a whole one
    with LatentDB.open(store) as db:
        out = tmp_path / "new" / "discs.npy"
        assert list(db.decode_to(None, out, where='label == "disc"')) == [str(out)]
        array = np.load(out, mmap_mode="r")
        assert array.dtype == np.uint8
        assert np.array_equal(array, db.decode(db.ids(where='label == "disc"')))
        db.decode_to(["disc/003.png"], out, format="npy", overwrite=True)
        assert np.array_equal(np.load(out), db.decode("disc/003.png"))
        db.decode_to(None, out, where='label == "none"', overwrite=True)
        assert np.load(out).shape == (0, 16, 16, 3)
    assert os.listdir(out.parent) == ["discs.npy"]


@pytest.mark.parametrize(
    ("format", "ending", "limit"), [("jpeg", ".jpg", 12), ("webp", ".webp", 40)]
)
def test_pictures_may_be_of_another_format(
    store: Path, tmp_path: Path, format: str, ending: str, limit: int
) -> None:
    names = ["disc/000.png", "square/001.png"]
    with LatentDB.open(store) as db:
        written = db.decode_to(names, tmp_path, format=format)
        expected = db.decode(names)
    assert [Path(path).name for path in written] == [f"000{ending}", f"001{ending}"]
    for path, pixels in zip(written, expected, strict=True):
        with Image.open(path) as image:
            assert image.format == format.upper()
            difference = np.abs(np.asarray(image.convert("RGB"), int) - pixels)
        assert (difference.mean() < 6, difference.max() <= limit) == (True, True)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_same_with_and_without_simplejpeg(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, channels), np.uint8)
    fast = encode_pixels(pixels, "jpeg")
    monkeypatch.setattr(jpeg, "encode", lambda *_: None)
    slow = encode_pixels(pixels, "jpeg")
    one, other = (np.asarray(Image.open(io.BytesIO(data)), int) for data in (fast, slow))
    assert np.abs(one - other).max() <= 1


def test_there_are_one_or_several_contact_sheets(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "BATCH", 7)
    with LatentDB.open(store) as db:
        assert list(db.decode_to(None, sheet=tmp_path / "all.png")) == [str(tmp_path / "all.png")]
        ids, images = db.ids(), db.decode(db.ids())
        monkeypatch.setattr(sinks, "_LINES", 3)
        several = db.decode_to(None, sheet=tmp_path / "page.png", out=tmp_path / "x.npy")
    assert [Path(path).name for path in several] == [
        "x.npy", "page-1.png", "page-2.png", "page-3.png",
    ]  # fmt: skip
    width = 5  # of a page of 30
    for number, page in enumerate(several[1:]):
        cells = list(zip(images, ids, strict=True))[30 * number : 30 * number + 30]
        rows = [cells[at : at + width] for at in range(0, len(cells), width)]
        assert np.array_equal(np.asarray(Image.open(page)), np.asarray(contact_sheet(rows)))
    with Image.open(tmp_path / "all.png") as image:
        assert image.width == 4 + 10 * 100


def test_a_sheet_of_large_images_holds_few(model: Path, tmp_path: Path) -> None:
    config = Codec.from_folder(model).config
    small = SheetSink(tmp_path / "a.png", 120, config)
    assert (small._cells, len(small._paths)) == (120, 1)
    large = replace(config, preprocessing=replace(config.preprocessing, height=4000, width=4000))
    assert SheetSink(tmp_path / "a.png", 3, large)._cells == 1
    assert sinks.batch_size(large) == 1
    assert sinks.batch_size(config) == 256


def write_files(folder: FolderSink, names: list[str]) -> list[str]:
    images = np.zeros((len(names), 4, 4, 3), np.uint8)
    with folder.open():
        for task in folder.write(names, images):
            task()
    return folder.written


def test_no_name_leads_out_of_a_folder(tmp_path: Path) -> None:
    written = write_files(FolderSink(tmp_path / "out", "png", NAMES), NAMES)
    assert len(set(written)) == len(NAMES)
    for path in written:
        assert (tmp_path / "out") in Path(path).resolve().parents
        assert Path(path).is_file()
    assert os.listdir(tmp_path) == ["out"]
    names = {
        os.path.relpath(path, tmp_path / "out"): name
        for path, name in zip(written, NAMES, strict=True)
    }
    assert read_manifest(tmp_path / "out/manifest.csv") == names


def test_a_manifest_lists_the_files_of_earlier_runs_too(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        db.decode_to(["disc/000.png"], tmp_path / "out")
        db.decode_to(["disc/001.png"], tmp_path / "out")
        assert len(read_manifest(tmp_path / "out/manifest.csv") or ()) == 2
        for content in ("mine", "id,file,more\n", "id,file\na\n"):
            (tmp_path / "out/manifest.csv").write_text(content)
            with pytest.raises(AlreadyExistsError, match=r"manifest\.csv exists"):
                db.decode_to(["disc/002.png"], tmp_path / "out")
            assert (tmp_path / "out/manifest.csv").read_text() == content
        db.decode_to(["disc/002.png"], tmp_path / "out", overwrite=True)
    assert read_manifest(tmp_path / "out/manifest.csv") == {"disc/002.png": "disc/002.png"}


def test_no_output_replaces_a_file_unasked(store: Path, tmp_path: Path) -> None:
    outs: dict[str, dict[str, Any]] = {
        "out/disc/001.png": {"out": tmp_path / "out"},
        "a.npy": {"out": tmp_path / "a.npy"},
        "a.png": {"sheet": tmp_path / "a.png"},
    }
    with LatentDB.open(store) as db:
        for name, where in outs.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"mine")
            with pytest.raises(AlreadyExistsError, match=f"{name} exists"):
                db.decode_to(["disc/000.png", "disc/001.png"], **where)
            assert (tmp_path / name).read_bytes() == b"mine"
            assert not (tmp_path / "out/disc/000.png").exists()
        for name, where in outs.items():
            db.decode_to(["disc/000.png", "disc/001.png"], overwrite=True, **where)
            assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "x.png"}, "x.png is one picture: give a folder"),
        ({"out": "x.xyz"}, "cannot write '.xyz' files"),
        ({"out": "folder", "format": "npy"}, "format npy needs one file ending in .npy"),
        ({"out": "x.npy", "format": "png"}, "format npy needs one file ending in .npy"),
        ({"out": "x", "format": "gif"}, "format 'gif' is unknown: use one of png, jpeg"),
        ({"format": "jpeg", "sheet": "x.png"}, "format 'jpeg' needs an output path"),
        ({"sheet": "x.txt"}, "cannot write '.txt' files"),
        ({}, "nothing to write: give out, sheet, or both"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with LatentDB.open(store) as db, pytest.raises(InvalidInputError, match=message):
        db.decode_to(None, **options)
    assert sorted(os.listdir(tmp_path)) == before


def test_targets_and_an_expression_are_not_mixed(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        with pytest.raises(InvalidInputError, match="give targets or an expression"):
            db.decode_to(["disc/000.png"], tmp_path, where='label == "disc"')
        with pytest.raises(NotFoundError, match=r"neither an id nor a file: 'disc/999.png'"):
            db.decode_to(["disc/000.png", "disc/999.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_fails_half_way_leaves_no_half_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "BATCH", 7)
    decode = Codec.decode
    left = 3

    def failing(self: Codec, latents: Any, metadata: Any = None) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ModelError("it broke")
        return decode(self, latents, metadata)

    (tmp_path / "x.npy").write_bytes(b"old")
    with LatentDB.open(store) as db:
        monkeypatch.setattr(Codec, "decode", failing)
        with pytest.raises(ModelError, match="it broke"):
            db.decode_to(None, tmp_path / "x.npy", overwrite=True)
        left = 3
        with pytest.raises(ModelError, match="it broke"):
            db.decode_to(None, tmp_path / "out")
    assert (tmp_path / "x.npy").read_bytes() == b"old"
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.suffix == ".png" and not path.name.startswith(".") for path in files)
    for path in files:
        Image.open(path).load()


def test_a_path_that_cannot_be_written_is_reported(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out" / "disc" / "000.png").mkdir(parents=True)
    with LatentDB.open(store) as db:
        for out in ("file/x.npy", "file/folder/", "out"):
            with pytest.raises(StoreError, match="cannot be written"):
                db.decode_to(None, os.path.join(tmp_path, out))
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


MEMORY = """
import resource, sys
import numpy as np
from latentdb.model.codec import Codec
from latentdb.output.sinks import NpySink, decode_all

class Fast(Codec):
    def decode(self, latents, metadata=None):
        return np.zeros((len(latents), *self.config.preprocessing.shape), np.uint8)

codec = Fast.from_folder(sys.argv[1])
def run(count, out):
    given = ((["a"] * 256, np.zeros((256, 4), "f4"), None) for _ in range(count))
    decode_all(codec, given, 256 * count, [NpySink(out, 256 * count, codec.config)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
before = run(1, sys.argv[2] + ".npy")
print((run(1000, sys.argv[2]) - before) * unit, 1000 * 256 * 16 * 16 * 3)
"""


def test_memory_does_not_grow_with_the_array(model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(model), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, size = map(int, done.stdout.split())
    assert size > 190e6
    assert grown < 20e6


def test_arrays_are_written_in_order(model: Path, tmp_path: Path) -> None:
    codec = Codec.from_folder(model)
    latents = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    given = [(["a"] * 4, latents[:4], None), (["b"] * 5, latents[4:], None)]
    sink = NpySink(tmp_path / "x.npy", 9, codec.config)
    assert list(decode_all(codec, given, 9, [sink])) == [str(tmp_path / "x.npy")]
    assert np.array_equal(np.load(tmp_path / "x.npy"), codec.decode(latents))
