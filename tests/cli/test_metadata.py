"""metadata: columns listed, set, retyped, renamed and dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "v.ldb"
    with LatentDB.create(path, dim=1) as db:
        db.add(["a", "b", "c"], np.eye(3, 1), metadata={"year": ["1990", "x", None]})
    return path


def test_the_metadata_of_a_store_is_edited(vectors: Path) -> None:
    assert run("metadata", vectors).stdout == "year  str       2 of 3 rows\n"
    message = run_error("metadata", vectors, "retype", "year", "int")
    assert "1 of 2 values of 'year' are no int ('x'): change them, or make them" in message
    done = run("metadata", vectors, "retype", "year", "int", "--lossy").stdout
    assert done == "1 value of year: int; 1 value that did not fit: missing now\n"
    assert run_json("metadata", vectors, "set", "year", "2001", "b", "c") == {"rows": 2}
    run("metadata", vectors, "set", "Shot on", "2020-01-31", "--where", "year == 1990")
    run("metadata", vectors, "set", "year", "--missing", "c")
    run("metadata", vectors, "rename", "year", "taken in")
    assert run_json("metadata", vectors) == {
        "columns": [
            {"key": "Shot on", "type": "date", "rows": 1},
            {"key": "taken in", "type": "int", "rows": 2},
        ],
        "rows": 3,
    }
    found = run_json("list", vectors, "--where", '`Shot on` == "2020"')["records"]
    assert found == [{"id": "a", "Shot on": "2020-01-31", "taken in": 1990}]
    assert run("metadata", vectors, "drop", "Shot on").stdout == "Shot on is dropped\n"
    run("metadata", vectors, "drop", "taken in")
    assert run("metadata", vectors).stdout == "no metadata columns\n"


@pytest.mark.parametrize(
    "words", [("year",), ("year", "1"), ("year", "1", "a", "--where", "year is None")]
)
def test_which_rows_and_which_value_must_be_said(vectors: Path, words: tuple[str, ...]) -> None:
    run("metadata", vectors, "set", *words, code=2)
