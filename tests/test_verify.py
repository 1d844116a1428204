"""Verifying every file, and repairing what can be rebuilt."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from batteries.shim import Fault, Shim, Stopped, installed
from latentdb.base import files
from latentdb.base.errors import CorruptStoreError, StoreError, StoreNotFoundError
from latentdb.database import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store.segment import Segment
from latentdb.verify import verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three segments of ten rows, one of them with a deleted row."""
    db = LatentDB.create(tmp_path / "a", dim=4)
    random = np.random.default_rng(0)
    for batch in range(3):
        ids = [f"{batch}-{n}" for n in range(10)]
        db.add(ids, random.normal(size=(10, 4)).astype("f4"), metadata={"batch": [batch] * 10})
    db.delete(["1-3"])
    db.close()
    return tmp_path / "a"


def segment_of(path: Path, number: int) -> Path:
    manifest = json.loads((path / "MANIFEST.json").read_text())["manifest"]
    return path / manifest["segments"][number]["file"]["name"]


def damage(file: Path, name: str) -> None:
    """Flip a bit in the middle of a data set."""
    with h5py.File(file) as h5:
        place = h5[name].id.get_offset() + h5[name].id.get_storage_size() // 2
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def test_a_sound_store_has_no_problems(path: Path, store: Path) -> None:
    report = verify(path)
    assert (report.problems, report.rows, report.files) == ((), 29, 5)
    assert verify(store).problems == ()  # one with a model


def test_a_damaged_id_look_up_is_made_again(path: Path) -> None:
    with LatentDB.open(path) as db:
        before = dict(zip(db.ids(), db.vectors(db.ids()).tolist(), strict=True))
    for name in ("id/hashes", "id/order"):
        damage(segment_of(path, 1), name)
        with (
            LatentDB.open(path) as db,
            pytest.raises(CorruptStoreError, match="is damaged: the checksum of the block"),
        ):
            db.vectors(db.ids())
        report = LatentDB.verify(path, repair=True)
        assert [(problem.kind, problem.repair) for problem in report.problems] == [
            ("rebuilt", "id look-up rebuilt from the ids; no row is lost")
        ]
        assert report.lost_rows == 0
        assert verify(path).problems == ()
    with LatentDB.open(path) as db:
        assert dict(zip(db.ids(), db.vectors(db.ids()).tolist(), strict=True)) == before


@pytest.mark.parametrize("name", ["z_mean", "id/bytes", "metadata/batch/int", "row"])
def test_a_segment_with_damaged_rows_is_set_aside(path: Path, name: str) -> None:
    broken = segment_of(path, 1)
    damage(broken, name)
    report = verify(path)
    assert [(Path(problem.file).name, problem.kind) for problem in report.problems] == [
        (broken.name, "lost")
    ]
    assert report.problems[0].repair == (
        "damage; latentdb verify --repair: moved to quarantine; 10 rows lost"
    )
    assert "\n" not in report.problems[0].what
    report = LatentDB.verify(path, repair=True)
    assert report.lost_rows == 10
    assert report.problems[0].repair == "moved to quarantine; 10 rows lost"
    assert (path / "quarantine" / broken.name).is_file()
    assert verify(path).problems == ()
    with LatentDB.open(path) as db:
        assert sorted({name[0] for name in db.ids()}) == ["0", "2"]
        assert len(db) == 20
        db.add(["after"], np.zeros((1, 4)))


