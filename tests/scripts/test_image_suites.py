"""scripts/image_suites: equal, different and refused files are told apart."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "image_suites"


def test_every_file_has_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = importlib.machinery.SourceFileLoader("image_suites", str(SCRIPT))
    spec = importlib.util.spec_from_loader("image_suites", loader)
    assert spec is not None
    suites = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "image_suites", suites)
    loader.exec_module(suites)

    folder = tmp_path / "suite/deep"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "alpha.png")
    tifffile.imwrite(folder / "ink.tif", pixels, photometric="separated")
    wide = np.moveaxis(pixels.astype(np.uint16) * 257, -1, 0)[:3].copy()
    tifffile.imwrite(folder / "planes.tif", wide, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "signed.tif", pixels[..., 0].astype(np.int8))
    (folder / "note.txt").write_text("no image\n")
    arguments = ["image_suites", str(tmp_path / "suite"), "--json", str(tmp_path / "o.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert suites.main() == 0
    assert "5 files: 3 equal, 2 refused" in capsys.readouterr().out
    found = json.loads((tmp_path / "o.json").read_text())
    signed = found[str(folder / "signed.tif")]
    assert signed["readable"]
    assert "signed 8-bit" in signed["reason"]

    # A reader that gives other pixels is found out.
    monkeypatch.setattr(suites, "read_image", lambda path, spec: np.zeros(spec.shape, np.uint8))
    assert suites.main() == 1
    assert "3 different" in capsys.readouterr().out
