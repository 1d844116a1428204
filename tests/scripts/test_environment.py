"""The lowest versions that setup.cfg allows, as pip constraints."""

from __future__ import annotations

import pytest

from environment import ROOT, lower_bounds


def test_every_dependency_has_a_lower_bound() -> None:
    bounds = lower_bounds((ROOT / "setup.cfg").read_text())
    names = [bound.split("==")[0] for bound in bounds]
    assert {"faiss-cpu", "numpy", "tensorflow", "pytest"} <= set(names)
    assert len(set(names)) == len(names), "two extras disagree"


def test_a_scan_by_faiss_is_exact_in_the_lowest_version() -> None:
    """Before 1.14.2 it was not, for 20 queries and more: see tests/ann/test_exact.py."""
    bounds = dict(b.split("==") for b in lower_bounds((ROOT / "setup.cfg").read_text()))
    assert tuple(map(int, bounds["faiss-cpu"].split("."))) >= (1, 14, 2)


@pytest.mark.parametrize("line", ["numpy", "numpy>=1,<2", "numpy==1.2"])
def test_a_requirement_without_one_is_named(line: str) -> None:
    setup = f"[options]\ninstall_requires =\n    {line}\n[options.extras_require]\ntest =\n"
    with pytest.raises(SystemExit, match=f"setup.cfg requires '{line}'"):
        lower_bounds(setup)
