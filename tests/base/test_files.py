"""The calls that every write and read of a store goes through."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.base import files
from latentdb.base.errors import CorruptStoreError, NotFoundError, StoreError
from latentdb.base.files import (
    checksum,
    map_checked,
    os_reason,
    read_limited,
    read_or_map,
    replace_atomically,
    sync_folder,
    try_remove,
    write_new,
)
from latentdb.base.outputs import open_output

LIMITED = """
import resource, sys
from pathlib import Path
from latentdb.base.errors import StoreError
from latentdb.base.files import replace_atomically, write_new

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
try:
    {"new": write_new, "replace": replace_atomically}[sys.argv[1]](Path(sys.argv[2]), bytes(5000))
except StoreError as error:
    print(error)
"""


def run_limited(call: str, path: Path) -> str:
    """Write 5,000 bytes in a process whose files may have 1,000: a disk that is full half way."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, call, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_checksum_is_xxh3_128_so_that_old_stores_stay_readable() -> None:
    assert checksum(b"") == "99aa06d3014798d86001c324468d497f"
    assert checksum(memoryview(b"latents")) == checksum(b"latents") != checksum(b"latentS")


def test_write_new_writes_every_byte(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    write_new(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == data


def test_write_new_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"a cannot be written: file exists"):
        write_new(path, b"other")
    assert path.read_bytes() == b"mine"


def test_write_new_says_which_file_when_its_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone/a cannot be written: no such file"):
        write_new(tmp_path / "gone" / "a", b"x")


def test_write_new_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="link cannot be written"):
        write_new(tmp_path / "link", b"x")
    assert not (tmp_path / "target").exists()


def test_write_new_does_not_write_into_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StoreError, match="link is a link, to which nothing is written"):
        write_new(tmp_path / "link/a", b"x")
    assert not list((tmp_path / "real").iterdir())
    replace_atomically(tmp_path / "link/a", b"x")  # a store's own path may be one
    assert (tmp_path / "real/a").read_bytes() == b"x"


