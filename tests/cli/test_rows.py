"""list and show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentdb.database import LatentDB
from tests.cli.running import run, run_json


def test_list(store: Path) -> None:
    lines = run("list", store, "--sort", "-id", "--limit", 3).stdout.splitlines()
    assert lines[0].split() == ["id", "label"]
    assert lines[1].split() == ["square/039.png", "square"]
    assert lines[-1] == "3 of 80 rows; --limit and --offset show others"
    found = run_json("list", store, "--where", 'label == "disc"', "--columns", "path,id")
    assert found["rows"] == 40
    assert len(found["records"]) == 20
    assert list(found["records"][0]) == ["path", "id"]
    assert run("list", store, "--where", 'label == "x"').stdout == "no rows\n"
    assert run("list", store, "--offset", 80).stdout == "none of 80 rows\n"
    assert len(run_json("list", store, "--sample", 5, "--seed", 1)["records"]) == 5


def test_list_refuses_unknown_columns(store: Path) -> None:
    assert "no metadata column 'hue'" in run("list", store, "--columns", "hue", code=1).stderr
    assert "to sort by" in run("list", store, "--sort", "hue", code=1).stderr


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "a.ldb", dim=1) as db:
        db.add(["a\x1b[31m\nb"], np.zeros((1, 1)), metadata={"note": ["x\r\x07"]})
    for command in (["list", tmp_path / "a.ldb"], ["show", tmp_path / "a.ldb", "a\x1b[31m\nb"]):
        text = run(*command).stdout
        assert "\\x1b[31m\\n" in text
        assert all(line.isprintable() for line in text.splitlines())


def test_show(store: Path, tmp_path: Path) -> None:
    text = run("show", store, "disc/000.png", "--out", tmp_path / "row.png").stdout
    assert "label" in text
    assert text.splitlines()[-1] == str(tmp_path / "row.png")
    assert run_json("show", store, "disc/000.png")["metadata"] == {"label": "disc"}
    assert "no id 'nobody'" in run("show", store, "nobody", code=1).stderr
