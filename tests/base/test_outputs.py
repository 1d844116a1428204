"""Files that a user asked for: whole, and in place of no other unless that is asked for too."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentdb.base import outputs
from latentdb.base.errors import AlreadyExistsError, StoreError
from latentdb.base.files import is_temporary
from latentdb.base.outputs import (
    Output,
    check_new_folder,
    make_output_folder,
    open_output,
    output_folder,
    write_folder,
    write_output,
    write_unsynced,
)
from tests.base.test_files import process_that_ended


def stream(path: os.PathLike[str]) -> None:
    with open_output(path) as file:
        file.write(b"new")


def unsynced(path: os.PathLike[str]) -> None:
    write_unsynced(os.fspath(path), b"new", overwrite=isinstance(path, Output) and path.overwrite)


@pytest.mark.parametrize("write", [lambda path: write_output(path, b"new"), stream, unsynced])
def test_a_file_is_replaced_only_if_that_is_asked_for(
    tmp_path: Path, write: Callable[[os.PathLike[str]], None]
) -> None:
    path = tmp_path / "out.png"
    write(path)
    assert path.read_bytes() == b"new"
    path.write_bytes(b"mine")
    for plain in (path, Output(str(path))):
        with pytest.raises(AlreadyExistsError, match=r"out\.png exists: .* with --force"):
            write(plain)
    assert path.read_bytes() == b"mine"
    write(Output(str(path), overwrite=True))
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_file_made_while_another_was_written_stays(tmp_path: Path) -> None:
    def write_both() -> None:
        with open_output(tmp_path / "a") as first:
            first.write(b"first")
            write_output(tmp_path / "a", b"second")

    with pytest.raises(AlreadyExistsError, match="a exists"):
        write_both()
    assert (tmp_path / "a").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "operation not permitted")

    monkeypatch.setattr(outputs.os, "link", refuse)
    write_output(tmp_path / "a", b"one")
    with pytest.raises(AlreadyExistsError, match="a exists"):
        write_output(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_protected_is_not_replaced_even_if_that_is_asked_for(tmp_path: Path) -> None:
    def find(paths: Sequence[str]) -> str | None:
        return next((path for path in paths if path.endswith("cat.png")), None)

    output = Output(str(tmp_path / "cat.png"), overwrite=True, find_protected=find)
    with pytest.raises(AlreadyExistsError, match=r"cat\.png is part of the store or the image"):
        write_output(output, b"x")
    output.check([str(tmp_path / "dog.png")])
    with pytest.raises(AlreadyExistsError, match=r"cat\.png is"):
        output.check([str(tmp_path / "dog.png"), str(tmp_path / "cat.png")])
    assert os.listdir(tmp_path) == []


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(AlreadyExistsError, match="link exists"):
        write_output(tmp_path / "link", b"new")
    write_output(Output(str(tmp_path / "link"), overwrite=True), b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (tmp_path / "link").read_bytes() == b"new"


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe cannot be written: it is a device or a pipe"):
        write_output(Output(str(tmp_path / "pipe"), overwrite=True), b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_one_missing_folder_is_made_and_no_path_of_them(tmp_path: Path) -> None:
    write_output(tmp_path / "new" / "out.png", b"one")
    for write in (
        lambda: write_output(tmp_path / "tpyo" / "folder" / "out.png", b"x"),
        lambda: make_output_folder(tmp_path / "tpyo" / "folder", ".png", []),
        lambda: check_new_folder(tmp_path / "tpyo" / "folder" / "model"),
    ):
        with pytest.raises(StoreError, match=r"there is no folder .*/tpyo: make it first"):
            write()
    assert os.listdir(tmp_path) == ["new"]
    make_output_folder(tmp_path / "out", ".png", ["a/b/c.png", "d.png"])
    assert (tmp_path / "out/a/b").is_dir()


def test_no_file_is_written_through_a_link_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/cat").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match=r"out/cat is a link, to which nothing is written"):
        make_output_folder(tmp_path / "out", ".png", ["cat/1.png"])


def test_where_a_folder_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    check_new_folder(tmp_path / "none")
    for name, reason in {
        "file": "exists: give another path",
        "full": "exists: give another path",
        "file/model": "cannot be written: (file exists|not a directory)",
        "a" * 300: "cannot be written: file name too long",
    }.items():
        with pytest.raises((StoreError, AlreadyExistsError), match=reason):
            check_new_folder(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "full"]


def test_threads_write_one_file_of_many(tmp_path: Path) -> None:
    contents = {bytes([number]) * 100_000 for number in range(8)}

    def write(data: bytes) -> None:
        write_unsynced(str(tmp_path / "a"), data, overwrite=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert (tmp_path / "a").read_bytes() in contents
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_of_outputs_is_swept_of_what_a_killed_run_left(tmp_path: Path) -> None:
    ended = process_that_ended()
    for name in (f".b.png.{ended}-01234567.tmp", f".b.jpg.{ended}-01234567.tmp", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    make_output_folder(tmp_path, ".png", ["b.png"])
    assert sorted(os.listdir(tmp_path)) == [f".b.jpg.{ended}-01234567.tmp", "b.png"]


def test_write_output_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StoreError, match="out cannot be written: "):
        write_output(tmp_path / "file" / "out", b"x")
    with pytest.raises(StoreError, match="is a directory"):
        write_output(tmp_path, b"x")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_folder_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        done[:] = ["folder" if is_temporary(Path(name)) else name for name in done]
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(outputs.os, "fsync", record_fsync)
    monkeypatch.setattr(outputs.os, "rename", record_rename)
    target = tmp_path / "m"
    target.mkdir()  # an empty folder is replaced
    write_folder(target, {"b": b"1", "a": b"2"})
    assert done == ["b", "a", "folder", "rename", tmp_path.name]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"2", "b": b"1"}


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/mine").touch()
    with pytest.raises(StoreError, match=r"/m cannot be written: directory not empty"):
        write_folder(tmp_path / "m", {"a": b"1"})
    with pytest.raises(StoreError, match=r"/n cannot be written: no such file"):
        write_folder(tmp_path / "n", {"none/a": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_is_merged_into_the_one_with_its_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", {"a": b"old", "mine": b"1"})
    (tmp_path / "m/part").mkdir()
    (tmp_path / "m/part/old").touch()
    with output_folder(tmp_path / "m", merge=True) as folder:
        (folder / "a").write_bytes(b"new")
        (folder / "part").mkdir()
        (folder / "part/b").touch()
    assert (tmp_path / "m/a").read_bytes() == b"new"
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"a", "mine", "part"}
    assert [path.name for path in (tmp_path / "m/part").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
