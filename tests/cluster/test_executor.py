"""Runs whose images are encoded by workers: the rows are those of a local run."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.cluster import worker
from latentdb.cluster.executor import ARCHIVE_ROWS
from latentdb.database import LatentDB
from latentdb.exchange.tables import read_table
from latentdb.ingest.ingest import index_images
from latentdb.ingest.report import IndexReport
from latentdb.store import plan as plans
from latentdb.store.writer import GRACE_SECONDS
from tests.cluster.conftest import CutOffError, LocalPool, index_on, make_archives, rows_of
from tests.conftest import draw_shape, make_images


def locally(db: LatentDB, *sources: Path, **how: object) -> IndexReport:
    with db._writing(None) as writer:
        return index_images(writer, db.codec, sources, **how)  # type: ignore[arg-type]


def counts(report: IndexReport) -> dict[str, object]:
    left_out = ("seconds", "notes", "unmatched")
    counted = {key: value for key, value in vars(report).items() if key not in left_out}
    return counted | {"unmatched": (report.unmatched.rows, report.unmatched.images)}


def path_of(db: LatentDB) -> Path:
    return db._snapshot().folder


def test_rows_and_report_are_those_of_a_local_run(
    tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 20)
    (folder / "disc" / "bad.png").write_bytes(b"no image")
    (folder / "square" / "empty.png").touch()
    shutil.copy(folder / "disc" / "001.png", folder / "square" / "copy.png")
    table = tmp_path / "days.csv"
    table.write_text("id,day,size,stray\ndisc/001.png,2020-01-31,1.5,a\nsquare/002.png,,2,b\n")
    pool = LocalPool(path_of(db))
    how = {"labels_from_folders": True, "table": read_table(table, None, {})}
    first = index_on(db, pool, folder, **how)
    alone = locally(local, folder, **how)
    assert (first.encoded, alone.encoded) == (41, 40)  # the two copies were in different tasks
    assert counts(replace(first, encoded=40)) == counts(alone)
    assert rows_of(db) == rows_of(local)
    assert len(db) == 41
    assert len(pool.done) == 6
    assert first.notes[-1] == "here encoded 41 images"
    assert plans.read(path_of(db)) is None
    report = LatentDB.verify(path_of(db))
    assert (report.rows, report.orphans, report.problems) == (41, 0, ())

    # Later, with images that are new, changed, renamed, moved, deleted and copied.
    make_images(folder / "more", 4, seed=5)
    draw_shape("disc", 99).save(folder / "disc" / "003.png")
    os.rename(folder / "disc" / "004.png", folder / "disc" / "renamed.png")
    shutil.copy(folder / "disc" / "005.png", folder / "more" / "copy.png")
    for each in (db, local):
        each.delete(["square/006.png"])
    again = LocalPool(path_of(db))
    second = index_on(db, again, folder, **how)
    assert counts(second) == counts(locally(local, folder, **how))
    assert (second.renamed, second.updated, second.deleted) == (1, 1, 1)
    assert sorted(rows_of(db)) == sorted(rows_of(local))
    assert len(again.done) == 2
    third = LocalPool(path_of(db))
    assert index_on(db, third, folder, prune=True).added == 0
    assert third.done == []


def test_a_worker_learns_the_contents_of_all_rows_once_in_a_plan(
    tmp_path: Path, db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_images(tmp_path / "in", 16)
    made: list[tuple[str, int]] = []
    init = worker._TaskPlanner.__init__

    def counted(planner: worker._TaskPlanner, *given: Any) -> None:
        init(planner, *given)
        made.append(planner.run)

    monkeypatch.setattr(worker._TaskPlanner, "__init__", counted)
    pool = LocalPool(path_of(db), 3)
    with pytest.raises(CutOffError):
        index_on(db, pool, folder)
    assert len(made) == 1
    again = LocalPool(path_of(db))
    again.worker = pool.worker  # and anew in a run that resumes the plan
    index_on(db, again, folder)
    assert [epoch for _, epoch in made] == [1, 2]
    assert made[0][0] == made[1][0]


def test_no_plan_is_written_where_there_is_no_task(
    tmp_path: Path, db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_images(tmp_path / "in", 3)
    monkeypatch.setattr(plans, "_write", lambda *_: pytest.fail("a plan was written"))
    pool = LocalPool(path_of(db))
    assert index_on(db, pool, folder).added == 6
    assert pool.done == []
    assert not (path_of(db) / "plan").exists()


def test_strict_ends_at_a_bad_file_and_the_plan_is_gone_on_with(
    tmp_path: Path, db: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 16)
    (folder / "square" / "002.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"002\.png"):
        index_on(db, LocalPool(path_of(db)), folder, strict=True)
    (folder / "square" / "002.png").unlink()
    pool = LocalPool(path_of(db))
    assert index_on(db, pool, folder, strict=True).added == 31
    assert pool.done == [1, 0]  # the others were finished


def test_archives_are_tasks_and_ids_and_types_are_as_in_one_run(
    tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 6)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, (kind, level) in enumerate((("disc", "1"), ("square", '"low"'), ("disc", "0.5"))):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for image in sorted((folder / kind).iterdir()):
                name = f"{number if number < 2 else 0}-{image.name}"
                tar.add(image, name)
                note = tmp_path / "note.json"
                note.write_text(f'{{"level": {level}, "shard": {number}}}')
                tar.add(note, name.replace(".png", ".json"))
    (tmp_path / "in" / "loose.tar").write_bytes(b"no archive")
    sources = (shards, tmp_path / "in" / "loose.tar", folder)
    pool = LocalPool(path_of(db))
    report = index_on(db, pool, *sources)
    expected = locally(local, *sources)
    assert counts(report) == counts(expected)
    assert len(report.conflicts) == 6
    assert len(report.bad) == 1
    assert rows_of(db) == rows_of(local)
    assert len(db) == 24
    assert [note for note in report.notes if "level" in note] == [
        note for note in expected.notes if "level" in note
    ]
    # Two tasks of files, four of archives, one of them again with the types of the first.
    assert pool.done == [1, 0, 3, 2, 1, 0, 1]
    assert LatentDB.verify(path_of(db)).problems == ()
    with pytest.raises(InvalidInputError, match="without --ray"):
        index_on(db, pool, *sources, labels_from_folders=True)


def test_arrays_tables_and_shards_are_tasks(tmp_path: Path, db: LatentDB, local: LatentDB) -> None:
    archives = make_archives(tmp_path)
    with pytest.raises(CutOffError):
        index_on(db, LocalPool(path_of(db), 2), *archives)
    pool = LocalPool(path_of(db))
    report = index_on(db, pool, *archives)
    assert report.added == locally(local, *archives).added == 36
    assert pool.done[:2] == [1, 0]  # of the plan that was cut off; then all are looked at again
    assert rows_of(db) == rows_of(local)
    assert [part.entry.first_row // ARCHIVE_ROWS for part in db._snapshot().segments] == [
        0,
        1,
        2,
        3,
    ]
    assert db.count("label == '8'") == db.count("year == 1998") == 1
    again = LocalPool(path_of(db))
    assert index_on(db, again, *archives).unchanged == 36
    assert LatentDB.verify(path_of(db)).problems == ()


@pytest.mark.parametrize("results", [0, 1, 3, 5])
def test_a_run_that_was_cut_off_is_resumed_and_nothing_finished_is_done_again(
    results: int, tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 22)
    (folder / "square" / "009.png").write_bytes(b"no image")
    path = path_of(db)
    cut = LocalPool(path, results)
    with pytest.raises(CutOffError):
        index_on(db, cut, folder, labels_from_folders=True)
    plan = plans.read(path)
    assert plan is not None
    assert len(cut.done) == results

    # No garbage collection takes what is finished, however old, and verify knows it.
    for file in (path / "segments").iterdir():
        os.utime(file, (1, time.time() - 2 * GRACE_SECONDS))
    db.delete(where='label == "none"') if "label" in db.info().columns else db.compact()
    assert LatentDB.verify(path).orphans == 0

    # A process of that run goes on, and finishes a task: nobody takes it for the new run.
    zombie = cut.orders.pop()
    pool = LocalPool(path)
    submit = pool.submit

    def overtaken(order: object) -> None:
        if not pool.orders and not pool.done:
            cut.worker.run(zombie)
        submit(order)  # type: ignore[arg-type]

    pool.submit = overtaken  # type: ignore[method-assign]
    report = index_on(db, pool, folder, labels_from_folders=True)
    locally(local, folder, labels_from_folders=True)
    assert rows_of(db) == rows_of(local)
    assert (report.added, report.unchanged, len(report.bad)) == (43, 0, 1)
    first = pool.done[: len(plan.tasks) - results]
    assert sorted([*cut.done, *first]) == list(range(len(plan.tasks)))
    names = {part.entry.file.name for part in db._snapshot().segments}
    assert {f"segments/{plan.name}-{number}-1" for number in cut.done} <= {
        name.rsplit("-", 2)[0] for name in names
    }
    assert not any(f"{plan.name}-{zombie.number}-1-" in name for name in names)
    assert plans.read(path) is None


def test_a_local_run_takes_over_what_is_finished(
    tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 16)
    path = path_of(db)
    with pytest.raises(CutOffError):
        index_on(db, LocalPool(path, 2), folder)
    report = db.index_images(folder)
    local.index_images(folder)
    assert (report.added, report.unchanged, report.encoded) == (16, 16, 16)
    assert sorted(rows_of(db)) == sorted(rows_of(local))
    assert not (path / "plan").exists()


def test_rows_that_others_wrote_meanwhile_stay_and_finished_ones_get_other_numbers(
    tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 16)
    path = path_of(db)
    with pytest.raises(CutOffError):
        index_on(db, LocalPool(path, 2), folder)
    db.add(["own"], np.zeros((1, 4), np.float32), z_log_var=np.zeros((1, 4), np.float32))
    other = tmp_path / "other.ldb"
    shutil.copytree(path, other)
    pool = LocalPool(path)
    index_on(db, pool, folder)
    assert sorted(pool.done) == [0, 1]
    local.index_images(folder)
    db.delete(["own"])
    assert sorted(rows_of(db)) == sorted(rows_of(local))
    assert LatentDB.verify(path).problems == ()

    # Images that were deleted since do not come back with a plan.
    with LatentDB.open(other) as copied:
        settled = copied.index_images(folder)
        copied.delete(["disc/003.png"])
        assert settled.rows == 33
        assert copied.index_images(folder).deleted == 1


def test_another_run_drops_the_plan_after_its_finished_tasks_are_committed(
    tmp_path: Path, db: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 16)
    path = path_of(db)
    with pytest.raises(CutOffError):
        index_on(db, LocalPool(path, 3), folder)
    pool = LocalPool(path)
    report = index_on(db, pool, folder / "disc")
    assert len(db) == 24 + report.added
    assert plans.read(path) is None


@pytest.mark.parametrize("damage", ["segment", "receipt", "plan"])
def test_what_is_damaged_is_done_again(
    damage: str, tmp_path: Path, db: LatentDB, local: LatentDB
) -> None:
    folder = make_images(tmp_path / "in", 16)
    path = path_of(db)
    with pytest.raises(CutOffError):
        index_on(db, LocalPool(path, 2), folder)
    plan = plans.read(path)
    assert plan is not None
    file = {
        "segment": next((path / "segments").glob(f"{plan.name}-3-*")),
        "receipt": next((path / "plan").glob("*-3-*.json")),
        "plan": path / "plan" / "PLAN.json",
    }[damage]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    pool = LocalPool(path)
    index_on(db, pool, folder)
    assert len(pool.done) == (4 if damage == "plan" else 3)
    local.index_images(folder)
    assert rows_of(db) == rows_of(local)


def test_latents_of_16_bits_are_those_of_a_local_run(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 10)
    stores = [LatentDB.create(tmp_path / name, model, dtype="float16") for name in ("a", "b")]
    index_on(stores[0], LocalPool(path_of(stores[0])), folder)
    locally(stores[1], folder)
    assert rows_of(stores[0]) == rows_of(stores[1])
    assert LatentDB.verify(tmp_path / "a").problems == ()
    for each in stores:
        each.close()
