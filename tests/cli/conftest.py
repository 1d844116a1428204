"""A store that outgrows a scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentdb.ann import plan
from latentdb.database import LatentDB
from tests.cli.vectors import DIM, ROWS, latents


@pytest.fixture
def large_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that outgrows a scan, not indexed yet."""
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=0.9) as made:
        made.add([f"r{number}" for number in range(ROWS)], latents(ROWS))
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_200)
    return tmp_path / "s"
