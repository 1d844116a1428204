"""The lock of the one writer: who holds it, who is refused, when it is free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentdb.base.errors import LockedError, StoreError
from latentdb.store import lock as locks
from latentdb.store import manifest as manifests
from latentdb.store.lock import writer_lock
from latentdb.store.manifest import Manifest

FULL = Manifest("0" * 32, 1, 4)

HOLD = """
import sys
from pathlib import Path
from latentdb.store.lock import writer_lock

with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_writes_and_since_when(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    said = rf"is being written by process {holder.pid} on .+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(LockedError, match=said), writer_lock(tmp_path):
        pass


def test_readers_do_not_mind_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    manifests.commit(tmp_path, FULL)
    assert manifests.read(tmp_path) == FULL


def test_a_killed_holder_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=60)
    with writer_lock(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "LOCK").read_text()


def test_a_holder_that_ended_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.communicate("", timeout=60)
    with writer_lock(tmp_path):
        assert (tmp_path / "LOCK").read_text().count("process") == 1


def test_the_lock_excludes_within_one_process_too(tmp_path: Path) -> None:
    with (
        writer_lock(tmp_path),
        pytest.raises(LockedError, match=f"written by process {os.getpid()} on"),
        writer_lock(tmp_path),
    ):
        pass
    with writer_lock(tmp_path):
        pass


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), writer_lock(tmp_path):
        raise KeyError("mine")
    with writer_lock(tmp_path):
        pass


def test_the_lock_file_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "LOCK").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(StoreError, match="LOCK cannot be opened for writing"),
        writer_lock(tmp_path),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "content"


FORK = """
import os, signal, sys
from pathlib import Path
from latentdb.store.lock import writer_lock

path, then = Path(sys.argv[1]), sys.argv[2]
with writer_lock(path):
    child = os.fork()
    if not child:
        signal.pause()
    print(child, flush=True)
    if then == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
with writer_lock(path):
    print("free")
"""


@pytest.mark.parametrize("then", ["ends", "killed"])
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, then: str) -> None:
    """As the workers of a DataLoader do, that are started while the parent writes."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path), then], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.wait(timeout=60)
        assert process.returncode == (0 if then == "ends" else -signal.SIGKILL)
        with writer_lock(tmp_path, 60):  # the child closes its copy when it is scheduled
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_copy_of_the_descriptor_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As in a process that was forked by code of C, which calls no hook of Python."""
    with writer_lock(tmp_path):
        (held,) = locks._held
        copy = os.dup(held)
    with writer_lock(tmp_path):
        os.close(copy)


@pytest.mark.parametrize("kind", ["hard link", "pipe"])
def test_the_lock_is_a_file_of_its_own(tmp_path: Path, kind: str) -> None:
    (tmp_path / "precious").write_text("content")
    if kind == "pipe":
        os.mkfifo(tmp_path / "LOCK")
    else:
        os.link(tmp_path / "precious", tmp_path / "LOCK")
    with pytest.raises(StoreError, match="LOCK is no file of its own"), writer_lock(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.parametrize("name", ["segments", "index", "model", "quarantine"])
def test_a_folder_that_is_a_link_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"{name} is a link"), writer_lock(tmp_path / "store"):
        pass
    assert os.listdir(tmp_path / "store") == [name]
    assert not os.listdir(tmp_path / "elsewhere")


def test_the_path_of_a_store_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with writer_lock(tmp_path / "link"):
        manifests.commit(tmp_path / "link", FULL)
    assert manifests.read(tmp_path / "store") == FULL


def test_the_lock_of_a_missing_store_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="LOCK cannot be opened for writing: no such file"),
        writer_lock(tmp_path / "missing"),
    ):
        pass
