"""Operations that fail: I/O errors at each place, and a disk that is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from batteries import shim as shims
from batteries.shim import Fault, Shim
from batteries.world import (
    Bases,
    BrokenPromise,
    Op,
    State,
    Summary,
    check,
    check_garbage_collected,
    held,
    make,
    names,
    scenarios,
    small,
    workshop,
)
from latentdb.base.errors import LatentDBError
from latentdb.database import LatentDB


def one_line(error: LatentDBError) -> None:
    if "\n" in str(error) or not str(error):
        raise BrokenPromise(f"its message is not one line: {str(error)!r}")


def attempt(path: Path, op: Op, shim: Shim) -> str:
    """Open a store and do one operation under a fault: ``"success"`` or ``"error"``."""
    with shims.installed(shim), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # that an index was not built, or is scanned
        try:
            with LatentDB.open(path) as db:
                op.apply(db)
        except LatentDBError as error:
            one_line(error)
            return "error"
    return "success"


def survives(path: Path, outcome: str, state: State, op: Op) -> None:
    """After a success the operation holds; after an error it may, wholly, or not at all."""
    after = op.after(state)
    check(path, [after] if outcome == "success" else [state, after])


def _io_case(bases: Bases, name: str, fault: Fault) -> str:
    path, state, op = bases.copy(name)
    shim = Shim(fault, reads=True)
    outcome = attempt(path, op, shim)
    survives(path, outcome, state, op)
    shutil.rmtree(path)
    return outcome


def _read_case(bases: Bases, name: str, fault: Fault) -> tuple[str, int]:
    """Open, look up and search under a fault: the right answer or an error."""
    path, state, _ = bases.copy(name)
    shim = Shim(fault, reads=True)
    wanted = sorted(state)[:5]
    with LatentDB.open(path) as db:
        right = db.vectors(wanted)
    outcome = "success"
    with shims.installed(shim), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            with LatentDB.open(path) as db:
                found = db.vectors(wanted)
                nearest = db.ids(db.search(right, k=1)[1][:, 0])
                if not np.array_equal(found, right) or nearest != wanted:
                    raise BrokenPromise("a wrong answer")
        except LatentDBError as error:
            one_line(error)
            outcome = "error"
    shutil.rmtree(path)
    return outcome, len(shim.names)


def io(only: list[str] | None = None, *, every: int = 1) -> Summary:
    """The class `io`: the N-th operation fails, once and for good."""
    summary = Summary("io")
    with workshop() as folder, small():
        bases = Bases(folder)
        for name in only or list(scenarios()):
            path, _, op = bases.copy(name)
            shim = Shim(reads=True)
            attempt(path, op, shim)
            shutil.rmtree(path)
            for at in range(1, len(shim.names) + 1, every):
                for forever in (False, True):
                    fault = Fault(at, action="fail", forever=forever, short=at % 2 == 0)
                    summary.case(
                        f"{name}, {shim.names[at - 1]} {at}, {forever=}",
                        lambda name=name, fault=fault: _io_case(bases, name, fault),  # type: ignore[misc]
                    )
            steps = _read_case(bases, name, Fault())[1] if name != "add to none" else 0
            for at in range(1, steps + 1, every):
                for forever in (False, True):
                    fault = Fault(at, action="fail", forever=forever)
                    summary.case(
                        f"read {name}, operation {at}, {forever=}",
                        lambda name=name, fault=fault: _read_case(bases, name, fault)[0],  # type: ignore[misc]
                    )
    return summary


# --- full -----------------------------------------------------------------------


def _written(path: Path, op: Op) -> int:
    """Bytes that an operation writes."""
    shim = Shim(Fault(budget=1 << 40))
    attempt(path, op, shim)
    return (1 << 40) - (shim.fault.budget or 0)


def _full_case(bases: Bases, name: str, budget: int) -> str:
    path, state, op = bases.copy(name)
    outcome = attempt(path, op, Shim(Fault(budget=budget)))
    after = op.after(state)
    # A full disk is noticed before the manifest is renamed: the store is as before.
    found = held(path)
    if outcome == "error" and found != state and after != state:
        raise BrokenPromise("an error, and the store is not as before")
    survives(path, outcome, state, op)
    shutil.rmtree(path)
    return outcome


def _command(
    path: Path, words: list[str], *, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line on a store, under RLIMIT_FSIZE if that is given."""
    code = (
        "import resource, sys\n"
        f"if {limit}: resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from batteries.world import small; from latentdb.cli.main import main\n"
        "with small(): main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", code, words[0], str(path), *words[1:]],
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "PATH": "/usr/bin:/bin",
            # The interpreter would leave truncated .pyc files behind, for every later process.
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def _command_case(bases: Bases, name: str, words: list[str], limit: int) -> str:
    path, state, _ = bases.copy(name)
    done = _command(path, words, limit=limit)
    gone = set(words[1:])
    after = {each: version for each, version in state.items() if each not in gone}
    outcome = _told(path, done, state, after)
    shutil.rmtree(path)
    return outcome


