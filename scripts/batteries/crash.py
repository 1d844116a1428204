"""kill -9 at every operation of every writer, at random times, and while opening after a kill.

The children are forked by a small server that never loads faiss, so that a kill
costs a fork and not a start of Python.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from batteries import shim as shims
from batteries.shim import Fault, Shim
from batteries.world import (
    Bases,
    BrokenPromise,
    Generator,
    Op,
    State,
    Summary,
    check,
    check_garbage_collected,
    check_goes_back,
    make,
    scenarios,
    small,
    workshop,
)

KINDS = ("add", "add", "replace", "delete", "compact")
_FRESH = 40  # kills after which a random run starts with a new store


class Server:
    """Forks children that work on a store, and kills them."""

    def __enter__(self) -> Server:
        words = [sys.executable, "-m", "batteries.crash"]
        here = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": here, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(60)

    def run(self, **job: Any) -> tuple[int, list[dict[str, Any]]]:
        """Run a job in a child: its wait status, and the lines it managed to write."""
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None:
            raise RuntimeError("the fork server has no pipes")
        progress = Path(job["progress"])
        progress.unlink(missing_ok=True)
        pipe_in.write(json.dumps(job) + "\n")
        pipe_in.flush()
        status = int(pipe_out.readline())
        lines = progress.read_text().splitlines() if progress.exists() else []
        return status, [json.loads(line) for line in lines]


def serve() -> None:
    """The fork server: a job a line on stdin, a wait status a line on stdout."""
    import h5py  # noqa: F401 - loaded once, for all children

    for line in sys.stdin:
        job = json.loads(line)
        if "faiss" in sys.modules:
            raise RuntimeError("faiss is loaded: a fork could hang")
        child = os.fork()
        if not child:
            code = 3
            try:
                _work(job)
                code = 0
            except Exception as error:  # noqa: BLE001 - told through the progress file
                _tell(job, {"error": f"{type(error).__name__}: {error}"})
            finally:
                os._exit(code)
        if job.get("kill_after") is not None:
            time.sleep(job["kill_after"])
            os.kill(child, signal.SIGKILL)
        print(os.waitpid(child, 0)[1], flush=True)


def _tell(job: dict[str, Any], item: dict[str, Any]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptor = os.open(job["progress"], flags, 0o644)
    os.write(descriptor, json.dumps(item).encode() + b"\n")
    os.close(descriptor)


def _work(job: dict[str, Any]) -> None:
    """In the child: one operation under a fault, or random ones until the kill."""
    from latentdb.database import LatentDB

    with small(grace=job["grace"]):
        if "op" in job:
            op = Op.from_json(job["op"])
            shim = Shim(Fault(job["at"], action="kill", short=job["short"]))
            with LatentDB.open(job["path"]) as db, shims.installed(shim):
                op.apply(db)
            _tell(job, {"ack": True, "names": shim.names})
            return
        state: State = job["state"]
        generator = Generator(job["seed"], job["kinds"])
        generator.version = job["version"]
        with LatentDB.open(job["path"]) as db:
            while True:
                op = generator.next(state)
                _tell(job, {"begin": op.as_json()})
                op.apply(db)
                state = op.after(state)
                _tell(job, {"ack": True})


def _point(
    server: Server, bases: Bases, name: str, at: int, *, short: bool, grace: float
) -> tuple[list[str], str]:
    """Kill at one operation and check; with ``at=0`` just count the operations."""
    path, state, op = bases.copy(name)
    progress = str(path) + ".progress"
    status, told = server.run(
        path=str(path), op=op.as_json(), at=at, short=short, grace=grace, progress=progress
    )
    done = bool(told) and "ack" in told[-1]
    if not at and not done:
        raise BrokenPromise(f"without a fault: {told}")
    if at and (done or status != signal.SIGKILL):
        raise BrokenPromise(f"not killed: status {status}, {told}")
    after = op.after(state)
    which = check(path, [after] if done else [state, after])
    if grace < 0:
        check_garbage_collected(path)
    if at % 2:
        check_goes_back(path)
    shutil.rmtree(path)
    return told[-1]["names"] if done else [], "wholly there" if which else "wholly absent"


def points(summary: Summary, folder: Path, only: list[str] | None = None, every: int = 1) -> None:
    """Kill before and in the middle of each operation of each scenario.

    Parameters
    ----------
    summary
        Gets the cases.
    folder
        To work in.
    only
        Scenarios; all by default.
    every
        Take each so many-th operation only.
    """
    with Server() as server, small():
        bases = Bases(folder)
        for name in only or list(scenarios()):
            steps, _ = _point(server, bases, name, 0, short=False, grace=600)
            for at in range(1, len(steps) + 1, every):
                for short in (False, True) if steps[at - 1] in shims.WRITES else (False,):
                    summary.case(
                        f"{name}, {steps[at - 1]} {at} of {len(steps)}, {short=}",
                        lambda name=name, at=at, short=short: _point(  # type: ignore[misc]
                            server, bases, name, at, short=short, grace=600 if at % 3 else -1
                        )[1],
                    )


def random_kills(
    summary: Summary, folder: Path, count: int, *, seed: int, longest: float, index: bool = False
) -> None:
    """Kill a busy writer at random times, over and over on the same store.

    With a short `longest` most kills fall into opening the store after the last kill.
    """
    draw = random.Random(seed)
    state: State = {}
    path = folder / "none"
    version = 0
    with Server() as server, small():
        for number in range(count):
            if number % _FRESH == 0:
                shutil.rmtree(path, ignore_errors=True)
                path, version = folder / f"random {seed} {number}", 0
                state = make(path, [Op("add", tuple(f"s{n}" for n in range(50)), 0)])

            def one(number: int = number, path: Path = path) -> str:
                nonlocal state, version
                status, lines = server.run(
                    path=str(path),
                    state=state,
                    seed=seed + number,
                    version=version,
                    kinds=[*KINDS, "optimize"] if index else KINDS,
                    grace=-1 if number % 2 else 600,
                    kill_after=draw.uniform(0, longest),
                    progress=str(path) + ".progress",
                )
                if status != signal.SIGKILL:
                    raise BrokenPromise(f"not killed: status {status}, {lines[-1:]}")
                allowed = [state]
                for line in lines:
                    if "begin" in line:
                        op = Op.from_json(line["begin"])
                        version = op.version
                        allowed = [state, op.after(state)]
                    else:
                        state = allowed[-1]
                        allowed = [state]
                which = check(path, allowed, write=number % 10 == 9)
                state = allowed[which]
                begun = sum("begin" in line for line in lines)
                return "killed while opening" if not begun else "killed at work"

            summary.case(f"random kill {number}", one)


def run(count: int = 2000, seed: int = 1, *, opens: int = 200, every: int = 1) -> Summary:
    """The class `crash`: every operation, `count` random kills, `opens` kills while opening."""
    summary = Summary("crash")
    with workshop() as folder:
        points(summary, folder, every=every)
        plain = count - count // 10
        random_kills(summary, folder, plain, seed=seed, longest=0.12)
        random_kills(summary, folder, count - plain, seed=seed + 1, longest=1.2, index=True)
        random_kills(summary, folder, opens, seed=seed + 2, longest=0.02)
    return summary


if __name__ == "__main__":
    serve()
