"""Stores that earlier versions wrote still open, and say the same."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import StoreError
from latentdb.database import LatentDB
from latentdb.store.manifest import FORMAT_VERSION
from latentdb.verify import verify

ROOT = Path(__file__).resolve().parents[2]
# A revision that wrote each format version; of version 2 the last one of flat modules.
REVISIONS = {1: "3f7c201bd57e", 2: "5b577eb457c4"}


def old_store(revision: str, out: Path) -> Path:
    loader = importlib.machinery.SourceFileLoader("old_store", str(ROOT / "scripts/old_store"))
    spec = importlib.util.spec_from_loader("old_store", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    try:
        module.write(revision, out)
    except (LookupError, FileNotFoundError) as error:
        pytest.skip(f"the history of the repository is not here: {error}")
    return out


def test_every_earlier_format_has_a_revision() -> None:
    # Versions 3 to 6 are written only for what they brought: a cosine metric, tombstones, dates
    # or keys that are no names, and float16.
    assert sorted(REVISIONS) == list(range(1, FORMAT_VERSION - 3))


@pytest.mark.parametrize("version", sorted(REVISIONS))
def test_a_store_of_an_earlier_version_is_read_and_written(version: int, tmp_path: Path) -> None:
    path = old_store(REVISIONS[version], tmp_path / "old.ldb")
    assert json.loads((path / "MANIFEST.json").read_text())["format_version"] == version
    assert verify(path).problems == ()
    random = np.random.default_rng(7)
    centres = 3 * random.normal(size=(50, 8))
    points = centres[np.arange(51_000) % 50] + 0.1 * random.normal(size=(51_000, 8))
    points = points.astype("f4")
    with LatentDB.open(path) as db:
        assert len(db) == 50_901
        assert db.info().columns == {
            "text": "str",
            "whole": "int",
            "number": "float",
            "truth": "bool",
        }
        assert np.array_equal(db.vectors(["r0", "r50999"]), points[[0, 50_999]])
        assert np.array_equal(db.vectors(["r5", "new \u00fc"]), points[:2] + 1)
        stored = db.log_vars(["r0"])
        assert stored is not None
        assert np.array_equal(stored, -points[:1])
        match = db.query("r22", k=1)[0]
        assert dict(match.metadata) == {"text": "t2", "number": 5.5, "truth": True}
        assert db.ids(where="whole < 3 and truth") == ["r2"]
        index = db.info().index
        assert index is not None
        assert not db.query("r22", k=5).exact  # the index is read, not only named
        assert "r150" not in db
        assert db.info().roots == ()
        db.add(["later"], points[:1], z_log_var=points[:1])
        db.compact()
        assert len(db) == 50_902
        assert db.info().index == index


def test_a_store_of_a_later_version_says_to_upgrade(tmp_path: Path) -> None:
    LatentDB.create(tmp_path / "a", dim=2).close()
    file = tmp_path / "a/MANIFEST.json"
    document = json.loads(file.read_text())
    document["format_version"] = FORMAT_VERSION + 1
    file.write_text(json.dumps(document))
    message = rf"has format version {FORMAT_VERSION + 1}, .* reads up to {FORMAT_VERSION}: upgrade"
    with pytest.raises(StoreError, match=message):
        LatentDB.open(tmp_path / "a")
