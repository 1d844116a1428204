"""The load test of the explorer, in a short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/load_explorer"


def test_many_requests_at_once_and_hostile_ones(store: Path) -> None:
    pytest.importorskip("uvicorn")
    words = [sys.executable, SCRIPT, store, "--requests", "120", "--connections", "4,16"]
    done = subprocess.run([*words, "--hostile", "40"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 connections: 112 requests" in done.stdout
    assert "hostile: 40 requests" in done.stdout
