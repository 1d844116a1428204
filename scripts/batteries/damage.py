"""Damage: single changes of every kind of file, none of which may lead to a wrong answer."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from batteries.failing import one_line
from batteries.world import (
    DIM,
    BrokenPromise,
    Op,
    Summary,
    held,
    in_time,
    names,
    small,
    workshop,
)
from latentdb.base import files
from latentdb.base.errors import LatentDBError
from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing
from latentdb.model.config import ModelConfig
from latentdb.store.manifest import Settings
from latentdb.store.store import Store
from latentdb.stored_model import codec_of
from latentdb.verify import verify

_BOUNDARIES = (0, 2**31 - 1, 2**63 - 1, -1)
_BLOCK = 4096


def make_damageable(path: Path) -> None:
    """A store with segments, deletions, an index, a tail and (made-up) model files."""
    config = ModelConfig(Preprocessing(16, 16, 3), DIM, "e" * 16, "d" * 16, False)
    draw = random.Random(0)
    files = {
        "model.json": config.to_json().encode(),
        "encoder.keras": draw.randbytes(5000),
        "decoder.keras": draw.randbytes(5000),
    }
    Store.create(path, dim=DIM, model=("e" * 16, "d" * 16, files), settings=Settings(recall=0.05))
    with LatentDB.open(path) as db:
        Op("add", names("a", 110), 1).apply(db)
        Op("replace", names("a", 6), 2).apply(db)
        Op("delete", names("a", 20)[15:]).apply(db)
        Op("add", names("t", 20), 3).apply(db)
        manifest = db._open_store().snapshot().manifest
    if manifest.index is None or manifest.deletions is None:
        raise BrokenPromise(f"the store lacks an index or deletions: {asdict(manifest)}")


def change(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """One single change of a file."""
    how = draw.choice(("byte", "bit", "block", "cut", "integer"))
    place = draw.randrange(len(data))
    if how == "byte":
        return how, data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
    if how == "bit":
        return how, data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    if how == "cut":
        return how, data[:place]
    size = _BLOCK if how == "block" else 8
    start = place // size * size
    filled = (
        bytes(size)
        if how == "block"
        else draw.choice(_BOUNDARIES).to_bytes(8, "little", signed=True)
    )
    end = min(start + size, len(data))
    return how, data[:start] + filled[: end - start] + data[end:]


class Subject:
    """A store to be damaged, and the right answers of the undamaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_damageable(path)
        self.files = [path / "MANIFEST.json", *self._named()]
        self.whole = {file: file.read_bytes() for file in self.files}
        self.state = held(path)
        with LatentDB.open(path) as db:
            self.ids = db.ids()
            self.wanted = self.ids[:3] + self.ids[-3:]
            self.vectors = db.vectors(self.wanted)
            self.average = db.average().vector
            self.nearest = self._nearest(db)

    def _named(self) -> list[Path]:
        manifest = Store.open(self.path).snapshot().manifest
        return [self.path / name for name in sorted(manifest.file_names())]

    def _nearest(self, db: LatentDB) -> list[str]:
        found: list[str] = db.ids(db.search(self.vectors, k=1)[1][:, 0])
        return found

    def ask(self, file: Path) -> None:
        """Everything that is asked of a store; a wrong answer is a broken promise."""
        with LatentDB.open(self.path) as db:
            if db.ids() != self.ids or not np.array_equal(db.vectors(self.wanted), self.vectors):
                raise BrokenPromise("wrong ids or vectors")
            if not np.array_equal(db.average().vector, self.average):
                raise BrokenPromise("a wrong average")
            if self._nearest(db) != self.wanted or db.query(self.wanted[0]).matches[0].distance:
                raise BrokenPromise("a wrong neighbour")
            if held(self.path) != self.state:
                raise BrokenPromise("a wrong content")
            if file.parent.name == "model":
                codec_of(db._snapshot())
                raise BrokenPromise("a damaged model was taken")

    def case(self, file: Path, damaged: bytes) -> str:
        """Ask a damaged store: a right answer, or an error that names the file."""
        file.write_bytes(damaged)
        try:
            outcome = in_time(lambda: self._asked(file))
            # Readers check what they look at; all the rest is for verify to find.
            if outcome != "right answer" or file.parent.name != self.path.name:
                self._verified(file)
                outcome += "" if outcome != "right answer" else ", named by verify"
        finally:
            file.write_bytes(self.whole[file])
        return outcome

    def _asked(self, file: Path) -> str:
        outcome = "right answer"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.ask(file)
            except LatentDBError as error:
                one_line(error)
                if file.name not in str(error):
                    raise BrokenPromise(f"{error} does not name {file.name}") from error
                outcome = "named"
        told = [str(item.message) for item in caught]
        if file.suffix == ".faiss":
            if outcome != "right answer" or not any(file.name in text for text in told):
                raise BrokenPromise(f"a damaged index: {outcome}, {told}")
            outcome = "warned, scanned"
        return outcome

    def _verified(self, file: Path) -> None:
        try:
            report = verify(self.path)
        except LatentDBError as error:
            one_line(error)
            if file.name not in str(error):
                raise BrokenPromise(f"verify: {error} does not name {file.name}") from error
            return
        if file.name not in [Path(problem.file).name for problem in report.problems]:
            raise BrokenPromise("verify found nothing")


