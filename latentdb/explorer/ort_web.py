"""ONNX Runtime for browsers: two files of the npm package, downloaded once and compared.

The package is not part of latentdb: its WebAssembly is 14 MB, which most installations never
use.  A checksum that is written down here makes a download as good as a file of latentdb's own.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from latentdb.base.errors import InvalidInputError, LatentDBError, NotFoundError, StoreError
from latentdb.base.files import os_reason, replace_atomically

VERSION = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
CHECKSUMS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
NAME = f"onnxruntime-web {VERSION}"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
LICENCE = f"""ONNX Runtime Web {VERSION}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
_MAX_ARCHIVE, _MAX_FILE = 64 << 20, 32 << 20
_BLOCK = 1 << 20
_SECONDS = 60  # without a byte
_BY_HAND = f"run `npm pack onnxruntime-web@{VERSION}` where there is a network, and give --ort FILE"

Report = Callable[[int, int], None]
Files = dict[str, bytes]


def load(source: str | os.PathLike[str] | None = None, *, report: Report | None = None) -> Files:
    """The files of `CHECKSUMS`, by name.

    Parameters
    ----------
    source
        The archive of the npm package, or a folder with its files; by default the cache of
        the user, which is filled by a download first.
    report
        Called with the bytes downloaded, and their number.

    Raises
    ------
    NotFoundError, InvalidInputError
        If `source` has not these files.
    StoreError
        If they cannot be downloaded.
    """
    if source is not None:
        path = Path(source)
        return _from_folder(path) if path.is_dir() else _from_archive(_read(path), str(path))
    try:
        return _from_folder(cache_folder())
    except LatentDBError:  # there is none yet, or a damaged one
        files = _from_archive(_download(URL, report), URL)
    keep(files)
    return files


def cache_folder() -> Path:
    """Where a download is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "latentdb" / f"onnxruntime-web-{VERSION}"


def keep(files: Files) -> None:
    """Keep files in the cache; where it cannot be written, they are downloaded again."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            replace_atomically(folder / name, data)
    except OSError:
        return


def _from_folder(folder: Path) -> Files:
    for inner in ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist"):
        if (folder / inner / WASM).is_file():
            return _checked({name: _read(folder / inner / name) for name in CHECKSUMS}, str(folder))
    raise NotFoundError(f"{folder} has no {WASM}: {_BY_HAND}")


def _from_archive(data: bytes, name: str) -> Files:
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                wanted = member.name.removeprefix("package/dist/")
                if wanted in CHECKSUMS and member.isreg() and member.size <= _MAX_FILE:
                    file = archive.extractfile(member)
                    files[wanted] = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInputError(f"{name} is not the archive {ARCHIVE}: {_BY_HAND}") from error
    if len(files) < len(CHECKSUMS):
        raise InvalidInputError(f"{name} has not the files of {NAME}: {_BY_HAND}")
    return _checked(files, name)


def _checked(files: Files, name: str) -> Files:
    for file, data in files.items():
        if hashlib.sha256(data).hexdigest() != CHECKSUMS[file]:
            raise InvalidInputError(f"{file} in {name} is not that of {NAME}: {_BY_HAND}")
    return files


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_ARCHIVE)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {os_reason(error)}: {_BY_HAND}") from error


def _download(url: str, report: Report | None) -> bytes:
    parts, done = [], 0
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            total = int(answer.headers.get("content-length") or _MAX_ARCHIVE)
            while (block := answer.read(_BLOCK)) and done <= _MAX_ARCHIVE:
                parts.append(block)
                done += len(block)
                if report is not None:
                    report(done, total)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error)[:200]
        raise StoreError(f"{url} cannot be downloaded: {reason}: {_BY_HAND}") from error
    return b"".join(parts)
