"""Files to batches of pixels, ahead of whoever takes them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.cores import core_count
from latentdb.base.errors import NotFoundError
from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing, read_image
from latentdb.images.discover import BadFile, Candidate
from latentdb.ingest import reading
from latentdb.ingest.reading import Batch, ImagePlanner, read_ahead
from tests.conftest import make_images

SPEC = Preprocessing(16, 16, 3)


@pytest.fixture
def empty(tmp_path: Path) -> LatentDB:
    return LatentDB.create(tmp_path / "empty.ldb", dim=4)


def source_of(db: LatentDB, *sources: Path, labels: bool = False) -> ImagePlanner:
    return ImagePlanner(
        db._snapshot(), SPEC, table=None, labels_from_folders=labels, sources=sources
    )


def ids(batch: Batch) -> list[str]:
    return [entry.file.id for entry in batch.entries]


def test_batches_come_in_order_small_ones_first(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FIRST_TASK", 2)
    monkeypatch.setattr(reading, "_TASK", 8)
    monkeypatch.setattr(reading, "BATCH", 20)
    with read_ahead(source_of(empty, images, labels=True), [images]) as batches:
        found = list(batches)
    # 2, 2, 4, 4, 8, 8, then as many tasks of 8 as a batch of 20 takes.
    assert [len(batch.entries) for batch in found] == [2, 2, 4, 4, 8, 8, 16, 16, 16, 4]
    every = [entry for batch in found for entry in batch.entries]
    names = sorted(f"{k}/{n:03d}.png" for k in ("disc", "square") for n in range(40))
    assert [entry.file.id for entry in every] == names
    assert all(entry.metadata == {"label": entry.file.id.split("/")[0]} for entry in every)
    pixels = np.concatenate([batch.pixels for batch in found])
    assert np.array_equal(pixels, np.stack([read_image(images / name, SPEC) for name in names]))


def test_no_more_is_read_than_is_taken_soon(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_FIRST_TASK", 1), ("_TASK", 1), ("BATCH", 2)):
        monkeypatch.setattr(reading, name, value)
    opened: list[str] = []
    real = reading.read_file
    monkeypatch.setattr(reading, "read_file", lambda path: (opened.append(path), real(path))[1])
    with read_ahead(source_of(empty, images), [images]) as batches:
        next(batches)
        before = -1
        while len(opened) != before:  # until it stands still
            before = len(opened)
            time.sleep(0.3)
        assert len(opened) <= core_count() + 2 + 2
        assert len(opened) < 80


def test_leaving_early_ends_the_threads(empty: LatentDB, images: Path) -> None:
    with read_ahead(source_of(empty, images), [images]) as batches:
        next(batches)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("latentdb-read", "latentdb-search")) for name in names)


def test_large_pixels_make_small_batches(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BATCH_BYTES", 3 * 16 * 16 * 3)  # three images
    with read_ahead(source_of(empty, images), [images]) as batches:
        sizes = [len(batch.pixels) for batch in batches]
    assert (max(sizes), sum(sizes)) == (3, 80)


def test_what_fails_while_searching_is_raised_by_who_takes(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(empty, images)
    monkeypatch.setattr(source, "known", lambda found: 1 / 0)
    with read_ahead(source, [images]) as batches, pytest.raises(ZeroDivisionError):
        next(batches)
    with pytest.raises(NotFoundError), read_ahead(source, [images / "gone"]):
        pass


def test_the_first_source_has_an_id(empty: LatentDB, tmp_path: Path) -> None:
    one, two = make_images(tmp_path / "one", 1), make_images(tmp_path / "two", 1)
    source = source_of(empty, one, two, one / "disc" / "000.png", two / "disc" / "000.png")

    def first(name: str, number: int) -> str | None:
        return source._earlier.path(Candidate(name, "", number))

    assert first("disc/000.png", 0) is None
    assert first("disc/000.png", 1) == str(one / "disc/000.png")
    assert first("disc/001.png", 1) is None
    assert first("000.png", 2) is None
    assert first("000.png", 3) == str(one / "disc/000.png")
    # What a search does not meet has no id.
    (one / ".hidden.png").touch()
    (one / "note.txt").touch()
    assert first(".hidden.png", 1) is None
    assert first("note.txt", 1) is None


def test_the_same_folder_twice_gives_its_files_once(empty: LatentDB, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 3)
    for sources in ([folder, folder], [folder / "disc", folder / "disc" / "000.png"]):
        with read_ahead(source_of(empty, *sources), sources) as batches:
            found = list(batches)
        names = [name for batch in found for name in ids(batch)]
        assert len(set(names)) == len(names)
        assert not any(batch.bad for batch in found)
        assert sum(batch.unchanged for batch in found) in (6, 1)


def test_bad_files_lie_beside_good_ones(empty: LatentDB, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    (folder / "disc" / "001.png").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")
    source = source_of(empty, folder)
    found: list[Candidate | BadFile] = [
        Candidate("disc/000.png", str(folder / "disc/000.png"), 0),
        Candidate("disc/001.png", str(folder / "disc/001.png"), 0),
        BadFile("gone", "permission denied"),
        Candidate("pipe.png", str(folder / "pipe.png"), 0),
        Candidate("square/000.png", str(folder / "square/000.png"), 0),
    ]
    batch = source.read(found, source.known(found), threading.Event())
    assert ids(batch) == ["disc/000.png", "square/000.png"]
    assert [Path(bad.path).name for bad in batch.bad] == ["001.png", "gone", "pipe.png"]
    expected = [read_image(folder / name, SPEC) for name in ids(batch)]
    assert np.array_equal(batch.pixels, np.stack(expected))
