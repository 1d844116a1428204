"""A stranger's store: every trick is refused by name, before any data is read.

Whoever makes such a store can make its checksums hold too, so they do here.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from batteries.damage import change
from batteries.failing import one_line
from batteries.world import (
    DIM,
    BrokenPromise,
    Op,
    Summary,
    in_time,
    make,
    names,
    small,
    workshop,
)
from latentdb.base.errors import LatentDBError
from latentdb.base.files import checksum
from latentdb.database import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store.store import Store
from latentdb.verify import verify

ROWS = 110
_MEMORY = 4 << 30  # bytes of address space of a process that fuzzes
_SECRET = b"what nobody may read: "
Edit = Callable[[Any], None]


def reseal(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest's body and make its checksum hold again."""
    file = path / manifests.MANIFEST
    document = json.loads(file.read_text())
    document["manifest"] = edit(document["manifest"]) or document["manifest"]
    content = manifests._canonical(document["manifest"])
    document["checksum"] = manifests._checksum(content, document["format_version"])
    file.write_text(json.dumps(document))


def reseal_file(path: Path, name: str) -> None:
    """Make the manifest agree with a file as it is now.

    A segment gets no layout, as in format version 1: so its HDF5 is read.
    """
    data = (path / name).read_bytes()

    def edit(body: dict[str, Any]) -> None:
        for segment in body["segments"]:
            if segment["file"]["name"] == name:
                segment["layout"] = None
        entries = [segment["file"] for segment in body["segments"]]
        entries += [body[part]["file"] for part in ("deletions", "index") if body[part]]
        for entry in entries:
            if entry["name"] == name:
                entry["bytes"], entry["checksum"] = max(1, len(data)), checksum(data)

    reseal(path, edit)


def ask(path: Path) -> None:
    """All that a user would do with a store they were sent, writing included."""
    with LatentDB.open(path) as db:
        found = db.ids()
        if found:
            db.vectors(found[:2])
            db.query(found[0])
            db.average(where="version > 0")
        db.search(np.zeros((1, DIM), np.float32), k=3)
        db.add(["mine"], np.zeros((1, DIM), np.float32), on_conflict="replace")


def outcome(path: Path, reason: str | None) -> str:
    """Ask and verify, in time; a refusal must speak of `reason`, None where none is due."""
    told = {_judged(lambda: ask(path), reason), _judged(lambda: verify(path), reason)}
    if reason is not None and "refused" not in told:
        raise BrokenPromise("it was not refused")
    return "refused" if "refused" in told else "answered"


def _judged(run: Callable[[], object], reason: str | None) -> str:
    def once() -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                run()
        except LatentDBError as error:
            one_line(error)
            if _SECRET.decode() in str(error):
                raise BrokenPromise("another file was read") from error
            if reason is not None and reason not in str(error):
                raise BrokenPromise(f"refused without {reason!r}: {error}") from error
            return "refused"
        return "answered"

    return in_time(once)


# --- segments -------------------------------------------------------------------


def _many(file: Any) -> None:
    for number in range(10_100):
        file.create_group(f"g{number}")


def _cycle(file: Any) -> None:
    file["metadata/loop"] = file["metadata"]


def _deep(file: Any) -> None:
    file.create_group("/".join("abcdefgh"))


def _late(file: Any, size: int) -> None:
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((size, DIM))
    h5py.h5d.create(file.id, b"z_mean", h5py.h5t.IEEE_F32LE, space, plist)