def test_write_new_leaves_nothing_of_a_file_that_does_not_fit(tmp_path: Path) -> None:
    assert "a cannot be written: file too large" in run_limited("new", tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_replace_keeps_the_old_file_when_the_new_one_does_not_fit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    assert "cannot be written: file too large" in run_limited("replace", path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_replace_leaves_no_temporary_file(tmp_path: Path) -> None:
    replace_atomically(tmp_path / "a", b"one")
    replace_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def process_that_ended() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def write_one(path: Path) -> None:
    with open_output(path) as file:
        file.write(b"whole")


@pytest.mark.parametrize("write", [lambda path: replace_atomically(path, b"whole"), write_one])
def test_the_temporary_files_of_killed_processes_are_deleted(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    ended = process_that_ended()
    for name in (f".a.csv.{ended}.tmp", f".a.csv.{ended}-01234567.tmp", ".a.csv.1-89abcdef.tmp"):
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / ".a.csv.1-89abcdef.tmp", (0, 0))  # process 1 lives, and reused a number
    others = {
        f".ba.csv.{ended}.tmp",
        f".a.csv.{ended}.tmp.bak",
        f".axcsv.{ended}.tmp",
        ".a.csv.tmp",
    }
    live = f".a.csv.{os.getpid()}-01234567.tmp"  # of another thread
    for name in (*others, live):
        (tmp_path / name).write_bytes(b"not mine")
    write(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"whole"
    assert set(os.listdir(tmp_path)) == {"a.csv", live, *others}


def test_replace_cleans_up_when_it_cannot_rename(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match="a cannot be written: is a directory"):
        replace_atomically(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == ["a"]


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([number]) * 50_000 for number in range(2)]
    replace_atomically(path, contents[0])
    stop = threading.Event()

    def write() -> None:
        for turn in range(100):
            replace_atomically(path, contents[turn % 2])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {read_limited(path, 100_000)}
    while not stop.is_set():
        seen.add(read_limited(path, 100_000))
    writer.join()
    assert seen <= set(contents)


def test_try_remove_ignores_what_is_not_there_and_what_is_a_folder(tmp_path: Path) -> None:
    try_remove(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    try_remove(tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()
    (tmp_path / "file").write_bytes(b"x")
    try_remove(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_sync_folder_says_which_folder_is_missing(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(StoreError, match="gone cannot be synced: no such file"):
        sync_folder(tmp_path / "gone")


class Drive:
    """The calls that sync of macOS makes, and the answer of its file system to the full one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusal: int = 0) -> None:
        self.calls: list[str] = []
        self._refusal = refusal
        monkeypatch.setattr(files, "_FULL_SYNC", 51)  # F_FULLFSYNC
        monkeypatch.setattr(files.fcntl, "fcntl", self._fcntl)
        monkeypatch.setattr(files.os, "fsync", lambda _: self.calls.append("fsync"))

    def _fcntl(self, descriptor: int, command: int) -> int:
        assert command == 51
        assert os.fstat(descriptor)
        self.calls.append("full")
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        return 0


def test_a_drive_of_a_mac_is_told_to_empty_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(monkeypatch)
    write_new(tmp_path / "a", b"x")
    sync_folder(tmp_path)
    with open_output(tmp_path / "b") as file:
        file.write(b"x")
    assert drive.calls == ["full"] * 4  # two files, and their folder after each


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_that_cannot_do_so_is_synced_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    drive = Drive(monkeypatch, refusal)
    write_new(tmp_path / "a", b"x")
    assert drive.calls == ["full", "fsync"]


def test_a_drive_that_fails_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Drive(monkeypatch, errno.EIO)
    with pytest.raises(StoreError, match="a cannot be written: input/output error"):
        write_new(tmp_path / "a", b"x")
    assert drive.calls == ["full"]
    assert list(tmp_path.iterdir()) == []


def test_read_limited_accepts_the_limit_and_refuses_one_byte_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_limited(tmp_path / "a", 10) == b"x" * 10
    with pytest.raises(CorruptStoreError, match="a has over 9 bytes"):
        read_limited(tmp_path / "a", 9)


@pytest.mark.parametrize("limit", [2**45, 2**62])
def test_read_limited_allocates_no_more_than_the_file_has(tmp_path: Path, limit: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_limited(tmp_path / "a", limit) == b"x" * 10


def test_read_limited_reports_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a is missing"):
        read_limited(tmp_path / "a", 10)


def test_read_limited_does_not_wait_on_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptStoreError, match="pipe is not a regular file"):
        read_limited(tmp_path / "pipe", 10)


def test_read_limited_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CorruptStoreError, match="is not a regular file"):
        read_limited(tmp_path, 10)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_never_followed(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="link cannot be read"):
        read_limited(tmp_path / "link", 10)
    with pytest.raises(StoreError, match="link cannot be read"):
        map_checked(tmp_path / "link", 6, checksum(b"secret"))


def test_a_link_counts_as_damage(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(CorruptStoreError, match="link"):
        read_limited(tmp_path / "link", 10)


@pytest.mark.parametrize("below", [0, files.READ_BELOW])
def test_a_file_is_read_or_mapped_with_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: int
) -> None:
    monkeypatch.setattr(files, "READ_BELOW", below)
    (tmp_path / "a").write_bytes(b"abc")
    found = read_or_map(tmp_path / "a", 3)
    assert (bytes(found), isinstance(found, bytes)) == (b"abc", below > 3)
    for size in (2, 4):
        with pytest.raises(
            CorruptStoreError, match=f"a is damaged: it has 3 bytes, expected {size}"
        ):
            read_or_map(tmp_path / "a", size)
    with pytest.raises(NotFoundError, match="b is missing"):
        read_or_map(tmp_path / "b", 3)


def test_map_checked_gives_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert map_checked(tmp_path / "a", 7, checksum(b"content"))[:] == b"content"


@pytest.mark.parametrize("content", [b"", b"conten", b"content "])
def test_map_checked_refuses_another_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CorruptStoreError, match=rf"a is damaged: it has {len(content)} bytes"):
        map_checked(tmp_path / "a", 7, checksum(content))


def test_map_checked_reports_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a is missing"):
        map_checked(tmp_path / "a", 7, checksum(b""))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_map_checked_notices_every_changed_byte(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.integers(1, 255))
    damaged = bytearray(content)
    damaged[position] ^= change
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    with pytest.raises(CorruptStoreError, match="damaged is damaged: its checksum"):
        map_checked(path, len(content), checksum(content))


def test_os_reason_is_never_empty() -> None:
    assert (
        os_reason(FileNotFoundError(2, "No such file or directory")) == "no such file or directory"
    )
    assert os_reason(OSError("Odd")) == "odd"
    assert os_reason(OSError()) == "oserror"
