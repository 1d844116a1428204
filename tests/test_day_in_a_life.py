"""A day in the life of a collection: nothing is encoded twice, and no path is a lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB
from latentdb.ingest.report import IndexReport
from tests.conftest import draw_shape, make_images


class Day:
    """A store, and what is known of it after each step."""

    def __init__(self, db: LatentDB) -> None:
        self.db = db
        self.encoded = 0  # images, in all runs
        self.contents: set[bytes] = set()  # of all image files there have been
        self.seen: IndexReport | None = None

    def index(self, *folders: Path, **options: bool) -> IndexReport:
        """Index folders, and check the store."""
        for folder in folders:
            files = [folder] if folder.is_file() else folder.rglob("*.png")
            self.contents |= {file.read_bytes() for file in files}
        self.seen = self.db.index_images(list(folders), **options)  # type: ignore[arg-type]
        self.encoded += self.seen.encoded
        assert not self.seen.failed
        self.check()
        return self.seen

    def check(self) -> None:
        """Every path exists or is reported, and no content was encoded twice."""
        assert self.encoded == len(self.contents)
        assert self.seen is not None
        gone = set() if self.seen.pruned else set(self.seen.missing)
        for row in self.db.rows():
            assert row.path is not None
            assert os.path.exists(row.path) == (row.id not in gone), row
        assert self.db.verify(self.db._open_store().path).problems == ()
        # An image finds itself, and is left out when that is asked for.
        for row in [row for row in self.db.rows() if row.id not in gone][::7]:
            (found,) = self.db.query(row.path, k=1)
            assert found.distance == pytest.approx(0, abs=1e-3)
            others = self.db.query(row.path, k=3, exclude_self=True)
            assert row.id not in {match.id for match in others}


def test_a_day_in_a_life(tmp_path: Path, model: Path) -> None:
    cats, dogs = make_images(tmp_path / "cats", 5), make_images(tmp_path / "more/dogs", 4, seed=3)
    path = tmp_path / "day.ldb"
    with LatentDB.create(path, model=model) as db:
        day = Day(db)

        # Two roots, indexed at once and again in parts.
        assert day.index(cats, labels_from_folders=True).added == 10
        assert day.index(dogs, labels_from_folders=True).added == 8
        assert day.index(cats / "disc", dogs, cats, labels_from_folders=True).unchanged == 18
        labels = {row.id: row.metadata["label"] for row in db.rows()}
        assert {name.split("/")[-2] == label for name, label in labels.items()} == {True}

        # Rename a file and a folder; move a root; touch files.
        (cats / "disc/000.png").rename(cats / "disc/first.png")
        (cats / "square").rename(cats / "boxes")
        assert day.index(cats).renamed == 6
        (tmp_path / "more").rename(tmp_path / "less")
        dogs = tmp_path / "less/dogs"
        assert day.index(dogs).restamped == 8
        for file in dogs.rglob("*.png"):
            os.utime(file, ns=(10**18, 10**18))
        assert (day.index(dogs).restamped, day.index(dogs).restamped) == (8, 0)

        # Change an image, add one and copies of one.
        draw_shape("square", 90).save(cats / "disc/001.png")
        draw_shape("square", 91).save(cats / "boxes/new.png")
        shutil.copy(cats / "disc/002.png", dogs / "copy.png")
        done = day.index(cats, dogs)
        assert (done.updated, done.added, done.encoded) == (1, 2, 2)

        # Delete rows: they stay away, under another name too.
        db.delete(["disc/002.png", "dogs/square/000.png"])
        (dogs / "square/000.png").rename(dogs / "square/again.png")
        assert day.index(cats, dogs).deleted == 2
        assert len(db) == 18

        # Files that are gone are listed, then pruned.
        (cats / "disc/003.png").unlink()
        shutil.rmtree(dogs / "disc")
        assert len(day.index(cats, dogs).missing) == 5
        assert day.index(cats, dogs, prune=True).rows == 13
        db.compact()
        day.check()

        # Retype a column: rows are rewritten, images are not looked at.
        db.update(db.ids(), {"year": 1999})
        db.retype_column("year", "str")
        assert db.ids(where='year == "1999"') == db.ids()
        assert day.index(cats, dogs).unchanged == 13

        # Export, and import elsewhere.
        assert db.export(tmp_path / "day.h5") == 13
        backup = tmp_path / "backup.ldb"
        db.backup(backup)
        LatentDB.import_into(tmp_path / "other.ldb", tmp_path / "day.h5")
        with LatentDB.open(tmp_path / "other.ldb") as other:
            assert sorted(other.ids()) == sorted(db.ids())
            assert np.array_equal(other.vectors(db.ids()), db.vectors(db.ids()))

        # Move everything by hand, and say so; then nothing is read or changed.
        cats.rename(tmp_path / "final")
        assert db.relocate(cats, tmp_path / "final").missing == 0
        done = day.index(tmp_path / "final", dogs)
        assert (done.restamped, done.unchanged, done.notes) == (0, 13, ())

        # Bring back what was deleted: this alone is encoded again.
        done = db.index_images([tmp_path / "final", dogs], restore=True)
        assert done.rows == 15
        assert (done.added, done.encoded) == (2, 1)  # of one of them there is a copy

    with LatentDB.open(backup) as copy:
        assert copy.info().buried == 2
        assert len(copy) == 13