def _structures(secret: Path) -> dict[str, tuple[str, Edit]]:
    """What HDF5 can express and a segment must not: how to make it, and the reason told."""
    import h5py

    shape = (ROWS, DIM)

    def instead(name: str, make_it: Callable[[Any], Any]) -> Edit:
        def edit(file: Any) -> None:
            del file[name]
            make_it(file)

        return edit

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout(shape, "<f4")
        layout[:] = h5py.VirtualSource(str(secret), "data", shape)
        file.create_virtual_dataset("z_mean", layout)

    def data(**named: Any) -> Callable[[Any], Any]:
        return lambda file: file.create_dataset("z_mean", **named)

    floats = np.zeros(shape, "<f4")
    external = [(str(secret), 0, floats.nbytes)]
    link = h5py.ExternalLink(str(secret), "/data")
    return {
        "external link": ("link", instead("z_mean", lambda file: file.__setitem__("z_mean", link))),
        "external link beside": ("link", lambda file: file.__setitem__("more", link)),
        "soft link": (
            "link",
            instead("z_mean", lambda file: file.__setitem__("z_mean", h5py.SoftLink("/row"))),
        ),
        "external storage": (
            "external",
            instead("z_mean", data(shape=shape, dtype="<f4", external=external)),
        ),
        "virtual data set": ("virtual", instead("z_mean", virtual)),
        "gzip": ("chunked", instead("z_mean", data(data=floats, compression="gzip"))),
        "shuffle": ("chunked", instead("z_mean", data(data=floats, shuffle=True, chunks=(1, 1)))),
        "chunks": ("chunked", instead("z_mean", data(data=floats, chunks=(8, 8)))),
        "36 TiB": ("the file holds", instead("z_mean", lambda file: _late(file, 1 << 40))),
        "2^60 rows": (
            "of which the file holds",
            instead("z_mean", lambda file: _late(file, 1 << 57)),
        ),
        "variable length": (
            "numbers",
            instead("z_mean", data(shape=(ROWS,), dtype=h5py.vlen_dtype(np.float32))),
        ),
        "variable text": (
            "numbers",
            instead("z_mean", data(shape=(ROWS,), dtype=h5py.string_dtype())),
        ),
        "references": ("numbers", instead("z_mean", data(shape=(ROWS,), dtype=h5py.ref_dtype))),
        "compound": (
            "numbers",
            instead("z_mean", data(shape=(ROWS,), dtype=[("a", "<f4"), ("b", "<i4")])),
        ),
        "enumeration": (
            "numbers",
            instead("z_mean", data(shape=shape, dtype=h5py.enum_dtype({"a": 1}))),
        ),
        "named type": ("not a data set", lambda file: file.__setitem__("t", np.dtype("<f8"))),
        "no data space": (
            "",
            instead("z_mean", lambda file: file.create_dataset("z_mean", data=h5py.Empty("<f4"))),
        ),
        "other shape": ("expected", instead("z_mean", data(data=floats[:50]))),
        "more dimensions": ("expected", instead("z_mean", data(data=floats.reshape(ROWS, 2, -1)))),
        "float64": ("expected", instead("z_mean", data(data=floats.astype("<f8")))),
        "big endian": ("expected", instead("z_mean", data(data=floats.astype(">f4")))),
        "missing": ("missing", lambda file: file.__delitem__("z_mean")),
        "unknown part": ("not part", lambda file: file.create_dataset("x", data=[1])),
        "10,100 groups": ("too many", _many),
        "cycle of groups": ("too many", _cycle),
        "deep groups": ("too many", _deep),
    }


def _values() -> dict[str, Edit]:
    """Numbers that no writer would have written, in a sound structure."""

    def put(name: str, place: Any, value: Any) -> Edit:
        def edit(file: Any) -> None:
            file[name][place] = value

        return edit

    return {
        "row numbers descend": put("row", slice(1, 3), [50, 20]),
        "row number huge": put("row", 4, 2**62),
        "first row other": put("row", 0, -5),
        "not a number": put("z_mean", 0, np.nan),
        "hashes descend": put("id/hashes", 0, 2**64 - 1),
        "order outside": put("id/order", slice(None), 2**31 - 1),
        "order negative": put("id/order", slice(None), -1),
        "offsets descend": put("id/offsets", 3, 2**40),
        "offset negative": put("id/offsets", 3, -7),
        "ids not UTF-8": put("id/bytes", slice(None), 255),
        "codes outside": put("metadata/tag/str", 0, 2**31 - 1),
        "codes negative": put("metadata/tag/str", 0, -1),
        "category offsets": put("metadata/tag/categories/offsets", 1, 2**50),
        "truth not 0 or 1": put("metadata/odd/bool", 0, 77),
    }


