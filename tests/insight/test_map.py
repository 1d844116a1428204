"""The map of a store: what was placed stays in place, and the picture shows it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.insight import map as maps
from latentdb.insight.atlas import draw_map, thumbnail_points
from tests.insight.test_layout import clusters


def make(path: Path, count: int = 300) -> LatentDB:
    vectors, group = clusters(count)
    db = LatentDB.create(path, dim=16)
    db.add(
        [str(number) for number in range(count)],
        vectors,
        metadata={"label": [f"g{number}" for number in group], "n": list(range(count))},
    )
    return db


def add_more(db: LatentDB, count: int = 100) -> None:
    vectors, _ = clusters(count, seed=9)
    db.add([f"new{number}" for number in range(count)], vectors)


def test_new_rows_move_no_point(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map()
        assert before.landmarks == len(before.points) == 300
        add_more(db)
        after = db.map()
        assert after.points[:300].tobytes() == before.points.tobytes()
        assert len(after.points) == 400
        assert after.landmarks == 300
        assert after.kept == before.kept
    with LatentDB.open(tmp_path / "a.ldb") as db:
        assert db.map().points.tobytes() == after.points.tobytes()
        assert db.map(renew=True).landmarks == 400


def test_only_landmarks_are_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MAX_LANDMARKS", 120)
    with make(tmp_path / "a.ldb") as db:
        found = db.map()
        assert (found.landmarks, len(found.points)) == (120, 300)


def test_a_selection_has_the_points_of_the_whole(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb") as db:
        whole, part = db.map(), db.map(where="n >= 250")
        assert part.points.tobytes() == whole.points[250:].tobytes()


@pytest.mark.parametrize("kind", ["cut", "changed", "emptied", "of other latents"])
def test_a_damaged_layout_is_made_again(tmp_path: Path, kind: str) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map()
        (file,) = (tmp_path / "a.ldb" / maps.FOLDER).iterdir()
        data = file.read_bytes()
        broken = {
            "cut": data[:-3],
            "changed": data[:-3] + b"xyz",
            "emptied": b"",
            "of other latents": data.replace(db.info().uuid.encode(), b"0" * 32),
        }[kind]
        file.write_bytes(broken)
        assert db.map().points.tobytes() == before.points.tobytes()
        assert file.read_bytes() == data


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with make(tmp_path / "a.ldb", 30) as db:
        os.symlink(tmp_path / "elsewhere", tmp_path / "a.ldb" / maps.FOLDER)
        assert len(db.map().points) == 30
    assert not list((tmp_path / "elsewhere").iterdir())


def test_verify_and_compact_leave_the_layout(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map()
        add_more(db)
        db.compact()
        assert not LatentDB.verify(tmp_path / "a.ldb").problems
        assert db.map().points[:300].tobytes() == before.points.tobytes()


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "b.ldb", dim=2) as db, pytest.raises(NotFoundError):
        db.map()
    with make(tmp_path / "a.ldb", 30) as db:
        with pytest.raises(InvalidInputError, match="no metadata column 'kind'"):
            db.map(color="kind")
        with pytest.raises(InvalidInputError, match="metric 'far' is not known"):
            db.map(metric="far")


def test_the_map_of_a_store_with_images_is_drawn(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        db.map(out=tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size == (1860, 1600)
        assert len(picture.getcolors(1 << 24) or ()) > 20


def test_each_point_has_the_colour_of_its_value() -> None:
    points = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    picture = draw_map(points, np.empty(0, np.int64), [], ["a", "b", "a", None], "label", "")
    pixels = np.asarray(picture)
    colors = [
        tuple(pixels[top, left].tolist())
        for left, top in ((30, 30), (1569, 30), (30, 1569), (1569, 1569))
    ]
    assert colors[0] == colors[2] != colors[1]
    assert colors[3] == (190, 190, 190)


def test_numbers_are_coloured_by_a_ramp() -> None:
    points = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    picture = draw_map(points, np.empty(0, np.int64), [], [*map(float, range(99)), None], "n", "")
    assert len(picture.getcolors(1 << 24) or ()) > 50


def test_thumbnails_leave_the_legend_in_its_place() -> None:
    points = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    images = [np.full((8, 8, 3), 200, np.uint8)] * 3
    nothing = np.empty(0, np.int64)
    plain = draw_map(points, nothing, [], ["a", "b", "a"], "label", "a note")
    with_images = draw_map(points, np.arange(3), images, ["a", "b", "a"], "label", "a note")
    column = (1_600, 0, *plain.size)
    assert np.array_equal(plain.crop(column), with_images.crop(column))
    assert not np.array_equal(plain, with_images)


def test_one_thumbnail_for_each_occupied_cell() -> None:
    points = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    shown = thumbnail_points(points)
    assert 300 < len(shown) < 1_600
    assert (np.diff(shown) > 0).all()
    assert thumbnail_points(np.zeros((5, 2), np.float32)).tolist() == [0]
