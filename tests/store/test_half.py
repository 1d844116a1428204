"""Latents kept as float16: half the bytes, the same answers as of the rounded values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError
from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json

ROWS, DIM = 3000, 16
RANDOM = np.random.default_rng(0)
MEANS = RANDOM.normal(size=(ROWS, DIM)).astype(np.float32)
LOG_VARS = RANDOM.normal(size=(ROWS, DIM)).astype(np.float32)
IDS = [f"r{number}" for number in range(ROWS)]
QUERIES = RANDOM.normal(size=(5, DIM)).astype(np.float32)


def rounded(values: Any) -> Any:
    return values.astype(np.float16).astype(np.float32)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    with LatentDB.create(tmp_path / "half.ldb", dim=DIM, dtype="float16") as db:
        db.add(IDS, MEANS, z_log_var=LOG_VARS)
    return tmp_path / "half.ldb"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A float32 store of the rounded values."""
    with LatentDB.create(tmp_path / "whole.ldb", dim=DIM) as db:
        db.add(IDS, rounded(MEANS), z_log_var=rounded(LOG_VARS))
    return tmp_path / "whole.ldb"


def test_a_segment_holds_half_the_bytes(half: Path, whole: Path) -> None:
    (segment,) = (half / "segments").glob("*.h5")
    with h5py.File(segment) as file:
        assert (file["z_mean"].dtype, file["z_log_var"].dtype) == (np.float16, np.float16)
    with LatentDB.open(half) as db, LatentDB.open(whole) as other:
        assert other.info().bytes - db.info().bytes > 0.95 * ROWS * DIM * 4
        assert (db.info().dtype, other.info().dtype) == ("float16", "float32")
    assert "float16" in run("info", half).stdout
    assert run_json("info", half)["dtype"] == "float16"


@pytest.mark.parametrize("metric", ["l2", "cosine", "wasserstein", "kl"])
def test_it_answers_as_float32_of_the_same_values(half: Path, whole: Path, metric: str) -> None:
    with LatentDB.open(half) as db, LatentDB.open(whole) as other:
        assert np.array_equal(db.vectors(IDS), rounded(MEANS))
        for one in ("r7", "r2999", *(QUERIES if metric in ("l2", "cosine") else ())):
            found = db.query(one, k=20, metric=metric)
            expected = other.query(one, k=20, metric=metric)
            assert [match.id for match in found] == [match.id for match in expected]
            assert [match.distance for match in found] == [match.distance for match in expected]
        assert np.array_equal(db.average(where=None).vector, other.average(where=None).vector)


def test_what_a_half_does_not_hold_is_refused(half: Path) -> None:
    large = np.ones((2, DIM), np.float32)
    large[1, 3] = 65_519  # rounds to the largest
    with LatentDB.open(half) as db:
        db.add(["a", "b"], large, z_log_var=large)
        assert db.vectors(["b"])[0, 3] == 65_504
        message = "z_mean of 'd' has the value -70000, and this store keeps float16"
        with pytest.raises(InvalidInputError, match=message):
            db.add(["c", "d"], large * np.float32([[1], [-70_000]]), z_log_var=large)
        with pytest.raises(InvalidInputError, match="z_log_var of 'c' has the value 65520"):
            db.add(["c"], large[:1], z_log_var=large[:1] * 65_520)
        assert len(db) == ROWS + 2
    assert LatentDB.verify(half).problems == ()


def test_writers_and_copies_keep_it(half: Path, tmp_path: Path) -> None:
    with LatentDB.open(half) as db:
        db.delete([f"r{number}" for number in range(0, 1500)])
        db.update("id == 'r1500'", {"label": "x"})
        db.compact()
        db.optimize(recall=0.9)
        db.backup(tmp_path / "copy.ldb")
        expected = db.vectors(["r2000"])
    for path in (half, tmp_path / "copy.ldb"):
        assert LatentDB.verify(path).problems == ()
        with LatentDB.open(path) as db:
            assert db.info().dtype == "float16"
            assert np.array_equal(db.vectors(["r2000"]), expected)
    LatentDB.restore(tmp_path / "copy.ldb", tmp_path / "back.ldb")
    with LatentDB.open(tmp_path / "back.ldb") as db:
        assert db.info().dtype == "float16"


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".csv"])
def test_rows_go_out_and_in_without_a_change(half: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    run("export", half, file)
    new = tmp_path / "new.ldb"
    run("import", new, file, "--dtype", "float16")
    with LatentDB.open(new) as db:
        assert db.info().dtype == "float16"
        ids = IDS if suffix != ".npy" else [str(number) for number in range(ROWS)]
        assert np.array_equal(db.vectors(ids[:100]), rounded(MEANS[:100]))
    error = run_error("import", new, file, "--dtype", "float32", "--on-conflict", "skip")
    assert "dtype float32 was asked for, but this store keeps float16" in error


def test_images_are_encoded_into_it(images: Path, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "images.ldb"
    run("index", store, images / "disc", "--model", model, "--dtype", "float16")
    with LatentDB.open(store) as db:
        assert db.info().dtype == "float16"
        assert db.query(images / "disc" / "003.png", k=1)[0].id == "003.png"
        assert db.decode(["003.png"]).shape == (1, 16, 16, 3)
    again = run("index", store, images / "disc", "--dtype", "float16")
    assert "40 unchanged" in again.stdout
    error = run_error("index", store, images / "disc", "--dtype", "float32")
    assert "leave dtype out, or make a new store" in error


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="dtype 'float8' is unknown: use float32 or float"):
        LatentDB.create(tmp_path / "a.ldb", dim=2, dtype="float8")
    assert not (tmp_path / "a.ldb").exists()
