"""Batches of decoded images, read by threads ahead of the encoder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.cores import core_count
from latentdb.database import LatentDB
from latentdb.images.decode import read_image
from latentdb.ingest import planner, read_ahead
from latentdb.ingest.read_ahead import read_batches
from tests.conftest import make_images
from tests.ingest.conftest import SPEC, ids, planner_of


def test_batches_come_in_order_small_ones_first(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_FIRST_TASK_FILES", 2)
    monkeypatch.setattr(read_ahead, "_TASK_FILES", 8)
    monkeypatch.setattr(read_ahead, "BATCH", 20)
    with read_batches(planner_of(empty, images, labels=True)) as batches:
        found = list(batches)
    # 2, 2, 4, 4, 8, 8, then as many tasks of 8 as a batch of 20 takes.
    assert [len(batch.images) for batch in found] == [2, 2, 4, 4, 8, 8, 16, 16, 16, 4]
    rows = [row for batch in found for row in batch.images]
    names = sorted(f"{k}/{n:03d}.png" for k in ("disc", "square") for n in range(40))
    assert [row.file.id for row in rows] == names
    assert all(row.metadata == {"label": row.file.id.split("/")[0]} for row in rows)
    pixels = np.concatenate([batch.pixels for batch in found])
    assert np.array_equal(pixels, np.stack([read_image(images / name, SPEC) for name in names]))


def test_reading_stays_a_few_batches_ahead(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_FIRST_TASK_FILES", 1), ("_TASK_FILES", 1), ("BATCH", 2)):
        monkeypatch.setattr(read_ahead, name, value)
    opened: list[str] = []
    real = planner.read_file
    monkeypatch.setattr(planner, "read_file", lambda path: (opened.append(path), real(path))[1])
    with read_batches(planner_of(empty, images)) as batches:
        next(batches)
        before = -1
        while len(opened) != before:  # until it stands still
            before = len(opened)
            time.sleep(0.3)
        assert len(opened) <= core_count() + 2 + 2
        assert len(opened) < 80


def test_leaving_the_context_early_ends_the_threads(empty: LatentDB, images: Path) -> None:
    with read_batches(planner_of(empty, images)) as batches:
        next(batches)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(("latentdb-read", "latentdb-search")) for name in names)


def test_large_pixels_make_small_batches(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_BATCH_BYTES", 3 * 16 * 16 * 3)  # three images
    with read_batches(planner_of(empty, images)) as batches:
        sizes = [len(batch.pixels) for batch in batches]
    assert (max(sizes), sum(sizes)) == (3, 80)


def test_an_error_of_the_search_is_raised_to_the_caller(
    empty: LatentDB, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = planner_of(empty, images)
    monkeypatch.setattr(broken, "look_up", lambda candidates: 1 / 0)
    with read_batches(broken) as batches, pytest.raises(ZeroDivisionError):
        next(batches)


def test_a_folder_given_twice_yields_its_files_once(empty: LatentDB, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 3)
    for sources in ([folder, folder], [folder / "disc", folder / "disc" / "000.png"]):
        with read_batches(planner_of(empty, *sources)) as batches:
            found = list(batches)
        names = [name for batch in found for name in ids(batch)]
        assert len(set(names)) == len(names) == (6 if sources[0] == folder else 3)
        assert not any(batch.bad or batch.conflicts for batch in found)
