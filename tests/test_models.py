"""The model inside a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentdb.codec import Codec
from latentdb.database import LatentDB
from latentdb.errors import CorruptStoreError


def test_the_stores_model_is_the_one_it_was_made_with(store: Path, model: Path) -> None:
    with LatentDB.open(store) as db:
        assert db.codec.files == Codec.from_folder(model).files
        assert db.info().model == Codec.from_folder(model).card


@pytest.mark.parametrize("name", ["encoder.keras", "decoder.keras", "model.json"])
def test_a_damaged_model_file_is_named_before_it_is_parsed(store: Path, name: str) -> None:
    path = store / "model" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with LatentDB.open(store) as db:
        with pytest.raises(CorruptStoreError, match=f"{name} is damaged: its checksum is"):
            db.decode("disc/000.png")
        # Latents do not need it.
        assert db.query("disc/000.png", k=1)[0].id == "disc/000.png"


def test_a_manifest_of_another_model_is_noticed(store: Path) -> None:
    from latentdb import manifest

    told = json.loads((store / "MANIFEST.json").read_text())["manifest"]
    told["model"]["encoder_fingerprint"] = "0" * 16
    changed = manifest._manifest(told)
    (store / "MANIFEST.json").write_bytes(manifest.dump(changed))
    with (
        LatentDB.open(store) as db,
        pytest.raises(CorruptStoreError, match="not the model the manifest speaks of"),
    ):
        db.decode(np.zeros((1, 4), np.float32))
