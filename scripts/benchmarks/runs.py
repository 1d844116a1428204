"""Runs the phases in processes of their own, within a time, and keeps what came out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)
Result = dict[str, Any]


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _environment(threads: int | None) -> dict[str, str]:
    found = {**os.environ, "RUST_LOG": "error"}
    # A cold start from source text would be a second of compiling, which no user sees twice.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    found["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), str(ROOT)])
    for name in _ONE_THREAD:
        found.pop(name, None)
        if threads is not None:
            found[name] = str(threads)
    return found


def _stop(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here, and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Work:
    """A folder that keeps the result of every phase, so that a run can go on where it stopped.

    Parameters
    ----------
    folder
        Made where it is missing.
    settings
        What all results in it depend on.
    limit
        Seconds that one system may take on one set.
    """

    def __init__(self, folder: Path, settings: Result, limit: float) -> None:
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        if kept.exists() and json.loads(kept.read_text()) != settings:
            sys.exit(
                f"{folder} holds results of other settings ({kept.read_text()}), now wanted "
                f"{json.dumps(settings)}: give another --work, or the same settings"
            )
        kept.write_text(json.dumps(settings))

    def folder_of(self, group: str, system: str) -> Path:
        return self.folder / "results" / group / system

    def store(self, group: str, system: str) -> Path:
        """Where a system keeps its rows."""
        return self.folder / "stores" / group / system

    def known(self, group: str, system: str) -> dict[str, Result]:
        """All results of a system on a set."""
        files = sorted(self.folder_of(group, system).glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}

    def forget(self, group: str, system: str) -> None:
        shutil.rmtree(self.folder_of(group, system), ignore_errors=True)
        shutil.rmtree(self.store(group, system), ignore_errors=True)

    def _spent(self, group: str, system: str) -> float:
        return sum(result.get("seconds", 0.0) for result in self.known(group, system).values())

    def save(self, group: str, system: str, phase: str, result: Result) -> Result:
        file = self.folder_of(group, system) / f"{phase}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(result, indent=1))
        os.replace(temporary, file)
        return result

    def run(
        self,
        group: str,
        system: str,
        phase: str,
        request: Result,
        *,
        python: Path,
        threads: int | None = None,
    ) -> Result:
        """The result of a phase: as it is known, or from a process that is run now.

        What fails or takes too long gives ``{"failed": reason}``.
        """
        file = self.folder_of(group, system) / f"{phase}.json"
        if file.exists():
            known: Result = json.loads(file.read_text())
            return known
        left = self.limit - self._spent(group, system)
        say(f"{group} {system} {phase}")
        asked = file.with_suffix(".request")
        asked.parent.mkdir(parents=True, exist_ok=True)
        store = self.store(group, system)
        # A phase may be run under a name of its own, for each of several rounds.
        job = {"phase": phase, "system": system, "folder": str(store), **request}
        asked.write_text(json.dumps(job))
        answer = asked.with_suffix(".result")
        answer.unlink(missing_ok=True)
        start = time.monotonic()
        with open(asked.with_suffix(".log"), "w") as log:
            process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", asked],
                cwd=self.folder,
                env=_environment(threads),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                process.wait(max(left, 1))
            except subprocess.TimeoutExpired:
                _stop(process)
                result = {"failed": f"took longer than {self.limit:.0f} s (stopped in {phase})"}
            except BaseException:
                _stop(process)
                raise
            else:
                if process.returncode or not answer.exists():
                    reason = _last_line(asked.with_suffix(".log"))
                    result = {"failed": f"{phase}: {reason or f'exit {process.returncode}'}"}
                else:
                    result = json.loads(answer.read_text())
        result["seconds"] = time.monotonic() - start
        if "failed" in result:
            say(f"{group} {system} {result['failed']}")
        answer.unlink(missing_ok=True)
        return self.save(group, system, phase, result)

    def cold(
        self, group: str, system: str, request: Result, *, python: Path, times: int = 5
    ) -> Result:
        """Seconds from the start of a process until it has answered one query."""
        file = self.folder_of(group, system) / "cold.json"
        if file.exists():
            known: Result = json.loads(file.read_text())
            return known
        say(f"{group} {system} cold")
        asked = file.with_suffix(".request")
        asked.parent.mkdir(parents=True, exist_ok=True)
        store = self.store(group, system)
        job = {"phase": "cold", "system": system, "folder": str(store), **request}
        asked.write_text(json.dumps(job))
        seconds: list[float] = []
        while len(seconds) < times and sum(seconds) < 60:
            left = max(self.limit - self._spent(group, system) - sum(seconds), 1)
            command = [str(python), "-m", "benchmarks.worker", str(asked)]
            took = _until_answered(command, asked.with_suffix(".log"), left)
            if isinstance(took, str):
                return self.save(group, system, "cold", {"failed": f"cold: {took}"})
            seconds.append(took)
        result = {"cold_s": statistics.median(seconds), "all": seconds, "seconds": sum(seconds)}
        return self.save(group, system, "cold", result)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    filled = [line for line in lines if line]
    return filled[-1][:300] if filled else ""


def _until_answered(command: Sequence[str], log: Path, limit: float) -> float | str:
    """Seconds to the line ``answered``, or why it did not come."""
    took = None
    with open(log, "w") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=_environment(1),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        watch = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        watch.daemon = True
        watch.start()
        try:
            for line in process.stdout or ():
                if line.strip() == "answered" and took is None:
                    took = time.perf_counter() - start
            process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            watch.cancel()
    if took is not None:
        return took
    if process.returncode == -signal.SIGKILL:
        return f"took longer than {limit:.0f} s"
    return _last_line(log) or f"exit {process.returncode}"


def alternated(commands: dict[str, Sequence[str]], times: int) -> dict[str, float]:
    """Median seconds of whole commands, run in turns; what they print is thrown away.

    Raises
    ------
    CalledProcessError
        If one fails.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(times + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, env=_environment(None), stdout=subprocess.DEVNULL, check=True)
            # The first turn brings the files into memory.
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}
