"""Image files in folders: what is found, in which order, and what is reported."""

from __future__ import annotations

import inspect
import io
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from latentdb.base.errors import InvalidInputError, NotFoundError
from latentdb.images import discover as discover_module
from latentdb.images.discover import (
    BadFile,
    Candidate,
    ImageFile,
    Search,
    discover,
    is_image_name,
)
from latentdb.images.formats import SUFFIXES


def test_folders_are_searched_in_sorted_order(tmp_path: Path) -> None:
    names = ["b.png", "a/2.jpg", "a/10.JPEG", "a/c/x.webp", "Z.tiff", "ä.gif", "c d.bmp"]
    others = ["note.txt", ".hidden.png", ".git/x.png", "a/.thumb/x.png", "png", "a/x.png.txt"]
    for name in [*names, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = list(discover([tmp_path]))
    assert [file.id for file in found if isinstance(file, ImageFile)] == [
        "Z.tiff", "a/10.JPEG", "a/2.jpg", "a/c/x.webp", "b.png", "c d.bmp", "ä.gif",
    ]  # fmt: skip
    for file in found:
        assert isinstance(file, ImageFile)
        status = os.stat(file.path)
        assert file.path == str(tmp_path / file.id)
        assert (file.size, file.mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_found_in_either_case(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    (tmp_path / f"b{suffix.upper()}").touch()
    assert len(list(discover([tmp_path]))) == 2


def test_sources_are_folders_and_files_in_the_order_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder/b.png", "folder/a.png", "z.png", "no suffix", ".hidden"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = list(discover(["z.png", "folder", "no suffix", ".hidden"]))
    assert [file.id for file in found if isinstance(file, ImageFile)] == [
        "z.png", "a.png", "b.png", "no suffix", ".hidden",
    ]  # fmt: skip
    assert all(os.path.isabs(file.path) for file in found)


def test_a_missing_source_is_reported_before_anything_is_found(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for gone in ("gone", "gone\0", "loop"):
        with pytest.raises(NotFoundError, match="does not exist: give a folder or image files"):
            discover([tmp_path, tmp_path / gone])
    with pytest.raises(InvalidInputError, match="no images were given"):
        discover([])


def test_a_source_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a does not exist: give a folder or image files"):
        discover([tmp_path / ("a" * 300)])


def test_an_empty_source_is_not_the_working_directory() -> None:
    # What is left of "$FOLDER" where the variable is not set.
    with pytest.raises(InvalidInputError, match="a source is an empty text"):
        discover([""])


def test_what_is_not_a_regular_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to("gone")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "fine.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "x.png").touch()
    found = list(discover([tmp_path]))
    assert [entry.id for entry in found if isinstance(entry, ImageFile)] == [
        "fine.png",
        "folder.png/x.png",
    ]
    assert [entry for entry in found if isinstance(entry, BadFile)] == [
        BadFile(str(tmp_path / "broken.png"), "no such file or directory"),
        BadFile(str(tmp_path / "loop.png"), "too many levels of symbolic links"),
        BadFile(str(tmp_path / "pipe.png"), "not a regular file"),
    ]
    assert list(discover([tmp_path / "pipe.png"])) == [
        BadFile(str(tmp_path / "pipe.png"), "not a regular file")
    ]


def test_a_name_that_is_not_utf8_is_reported_readably(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    os.mkdir(folder + b"/\xff")
    for name in (b"/\xfe.png", b"/\xff/x.png", b"/fine.png"):
        with open(folder + name, "wb"):
            pass
    found = list(discover([tmp_path]))
    assert [entry.id for entry in found if isinstance(entry, ImageFile)] == ["fine.png"]
    bad = [entry for entry in found if isinstance(entry, BadFile)]
    assert [entry.reason for entry in bad] == ["name is not valid UTF-8"] * 2
    assert [entry.path.encode().decode() for entry in bad] == [
        f"{tmp_path}/\ufffd.png",
        f"{tmp_path}/\ufffd/x.png",
    ]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for name in ("data/a/x.png", "data/b/y.png", "elsewhere/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    data = tmp_path / "data"
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "self").symlink_to(".")
    (data / "b" / "to_a").symlink_to(data / "a")
    (data / "out").symlink_to(tmp_path / "elsewhere")
    (data / "one.png").symlink_to(tmp_path / "elsewhere" / "z.png")
    found = [entry.id for entry in discover([data]) if isinstance(entry, ImageFile)]
    assert found == ["a/x.png", "b/to_a/x.png", "b/y.png", "one.png", "out/z.png"]


def test_a_folder_that_vanishes_while_it_is_walked_is_none(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    search = discover([tmp_path])
    assert isinstance(next(search), ImageFile)
    (tmp_path / "b" / "y.png").unlink()
    (tmp_path / "b").rmdir()
    assert list(search) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert list(discover([tmp_path])) == [BadFile(str(closed), "permission denied")]
    closed.chmod(0o700)


def test_folders_may_lie_deeper_than_the_stack(tmp_path: Path) -> None:
    depth = 150
    path = tmp_path
    for _ in range(depth):
        path /= "a"
        path.mkdir()
    (path / "x.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + depth)  # or 1000 folders, which take long
    try:
        found = list(discover([tmp_path]))
    finally:
        sys.setrecursionlimit(limit)
    assert [entry.id for entry in found if isinstance(entry, ImageFile)] == ["a/" * depth + "x.png"]


def test_there_have_to_be_images(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    with pytest.raises(InvalidInputError, match=r"only other files \(\.txt 1\): expected"):
        Search.of([tmp_path]).require_images()
    with pytest.raises(NotFoundError, match="gone does not exist"):
        Search.of([tmp_path / "gone"]).require_images()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    Search.of([tmp_path]).require_images()


def test_a_large_folder_is_in_order_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{(7 * n) % 101}.png" for n in range(101)]
    names += ["b/x.png", "b.png", "b c.png", "ä.png", "日本.jpg", "a/y.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    whole = list(Search.of([tmp_path]).candidates())
    monkeypatch.setattr(discover_module, "_RUN_LENGTH", 10)
    assert list(Search.of([tmp_path]).candidates()) == whole
    found = [item.id for item in whole if isinstance(item, Candidate)]
    # A folder sorts by its name.
    assert found == sorted(names, key=lambda name: name.split("/"))


def test_names_of_a_large_folder_take_little_memory() -> None:
    tracemalloc.start()
    try:
        names = discover_module._sorted(f"{number:08d}.jpg" for number in range(300_000))
        size, peak = tracemalloc.get_traced_memory()
        assert (next(names), next(names)) == ("00000000.jpg", "00000001.jpg")
    finally:
        tracemalloc.stop()
    # 13 bytes a name packed; 61 and a pointer as objects, of which one run is held.
    assert size < 300_000 * 20
    assert peak < 300_000 * 13 + 100_000 * 120


def test_counting_counts_what_searching_finds(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/b/y.jpg", "note.txt", "z.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to("gone")
    sources = [tmp_path, tmp_path / "z.png"]
    assert Search.of(sources).count() == len(list(discover(sources))) == 4
    assert Search.of(sources).count(lambda: True) < 5


def test_a_look_for_images_does_not_read_a_folder_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").touch()
    looked: list[str] = []
    real = discover_module.is_image_name
    monkeypatch.setattr(discover_module, "is_image_name", lambda n: (looked.append(n), real(n))[1])
    Search.of([tmp_path]).require_images()
    assert len(looked) == 1


@pytest.mark.parametrize(
    ("name", "counts"),
    [("a.png", True), ("a.b.JPG", True), (".png", False), ("png", False), ("a.", False),
     ("a.txt", False), (".a.png", False), ("a.png.txt", False)],
)  # fmt: skip
def test_the_suffix_of_a_name_decides(name: str, counts: bool) -> None:
    assert is_image_name(name) == counts


def test_a_file_without_an_ending_counts_by_its_content(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    names = ["d41d8cd98f00b204", "a.jpg?size=large", "scan.2021-06", "v1.0001"]
    for name in [*names, "notes.txt", "clip.mp4"]:
        (tmp_path / name).write_bytes(picture.getvalue())
    (tmp_path / "README").write_text("about")
    (tmp_path / "raw.NEF").touch()
    (tmp_path / ".hidden").write_bytes(picture.getvalue())
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    search = Search.of([tmp_path])
    found = [item.id for item in search.candidates() if isinstance(item, Candidate)]
    assert found == sorted(names)
    assert search.tally.passed_over == {"": 3, ".txt": 1, ".mp4": 1, ".nef": 1}
    assert Search.of([tmp_path]).count() == len(names)
