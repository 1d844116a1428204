"""Refuse hostile files in a process with limits, and measure what that takes.

Run as a script it is that process: it reads a JSON list of model files on stdin, and
prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_SECONDS, MAX_BYTES = 2.0, 1 << 30
_KILLED_AFTER = 30  # seconds of CPU: what takes longer is not worth waiting for


@dataclass(frozen=True)
class Refusal:
    """What became of a hostile file.

    Attributes
    ----------
    error
        The error's class, or ``"none"`` if the file was accepted, or ``"killed"``.
    message
        Its text.
    seconds
        Of CPU.
    megabytes
        More memory than before, at the highest.
    """

    error: str
    message: str
    seconds: float
    megabytes: float


def refuse(files: Sequence[Path], warm_up: Path) -> Iterator[Refusal]:
    """The refusal of each file, in order, by processes that a limit may end.

    Parameters
    ----------
    files
        Encoders.
    warm_up
        A usable encoder, converted before anything is measured: keras takes 5 s.
    """
    rest = list(files)
    while rest:
        given = json.dumps([str(warm_up), *map(str, rest)])
        child = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            child.stdin.write(given)
            child.stdin.close()
            done = 0
            for line in child.stdout:
                done += 1
                yield Refusal(**json.loads(line))
        rest = rest[done:]
        if rest:
            yield Refusal("killed", f"the process ended: {child.returncode}", _KILLED_AFTER, 0)
            del rest[0]


def _status(key: str) -> int:
    """Bytes of memory, from /proc."""
    line = next(one for one in open("/proc/self/status") if one.startswith(key))  # noqa: SIM115
    return int(line.split()[1]) << 10


def _main() -> None:
    warnings.filterwarnings("ignore")
    warm_up, *files = json.load(sys.stdin)
    from latentdb.base.errors import LatentDBError
    from latentdb.model.codec import Codec

    Codec.from_files(warm_up)
    for file in files:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + _KILLED_AFTER, hard))
        # Private memory, whether used or not: reserved address space is not counted.
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + MAX_BYTES, -1))
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before, start = _status("VmRSS"), time.process_time()
        error, message = "none", "accepted"
        try:
            Codec.from_files(file)
        except LatentDBError as found:
            error, message = type(found).__name__, str(found)
        except BaseException as found:  # noqa: BLE001  a traceback is what is looked for
            error, message = f"a traceback, {type(found).__name__}", str(found)[:200]
        seconds = time.process_time() - start
        megabytes = (_status("VmHWM") - before) / 1e6
        print(json.dumps({"error": error, "message": message.replace(f"{Path(file).parent}/", ""),
                          "seconds": seconds, "megabytes": megabytes}), flush=True)  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _main()
