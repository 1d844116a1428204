"""Sheets: queries and their matches, blends and their parents, averages, paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import AlreadyExistsError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.output.sheets import Answer, SheetPainter, Shown
from latentdb.output.tiles import AGREES, DIFFERS
from latentdb.search.results import Matches
from tests.conftest import make_images

SIDE = 128  # of an image of 16 pixels on the sheet of a query
ACROSS, DOWN = SIDE + 2 * 4 + 10, SIDE + 2 * 4 + 6 + 3 * 17 + 10


def cell(pixels: Any, left: int, top: int) -> Any:
    """The image of 16x16 pixels at a corner, made small again."""
    return pixels[top + 4 : top + 4 + SIDE : 8, left + 4 : left + 4 + SIDE : 8]


def test_a_sheet_shows_query_reconstruction_and_matches(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        matches = db.query("disc/003.png", k=12)
        db.sheet("disc/003.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/003.png")[0]
        originals = [np.asarray(Image.open(match.path or "")) for match in matches]
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(cell(pixels, 16, 16), originals[0])
    assert np.array_equal(cell(pixels, 16, 16 + DOWN), rebuilt)
    left = 16 + ACROSS + 20
    for number, original in enumerate(originals):
        row, column = divmod(number, 5)
        corner = (left + column * ACROSS, 16 + row * DOWN)
        assert np.array_equal(cell(pixels, *corner), original)
        agrees = matches[number].metadata["label"] == "disc"
        frame = tuple(pixels[corner[1], corner[0]].tolist())
        assert frame == (AGREES if agrees else DIFFERS)


def test_a_sheet_draws_photos_as_they_are_up_to_256_pixels(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wide = Image.linear_gradient("L").resize((900, 300)).convert("RGB")
    wide.save(folder / "猫 é.png")
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        matches = db.query(folder / "猫 é.png", k=1)
        db.sheet(folder / "猫 é.png", matches, tmp_path / "sheet.png")
        db.sheet(None, matches, tmp_path / "like.png", like=["猫 é.png"])
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture).astype(int)
    top = 16 + 4 + (256 - 85) // 2
    shown = np.asarray(wide.resize((256, 85), Image.Resampling.BOX), int)
    assert np.abs(pixels[top : top + 85, 20 : 20 + 256] - shown).max() < 12
    assert (tmp_path / "like.png").is_file()


def test_a_sheet_draws_a_missing_image_from_its_latent(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        (folder / "disc/001.png").unlink()
        matches = db.query("disc/001.png", k=1)
        db.sheet("disc/001.png", matches, tmp_path / "sheet.png")
        rebuilt = db.decode("disc/001.png")[0]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert np.array_equal(cell(np.asarray(picture), 16, 16), rebuilt)


PAIR = ("disc/000.png", "square/001.png")
NEXT = 20  # between two groups of tiles, besides the gap between tiles


def read(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def original(db: LatentDB, name: str) -> Any:
    return read(Path(db[name].path or ""))


def test_a_blend_stands_beside_its_parents(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        blend = db.blend(PAIR, weights=[2, 1])
        db.blend_sheet(PAIR, blend, tmp_path / "a.png", weights=[2, 1])
        matches = db.query(blend, k=6)
        db.blend_sheet(PAIR, blend, tmp_path / "b.png", matches=matches)
        parents, child = [original(db, name) for name in PAIR], db.decode(blend)[0]
        found = [original(db, match.id) for match in matches]
    alone = read(tmp_path / "a.png")
    for number, parent in enumerate(parents):
        assert np.array_equal(cell(alone, 16 + number * ACROSS, 16), parent)
    assert np.array_equal(cell(alone, 16 + 2 * ACROSS + NEXT, 16), child)
    with_matches = read(tmp_path / "b.png")  # in two rows: the three stand in two columns
    assert np.array_equal(cell(with_matches, 16, 16), parents[0])
    assert np.array_equal(cell(with_matches, 16 + ACROSS, 16), parents[1])
    assert np.array_equal(cell(with_matches, 16, 16 + DOWN), child)
    left = 16 + 2 * ACROSS + NEXT
    assert np.array_equal(cell(with_matches, left, 16), found[0])
    assert np.array_equal(cell(with_matches, left, 16 + DOWN), found[5])


def test_a_path_runs_between_its_originals(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        path = db.interpolate(*PAIR, steps=12)
        db.path_sheet(*PAIR, path, tmp_path / "path.png")
        ends, steps = [original(db, name) for name in PAIR], db.decode(path)
    pixels = read(tmp_path / "path.png")
    left = 16 + ACROSS + NEXT
    assert np.array_equal(cell(pixels, 16, 16), ends[0])
    for number, step in enumerate(steps):  # twelve in two rows of six
        row, column = divmod(number, 6)
        assert np.array_equal(cell(pixels, left + column * ACROSS, 16 + row * DOWN), step)
    assert np.array_equal(cell(pixels, left + 6 * ACROSS + NEXT, 16 + DOWN), ends[1])


def test_an_average_stands_beside_rows_that_it_is_of(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        where = 'label == "square"'
        mean = db.average(where=where)
        db.average_sheet(mean, tmp_path / "mean.png", where=where)
        ids = db.ids(where=where)
        first, last, average = original(db, ids[0]), original(db, ids[-1]), db.decode(mean.vector)
    pixels = read(tmp_path / "mean.png")
    down = SIDE + 2 * 4 + 6 + 2 * 17 + 10
    left = 16 + ACROSS + NEXT
    assert np.array_equal(cell(pixels, 16, 16), average[0])
    assert np.array_equal(cell(pixels, left, 16), first)
    assert np.array_equal(cell(pixels, left + 4 * ACROSS, 16 + down), last)


def test_many_queries_stand_ten_to_a_sheet(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        ids = db.ids()[:12]
        (tmp_path / "t.txt").write_text("\n".join(ids))
        answers = db.query_file(tmp_path / "t.txt", k=3)
        written = db.sheet_file(tmp_path / "t.txt", answers, tmp_path / "all.png")
        assert written == (str(tmp_path / "all-1.png"), str(tmp_path / "all-2.png"))
        pixels = read(tmp_path / "all-2.png")
        for row, name in enumerate(ids[10:]):
            top, left = 16 + row * DOWN, 16 + 2 * ACROSS + NEXT
            assert np.array_equal(cell(pixels, 16, top), original(db, name))
            assert np.array_equal(cell(pixels, left, top), original(db, name))  # the nearest
            second = answers[10 + row][1][1].id
            assert np.array_equal(cell(pixels, left + ACROSS, top), original(db, second))
        with pytest.raises(AlreadyExistsError, match=r"all-1\.png exists"):
            db.sheet_file(tmp_path / "t.txt", answers, tmp_path / "all.png")
        (tmp_path / "t.txt").write_text(ids[0])
        with pytest.raises(InvalidInputError, match="has 1 target now, for 12 answers"):
            db.sheet_file(tmp_path / "t.txt", answers, tmp_path / "b.png")


def test_a_vector_has_no_original(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        vector = db.blend(PAIR)
        matches = db.query(vector, k=1)
        db.sheet(vector, matches, tmp_path / "a.png")
        child, found = db.decode(vector)[0], original(db, matches[0].id)
    pixels = read(tmp_path / "a.png")
    assert np.array_equal(cell(pixels, 16, 16), child)
    assert np.array_equal(cell(pixels, 16 + ACROSS + NEXT, 16), found)


def test_contact_sheets_compare_images_with_their_originals(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder)
        ids, images = db.ids(), db.decode(db.ids())
        originals = [original(db, name) for name in ids]
        (folder / ids[1]).unlink()
        db.decode_to(None, sheet=tmp_path / "all.png", compare=True)
        db.decode_to([str(folder / ids[0]), ids[2]], sheet=tmp_path / "two.png", compare=True)
        with pytest.raises(InvalidInputError, match="compare is of contact sheets: give sheet"):
            db.decode_to(ids, tmp_path / "out", compare=True)
    factor, width = 6, 6 * (16 + 1 + 16)
    for name, shown in (("all.png", [0, 1, 2, 3]), ("two.png", [0, 2])):
        pixels = read(tmp_path / name)
        columns = 2 if name == "all.png" else 1
        columns = (pixels.shape[1] - 4) // (width + 4)
        for place, number in enumerate(shown):
            row, column = divmod(place, columns)
            left = 4 + column * (width + 4)
            top = 4 + row * (96 + 28 + 4)
            pair = pixels[top : top + 96 : factor, left : left + width : factor]
            assert np.array_equal(pair[:, 17:], images[number])
            expected = originals[number] if number != 1 else np.full_like(images[0], 235)
            assert np.array_equal(pair[:, :16], expected)


def test_a_sheet_has_at_most_2_gib_of_pixels(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        found: Any = Matches("l2", True, 0, (None,) * 99_998, 1.0)  # type: ignore[arg-type]
        (target,) = db._resolve(db._snapshot(), ["disc/000.png"])
        query = [Shown(target)], Answer(found, db.vectors(["disc/000.png"]), [None])
        with pytest.raises(InvalidInputError, match="100,000 images of 256x256"):
            SheetPainter(db.codec).draw_queries([query], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_sheet_never_draws_another_image_for_a_row(
    model: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = make_images(tmp_path / "in", 3)
    with LatentDB.create(tmp_path / "a.ldb", model=model) as db:
        db.index_images(folder, labels_from_folders=True)
        matches = db.query("disc/000.png", k=6)
        db.sheet("disc/000.png", matches, tmp_path / "whole.png")
        db.sheet("disc/000.png", matches, tmp_path / "touched.png")
        assert [one for one in recwarn if "originals" in str(one.message)] == []
        # One file is touched, one is gone, and another image lies at the path of a third.
        (folder / "disc/001.png").touch()
        (folder / "disc/002.png").unlink()
        (folder / "square/000.png").replace(folder / "square/001.png")
        rebuilt = dict(zip(db.ids(), db.decode(db.ids()), strict=True))
        with pytest.warns(UserWarning, match="3 of 7 originals are missing or changed"):
            db.sheet("disc/000.png", matches, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as picture:
            pixels = np.asarray(picture)
        left = 16 + ACROSS + 20
        lost = ("disc/002.png", "square/000.png", "square/001.png")
        for number, match in enumerate(matches):
            row, column = divmod(number, 5)
            drawn = cell(pixels, left + column * ACROSS, 16 + row * DOWN)
            assert np.array_equal(drawn, rebuilt[match.id]) == (match.id in lost)
        shown = db.show("square/001.png", out=tmp_path / "row.png")
        assert shown.file_exists
        with pytest.warns(UserWarning, match=r"of 6 originals are missing"):
            db.average_sheet(db.average(), tmp_path / "mean.png")
