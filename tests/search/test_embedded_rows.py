"""The rows of a version as they are scanned: small segments as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentdb import LatentDB
from latentdb.ann.metrics import COSINE, WASSERSTEIN
from latentdb.search import embedded_rows
from latentdb.search.embedded_rows import EmbeddedRows
from latentdb.store.store import Store

SIZES = (40, 3, 100, 7, 7, 90, 20)  # of the segments
DIM = 5
VECTORS = np.random.default_rng(0).normal(size=(sum(SIZES), DIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with LatentDB.create(tmp_path / "s", dim=DIM) as db:
        start = 0
        for size in SIZES:
            names = [str(number) for number in range(start, start + size)]
            part = VECTORS[start : start + size]
            db.add(names, part, z_log_var=part)
            start += size
        db.delete(["1", "41", "200"])
    return tmp_path / "s"


def sizes(rows: EmbeddedRows) -> list[int]:
    return [len(block.selected_rows()) for block in rows.blocks()]


def test_small_segments_are_one_block(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Store.open(path).snapshot()
    assert sizes(EmbeddedRows(snapshot)) == [sum(SIZES) - 3]
    monkeypatch.setattr(embedded_rows, "_JOINED_ROWS", 50)
    assert sizes(EmbeddedRows(snapshot)) == [41, 100, 14, 89, 20]
    # Only as long as the bytes last.
    monkeypatch.setattr(embedded_rows, "_JOINED_BYTES", 4 * DIM * 50)
    assert sizes(EmbeddedRows(snapshot)) == [41, 100, 7, 7, 89, 20]


def test_a_joined_block_is_as_large_as_a_chunk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_rows, "chunk_rows", lambda dim: 107)
    assert sizes(EmbeddedRows(Store.open(path).snapshot())) == [41, 107, 96, 20]


@pytest.mark.parametrize(("metric", "dtype"), [(COSINE, "float32"), ("l2", "float16")])
def test_what_is_converted_is_kept_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, dtype: str
) -> None:
    with LatentDB.create(tmp_path / "s", dim=DIM, dtype=dtype) as db:
        db.add([str(number) for number in range(len(VECTORS))], VECTORS)
    monkeypatch.setattr(embedded_rows, "_JOINED_ROWS", 10)
    snapshot = Store.open(tmp_path / "s").snapshot()
    rows = EmbeddedRows(snapshot, metric)
    (first,), (second,) = rows.blocks(), rows.blocks()
    assert first is second
    monkeypatch.setattr(embedded_rows, "_JOINED_BYTES", 4 * DIM * len(VECTORS) - 1)
    mapped = EmbeddedRows(snapshot, metric)
    (one,), (other,) = mapped.blocks(), mapped.blocks()
    assert one is not other
    np.testing.assert_array_equal(one.vectors, first.vectors)


def test_they_are_joined_once(path: Path) -> None:
    rows = EmbeddedRows(Store.open(path).snapshot())
    (first,), (second,) = rows.blocks(), rows.blocks()
    assert first is second


@pytest.mark.parametrize("metric", ["l2", COSINE, WASSERSTEIN])
def test_what_is_joined_is_embedded_and_fetched_as_before(path: Path, metric: str) -> None:
    snapshot = Store.open(path).snapshot()
    live = snapshot.live_rows()
    before = EmbeddedRows(snapshot, metric).fetch(live)
    rows = EmbeddedRows(snapshot, metric)
    (block,) = rows.blocks()
    np.testing.assert_array_equal(block.rows, live)
    np.testing.assert_array_equal(block.vectors, before)
    np.testing.assert_array_equal(rows.fetch(live), before)
    for wanted in (live[::-1], live[[3, 3, 0]], live[:0], np.array([0, 1, 2])):  # 1 is deleted
        np.testing.assert_array_equal(
            rows.fetch(wanted), EmbeddedRows(snapshot, metric).fetch(wanted)
        )


def test_a_scan_from_some_row_on_takes_no_row_before_it(path: Path) -> None:
    rows = EmbeddedRows(Store.open(path).snapshot())
    assert sum(len(block.selected_rows()) for block in rows.blocks(since=42)) == sum(SIZES) - 43


def test_rows_of_a_later_commit_are_found(path: Path) -> None:
    with LatentDB.open(path) as db:
        assert db.query(np.full(DIM, 9.0), k=1).scanned == sum(SIZES) - 3
        db.add(["late"], np.full((1, DIM), 9.0), z_log_var=np.zeros((1, DIM)))
        assert db.query(np.full(DIM, 9.0), k=1)[0].id == "late"
        db.delete(["late"])
        assert db.query(np.full(DIM, 9.0), k=1)[0].id != "late"
