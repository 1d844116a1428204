"""ONNX Runtime for browsers: only the very files that were tested are used."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentdb.base.errors import InvalidInputError, NotFoundError, StoreError
from latentdb.explorer import ort_web

FILES = {ort_web.SCRIPT: b"script", ort_web.WASM: b"\0asm"}


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    monkeypatch.setattr(ort_web, "CHECKSUMS", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a web server, from which the archive is downloaded."""
    folder = tmp_path / "registry"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(ort_web, "URL", f"http://127.0.0.1:{server.server_port}/a.tgz")
        yield folder
        server.shutdown()


def test_a_download_is_kept(registry: Path) -> None:
    (registry / "a.tgz").write_bytes(archive(FILES))
    seen: list[tuple[int, int]] = []
    assert ort_web.load(report=lambda done, total: seen.append((done, total))) == FILES
    assert seen[-1][0] == seen[-1][1] == len(archive(FILES))
    (registry / "a.tgz").unlink()
    assert ort_web.load() == FILES
    (ort_web.cache_folder() / ort_web.WASM).write_bytes(b"damaged")
    (registry / "a.tgz").write_bytes(archive(FILES))
    assert ort_web.load() == FILES


def test_another_file_is_refused_and_not_kept(registry: Path) -> None:
    (registry / "a.tgz").write_bytes(archive({**FILES, ort_web.WASM: b"another"}))
    with pytest.raises(InvalidInputError, match=f"{ort_web.WASM} in .* is not that of"):
        ort_web.load()
    assert not ort_web.cache_folder().exists()


def test_no_network_says_what_to_do(registry: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be downloaded: .*npm pack onnxruntime-web@"):
        ort_web.load()


@pytest.mark.parametrize("inner", ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_or_an_archive_of_npm(tmp_path: Path, inner: str) -> None:
    (tmp_path / "a" / inner).mkdir(parents=True)
    for name, data in FILES.items():
        (tmp_path / "a" / inner / name).write_bytes(data)
    assert ort_web.load(tmp_path / "a") == FILES
    (tmp_path / "b.tgz").write_bytes(archive(FILES))
    assert ort_web.load(tmp_path / "b.tgz") == FILES


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no ort-wasm"):
        ort_web.load(tmp_path)
    with pytest.raises(NotFoundError, match="cannot be read: no such file"):
        ort_web.load(tmp_path / "none.tgz")
    for number, data in enumerate((b"text", archive({}), archive(FILES)[:60])):
        (tmp_path / f"{number}.tgz").write_bytes(data)
        with pytest.raises(InvalidInputError):
            ort_web.load(tmp_path / f"{number}.tgz")