def _changes(count: int, seed: int) -> Summary:
    """Single changes while no process has the store open."""
    summary = Summary("corruption")
    with workshop() as folder, small():
        subject = Subject(folder / "store")
        for number in range(count):
            draw = random.Random(seed * 1_000_003 + number)
            file = subject.files[number % len(subject.files)]
            damaged, how = subject.whole[file], ""
            while damaged == subject.whole[file]:
                how, damaged = change(subject.whole[file], draw)
            run: Callable[[], str] = lambda file=file, damaged=damaged: subject.case(file, damaged)  # type: ignore[misc]  # noqa: E731
            summary.case(f"case {number}: {how} of {file.parent.name}/{file.name}", run)
            if number % 500 == 0:
                summary.case(f"repair {number}", lambda: _repair(folder, subject.path))
    return summary


def _repair(folder: Path, whole: Path) -> str:
    """A damaged index is built again by a repair."""
    path = folder / "repaired"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    index = next((path / "index").glob("*.faiss"))
    index.write_bytes(index.read_bytes()[:-9])
    before = held(path)
    LatentDB.verify(path, repair=True)
    left = [problem for problem in verify(path).problems if not problem.file.startswith("model")]
    if left or held(path) != before or Store.open(path).snapshot().manifest.index is None:
        raise BrokenPromise(f"not repaired: {left}")
    return "index rebuilt"


# --- cut while it is open -------------------------------------------------------


def _questions(subject: Subject) -> dict[str, Callable[[LatentDB, Path], object]]:
    """One of every kind of call, on a store that is open: with the right answer, if it has one."""

    def same(found: object, right: object) -> None:
        if not np.array_equal(found, right):  # type: ignore[arg-type]
            raise BrokenPromise("a wrong answer")

    return {
        "ids": lambda db, _: same(db.ids(), subject.ids),
        "contains": lambda db, _: same(subject.ids[0] in db, True),
        "vectors": lambda db, _: same(db.vectors(subject.wanted), subject.vectors),
        "average": lambda db, _: same(db.average().vector, subject.average),
        "search": lambda db, _: same(subject._nearest(db), subject.wanted),
        "where": lambda db, _: same(db.ids(where="version > 0"), subject.ids),
        "query": lambda db, _: same(db.query(subject.wanted[0]).matches[0].distance, 0.0),
        "export": lambda db, path: db.export(path.parent / "out.csv", overwrite=True),
        "add": lambda db, _: Op("add", ("new",), 9).apply(db),
        "replace": lambda db, _: Op("replace", tuple(subject.wanted), 9).apply(db),
        "delete": lambda db, _: db.delete(subject.wanted[:2]),
        "compact": lambda db, _: db.compact(),
        "optimize": lambda db, _: db.optimize(),
    }


def _cut_case(
    folder: Path, subject: Subject, file: Path, how: str, size: int, *, mapped: bool
) -> str:
    """Cut a file under an open store that has answered already; then ask.

    The segments of the battery are small and are read; with `mapped`, as if they were large.
    """
    path = folder / "cut" / "store"
    shutil.rmtree(path.parent, ignore_errors=True)
    shutil.copytree(subject.path, path)
    question = _questions(subject)[how]
    outcome = "right answer"
    with (
        warnings.catch_warnings(),
        mock.patch.object(files, "READ_BELOW", 0 if mapped else files.READ_BELOW),
        LatentDB.open(path) as db,
    ):
        warnings.simplefilter("ignore", RuntimeWarning)
        subject._nearest(db)
        os.truncate(path / file.relative_to(subject.path), size)
        try:
            question(db, path)
        except LatentDBError as error:
            one_line(error)
            if file.name not in str(error):
                raise BrokenPromise(f"{error} does not name {file.name}") from error
            outcome = "named"
    if file.suffix == ".h5" and (outcome == "named") != mapped:
        raise BrokenPromise(f"a cut segment, {mapped=}: {outcome}")
    return f"cut while open: {outcome}"


def _cuts(count: int, seed: int) -> Summary:
    """Files that are cut while they are mapped: SIGBUS would be the end of this process."""
    summary = Summary("corruption")
    with workshop() as folder, small():
        subject = Subject(folder / "store")
        kinds = list(_questions(subject))
        for number in range(count):
            draw = random.Random(seed * 1_000_003 + number)
            file, how = subject.files[number % len(subject.files)], draw.choice(kinds)
            size = draw.randrange(len(subject.whole[file]))
            mapped = draw.random() < 0.7
            case = partial(_cut_case, folder, subject, file, how, size, mapped=mapped)
            told = f"cut {number}: {file.parent.name}/{file.name} to {size} bytes, then {how}"
            summary.case(told, partial(in_time, case))
    return summary


def run(count: int = 10_000, seed: int = 1, *, cuts: int = 1000, each: int = 2000) -> Summary:
    """The class `corruption`; in processes of their own, so that a signal is one more finding."""
    summary = Summary("corruption")
    here = str(Path(__file__).resolve().parent.parent)
    parts = [("cuts", cuts)]
    parts += [("changes", min(each, count - first)) for first in range(0, count, each)]
    for number, (what, size) in enumerate(parts):
        words = [sys.executable, "-m", "batteries.damage", what, str(size), str(seed + number)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, cwd=here, timeout=3600
        )
        if done.returncode:
            summary.broken.append(f"{what}: exit {done.returncode}: {done.stderr[-300:]}")
            continue
        summary.add(json.loads(done.stdout))
    computed, took = summary.longest
    summary.notes.append(f"the longest case computed for {computed:.2f} s and took {took:.2f} s")
    return summary


def main(what: str, count: str, seed: str) -> None:
    """In a child: some cases, of which the summary is printed."""
    part = {"changes": _changes, "cuts": _cuts}[what]
    print(json.dumps(asdict(part(int(count), int(seed)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