def _segment_case(base: Path, path: Path, edit: Edit, reason: str | None) -> str:
    import h5py

    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path)
    name = Store.open(path).snapshot().manifest.segments[0].file.name
    with h5py.File(path / name, "r+") as file:
        edit(file)
    reseal_file(path, name)
    return outcome(path, reason)


# --- the manifest and the folder --------------------------------------------------


def _manifest_edits() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Bodies no writer would have written, all of which must be refused."""
    edits: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for name in (
        "../secret", "/etc/passwd", "segments/../../secret", "segments/..", "segments/.",
        "segments/.hidden", "segments/a/b", "segments//a", "segments/a\0b", "segments/a\n",
        "segments\\a", "SEGMENTS/a", "model/../MANIFEST.json", "LOCK", "", "segments/",
        "segments/-rf/..", "quarantine/a", "segments/\u202e", "segments/~", "file:///etc/passwd",
    ):  # fmt: skip
        for part in ("segments", "index", "deletions"):

            def edit(body: dict[str, Any], name: str = name, part: str = part) -> None:
                entry = body["segments"][0] if part == "segments" else body[part]
                entry["file"]["name"] = name

            edits[f"{part} named {name!r}"] = edit
    odd: tuple[Any, ...] = (None, -1, 2**63, 1e300, "x", [], {}, True, 10**400, [[]], {"a": []})
    keys = ("uuid", "version", "dim", "next_row", "segments", "deletions", "index", "model",
            "columns", "settings")  # fmt: skip
    for key in keys:
        for value in odd:
            allowed: dict[str, list[Any]] = {
                "uuid": ["x"],
                "segments": [[], {}],
                "columns": [{}, []],
            }
            fits = allowed.get(key, [])
            fits += [None] if key in ("deletions", "index", "model") else []
            if value in fits and type(value) is not bool:
                continue

            def whole(body: dict[str, Any], key: str = key, value: Any = value) -> None:
                body[key] = value

            edits[f"{key} is {str(value)[:20]!r}"] = whole
    for part, key in (
        ("segments", "rows"), ("segments", "first_row"), ("segments", "last_row"),
        ("segments", "file"), ("index", "rows"), ("index", "rows_below"), ("index", "parameters"),
        ("index", "build_seconds"), ("index", "recall_target"), ("deletions", "rows"),
        ("deletions", "in_segments"),
    ):  # fmt: skip
        for value in (-1, 2**63, 10**400, "x", [], None):
            if key == "build_seconds" and value in (-1, 2**63):
                continue  # a time that is told, and used for nothing

            def inner(
                body: dict[str, Any], part: str = part, key: str = key, value: Any = value
            ) -> None:
                entry = body["segments"][0] if part == "segments" else body[part]
                entry[key] = value

            edits[f"{part}.{key} is {str(value)[:20]!r}"] = inner
    return edits


def _nested(body: dict[str, Any]) -> Any:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    return {**body, "columns": nested}


def _manifest_case(base: Path, path: Path, edit: Callable[[dict[str, Any]], Any]) -> str:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base, path)
    reseal(path, edit)
    return outcome(path, "")


def _folder_cases(base: Path, path: Path, victim: Path) -> dict[str, Callable[[], str]]:
    """Links and pipes in the place of files and folders."""
    mine = victim / "mine.txt"

    def fresh() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(base, path)
        shutil.rmtree(victim, ignore_errors=True)
        victim.mkdir()
        mine.write_bytes(_SECRET)
        os.utime(mine, (0, 0))

    def unharmed(reason: str | None) -> str:
        told = outcome(path, reason)
        if not mine.is_file() or mine.read_bytes() != _SECRET or len(list(victim.iterdir())) != 1:
            raise BrokenPromise("a file outside of the store was touched")
        return told

    def placed(name: str, put: Callable[[Path], None]) -> Callable[[], str]:
        def run() -> str:
            fresh()
            target = path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            put(target)
            return unharmed("")

        return run

    segment = next((base / "segments").glob("*.h5")).name
    cases = {}
    for name in ("MANIFEST.json", "LOCK", f"segments/{segment}"):
        cases[f"{name} is a link"] = placed(name, lambda target: target.symlink_to(mine))
        cases[f"{name} is a pipe"] = placed(name, os.mkfifo)
        cases[f"{name} is a folder"] = placed(name, lambda target: target.mkdir())
        cases[f"{name} links to itself"] = placed(name, lambda target: target.symlink_to(target))
    for name in manifests.FOLDERS:
        cases[f"{name} is a link to a folder"] = placed(
            name, lambda target: target.symlink_to(victim)
        )
    return cases


# --- fuzz -----------------------------------------------------------------------


def _fuzz(count: int, seed: int) -> Summary:
    """Change files and make the checksums hold: a wrong answer is the maker's, a signal is ours."""
    summary = Summary("hostile")
    with workshop() as folder, small():
        base, path = folder / "base", folder / "store"
        _make(base)
        manifest = Store.open(base).snapshot().manifest
        files = [manifest.segments[0].file.name, manifest.segments[0].file.name]
        files += [manifest.deletions.file.name] if manifest.deletions else []
        files += [manifest.index.file.name] if manifest.index else []
        whole = {name: (base / name).read_bytes() for name in files}
        for number in range(count):
            draw = random.Random(seed * 1_000_003 + number)
            name = files[number % len(files)]
            _, damaged = change(whole[name], draw)

            def one(name: str = name, damaged: bytes = damaged, number: int = number) -> str:
                shutil.rmtree(path, ignore_errors=True)
                shutil.copytree(base, path)
                (path / name).write_bytes(damaged)
                reseal_file(path, name)
                # So that a signal can be told from which case it came.
                print(number, name.split("/")[0], file=sys.stderr, flush=True)
                return "fuzz " + outcome(path, None)

            summary.case(f"fuzz {seed} {number} {name.split('/')[0]}", one)
    return summary


