"""Threads that share a `LatentDB` get the answers that one would get."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.ann import plan
from latentdb.database import LatentDB

ROWS = 3_000


@pytest.fixture
def shared(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LatentDB]:
    """Images, and so many rows more that they have an index."""
    monkeypatch.setattr(plan, "EXACT_ROWS", 500)
    random = np.random.default_rng(1)
    vectors = random.normal(size=(ROWS, 4)).astype("f4")
    with LatentDB.open(store) as db:
        means, log_vars = vectors + 20, np.zeros_like(vectors)
        share = random.random(ROWS).tolist()
        names = [f"r{number}" for number in range(ROWS)]
        db.add(names, means, z_log_var=log_vars, metadata={"share": share})
        assert db.optimize(recall=0.9).index is not None
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with LatentDB.open(store) as db:
        yield db
    sys.setswitchinterval(interval)


def ask(db: LatentDB, number: int) -> tuple[list[Any], list[int]]:
    """What a thread asks: answers, and for each how many vectors were compared."""
    one = db.query(f"r{number}", k=5)
    filtered = db.query(f"r{number}", k=5, where=f"share < 0.{1 + number % 4}")
    cosine = db.query(f"r{number}", k=5, metric="cosine", where="share < 2")
    many = db.query_many([f"r{row}" for row in range(number, number + 20)], k=5)
    found = db.search(db.vectors([f"r{number}"]), k=3)[0]
    pixels = db.decode(["disc/000.png", "square/001.png"])
    answers = [one, filtered, cosine, *many]
    matches: list[Any] = [answer.matches for answer in answers]
    return [*matches, found.tolist(), pixels.tolist()], [answer.scanned for answer in answers]


def test_eight_threads_get_the_answers_of_one(shared: LatentDB, store: Path) -> None:
    with LatentDB.open(store) as alone:
        expected = [ask(alone, number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda number: ask(shared, number), range(8))) == expected


def test_answers_stay_while_another_thread_adds_rows(shared: LatentDB, store: Path) -> None:
    with LatentDB.open(store) as alone:
        expected = [ask(alone, number) for number in range(8)]
    done = threading.Event()

    def read(number: int) -> None:
        while not done.is_set():
            answers, scanned = ask(shared, number)
            assert answers == expected[number][0]
            # The new rows are far away, and scanned.
            pairs = zip(scanned, expected[number][1], strict=True)
            assert all(before <= now <= before + 10 for now, before in pairs)

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, number) for number in range(8)]
        try:
            for number in range(10):
                far, metadata = np.full((1, 4), 1e4, "f4"), {"share": [3.0]}
                shared.add([f"new{number}"], far, z_log_var=0 * far, metadata=metadata)
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert len(shared) == 80 + ROWS + 10
