"""The life of a file: renamed, copied, deleted, brought back, left out, linked, unfinished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError
from latentdb.images import decode
from latentdb.ingest import planner
from tests.conftest import draw_shape, make_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "in", 5)


@pytest.fixture
def db(tmp_path: Path, model: Path, folder: Path) -> Iterator[LatentDB]:
    """A store of ten images."""
    with LatentDB.create(tmp_path / "s.ldb", model=model) as made:
        assert made.index_images(folder, labels_from_folders=True).encoded == 10
        yield made


# --- renamed and copied -------------------------------------------------------------


def test_a_renamed_image_keeps_its_row(db: LatentDB, folder: Path) -> None:
    before = db.vectors(["disc/000.png"])
    (row,) = db.search(before, k=1)[1][0]
    (folder / "disc/000.png").rename(folder / "disc/first.png")
    (folder / "square").rename(folder / "boxes")
    done = db.index_images(folder)
    assert (done.added, done.updated, done.unchanged, done.encoded) == (0, 0, 10, 0)
    assert (done.renamed, done.restamped, done.missing, done.rows) == (6, 6, (), 10)
    assert np.array_equal(db.vectors(["disc/first.png"]), before)
    assert db.ids(np.array([row])) == ["disc/first.png"]
    assert db["disc/first.png"].path == str(folder / "disc/first.png")
    assert "disc/000.png" not in db
    assert db["boxes/003.png"].metadata == {"label": "square"}
    assert db.index_images(folder).renamed == 0


def test_a_renamed_image_gets_new_metadata(db: LatentDB, folder: Path) -> None:
    (folder / "disc/000.png").rename(folder / "square/new.png")
    done = db.index_images(folder, labels_from_folders=True)
    assert (done.updated, done.encoded, done.renamed, done.rows) == (1, 0, 1, 10)
    assert db["square/new.png"].metadata == {"label": "square"}


def test_no_content_is_encoded_twice(db: LatentDB, folder: Path) -> None:
    shutil.copy(folder / "disc/000.png", folder / "copy.png")
    # A chain of renames: 1 -> 2 -> 3, and 4 in the place of 1.
    for old, new in ((2, 3), (1, 2), (4, 1)):
        (folder / f"disc/00{old}.png").replace(folder / f"disc/00{new}.png")
    done = db.index_images(folder)
    assert (done.added, done.updated, done.encoded) == (1, 3, 0)
    assert done.missing == ("disc/004.png",)
    model = db.codec
    for name in ("copy.png", *(f"disc/00{number}.png" for number in range(4))):
        pixels = decode.read_image(str(folder / name), model.config.preprocessing)
        assert np.allclose(db.vectors([name]), model.encode(pixels[None])[0], atol=1e-5)


def test_of_equal_new_files_one_is_encoded(db: LatentDB, folder: Path) -> None:
    with Image.open(folder / "disc/000.png") as image:
        new = image.rotate(90)
    for name in ("b.png", "disc/c.png", "a.png"):
        new.save(folder / name)
    new.rotate(90).save(folder / "d.png")
    done = db.index_images(folder)
    assert (done.added, done.encoded) == (4, 2)
    vectors = db.vectors(["a.png", "b.png", "disc/c.png", "d.png"])
    assert (vectors[:3] == vectors[0]).all()
    assert not np.allclose(vectors[3], vectors[0])
    pixels = decode.read_image(str(folder / "a.png"), db.codec.config.preprocessing)
    assert np.allclose(vectors[0], db.codec.encode(pixels[None])[0], atol=1e-5)
    assert len({row.z_log_var.tobytes() for row in db.get(["a.png", "b.png"])}) == 1  # type: ignore[union-attr]


def test_files_that_are_gone_are_listed_and_pruned(db: LatentDB, folder: Path) -> None:
    (folder / "disc/000.png").unlink()
    shutil.rmtree(folder / "square")
    gone = ("disc/000.png", *(f"square/00{n}.png" for n in range(5)))
    done = db.index_images(folder)
    assert (done.missing, done.pruned, done.rows) == (gone, 0, 10)
    assert db.index_images(folder / "disc").missing == gone[:1]  # only what was looked for
    done = db.index_images(folder, prune=True)
    assert (done.missing, done.pruned, done.rows, len(db)) == (gone, 6, 4, 4)
    assert db.index_images(folder).missing == ()
    # A pruned image may come back.
    draw_shape("disc", 0).save(folder / "disc/000.png")
    assert db.index_images(folder).added == 1


def test_what_cannot_be_looked_at_is_not_gone(db: LatentDB, folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "square").chmod(0)
    try:
        done = db.index_images(folder, prune=True)
    finally:
        (folder / "square").chmod(0o755)
    assert (done.missing, done.rows, len(done.bad)) == ((), 10, 1)


# --- deleted ------------------------------------------------------------------------


def test_deleted_images_do_not_come_back(
    db: LatentDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.delete(where='label == "square"')
    db.delete(["disc/000.png"])
    done = db.index_images(folder)
    assert (done.added, done.unchanged, done.deleted, done.rows) == (0, 4, 6, 4)
    # Nor under another name, unless their content is that of a row.
    (folder / "square").rename(folder / "boxes")
    shutil.copy(folder / "disc/001.png", folder / "copy.png")
    done = db.index_images(folder)
    assert (done.added, done.deleted, done.encoded) == (1, 6, 0)
    # They are not read at every run.
    seen: list[str] = []
    read = decode.read_file
    monkeypatch.setattr(planner, "read_file", lambda path: seen.append(path) or read(path))
    assert db.index_images(folder / "disc").deleted == 1
    assert seen == []
    # Other content under the same id is another image.
    draw_shape("square", 60).save(folder / "disc/000.png")
    assert db.index_images(folder).added == 1


def test_restore_takes_deleted_images_in(db: LatentDB, folder: Path) -> None:
    db.delete(db.ids())
    assert db.info().buried == 10
    assert db.index_images(folder / "disc", restore=True).added == 5
    assert db.info().buried == 5
    assert db.index_images(folder).deleted == 5
    (folder / "square").rename(folder / "boxes")
    assert db.index_images(folder, restore=True).added == 5
    assert db.info().buried == 0
    assert db.index_images(folder).unchanged == 10


def test_one_of_two_copies_can_be_deleted(db: LatentDB, folder: Path) -> None:
    shutil.copy(folder / "disc/000.png", folder / "copy.png")
    db.index_images(folder)
    db.delete(["copy.png"])
    assert db.index_images(folder).deleted == 1
    (folder / "disc/000.png").rename(folder / "disc/first.png")
    done = db.index_images(folder)
    assert (done.renamed, done.deleted, done.rows) == (1, 1, 10)


# --- left out -----------------------------------------------------------------------


def test_include_and_exclude(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    draw_shape("disc", 61).save(folder / "disc/a.jpg")
    (folder / "disc/deep").mkdir()
    draw_shape("disc", 62).save(folder / "disc/deep/b.png")
    cases: tuple[tuple[list[str], list[str], int, int], ...] = (
        (["*.jpg"], [], 1, 5),
        (["disc/*"], ["deep"], 3, 3),
        ([], ["square", "*.jpg"], 3, 2),
        (["00?.png"], ["disc/"], 2, 1),
        (["./disc/*.png"], [], 3, 3),
    )
    for number, (include, exclude, count, excluded) in enumerate(cases):
        with LatentDB.create(tmp_path / f"{number}.ldb", model=model) as db:
            done = db.index_images(folder, include=include, exclude=exclude)
            assert (done.added, done.excluded) == (count, excluded)
            if excluded == 1:
                assert db.index_images(folder / "disc/000.png").added == 1
                done = db.index_images(folder, exclude=["disc"])
                assert done.missing == ()  # it is left out, not gone
            with pytest.raises(InvalidInputError, match=r"no images in .*in, 6 excluded"):
                db.index_images(folder, exclude=["0*", "[ab].*"])
            for wrong in ("", "/abs/*.png"):
                with pytest.raises(InvalidInputError, match="relative to the folder"):
                    db.index_images(folder, exclude=[wrong])
            with pytest.raises(InvalidInputError, match="is one text"):
                db.index_images(folder, include="*.png")


def test_links_out_of_the_root_are_followed_when_asked(
    db: LatentDB, folder: Path, tmp_path: Path
) -> None:
    other = make_images(tmp_path / "other", 1, seed=8)
    (folder / "out").symlink_to(other)
    (folder / "out.png").symlink_to(other / "disc/000.png")
    (folder / "within.png").symlink_to("disc/000.png")
    (folder / "up").symlink_to(tmp_path)
    done = db.index_images(folder)
    assert (done.added, done.encoded) == (1, 0)
    assert sorted(done.links) == [str(folder / name) for name in ("out", "out.png", "up")]
    (folder / "up").unlink()
    done = db.index_images(folder, follow_links=True)
    assert (done.added, done.links) == (3, ())
    # A link that is given is followed; one that leads into the root, too.
    assert db.index_images(folder / "out").unchanged == 2
    (folder / "disc/boxes").symlink_to(folder / "square")
    assert db.index_images(folder / "disc").added == 5
    only = tmp_path / "only"
    only.mkdir()
    (only / "link").symlink_to(other)
    with pytest.raises(InvalidInputError, match="1 link out of it, which --follow-links"):
        db.index_images(only)


# --- changing -----------------------------------------------------------------------


def test_a_file_that_is_deleted_during_the_run_is_not_bad(
    db: LatentDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_shape("disc", 63).save(folder / "disc/new.png")
    read = decode.read_file

    def late(path: str) -> object:
        if path.endswith("new.png"):
            os.unlink(path)
        return read(path)

    monkeypatch.setattr(planner, "read_file", late)
    done = db.index_images(folder)
    assert (done.added, done.bad, done.unchanged) == (0, (), 10)


def test_a_file_that_is_being_written_waits_for_the_next_run(
    db: LatentDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / "disc/000.png").read_bytes()
    file = folder / "disc/new.png"
    file.write_bytes(whole)
    read = os.read

    def slow(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        if file.stat().st_ino == os.fstat(descriptor).st_ino:
            with file.open("ab") as more:
                more.write(b"more")
        return data

    with monkeypatch.context() as patch:
        patch.setattr(decode.os, "read", slow)
        done = db.index_images(folder)
    (bad,) = done.bad
    assert (bad.path, done.added) == (str(file), 0)
    assert bad.reason == "it changed while it was read: is it still being written?"
    assert db.index_images(folder).added == 1
