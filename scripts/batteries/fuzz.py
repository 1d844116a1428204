"""Fuzzing: made-up and changed input of every reader, some of it with checksums that hold.

Hypothesis makes the input up and shrinks what breaks a promise: only a
`LatentDBError` of one line escapes, the process neither hangs nor ends nor takes
more memory than a limit, nothing outside the folder is written, and what opens
gives answers that agree with each other.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from traceback import walk_stack
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from batteries import shim as shims
from batteries import world
from batteries.failing import one_line
from batteries.fuzz_stores import Target
from batteries.fuzz_targets import TARGETS
from batteries.shim import Shim
from batteries.world import BrokenPromise, Summary, in_time, small, workshop
from latentdb.base.errors import LatentDBError

_MEMORY = 3 << 30  # bytes of address space beyond what the imports took
_HANG = 120  # seconds after which a case ends the process, with a trace of where it is
_LONGEST = 5.0  # seconds of computing at least allowed: a damaged index is built again
_EACH = 200  # cases of a round, which has a seed of its own
_KEPT = 2000  # characters of a finding
# What Python reports before it does it; h5py is only ever asked to read.
_CHANGES = frozenset(
    ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
     "os.chmod", "os.utime", "shutil.rmtree", "shutil.move")
)  # fmt: skip
_FOREIGN = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
     "socket.bind", "pickle.find_class", "marshal.loads")
)  # fmt: skip


class Guard:
    """Remembers what a case did that a reader must not do: write elsewhere, start a program."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder.resolve())
        self._armed = False
        self._told: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event == "open":
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._place(event, arguments[0])
        elif event in _CHANGES:
            self._place(event, arguments[0])
        elif event in _FOREIGN and not (event == "marshal.loads" and _imports()):
            self._told.append(f"{event} {arguments!r}")

    def _place(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, which was opened before
        text = os.fsdecode(path)
        # A relative name goes by a descriptor of a folder, whose opening was seen.
        if os.path.isabs(text) and not os.path.realpath(text).startswith(self._folder):
            self._told.append(f"{event} {text}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._told.clear()
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            if self._told:  # whatever was raised besides
                raise BrokenPromise(f"it did what no reader does: {self._told[0][:200]}")


def _imports() -> bool:
    """Whether a module is being imported: its code is marshalled."""
    return any("importlib" in frame.f_code.co_filename for frame, _ in walk_stack(None))


def _round(name: str, target: Target, guard: Guard, number: int, cases: int) -> Summary:
    """Some cases of one target, in this process."""
    summary = Summary("fuzz")

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def case(made: Any) -> None:
        summary.cases += 1
        faulthandler.dump_traceback_later(_HANG, exit=True)
        printed = io.StringIO()
        with warnings.catch_warnings(), guard.watching(), redirect_stdout(printed):
            warnings.simplefilter("ignore")
            summary.count(f"{name} {in_time(lambda: _judged(target, made))}")
        if printed.getvalue():
            raise BrokenPromise(f"it printed {printed.getvalue()[:100]!r}")

    try:
        case()
    except BaseException as error:  # several findings are an exception group
        if isinstance(error, KeyboardInterrupt):
            raise
        for one in getattr(error, "exceptions", [error]):
            notes = " ".join(" ".join(getattr(one, "__notes__", [])).split())
            where = _place_of(one)
            summary.broken.append(
                f"{name}: {type(one).__name__}: {one} at {where}; {notes}"[:_KEPT]
                + f"; again: {_command(name, number, cases)}"
            )
    finally:
        faulthandler.cancel_dump_traceback_later()
    return summary


def _judged(target: Target, made: Any) -> str:
    try:
        return target.check(made)
    except LatentDBError as error:
        one_line(error)
        return "refused"


def _place_of(error: BaseException) -> str:
    """The last line of latentdb in a traceback."""
    place, trace = "no line of latentdb", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if f"{os.sep}latentdb{os.sep}" in file:
            place = f"{file.rpartition(f'{os.sep}latentdb{os.sep}')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _command(name: str, number: int, cases: int) -> str:
    return f"scripts/battery fuzz --only {name} --seed {number} --cases {cases}"


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    # The next target may import more, and gets a higher one.
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(names: str, first: str, cases: str, seconds: str, longest: str) -> None:
    """In a child: rounds of some targets, of which the summary is printed."""
    world.LONGEST, sys.dont_write_bytecode = float(longest), True
    faulthandler.enable()
    summary = Summary("fuzz")
    with workshop() as folder, small():
        tempfile.tempdir = str(folder)
        guard = Guard(folder)
        for name in names.split(","):
            try:
                target = TARGETS[name](folder / name)
            except ImportError:  # of an extra
                summary.count(f"{name} left out")
                continue
            with shims.installed(Shim()):
                if target.check(target.sound) != "answered":
                    raise BrokenPromise(f"{name}: sound input was not answered")
                _limit_memory()
                end, number = time.monotonic() + float(seconds), int(first)
                while True:
                    # So that a signal can be told from which round it came.
                    print(name, number, file=sys.stderr, flush=True)
                    summary.add(asdict(_round(name, target, guard, number, int(cases))))
                    number += 1
                    if time.monotonic() >= end:
                        break
    print(json.dumps(asdict(summary)))


def _child(
    summary: Summary, names: Sequence[str], first: int, cases: int, seconds: int, most: float
) -> int:
    """Run `main` in a process of its own; the seed of its last round."""
    here = str(Path(__file__).resolve().parent.parent)
    words = [sys.executable, "-m", "batteries.fuzz", ",".join(names)]
    words += [str(first), str(cases), str(seconds), str(most)]
    # The file may be written by the libraries below Python, which end the process.
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            cwd=here,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        errors.seek(0)
        lines = errors.read().splitlines()
    rounds = [line.split() for line in lines if line.split()[:1] and line.split()[0] in TARGETS]
    name, number = rounds[-1][:2] if rounds else (names[0], str(first))
    if done.returncode:
        trace = [line for line in lines if line.startswith(("  File", "Fatal", "Timeout"))][:6]
        trace += lines[-1:]
        summary.cases += 1
        summary.broken.append(
            f"{name}: the process ended with {done.returncode}, {trace}; again: "
            + _command(name, int(number), cases)
        )
    else:
        *printed, found = done.stdout.splitlines()
        summary.add(json.loads(found))
        if printed:
            summary.broken.append(f"{names}: a library printed {printed[0]!r}")
    return int(number)


def run(seconds: int = 60, seed: int = 1, *, cases: int = 0, only: str = "") -> Summary:
    """The class `fuzz`.

    Parameters
    ----------
    seconds
        For each target.
    seed
        Of the first round.
    cases
        One round of so many cases a target instead, whatever time it takes.
    only
        Targets, separated by commas; all by default.
    """
    summary = Summary("fuzz")
    most = max(_LONGEST, world.LONGEST)
    names = only.split(",") if only else list(TARGETS)
    if cases:
        _child(summary, names, seed, cases, 0, most)
        return summary
    for name in names:
        end, number = time.monotonic() + seconds, seed
        while (left := round(end - time.monotonic())) > 0:
            # A signal ends a process, and the next goes on behind the round it was in.
            number = _child(summary, [name], number, _EACH, left, most) + 1
    return summary


if __name__ == "__main__":
    main(*sys.argv[1:])
