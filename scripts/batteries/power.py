"""Power loss: what was not synced is dropped, cut or reordered, and the store opened as it is then.

A workload runs once, with every change of a file logged.  A schedule picks a
moment of the log and, for each file and folder, what of its unsynced changes
reached the disk; the folder is rebuilt in that state.
"""

from __future__ import annotations

import random
import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batteries import shim as shims
from batteries.shim import Fault, Shim, Stopped
from batteries.world import (
    LOCKS,
    Generator,
    Op,
    State,
    Summary,
    check,
    held,
    make,
    small,
    workshop,
)
from latentdb.base.errors import LatentDBError
from latentdb.database import LatentDB
from latentdb.store.manifest import FOLDERS

_BLOCK = 512
_KINDS = ("add", "add", "replace", "delete", "compact", "optimize")


@dataclass
class _Inode:
    synced: bytes = b""
    written: bytearray = field(default_factory=bytearray)
    dirty: bool = True

    def after(self, draw: random.Random) -> bytes:
        """What is found of it after a power cut."""
        full = bytes(self.written)
        if not self.dirty:
            return self.synced
        how = draw.choice(("none", "all", "cut", "holes", "zeros"))
        if how == "none":
            return self.synced
        if how == "cut":
            return full[: draw.randint(0, len(full))]
        if how == "zeros":
            return bytes(len(full))
        if how == "holes":
            holed = bytearray(full)
            for start in range(0, len(full), _BLOCK):
                if draw.random() < 0.3:
                    holed[start : start + _BLOCK] = bytes(len(full[start : start + _BLOCK]))
            return bytes(holed)
        return full


class Disk:
    """Files and folders with what of them is synced.

    Parameters
    ----------
    root
        A folder all of which is synced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inodes: list[_Inode] = []
        self._durable: dict[Path, dict[str, int]] = {}
        self._now: dict[Path, dict[str, int]] = {}
        self._pending: dict[Path, list[dict[str, int | None]]] = {}
        for folder in (root, *(root / name for name in FOLDERS)):
            entries = {}
            for item in folder.iterdir():
                if item.is_file() and item.name not in LOCKS:
                    data = item.read_bytes()
                    self._inodes.append(_Inode(data, bytearray(data), dirty=False))
                    entries[item.name] = len(self._inodes) - 1
            self._durable[folder], self._now[folder] = entries, dict(entries)
            self._pending[folder] = []

    def apply(self, entry: tuple[Any, ...]) -> None:
        """Replay one entry of a shim's log."""
        what, path = entry[0], entry[1]
        if what == "fsync" and path in self._durable:
            self._durable[path], self._pending[path] = dict(self._now[path]), []
            return
        if path.name in LOCKS:
            return
        folder = path.parent
        if folder not in self._now:
            return  # history/, on which nothing relies
        if what == "create":
            self._inodes.append(_Inode())
            self._name(folder, {path.name: len(self._inodes) - 1})
        elif what == "write":
            inode = self._inodes[self._now[folder][path.name]]
            inode.written += entry[2]
            inode.dirty = True
        elif what == "fsync":
            inode = self._inodes[self._now[folder][path.name]]
            inode.synced, inode.dirty = bytes(inode.written), False
        elif what == "rename":
            self._name(folder, {entry[2].name: self._now[folder][path.name], path.name: None})
        elif what == "link" and entry[2].parent in self._now:
            self._name(entry[2].parent, {entry[2].name: self._now[folder][path.name]})
        elif what == "unlink":
            self._name(folder, {path.name: None})

    def _name(self, folder: Path, change: dict[str, int | None]) -> None:
        _change(self._now[folder], change)
        self._pending[folder].append(change)

    def cut_power(self, draw: random.Random, target: Path) -> None:
        """Build the folder that is found after a power cut now."""
        found = [inode.after(draw) for inode in self._inodes]
        for folder, entries in self._durable.items():
            left = dict(entries)
            changes = self._pending[folder]
            how = draw.choice(("none", "all", "first", "any"))
            kept = {"none": 0, "all": len(changes), "first": draw.randint(0, len(changes))}
            for change in changes[: kept[how]] if how != "any" else changes:
                if how != "any" or draw.random() < 0.5:
                    _change(left, change)
            place = target / folder.relative_to(self.root)
            place.mkdir(parents=True, exist_ok=True)
            for name, number in left.items():
                (place / name).write_bytes(found[number])


def _change(entries: dict[str, int], change: dict[str, int | None]) -> None:
    for name, number in change.items():
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number


Log = list[tuple[Any, ...]]


def record(path: Path, seed: int, steps: int) -> tuple[Disk, Log, State]:
    """Run a workload in which some operations die half-way; give its log and the first content."""
    draw = random.Random(seed)
    first = make(path, [Op("add", tuple(f"s{number}" for number in range(60)), 0)])
    disk = Disk(path)
    shim = Shim()
    shim.log = []
    state = dict(first)
    generator = Generator(seed, _KINDS)
    with shims.installed(shim):
        for _ in range(steps):
            op = generator.next(state)
            # A kill without a power cut is followed by a writer that finds what was not synced.
            how = draw.random()
            fault = Fault(draw.randint(1, 30), action="stop") if how < 0.2 else None
            if how > 0.8:
                fault = Fault(after="rename", action="stop")
            shim.revive(fault)
            shim.record("begin", path, op)
            try:
                with LatentDB.open(path) as db:
                    op.apply(db)
            except (Stopped, LatentDBError):
                shim.revive()
                happened = held(path) == op.after(state)
            else:
                happened = True
                shim.record("ack", path)
            shim.record("seen", path, happened)
            state = op.after(state) if happened else state
    return disk, shim.log, first


def schedules(summary: Summary, folder: Path, count: int, *, seed: int, steps: int = 10) -> None:
    """Run one workload, and cut the power `count` times in it."""
    path = folder / f"workload {seed}"
    base, log, first = record(path, seed, steps)
    for number in range(count):
        draw = random.Random(seed * 100_000 + number)
        moment = draw.randint(0, len(log))

        def one(draw: random.Random = draw, moment: int = moment) -> str:
            disk = deepcopy(base)
            # What may be found: the last acknowledged content, and all that was seen since.
            seen, flying = [first], []
            for entry in log[:moment]:
                if entry[0] == "begin":
                    flying = [entry[2].after(seen[-1])]
                elif entry[0] == "ack":
                    seen = flying
                elif entry[0] == "seen":
                    seen, flying = [*seen, *flying] if entry[2] else seen, []
                else:
                    disk.apply(entry)
            allowed = seen + flying
            target = folder / "found"
            shutil.rmtree(target, ignore_errors=True)
            disk.cut_power(draw, target)
            which = check(target, allowed, write=moment % 5 == 0)
            return "as acknowledged" if which == 0 else "with what was in flight"

        summary.case(f"workload {seed}, schedule {number}, moment {moment} of {len(log)}", one)


def run(count: int = 1000, seed: int = 1, *, each: int = 50) -> Summary:
    """The class `power`: `count` schedules, `each` of a workload."""
    summary = Summary("power")
    with workshop() as folder, small():
        for number in range(-(-count // each)):
            schedules(summary, folder, min(each, count - each * number), seed=seed + number)
    return summary
