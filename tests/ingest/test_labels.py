"""Labels from folders: the topmost, or below splits the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentdb.ingest.labels import FolderLabels


def labels(folder: Path, *ids: str) -> tuple[list[str | None], str]:
    for name in ids:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    made = FolderLabels([str(folder)])
    return [made.label(name) for name in ids], made.note()


def test_the_topmost_folder_is_the_label(tmp_path: Path) -> None:
    found, note = labels(tmp_path, "cat/young/1.png", "dog/1.png", "1.png")
    assert found == ["cat", "dog", None]
    assert note == "labels from the topmost folder: 2 (cat, dog)"


@pytest.mark.parametrize("split", ["train", "Test", "VALIDATION"])
def test_below_splits_the_nearest_folder_is(tmp_path: Path, split: str) -> None:
    found, note = labels(tmp_path, f"{split}/pets/cat/1.png", "val/dog/1.png", "val/1.png", "1.png")
    assert found == ["cat", "dog", None, None]
    assert note == "labels from the nearest folder, as the topmost are splits: 2 (cat, dog)"


def test_one_folder_that_is_no_split_makes_the_topmost_the_labels(tmp_path: Path) -> None:
    found, _ = labels(tmp_path, "train/cat/1.png", "horse/1.png", ".hidden/x")
    assert found[:2] == ["train", "horse"]


def test_a_run_without_labels_says_so(tmp_path: Path) -> None:
    assert "no image got a label" in labels(tmp_path, "1.png")[1]


def test_a_note_names_a_few_labels(tmp_path: Path) -> None:
    _, note = labels(tmp_path, *(f"{number}/x.png" for number in range(7)))
    assert note == "labels from the topmost folder: 7 (0, 1, 2, 3, 4, ...)"
