"""Progress and warnings, on stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from latentdb.base.progress import Progress
from latentdb.cli import console
from latentdb.cli.console import (
    print_bad_files,
    print_json,
    print_matches,
    print_paths,
    progress,
    show_warnings_in_one_line,
)
from latentdb.images.discover import BadFile
from latentdb.search.results import Match, Matches


class Terminal:
    """A stderr that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        return

    def isatty(self) -> bool:
        return True


def test_no_progress_without_a_terminal_or_with_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress(quiet=False) as report:  # pytest's stderr is no terminal
        assert report is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(quiet=True) as report:
        assert report is None


def test_a_terminal_shows_stage_count_and_bad_files(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with progress(quiet=False) as report:
        assert report is not None
        report(Progress("indexing", 5, 20, bad=2))
    assert "indexing  (2 bad)" in terminal.text
    assert "5/20" in terminal.text
    with progress(quiet=False) as report:
        assert report is not None
        report(Progress("indexing", 5, 20))
        report(Progress("building the search index over 20 rows", 0, None))
    # The new stage has no count of the old one.
    assert "building the search index" in terminal.text
    assert "/20" not in terminal.text.rpartition("building the search index")[2]


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        show_warnings_in_one_line()
        warnings.simplefilter("always")
        warnings.warn("the index is damaged", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: the index is damaged\n"


def test_json_has_null_in_place_of_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> Any:
        pytest.fail(f"{constant} is no JSON")

    match = Match(1, "Infinity", math.inf, None, {"size": -math.inf, "year": 2**70})
    print_json({"vector": np.array([1, np.nan, np.inf], np.float32), "match": match})
    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "vector": [1, None, None],
        "match": {
            "rank": 1,
            "id": "Infinity",
            "distance": None,
            "path": None,
            "metadata": {"size": None, "year": 2**70},
        },
    }


def test_what_others_named_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\n\x1b[2Jé\u3000\u202e.png"
    shown = "a\\n\\x1b[2Jé\u3000\\u202e.png"
    print_paths([evil])
    print_matches(Matches("l2", True, 1, (Match(1, evil, -1e-9, None, {"k\t": evil}),), 1.0))
    print_bad_files([BadFile(evil, "no\rimage")])
    out, err = capsys.readouterr()
    assert out.splitlines() == [shown, f"   1      0.0000  {shown}  k\\t={shown}"]
    assert err.splitlines()[1:] == [f"  {shown}: no\\rimage"]


def test_no_distance_is_minus_zero(capsys: pytest.CaptureFixture[str]) -> None:
    print_matches(Matches("cosine", True, 1, (Match(1, "a", -1e-7, None, {}),), 1.0))
    assert "-" not in capsys.readouterr().out


def test_without_a_terminal_a_training_prints_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = iter([0.0, 9.0, 11.0, 11.0, 20.0, 21.5, 21.5])
    report = console._print_lines(lambda: next(seconds))
    for done, total in ((1, 4000), (2000, 4000), (3000, 4000), (4, None)):
        report(Progress("epoch 1", done, total))
    assert capsys.readouterr().err == "epoch 1: 2,000 of 4,000\nepoch 1: 4\n"
    with progress(False) as none, progress(False, lines=True) as some:
        assert none is None
        assert some is not None
    with progress(True, lines=True) as quiet:
        assert quiet is None