def _make(path: Path) -> None:
    ops = [Op("add", names("a", ROWS), 1), Op("delete", names("a", 5)), Op("add", names("b", 4), 2)]
    with mock.patch("latentdb.store.writer.SEGMENT_BYTES", 1 << 20):
        make(path, ops)


def fuzz(summary: Summary, count: int, seed: int, each: int) -> None:
    """Fuzz in processes of their own."""
    here = str(Path(__file__).resolve().parent.parent)
    for number in range(-(-count // each)):
        words = [sys.executable, "-m", "batteries.hostile", str(each), str(seed + number)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=here)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            summary.cases += 1
            summary.broken.append(f"fuzz {seed + number}: exit {done.returncode} after {last}")
            continue
        summary.add(json.loads(done.stdout))


def run(count: int = 2000, seed: int = 1, *, each: int = 100) -> Summary:
    """The class `hostile`: every trick by name, and `count` changes with checksums that hold."""
    summary = Summary("hostile")
    with workshop() as folder, small():
        base, path, secret = folder / "base", folder / "store", folder / "secret"
        _make(base)
        secret.write_bytes(_SECRET * 1000)
        for name, (reason, edit) in _structures(secret).items():
            summary.case(name, lambda e=edit, r=reason: _segment_case(base, path, e, r))  # type: ignore[misc]
        for name, edit in _values().items():
            summary.case(name, lambda e=edit: _segment_case(base, path, e, None))  # type: ignore[misc]
        for name, change_body in {**_manifest_edits(), "nested": _nested}.items():
            summary.case(name, lambda e=change_body: _manifest_case(base, path, e))  # type: ignore[misc]
        for name, case in _folder_cases(base, path, folder / "victim").items():
            summary.case(name, case)
    if count:
        fuzz(summary, count, seed, min(count, each))
    return summary


if __name__ == "__main__":
    # A made-up size must not take the memory of everything else on the machine.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    print(json.dumps(asdict(_fuzz(int(sys.argv[1]), int(sys.argv[2])))))
