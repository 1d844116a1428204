"""The reliability battery in its short form: every class, by the code of scripts/battery."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

from batteries import (
    crash,
    damage,
    failing,
    fuzz,
    hostile,
    measure,
    power,
    shim,
    stateful,
    together,
    world,
)
from batteries.fuzz_stores import Target
from batteries.world import Op, Summary, names
from latentdb.base.errors import StoreError
from latentdb.database import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store.store import Store

ROOT = Path(__file__).resolve().parents[2]

SHORT: dict[str, Callable[[], Summary]] = {
    "crash": lambda: crash.run(10, opens=5, every=12),
    "power": lambda: power.run(60, seed=9, each=30),
    "full": lambda: failing.full(20, commands=1, points=6),
    "io": lambda: failing.io(["add", "delete", "compact", "add and index"], every=9),
    "memory": lambda: measure.memory(12_000, part=1000),
    "corruption": lambda: damage.run(120, cuts=60),
    "hostile": lambda: hostile.run(0),
    "fuzz": lambda: fuzz.run(cases=80),
    "concurrency": lambda: together.run(3, indexed=6, readers=2, commits=10),
    "model": lambda: stateful.run(10, 20),
}


@pytest.mark.parametrize("name", SHORT)
def test_no_promise_is_broken(name: str) -> None:
    summary = SHORT[name]()
    assert summary.broken == []
    assert summary.cases > 0
    assert summary.line().startswith(f"{name} | {summary.cases} | ")


def test_times_are_measured() -> None:
    summary = measure.commit_times(2000, repeats=2, segments=(1, 5))
    assert "bytes a row" in summary.line()  # how much commits may grow is for a quiet machine


def test_the_shim_stands_before_all_that_changes_a_store() -> None:
    """A module it does not know would write, rename and delete behind its back."""
    calls = re.compile(
        r"\bos\.(open|write|pwrite|f?sync|rename|replace|unlink|ftruncate|utime|link)\("
    )
    package = ROOT / "latentdb"
    users = {
        ".".join(file.relative_to(package).with_suffix("").parts)
        for file in package.rglob("*.py")
        if calls.search(file.read_text())
    }
    # These write or read what is no store: models, images, the null device.
    outside = {"kerasfile.runtime", "images.decode", "cli.main"}
    assert users == set(shim.SHIMMED) | outside


def _writes_elsewhere(_: int) -> str:
    os.rename(ROOT / "no such file", ROOT / "no other")
    return "answered"


def _raises(_: int) -> str:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("check", "found"),
    [(_writes_elsewhere, "did what no reader does"), (_raises, "KeyError"), (print, "it printed")],
)
def test_fuzzing_reports_a_broken_promise_and_how_to_see_it_again(
    check: Callable[[int], str], found: str, tmp_path: Path
) -> None:
    target = Target(st.integers(0, 9), check, 0)
    summary = fuzz._round("it", target, fuzz.Guard(tmp_path), 7, 20)
    assert [found in told for told in summary.broken] == [True]
    assert "again: scripts/battery fuzz --only it --seed 7 --cases 20" in summary.broken[0]


# --- what the battery found ----------------------------------------------------------


def test_a_power_cut_after_a_kill_and_garbage_collection_loses_nothing(tmp_path: Path) -> None:
    """Garbage collection must not make deletions durable before the manifest."""
    path = tmp_path / "s.ldb"
    with world.small():
        world.make(path, [Op("add", names("a", 30), 1), Op("delete", names("a", 5))])
        faults = shim.Shim(shim.Fault(after="rename", action="stop"))
        faults.log = []
        with shim.installed(faults):
            with pytest.raises(shim.Stopped), LatentDB.open(path) as db:
                db.compact()
            faults.revive()
            with Store.open(path).writer() as writer:
                assert writer.collect_garbage()
    log = [(what, *rest) for what, *rest in faults.log]
    first = next(place for place, entry in enumerate(log) if entry[0] == "unlink"
                 and entry[1].suffix in (".h5", ".deleted"))  # fmt: skip
    renamed = next(place for place, entry in enumerate(log) if entry[0] == "rename")
    assert ("fsync", path) in log[renamed:first]


def test_a_manifest_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """Within one tick of the clock an inode can come back with the time it had."""
    store = Store.create(tmp_path / "s.ldb", dim=2)
    old = store.snapshot().manifest
    file = tmp_path / "s.ldb" / manifests.MANIFEST
    before = file.stat()
    file.write_bytes(manifests.dump(replace(old, version=old.version + 1)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert store.snapshot().manifest.version == old.version + 1


def test_a_file_whose_status_cannot_be_had_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.ldb"
    world.make(path, [Op("add", ("a",), 1)])
    # The fourth that is read is the end of the lock file; then comes the manifest.
    with shim.installed(shim.Shim(shim.Fault(6, action="fail"), reads=True)) as faults:
        with pytest.raises(StoreError, match=r"MANIFEST\.json cannot be read: input/output error"):
            Store.open(path)
        assert faults.names[-1] == "fstat"


def test_an_add_holds_although_its_merge_finds_the_disk_full(tmp_path: Path) -> None:
    path = tmp_path / "s.ldb"
    with world.small(index_above=20_000):
        state = world.make(path, [Op("add", names("a", 200), 1)])
        op = Op("add", names("b", 100), 2)
        with shim.installed(shim.Shim(shim.Fault(budget=1 << 40))) as faults:
            with LatentDB.open(path) as db:
                op.apply(db)
            needed = (1 << 40) - (faults.fault.budget or 0)
        again = tmp_path / "t.ldb"
        world.make(again, [Op("add", names("a", 200), 1)])
        with (
            shim.installed(shim.Shim(shim.Fault(budget=needed - 100))),
            warnings.catch_warnings(record=True) as told,
            LatentDB.open(again) as db,
        ):
            warnings.simplefilter("always")
            op.apply(db)
        assert ["segments were not merged" in str(item.message) for item in told] == [True]
        assert world.held(again) == op.after(state)


def test_a_writer_goes_on_from_what_is_on_disk_after_a_failed_sync(tmp_path: Path) -> None:
    """The manifest was renamed, its folder not synced: the next commit must not undo it."""
    path = tmp_path / "s.ldb"
    world.make(path, [Op("add", ("a",), 1)])
    store = Store.open(path)
    twin = tmp_path / "t.ldb"
    world.make(twin, [Op("add", ("a",), 1)])
    with Store.open(twin).writer() as writer, shim.installed(shim.Shim()) as counted:
        writer.delete(writer.snapshot.find(["a"]))
    last_sync = len(counted.names) - counted.names[::-1].index("fsync")
    assert counted.names[last_sync - 2] == "rename"
    with store.writer() as writer:
        faults = shim.Shim(shim.Fault(last_sync, action="fail"))
        with shim.installed(faults), pytest.raises(StoreError):
            writer.delete(writer.snapshot.find(["a"]))
        assert len(writer.snapshot) == len(Store.open(path).snapshot()) == 0