def test_lost_deletions_are_told(path: Path) -> None:
    file = next((path / "segments").glob("*.deleted"))
    file.write_bytes(b"\xff" * 8)
    report = LatentDB.verify(path, repair=True)
    assert "the rows it named are back: delete them again" in report.problems[0].repair
    with LatentDB.open(path) as db:
        assert len(db) == 30


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 3,000 rows with a search index."""
    from latentdb.ann import plan

    monkeypatch.setattr(plan, "EXACT_ROWS", 1500)
    random = np.random.default_rng(1)
    centres = random.normal(size=(40, 6)) * 4
    points = centres[random.integers(0, 40, 3000)] + random.normal(size=(3000, 6)) * 0.2
    with LatentDB.create(tmp_path / "a", dim=6) as db:
        db.add([str(n) for n in range(3000)], points)
    return tmp_path / "a"


def test_an_index_of_rows_that_search_scans_too_is_damage(indexed: Path) -> None:
    """Search would return them twice."""
    manifest = manifests.read(indexed)
    assert manifest.index is not None
    lowered = replace(manifest.index, rows_below=100)
    manifests.commit(indexed, replace(manifest, index=lowered, version=manifest.version + 1))
    (problem,) = verify(indexed).problems
    assert problem.what == "it holds row 2999, the manifest says rows below 100"
    verify(indexed, repair=True)
    assert verify(indexed).problems == ()
    with LatentDB.open(indexed) as db:
        assert len({match.id for match in db.query("5", k=10)}) == 10


def test_a_damaged_index_is_dropped_and_built_again(indexed: Path) -> None:
    file = next((indexed / "index").glob("*.faiss"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    report = LatentDB.verify(indexed, repair=True)
    assert len(report.problems) == 1
    assert verify(indexed).problems == ()
    with LatentDB.open(indexed) as db:
        assert db.info().index is not None
        assert db.query("5", k=1)[0].id == "5"


def test_a_damaged_model_is_named(store: Path) -> None:
    (store / "model/decoder.keras").write_bytes(b"nothing")
    report = verify(store)
    assert [problem.file for problem in report.problems] == ["model/decoder.keras"]
    assert "copy it from the model folder" in report.problems[0].repair


def test_the_model_folder_is_gone(store: Path) -> None:
    shutil.rmtree(store / "model")
    kinds = {Path(problem.file).name: problem.kind for problem in verify(store).problems}
    assert (kinds["encoder.onnx"], kinds["encoder.keras"]) == ("rebuilt", "manual")
    assert verify(store, repair=True).lost_rows == 0
    assert {problem.kind for problem in verify(store).problems} == {"manual"}


def test_a_row_missing_from_the_index_or_an_id_given_twice_is_found(path: Path) -> None:
    """What no checksum can tell: files that are whole, and do not belong together."""
    told = manifests.read(path)
    undeleted = replace(told, deletions=None, version=told.version + 1)
    with LatentDB.open(path) as db:
        db.add(["1-3"], np.ones((1, 4)))
        now = manifests.read(path)
    manifests.commit(path, replace(now, deletions=undeleted.deletions))
    assert "id '1-3' has two rows" in verify(path).problems[0].what


def test_orphans_are_counted_and_not_a_problem(path: Path) -> None:
    before = verify(path).orphans
    (path / "segments/left-by-a-killed-writer.h5").write_bytes(b"x")
    report = verify(path)
    assert (report.orphans, report.problems) == (before + 1, ())


def test_what_is_no_store_is_said(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="is not a latentdb store"):
        verify(tmp_path)
    (path / "MANIFEST.json").write_text("{}")
    (path / "MANIFEST.previous").unlink()
    with pytest.raises(CorruptStoreError, match="is damaged"):
        verify(path, repair=True)


# --- errors of the system are no damage -----------------------------------------


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store but LOCK, which a repair writes its process into."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "LOCK"
    }


def fail_to_open(monkeypatch: pytest.MonkeyPatch, file: Path, number: int) -> None:
    real = os.open

    def failing(path: Any, *words: Any, **named: Any) -> int:
        if Path(path).name == file.name:
            raise OSError(number, os.strerror(number))
        return real(path, *words, **named)

    monkeypatch.setattr(os, "open", failing)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("kind", [".h5", ".deleted"])
def test_a_file_that_the_system_cannot_open_is_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    damage(segment_of(path, 0), "z_mean")  # damage beside it is not repaired either
    file = segment_of(path, 1) if kind == ".h5" else next((path / "segments").glob("*.deleted"))
    before = contents(path)
    fail_to_open(monkeypatch, file, number)
    found = {problem.file: problem for problem in verify(path).problems}
    assert found[f"segments/{file.name}"].kind == "system"
    assert "no damage: mend its cause" in found[f"segments/{file.name}"].repair
    with pytest.raises(StoreError, match=f"{file.name}: cannot be read: .*an error of the system"):
        LatentDB.verify(path, repair=True)
    assert contents(path) == before
    monkeypatch.undo()
    assert [problem.kind for problem in verify(path).problems] == ["lost"]


def test_a_disk_that_fails_while_a_file_is_read_is_not_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(path)

    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    real = os.fdopen

    def opened(descriptor: int, mode: str) -> Any:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        return Failing(descriptor) if name.endswith(".h5") else real(descriptor, mode)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fdopen", opened)
    assert {problem.kind for problem in verify(path).problems} == {"system"}
    with pytest.raises(StoreError, match="cannot be read: input/output error"):
        verify(path, repair=True)
    assert contents(path) == before


def test_memory_that_runs_out_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(path)

    def exhausted(*words: object) -> None:
        raise MemoryError

    monkeypatch.setattr("latentdb.store.segment.hash_ids", exhausted)
    with pytest.raises(StoreError, match="MemoryError, which is an error of the system"):
        verify(path, repair=True)
    assert contents(path) == before


FEW_FILES = """
import resource, sys
from latentdb.base import files
from latentdb.cli.main import main
files.READ_BELOW = int(sys.argv[2])  # all segments of this test are small: mapped, as large ones
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
main(["verify", "--repair", sys.argv[1]])
"""


@pytest.mark.parametrize("mapped", [True, False])
def test_a_repair_that_may_open_few_files_loses_no_row(tmp_path: Path, mapped: bool) -> None:
    """`repair_limits.sh`: a third of the rows left the store, and the exit code was 0."""
    with LatentDB.create(tmp_path / "a", dim=2) as db:
        for number in range(40):
            db.add([str(number)], np.ones((1, 2)))
    below = 0 if mapped else files.READ_BELOW
    words = [sys.executable, "-c", FEW_FILES, str(tmp_path / "a"), str(below)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert verify(tmp_path / "a").problems == ()
    assert verify(tmp_path / "a").rows == 40
    if mapped:
        assert done.stderr.count("\n") == 1
        assert "too many open files" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("put", ["link", "folder", "pipe", "nothing"])
def test_what_is_no_file_is_not_repaired(path: Path, put: str) -> None:
    """A link may lead to a whole file; a folder `segments` that is gone, to another disk."""
    file = segment_of(path, 1)
    if put == "nothing":
        (path / "segments").rename(path.parent / "segments")
    else:
        file.rename(path.parent / file.name)
    if put == "link":
        file.symlink_to(path.parent / file.name)
    elif put == "folder":
        file.mkdir()
    elif put == "pipe":
        os.mkfifo(file)
    before = contents(path)
    assert {problem.kind for problem in verify(path).problems} == {"system"}
    with pytest.raises(StoreError, match="an error of the system"):
        verify(path, repair=True)
    assert contents(path) == before


def test_a_missing_segment_is_lost_and_the_manifest_that_names_it_kept(path: Path) -> None:
    segment_of(path, 1).unlink()
    old = (path / "MANIFEST.json").read_bytes()
    assert verify(path, repair=True).lost_rows == 10
    (kept,) = (path / "quarantine").iterdir()
    assert kept.read_bytes() == old
    assert verify(path).problems == ()


def test_what_was_in_quarantine_stays_there(path: Path) -> None:
    broken = segment_of(path, 1)
    (path / "quarantine").mkdir()
    (path / "quarantine" / broken.name).write_bytes(b"an earlier one")
    damage(broken, "z_mean")
    data = broken.read_bytes()
    verify(path, repair=True)
    kept = {file.read_bytes() for file in (path / "quarantine").glob("*.h5")}
    assert kept == {b"an earlier one", data}


def test_files_that_a_writer_deletes_meanwhile_are_not_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ten minutes: compacted away, and collected as garbage."""
    check, checked = Segment.check, []

    def meanwhile(segment: Segment) -> None:
        check(segment)
        checked.append(segment.entry)
        if len(checked) == 1:
            monkeypatch.setattr("latentdb.store.writer.GRACE_SECONDS", -1)
            with LatentDB.open(path) as db:
                db.compact()
                db.delete(db.ids()[:1])
                db.compact()  # collects what the first one replaced

    monkeypatch.setattr(Segment, "check", meanwhile)
    report = verify(path)
    assert (report.problems, report.rows, len(checked)) == ((), 28, 2)
    segment_of(path, 0).unlink()
    (problem,) = verify(path).problems
    assert "is missing" in problem.what


