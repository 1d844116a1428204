"""The map of a store: what was placed stays in place, and the picture shows it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.base.files import checksum
from latentdb.insight import layout
from latentdb.insight import map as maps
from latentdb.insight.atlas import draw_map, thumbnail_points
from latentdb.insight.map_cache import Layout, MapFile, Placed
from tests.insight.test_layout import Floats, clusters


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


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that are placed, call by call; 120 landmarks."""
    counts: list[int] = []

    def place(landmarks: Floats, points: Floats, vectors: Floats) -> Floats:
        counts.append(len(vectors))
        return layout.place(landmarks, points, vectors)

    monkeypatch.setattr(maps, "MAX_LANDMARKS", 120)
    monkeypatch.setattr(maps, "place", place)
    return counts


def map_file(path: Path) -> Path:
    (file,) = (path / maps.FOLDER).iterdir()
    return file


def test_a_row_is_placed_once(tmp_path: Path, placed: list[int]) -> None:
    with make(tmp_path / "a.ldb") as db:
        part = db.map(where="n < 200")
        before = db.map()
        assert before.points[:200].tobytes() == part.points.tobytes()
        add_more(db)
        after = db.map()
        assert after.points[:300].tobytes() == before.points.tobytes()
        assert placed == [200, 100, 100]
    written = map_file(tmp_path / "a.ldb").stat().st_mtime_ns
    with LatentDB.open(tmp_path / "a.ldb") as db:
        assert db.map().points.tobytes() == after.points.tobytes()
        assert placed == [200, 100, 100]
        assert map_file(tmp_path / "a.ldb").stat().st_mtime_ns == written
        assert len(db.map(renew=True).points) == 400
        assert placed == [200, 100, 100, 400]


def test_deleted_rows_lose_their_points_and_no_other_does(
    tmp_path: Path, placed: list[int]
) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map()
        size = map_file(tmp_path / "a.ldb").stat().st_size
        db.delete([str(number) for number in range(0, 300, 2)])
        db.compact()
        add_more(db, 10)
        assert db.map().points[:150].tobytes() == before.points[1::2].tobytes()
        assert placed == [300, 10]
        assert map_file(tmp_path / "a.ldb").stat().st_size < size - 130 * 24


@pytest.mark.parametrize("metric", ["l2", "wasserstein"])
def test_the_number_of_a_row_does_not_stand_for_the_row(
    tmp_path: Path, placed: list[int], metric: str
) -> None:
    one, other = tmp_path / "one.ldb", tmp_path / "other.ldb"
    vectors, _ = clusters(320)
    names = [str(number) for number in range(310)]
    with LatentDB.create(one, dim=16) as db:
        db.add(names[:300], vectors[:300], z_log_var=-vectors[:300])
        db.map(metric=metric)
    shutil.copytree(one, other)
    with LatentDB.open(one) as db:
        db.add(names[300:], vectors[300:310], z_log_var=-vectors[300:310])
        db.map(metric=metric)
    with LatentDB.open(other) as db:
        later = vectors[300:310] if metric == "wasserstein" else vectors[310:]
        db.add(names[300:], later, z_log_var=vectors[300:310])
        own = db.map(metric=metric)
        shutil.copytree(one / maps.FOLDER, other / maps.FOLDER, dirs_exist_ok=True)
        assert db.map(metric=metric).points.tobytes() == own.points.tobytes()
    assert placed == [300, 10, 10, 10]


def test_another_centre_for_queries_moves_no_point(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb") as db:
        db.optimize(metric="centered_cosine")
        before = db.map(metric="centered_cosine")
        vectors, _ = clusters(100, seed=9)
        db.add([f"new{number}" for number in range(100)], vectors + 5)
        db.optimize(metric="centered_cosine")
        after = db.map(metric="centered_cosine")
        assert after.points[:300].tobytes() == before.points.tobytes()
        assert np.isfinite(after.points).all()


def test_the_first_of_two_layouts_stays(tmp_path: Path) -> None:
    file = MapFile(tmp_path / "map" / "l2-0.layout", "x", 16)
    vectors, _ = clusters(50)
    points = layout.lay_out(vectors)
    first, second = Layout(vectors, points, 0.5), Layout(vectors[:40], points[:40], 0.5)
    assert file.keep(first, renew=False) is first
    assert file.keep(second, renew=False).points.tobytes() == points.tobytes()
    assert file.keep(second, renew=True) is second
    with make(tmp_path / "a.ldb", 30) as db:
        snapshot = db._snapshot()
        rows = Placed(np.arange(40), np.zeros(40, np.uint64), points[:40])
        file.keep_points(first, rows, snapshot)  # which was renewed meanwhile
        assert not len((file.read() or first).placed.rows)
        file.keep_points(second, rows, snapshot)  # ten of them of a later version
        assert len((file.read() or first).placed.rows) == 40
    assert [path.name for path in file.path.parent.iterdir()] == ["l2-0.layout"]


def test_a_layout_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map(seed=3)
        path = map_file(tmp_path / "a.ldb")
        vectors = clusters(300)[0]
        data = before.points.tobytes() + vectors.tobytes()
        head = {"format": 1, "made_of": db.info().uuid, "rows": 300, "kept": 0.25}
        line = json.dumps({**head, "checksum": checksum(data)}).encode()
        path.write_bytes(line + b"\n" + data)
        assert db.map(seed=3).kept == 0.25
        assert db.map(seed=3).points.tobytes() == before.points.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("field", ["points", "vectors", "kept", "placed"])
def test_a_forged_layout_is_made_again(tmp_path: Path, field: str, value: float) -> None:
    with make(tmp_path / "a.ldb") as db:
        before = db.map()
        file = MapFile(map_file(tmp_path / "a.ldb"), db.info().uuid, 16)
        made = file.read()
        assert made is not None
        wrong: object = value
        if field == "placed":
            points = np.full_like(made.placed.points, value)
            wrong = replace(made.placed, points=points)
        elif field != "kept":
            wrong = np.full_like(getattr(made, field), value)
        file._write(replace(made, **{field: wrong}))  # type: ignore[arg-type]
        if (field, value) != ("kept", 3e38):
            assert file.read() is None
        assert db.map().points.tobytes() == before.points.tobytes()


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
        file = map_file(tmp_path / "a.ldb")
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


def test_a_map_that_cannot_be_kept_is_still_given(tmp_path: Path) -> None:
    with make(tmp_path / "a.ldb", 30) as db:
        (tmp_path / "a.ldb" / maps.FOLDER).write_bytes(b"")
        assert len(db.map().points) == 30


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