def _told(path: Path, done: subprocess.CompletedProcess[str], state: State, after: State) -> str:
    """Hold a command to its promise: done, or one line, exit 1 and the store as before."""
    if done.returncode not in (0, 1):
        raise BrokenPromise(f"exit {done.returncode}: {done.stderr[-200:]}")
    if done.returncode == 1 and len(done.stderr.strip().splitlines()) != 1:
        raise BrokenPromise(f"its error is not one line: {done.stderr[-300:]}")
    check(path, [after] if done.returncode == 0 else [state])
    return "exit 1" if done.returncode else "exit 0"


_DISK = 16 << 20  # bytes of the real small disk
_PAGE = 4096


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A real file system of a few MiB; an OSError where this user may not mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "battery", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.split()) or "mount failed")
    try:
        yield folder
    finally:
        # Lazily: after a failure this process may still have its files mapped.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _free(folder: Path) -> int:
    """Pages that are free on a disk."""
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize // _PAGE


class _Filled:
    """One command on one store, on a disk with more or less room."""

    def __init__(self, folder: Path, disk: Path, before: list[Op], op: Op) -> None:
        self.disk, self.base = disk, folder / f"base {op.kind} {len(op.ids)}"
        with small(index_above=1 << 60 if op.kind == "optimize" else 100):
            patch = mock.patch("latentdb.store.writer.SEGMENT_BYTES", 64 << 20)
            with patch if op.kind == "optimize" else nullcontext():
                self.state = make(self.base, before)
        self.after, self.words = op.after(self.state), [op.kind]
        if op.kind == "add":
            file = folder / f"{len(op.ids)}.h5"
            make(folder / file.stem, [op])
            with LatentDB.open(folder / file.stem) as db:
                db.export(file, overwrite=True)
            self.words = ["import", str(file)]
        self.pages = 0
        self.case(None)

    def case(self, room: int | None) -> str:
        """Run the command with so many pages free; all of them for None, to see what it takes."""
        path, ballast = self.disk / "store", self.disk / "ballast"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.base, path)
        free = _free(self.disk)
        if room is not None:
            ballast.write_bytes(bytes((free - room) * _PAGE))
            if _free(self.disk) != room:
                raise BrokenPromise(f"{_free(self.disk)} pages are free, not {room}")
        done = _command(path, self.words)
        self.pages = max(self.pages, free - _free(self.disk) if room is None else 0)
        ballast.unlink(missing_ok=True)
        with small(index_above=1 << 60):
            outcome = _told(path, done, self.state, self.after)
            check_garbage_collected(path)
        if room is None and done.returncode:
            raise BrokenPromise(f"it failed with all the room: {done.stderr}")
        if "was not built" in done.stderr or "were not merged" in done.stderr:
            outcome += ", warned"
        return f"tmpfs: {outcome}"


def _real(summary: Summary, folder: Path, points: int) -> None:
    """A real disk that is full at so many points of import, index build and both."""
    few, many, most = names("a", 40), names("m", 300), names("a", 8000)
    with ExitStack() as stack:
        try:
            where = stack.enter_context(disk(folder / "disk"))
        except OSError as error:
            summary.notes.append(f"no real disk was filled ({error})")
            return
        cases = (
            ("import", [Op("add", few, 1)], Op("add", names("n", 1200), 2), 0.45),
            ("import and index", [Op("add", names("a", 90), 1)], Op("add", many, 2), 0.3),
            ("optimize", [Op("add", most, 1)], Op("optimize"), 0.25),
        )
        for told, before, op, share in cases:
            filled = _Filled(folder, where, before, op)
            count = max(2, round(points * share))
            for point in range(count):
                # A little more than what is taken in the end: both manifests are there for a while.
                room = (filled.pages + 8) * point // (count - 1)
                summary.case(
                    f"{told}, {room} of {filled.pages} pages free on a tmpfs",
                    partial(filled.case, room),
                )
            summary.notes.append(f"{told} takes {filled.pages} pages")


def full(count: int = 200, *, commands: int = 40, points: int = 220) -> Summary:
    """The class `full`: a disk with room for so many bytes, and a limit on the size of files.

    The room is counted by the shim at `count` points; at `points` it is that
    of a real tmpfs, where this user may mount one.
    """
    summary = Summary("full")
    chosen = ["add", "replace", "compact", "optimize", "add and index"]
    with workshop() as folder, small():
        bases = Bases(folder)
        for name in chosen:
            path, _, op = bases.copy(name)
            total = _written(path, op)
            shutil.rmtree(path)
            each = max(1, count // len(chosen))
            for point in range(each):
                budget = total * point // each
                summary.case(
                    f"{name}, room for {budget} of {total} bytes",
                    lambda name=name, budget=budget: _full_case(bases, name, budget),  # type: ignore[misc]
                )
        for point in range(commands):
            limit = 60 + 300 * point
            words = ["optimize"] if point % 2 else ["delete", "a20", "a21"]
            summary.case(
                f"latentdb {words[0]} with files of at most {limit} bytes",
                lambda words=words, limit=limit: _command_case(bases, "optimize", words, limit),  # type: ignore[misc]
            )
    with workshop() as folder:
        _real(summary, folder, points)
    return summary