@pytest.mark.parametrize("links", [True, False])
def test_a_repair_that_is_killed_anywhere_loses_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    damage(segment_of(path, 0), "id/order")
    damage(segment_of(path, 1), "z_mean")
    damaged = {segment_of(path, number).read_bytes() for number in (0, 1)}
    if not links:  # as on a file system that has none

        def refused(*words: object, **named: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)
    for at in range(1, 1000):
        store = tmp_path / str(at)
        shutil.copytree(path, store)
        killed = Shim(Fault(at=at, action="stop"))
        with installed(killed), contextlib.suppress(Stopped):
            verify(store, repair=True)
        assert damaged <= {file.read_bytes() for file in store.rglob("*.h5")}
        verify(store, repair=True)
        assert verify(store).problems == ()
        assert verify(store).rows == 20
        assert damaged <= {file.read_bytes() for file in store.rglob("*.h5")}
        if not killed.dead:
            break
    assert at > 10


@pytest.mark.parametrize("name", ["quarantine", "segments"])
def test_a_repair_writes_nothing_outside_of_the_store(path: Path, name: str) -> None:
    """A stranger's store overwrote a file of its choosing through `quarantine`."""
    broken = segment_of(path, 1)
    damage(broken, "z_mean")
    home = path.parent / "home"
    if name == "quarantine":
        home.mkdir()
        (home / broken.name).write_bytes(b"precious")
    else:
        (path / name).rename(home)
    (path / name).symlink_to(home)
    before, outside = contents(path), contents(home)
    with pytest.raises(StoreError, match=f"{name} is a link, to which nothing is written"):
        verify(path, repair=True)
    assert (contents(path), contents(home)) == (before, outside)


def test_a_link_in_quarantine_is_not_written_to(path: Path) -> None:
    broken = segment_of(path, 1)
    damage(broken, "z_mean")
    (path.parent / "mine").write_bytes(b"precious")
    (path / "quarantine").mkdir()
    (path / "quarantine" / broken.name).symlink_to(path.parent / "mine")
    assert verify(path, repair=True).lost_rows == 10
    assert (path.parent / "mine").read_bytes() == b"precious"
    assert verify(path).problems == ()
