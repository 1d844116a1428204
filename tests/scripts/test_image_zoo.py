"""scripts/image_zoo: every file has its expected outcome, and the README its table."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "image_zoo"
README = ROOT / "latentdb" / "images" / "README.md"


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("image_zoo", str(SCRIPT))
    spec = importlib.util.spec_from_loader("image_zoo", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_zoo"] = module  # dataclasses look up their types there
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(zoo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF
        outcomes: list[Any] = zoo.outcomes(tmp_path_factory.mktemp("zoo"), side=24)
        return outcomes


def test_every_file_has_its_expected_outcome(found: list[Any]) -> None:
    assert len(found) >= 50
    assert [item.case.name for item in found if not item.expected] == []
    assert sum(item.mean is not None for item in found) >= 35


def test_the_readme_has_every_file_and_its_outcome(found: list[Any]) -> None:
    # Not the differences: they depend on the versions of Pillow and libjpeg.
    table = README.read_text().split("| file | outcome | mean | max |")[1]
    rows = re.findall(r"^\| (.*?) \| (decoded|refused)", table, re.MULTILINE)
    outcomes = ["refused" if item.mean is None else "decoded" for item in found]
    assert rows == [
        (item.case.name, outcome) for item, outcome in zip(found, outcomes, strict=True)
    ]
