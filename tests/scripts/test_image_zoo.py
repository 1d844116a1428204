"""The table of odd image files: every kind has the outcome it should have."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "image_zoo"


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("image_zoo", str(SCRIPT))
    spec = importlib.util.spec_from_loader("image_zoo", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_zoo"] = module  # where its dataclasses look their types up
    loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
def test_every_kind_has_its_outcome(zoo: ModuleType, tmp_path: Path) -> None:
    found = zoo.outcomes(tmp_path, side=24)
    assert len(found) >= 50
    assert [item.kind.name for item in found if not item.fine] == []
    assert sum(item.mean is not None for item in found) >= 35
