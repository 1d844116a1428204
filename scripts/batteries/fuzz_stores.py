"""The targets of `fuzz` that are files of a store, and what must hold of a store that opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from batteries import fuzz_inputs as inputs
from batteries.failing import one_line
from batteries.fuzz_inputs import changed, changed_json
from batteries.hostile import _make, reseal, reseal_file
from batteries.world import BrokenPromise
from latentdb.base.errors import LatentDBError
from latentdb.base.files import checksum
from latentdb.database import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store.columns import quoted
from latentdb.store.store import Store
from latentdb.verify import verify

_QUERIES = 5
_FAR = 1e19  # distances whose squares float32 cannot hold are infinite


@dataclass(frozen=True)
class Target:
    """What is made up, what reads it (or raises a `LatentDBError`), and input that is sound."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    sound: Any


class _Copies:
    """Copies of one store, each to be changed in one way."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.base, self.path = folder / "base", folder / "store"
        _make(self.base)
        self.manifest = Store.open(self.base).snapshot().manifest

    def fresh(self) -> Path:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.base, self.path)
        return self.path

    def whole(self, name: str) -> bytes:
        return (self.base / name).read_bytes()


def judge(path: Path) -> str:
    """Hold a store to its word: where verify finds nothing, all answers are given and agree."""
    found: str | None = None
    try:
        problems = verify(path).problems
        found = f"{problems[0].file} {problems[0].what}" if problems else None
    except LatentDBError as error:
        one_line(error)
        found = str(error)
    try:
        check_answers(path)
    except LatentDBError as error:
        one_line(error)
        if found is None:
            raise BrokenPromise(f"verify finds nothing, and yet: {error}") from error
        return "refused"
    except BrokenPromise:
        if found is None:
            raise
        return "named by verify"
    if found is not None:
        return "named by verify"
    _written(path)
    return "answered"


def check_answers(path: Path) -> None:
    """Ask a store everything, and compare the answers with each other."""
    with LatentDB.open(path) as db:
        ids, info = db.ids(), db.info()
        if len(set(ids)) != len(ids) or len(ids) != len(db):
            raise BrokenPromise(f"{len(ids)} ids, {len(set(ids))} different, {len(db)} rows")
        for key in map(quoted, db._snapshot().manifest.columns):
            halves = db.ids(where=f"{key} is None") + db.ids(where=f"{key} is not None")
            if sorted(halves) != sorted(ids):
                raise BrokenPromise(f"{key} is neither missing nor there in some row")
        if not ids:
            return
        asked = ids[:: max(1, len(ids) // _QUERIES)]
        vectors = db.vectors(ids)
        if vectors.shape != (len(ids), info.dim) or not np.isfinite(vectors).all():
            raise BrokenPromise("vectors that are not finite, or of another shape")
        by_id = dict(zip(ids, vectors, strict=True))
        for exact, name in product((False, True), asked):
            query = by_id[name][None]
            # One query at a time is answered by one thread, which waits for no other.
            distances, rows = db.search(query, k=3, exact=exact)
            near = np.minimum(distances[rows >= 0], _FAR)
            names = db.ids(rows[rows >= 0])
            if strangers := set(names) - by_id.keys():
                raise BrokenPromise(f"{strangers} are found and no ids")
            gaps = [by_id[one].astype(float) - query for one in names]
            true = np.minimum([np.linalg.norm(gap) for gap in gaps], _FAR)
            if len(set(names)) != len(names) or not np.allclose(near, true, rtol=1e-3):
                raise BrokenPromise(f"distances {near}, of those rows {true}")
            if exact and (len(names) != min(3, len(ids)) or near[0]):
                raise BrokenPromise(f"a row is not its own nearest: {near}")
        for match in db.query(asked[0]).matches:
            if match.id not in by_id:
                raise BrokenPromise(f"{match.id!r} is a match and not an id")


def _written(path: Path) -> None:
    """Add a row: a sound store stays so, whether or not it could be added."""
    try:
        with LatentDB.open(path) as db:
            dim = db.info().dim
            db.add(["mine"], np.ones((1, dim), np.float32), on_conflict="replace")
            if not np.array_equal(db.vectors(["mine"]), np.ones((1, dim), np.float32)):
                raise BrokenPromise("the row that was added has another vector")
    except LatentDBError as error:
        one_line(error)
    if problems := verify(path).problems:
        raise BrokenPromise(f"after an add, {problems[0].file}: {problems[0].what}")


def manifest(folder: Path) -> Target:
    """The manifest: changed JSON whose checksum holds, and changed bytes."""
    copies = _Copies(folder)
    data = copies.whole(manifests.MANIFEST)
    tokens = [
        b'"',
        b"{",
        b"}",
        b",",
        b"null",
        b"-1",
        b"1e999",
        b"NaN",
        b"\\u0000",
        b"\xff",
        b"[" * 9999,
    ]

    def check(made: Any) -> str:
        path = copies.fresh()
        file = path / manifests.MANIFEST
        if isinstance(made, bytes):
            file.write_bytes(made)
        elif inputs.is_deep(made):
            file.write_text(inputs.dump_json({**json.loads(data), "manifest": made}))
        else:
            reseal(path, lambda _: made)
        return judge(path)

    body = json.loads(data)["manifest"]
    return Target(
        st.one_of(changed_json(body), changed_json(body), changed([data], tokens)), check, data
    )


def _sealed(folder: Path, choose: Callable[[manifests.Manifest], str]) -> Target:
    """Changed bytes of a file of a store, with checksums that hold and that do not."""
    copies = _Copies(folder)
    name = choose(copies.manifest)

    def check(made: tuple[bytes, bool]) -> str:
        path = copies.fresh()
        data, seal = made
        (path / name).write_bytes(data)
        if seal:
            reseal_file(path, name)
        elif data != copies.whole(name) and not verify(path).problems:
            raise BrokenPromise("verify finds nothing in a changed file")
        return judge(path)

    seals = st.sampled_from((True, True, True, False))
    whole = copies.whole(name)
    return Target(st.tuples(changed([whole]), seals), check, (whole, True))


def segment(folder: Path) -> Target:
    """Segments without a layout, whose HDF5 is read."""
    return _sealed(folder, lambda manifest: manifest.segments[0].file.name)


def deletions(folder: Path) -> Target:
    """The file of deleted rows."""
    return _sealed(folder, lambda manifest: manifest.deletions.file.name)  # type: ignore[union-attr]


def index(folder: Path) -> Target:
    """The FAISS index."""
    return _sealed(folder, lambda manifest: manifest.index.file.name)  # type: ignore[union-attr]


def layout(folder: Path) -> Target:
    """The layout of a segment, changed as JSON, appended to the file and sealed."""
    copies = _Copies(folder)
    entry = copies.manifest.segments[0]
    if entry.layout is None:
        raise BrokenPromise("a segment has no layout")
    data = copies.whole(entry.file.name)
    start = entry.layout.offset
    document = json.loads(data[start : start + entry.layout.bytes])

    def check(made: Any) -> str:
        path = copies.fresh()
        text = inputs.dump_json(made).encode()
        (path / entry.file.name).write_bytes(data + text)

        def edit(body: dict[str, Any]) -> None:
            body["segments"][0]["layout"] = {
                "offset": len(data), "bytes": len(text), "checksum": checksum(text),
            }  # fmt: skip
            body["segments"][0]["file"].update(
                bytes=len(data + text), checksum=checksum(data + text)
            )

        reseal(path, edit)
        return judge(path)

    return Target(changed_json(document), check, document)
