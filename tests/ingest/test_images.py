"""Images in memory become the rows that their files would, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import ImageError, InvalidInputError, ModelError
from latentdb.ingest import images as module


@pytest.fixture
def empty(model: Path, tmp_path: Path) -> Iterator[LatentDB]:
    with LatentDB.create(tmp_path / "a.ldb", model) as db:
        yield db


def files(images: Path) -> list[Path]:
    return sorted(images.glob("disc/*.png"))[:9]


def test_rows_are_those_of_the_files(empty: LatentDB, store: Path, images: Path) -> None:
    paths = files(images)
    ids = [f"disc/{path.name}" for path in paths]
    opened = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    values: list[Any] = [*paths[:2], *(path.read_bytes() for path in paths[2:4]), *opened[4:]]
    assert empty.add_images(ids, values, metadata={"n": list(range(9))}) == 9
    with LatentDB(store) as indexed:
        np.testing.assert_allclose(empty.vectors(ids), indexed.vectors(ids), atol=1e-5)
        np.testing.assert_allclose(
            np.asarray(empty.log_vars(ids)), np.asarray(indexed.log_vars(ids)), atol=1e-5
        )
    assert empty[ids[0]].path == str(paths[0])
    assert empty[ids[8]].path is None
    assert empty.rows(where="n >= 7").ids == ids[7:]
    matches = empty.query(opened[5], k=1)
    assert matches[0].id == ids[5]
    assert empty.query(Image.open(paths[6]), k=1)[0].id == ids[6]
    assert empty.query(paths[7].read_bytes(), k=1)[0].id == ids[7]


def test_one_array_and_a_generator(empty: LatentDB) -> None:
    pixels = np.random.default_rng(0).random((6, 16, 16, 3))
    empty.add_images([f"a{number}" for number in range(6)], pixels)
    empty.add_images([f"b{number}" for number in range(6)], (image for image in pixels))
    a, b = empty.vectors(where='id.startswith("a")'), empty.vectors(where='id.startswith("b")')
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_ids_that_are_in_the_store(empty: LatentDB) -> None:
    white, black = np.ones((2, 16, 16, 3)), np.zeros((2, 16, 16, 3))
    empty.add_images(["x", "y"], white)
    before = empty.vectors(["x", "y"])
    with pytest.raises(InvalidInputError, match=r"id 'y' \(1 in all\) is in the store"):
        empty.add_images(["z", "y"], black)
    assert len(empty) == 2
    assert empty.add_images(["z", "y"], iter(black), on_conflict="skip") == 1
    np.testing.assert_array_equal(empty.vectors(["y"])[0], before[1])
    assert empty.add_images(["z", "y"], black, on_conflict="replace") == 2
    assert not np.allclose(empty.vectors(["y"])[0], before[1])
    assert len(empty) == 3


@pytest.mark.parametrize(("count", "word"), [(2, "fewer"), (4, "more")])
def test_as_many_images_as_ids(empty: LatentDB, count: int, word: str) -> None:
    with pytest.raises(InvalidInputError, match=f"there are {word} images than the 3 ids"):
        empty.add_images(["a", "b", "c"], np.zeros((count, 16, 16, 3)))


def test_nothing_is_written_for_a_bad_argument(empty: LatentDB, tmp_path: Path) -> None:
    grey = np.zeros((2, 16, 16, 3))
    with pytest.raises(InvalidInputError, match="metadata 'n' has 1 values"):
        empty.add_images(["a", "b"], grey, metadata={"n": [1]})
    with pytest.raises(InvalidInputError, match="image 'b' has floats"):
        empty.add_images(["a", "b"], [grey[0], grey[0] + 7])
    with pytest.raises(ImageError, match=r"gone\.png"):
        empty.add_images(["a"], [tmp_path / "gone.png"])
    assert len(empty) == 0
    empty.add_images(["a"], grey[:1], metadata={"n": [1]})
    with pytest.raises(InvalidInputError, match="metadata 'n' holds int"):
        empty.add_images(["b"], grey[:1], metadata={"n": ["one"]})
    with LatentDB.create(tmp_path / "bare.ldb", dim=2) as bare, pytest.raises(ModelError):
        bare.add_images(["a"], grey[:1])


def test_a_failure_leaves_the_commits_before_it(
    empty: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_ROWS", 4)
    monkeypatch.setattr(module, "BATCH", 2)
    images: list[Any] = [*np.zeros((7, 16, 16, 3)), "gone.png"]
    with pytest.raises(ImageError, match=r"gone\.png"):
        empty.add_images([str(number) for number in range(8)], images)
    assert empty.ids() == ["0", "1", "2", "3"]


def test_the_codec_refuses_what_it_would_misread(empty: LatentDB) -> None:
    with pytest.raises(InvalidInputError, match=r"images are of float64: give uint8"):
        empty.codec.encode(np.zeros((1, 16, 16, 3)))  # type: ignore[arg-type]
