"""push, and query --on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json


@pytest.fixture
def pushed(tmp_path: Path) -> tuple[Path, str]:
    """A store of ten rows, and a Milvus that it was pushed to."""
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    path, uri = tmp_path / "my rows.ldb", f"milvus:{tmp_path / 'a.db'}"
    with LatentDB.create(path, dim=2) as db:
        metadata = {"year": list(range(10))}
        db.add([f"r{n}" for n in range(10)], np.arange(20).reshape(10, 2), metadata=metadata)
    said = run("push", path, "--to", uri).stdout
    assert said.startswith("10 pushed, 0 deleted, 0 unchanged; 10 rows, recall 1.000 at effort ")
    return path, uri


def test_query_on_answers_as_query(pushed: tuple[Path, str]) -> None:
    path, uri = pushed
    assert run("query", path, "r3", "--on", uri).stdout == run("query", path, "r3").stdout
    some = ("query", path, "r3", "--where", "year > 5", "-k", 2)
    there, here = run_json(*some, "--on", uri), run_json(*some)
    assert there["matches"] == here["matches"]
    assert (there["exact"], there["recall"]) == (False, None)
    assert run_json("push", path, "--to", uri)["unchanged"] == 10


def test_wrong_usage_is_two(pushed: tuple[Path, str]) -> None:
    path, uri = pushed
    for option in (["--metric", "cosine"], ["--radius", "1"], ["--exact"]):
        said = run("query", path, "r3", "--on", uri, *option, code=2).stderr
        assert f"{option[0]} cannot be combined with --on: push decides it" in said
    assert "cannot be combined" in run("query", path, "--targets", "x", "--on", uri, code=2).stderr
    assert "is of --on URI" in run("query", path, "r3", "--collection", "x", code=2).stderr
    assert "Missing option '--to'" in run("push", path, code=2).stderr


def test_an_error_is_one_line(pushed: tuple[Path, str]) -> None:
    path, uri = pushed
    assert "no such collection" in run_error("query", path, "r3", "--on", uri, "--collection", "x")
    assert "names no engine" in run_error("push", path, "--to", "redis://x")
    gone = run_error("push", path, "--to", "milvus:http://127.0.0.1:1")
    assert gone.startswith("Error: Milvus: ")
