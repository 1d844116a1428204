"""Operations that fail: I/O errors at each place, and a disk that is full."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from battery_parts import shim as shims
from battery_parts.shim import Fault, Shim
from battery_parts.world import (
    Bases,
    BrokenPromise,
    Op,
    State,
    Summary,
    check,
    held,
    scenarios,
    small,
    workshop,
)
from latentdb.database import LatentDB
from latentdb.errors import LatentDBError


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


def _limited(path: Path, words: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run the command line under RLIMIT_FSIZE."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from battery_parts.world import small; from latentdb.cli import main\n"
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
    done = _limited(path, words, limit)
    if done.returncode not in (0, 1):
        raise BrokenPromise(f"exit {done.returncode}: {done.stderr[-200:]}")
    if done.returncode == 1 and len(done.stderr.strip().splitlines()) != 1:
        raise BrokenPromise(f"its error is not one line: {done.stderr[-300:]}")
    gone = set(words[1:])
    after = {each: version for each, version in state.items() if each not in gone}
    check(path, [after] if done.returncode == 0 else [state])
    shutil.rmtree(path)
    return "exit 1" if done.returncode else "exit 0"


def full(count: int = 200, *, commands: int = 40) -> Summary:
    """The class `full`: a disk with room for so many bytes, and a limit on the size of files."""
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
    return summary
