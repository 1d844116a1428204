"""scripts/hostile_zoo in short: hostile model files are refused in one line, within limits."""

from __future__ import annotations

from pathlib import Path

from zoo.excess import EXCESS
from zoo.guard import refuse
from zoo.hostile import plain

QUICK = (
    "an argument nested 900 deep",
    "input of negative size",
    "Conv2D with a dilation of 5,000",
    "weights of 300 MB whose header claims 7.5 MB packed",
    "2 million mentions of model_config in an .h5",
    "thousands of references to a heap of 260,000 objects",
    "4,000 log variances in a chain",
    "control characters in a layer's name",
    "a class name of 1 MB",
)


def test_hostile_files_are_refused_within_limits(tmp_path: Path) -> None:
    cases = {case.name: case for case in EXCESS}
    files = []
    for number, name in enumerate(QUICK):
        (tmp_path / str(number)).mkdir()
        files.append(cases[name].make(tmp_path / str(number)).encoder)
    found = list(refuse(files, plain(tmp_path)))
    for name, one in zip(QUICK, found, strict=True):
        assert one.error in ("ModelError", "UntrustedModelError"), (name, one)
        assert cases[name].error in one.message
        assert one.message.isprintable()
        assert len(one.message) < 500


def test_a_file_that_is_accepted_or_kills_the_process_is_reported(tmp_path: Path) -> None:
    honest = plain(tmp_path)
    assert [one.error for one in refuse([honest, honest], honest)] == ["none", "none"]
    missing = tmp_path / "missing.keras"
    assert [one.error for one in refuse([honest], missing)] == ["killed"]
