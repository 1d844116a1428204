"""A stand-in for the `os` module inside latentdb: counts, logs and breaks what it does to files.

Only latentdb's own modules see it, so that the battery itself, Python and
HDF5's in-memory writes stay as they are.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

SHIMMED = (
    "base.files",
    "base.outputs",
    "store.garbage",
    "store.lock",
    "store.plan",
    "store.quarantine",
    "store.versions",
)  # all that touch a store
WRITES = ("write", "pwrite")


class Stopped(BaseException):
    """The process is dead, as far as the disk is concerned."""


@dataclass
class Fault:
    """What goes wrong.

    Attributes
    ----------
    at
        Number of the operation, from 1; 0 for never.
    after
        Instead of a number: the operation that follows the first one of this name.
    action
        ``"kill"`` (SIGKILL to this process), ``"stop"`` (this and later changes
        never happen, in the same process) or ``"fail"`` (OSError).
    forever
        Whether later operations fail too.
    error
        The errno of a failure.
    short
        Do half of a write first.
    budget
        Bytes the disk still takes; then it is full.  None for no end.
    """

    at: int = 0
    after: str = ""
    action: str = "none"
    forever: bool = False
    error: int = errno.EIO
    short: bool = False
    budget: int | None = None


class Shim:
    """The state behind the stand-ins.

    Parameters
    ----------
    fault
        To be injected.
    reads
        Whether reading operations count too.
    """

    def __init__(self, fault: Fault | None = None, *, reads: bool = False) -> None:
        self.fault = fault or Fault()
        self.reads = reads
        self.names: list[str] = []
        self.log: list[tuple[Any, ...]] | None = None
        self.dead = False
        self._files: dict[int, Path] = {}

    def revive(self, fault: Fault | None = None) -> None:
        """Start a new process, as it were, with another fault."""
        self.fault, self.dead, self.names = fault or Fault(), False, []

    def record(self, *entry: Any) -> None:
        if self.log is not None:
            self.log.append(entry)

    def step(self, name: str, half: Callable[[], Any] | None = None) -> None:
        """Count an operation that is about to happen, and break it if it is its turn."""
        if self.dead:
            raise Stopped
        self.names.append(name)
        fault = self.fault
        now = len(self.names)
        if fault.after and fault.after in self.names[:-1] and not fault.at:
            fault.at = now
        if not fault.at or now < fault.at or (now > fault.at and not fault.forever):
            return
        if fault.short and half is not None:
            half()
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == "stop":
            self.dead = True
            raise Stopped
        elif fault.action == "fail":
            raise OSError(fault.error, os.strerror(fault.error))

    def read_step(self, name: str) -> None:
        if self.reads and not self.dead:
            self.step(name)

    def spend(self, wanted: int) -> int:
        """How many bytes of a write still fit on the disk."""
        if self.fault.budget is None:
            return wanted
        taken = min(wanted, self.fault.budget)
        if wanted and not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fault.budget -= taken
        return taken


class FaultyOs:
    """The `os` module as latentdb sees it."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _path(self, path: str | Path, dir_fd: int | None) -> Path:
        return Path(path) if dir_fd is None else self._shim._files[dir_fd] / path

    def open(
        self, path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        shim = self._shim
        path = self._path(path, dir_fd)
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if writes:
            shim.step("open")
        else:
            shim.read_step("open-read")
        new = writes and not path.exists()
        descriptor = os.open(path, flags, mode)
        shim._files[descriptor] = path
        if new:
            shim.record("create", path)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._shim._files.pop(descriptor, None)
        os.close(descriptor)

    def write(self, descriptor: int, data: memoryview) -> int:
        shim = self._shim

        def some(size: int) -> int:
            part = bytes(data[: shim.spend(size)])
            done = os.write(descriptor, part)
            shim.record("write", shim._files[descriptor], part[:done])
            return done

        shim.step("write", lambda: some(len(data) // 2))
        return some(len(data))

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        half = len(data) // 2
        self._shim.step("pwrite", lambda: os.pwrite(descriptor, data[:half], offset))
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor: int, length: int) -> None:
        self._shim.step("ftruncate")
        os.ftruncate(descriptor, length)

    def fsync(self, descriptor: int) -> None:
        self._shim.step("fsync")
        # The device is not asked: what was not synced is decided by the replay.
        self._shim.record("fsync", self._shim._files[descriptor])

    def rename(self, source: Path, target: Path, **folders: Any) -> None:
        self._shim.step("rename")
        os.rename(source, target, **folders)
        self._shim.record("rename", Path(source), Path(target))

    def link(self, source: str, target: str, **folders: Any) -> None:
        self._shim.step("link")
        os.link(source, target, **folders)
        self._shim.record("link", Path(source), Path(target))

    def unlink(self, path: str | Path, *, dir_fd: int | None = None) -> None:
        path = self._path(path, dir_fd)
        self._shim.step("unlink")
        os.unlink(path)
        self._shim.record("unlink", path)

    def utime(self, path: Path, **named: Any) -> None:
        self._shim.step("utime")
        os.utime(path, **named)

    def fstat(self, descriptor: int) -> os.stat_result:
        self._shim.read_step("fstat")
        return os.fstat(descriptor)

    def fdopen(self, descriptor: int, mode: str) -> Any:
        self._shim._files.pop(descriptor, None)
        return _FaultyFile(self._shim, os.fdopen(descriptor, mode))


class _FaultyFile:
    def __init__(self, shim: Shim, file: IO[Any]) -> None:
        self._shim, self._file = shim, file

    def __enter__(self) -> _FaultyFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        self._shim.read_step("read")
        data: bytes = self._file.read(size)
        return data


class _FaultyMmap:
    ACCESS_READ = mmap.ACCESS_READ

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    def mmap(self, *words: Any, **named: Any) -> mmap.mmap:
        self._shim.read_step("mmap")
        return mmap.mmap(*words, **named)


@contextmanager
def installed(shim: Shim) -> Iterator[Shim]:
    """Let latentdb see the stand-ins."""
    import h5py

    real = h5py.File

    def open_hdf5(name: Any, *words: Any, **named: Any) -> Any:
        if isinstance(name, Path):
            shim.read_step("hdf5")
        return real(name, *words, **named)

    stand_in = FaultyOs(shim)
    with ExitStack() as stack:
        for module in SHIMMED:
            stack.enter_context(mock.patch(f"latentdb.{module}.os", stand_in))
        stack.enter_context(mock.patch("latentdb.base.files.mmap", _FaultyMmap(shim)))
        stack.enter_context(mock.patch("h5py.File", open_hdf5))
        yield shim
