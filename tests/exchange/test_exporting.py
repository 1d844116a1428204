"""Exports: one file that other programs read, whole or not there."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from latentdb.base.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MissingExtraError,
    StoreError,
)
from latentdb.base.outputs import Output
from latentdb.database import LatentDB
from latentdb.exchange import exporting, row_writer
from latentdb.exchange.exporting import export
from latentdb.store.columns import Value
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

DIM = 3
IDS = [
    "a",
    "größe/ß.png",
    "id:odd",
    " ",
    "new\nline",
    "日本",
    "😀",
    "e\u0301",
    "\u00e9",
    "x" * 5000,
]
COUNT = len(IDS)
METADATA: dict[str, list[Value]] = {
    "label": ["cat", None, "", "dog", "ü", None, "cat", "a\nb", "😀", "z"],
    "year": [1, None, 3, -(2**63), 2**63 - 1, 0, 7, 8, 9, 10],
    "size": [0.5, None, 1e300, -0.0, 2, 3, 4, 5, 6, 7],
    "ok": [True, None, False, True, True, False, None, True, True, True],
    "größe": [1] * COUNT,
}


def means() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(COUNT, DIM)).astype(np.float32)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    db = LatentDB.create(tmp_path / "s.ldb", dim=DIM)
    db.add(IDS, means(), z_log_var=means() - 1, metadata=METADATA)
    return Store.open(tmp_path / "s.ldb").snapshot()


ALL = pytest.mark.parametrize("suffix", exporting.FORMATS)


def texts(dataset: Any) -> list[str]:
    return list(dataset.asstr()[...])


def test_npy_holds_the_vectors_in_the_order_asked(snapshot: Snapshot, tmp_path: Path) -> None:
    rows = np.array([3, 0, 9])
    size = export(snapshot, rows, tmp_path / "o.npy")
    loaded = np.load(tmp_path / "o.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, means()[rows])
    assert size == (tmp_path / "o.npy").stat().st_size


def test_h5_holds_everything(snapshot: Snapshot, tmp_path: Path) -> None:
    size = export(snapshot, snapshot.live_rows(), str(tmp_path / "o.h5"))
    assert size == (tmp_path / "o.h5").stat().st_size
    with h5py.File(tmp_path / "o.h5") as file:
        assert (file.attrs["format"], file.attrs["dim"]) == ("latentdb export", DIM)
        np.testing.assert_array_equal(file["z_mean"], means())
        np.testing.assert_array_equal(file["z_log_var"], means() - 1)
        assert texts(file["id"]) == IDS
        assert texts(file["path"]) == [""] * COUNT
        assert texts(file["metadata/label"]) == [value or "" for value in METADATA["label"]]
        for key in ("label", "year", "size", "ok"):
            missing = [value is None for value in METADATA[key]]
            assert file[f"metadata/{key}.missing"][...].tolist() == missing
            values = file[f"metadata/{key}"]
            values = texts(values) if key == "label" else values[...].tolist()
            assert [None if m else v for v, m in zip(values, missing, strict=True)] == METADATA[key]
        np.testing.assert_array_equal(
            file["metadata/size"],
            [np.nan if value is None else value for value in METADATA["size"]],
        )
        assert file["metadata/größe"][...].tolist() == [1] * COUNT
        assert "metadata/größe.missing" not in file, "only where something is missing"


def test_h5_says_what_is_missing_where_it_first_comes_late(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_writer, "BLOCK_ROWS", 1)
    export(snapshot, np.array([0, 2, 1, 3]), tmp_path / "o.h5")
    with h5py.File(tmp_path / "o.h5") as file:
        for key in ("label", "year", "size", "ok"):
            assert file[f"metadata/{key}.missing"][...].tolist() == [False, False, True, False]


def test_csv_is_text_that_reads_back(snapshot: Snapshot, tmp_path: Path) -> None:
    size = export(snapshot, snapshot.live_rows(), tmp_path / "o.csv")
    assert size == (tmp_path / "o.csv").stat().st_size
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        header, *records = csv.reader(file)
    numbers = [f"z_{name}_{axis}" for name in ("mean", "log_var") for axis in range(DIM)]
    assert header == ["id", "path", *snapshot.manifest.columns, *numbers]
    assert [record[0] for record in records] == IDS
    values = np.array([record[-2 * DIM :] for record in records], np.float64).astype(np.float32)
    np.testing.assert_array_equal(values, np.hstack([means(), means() - 1]))
    year, ok, size_ = (header.index(key) for key in ("year", "ok", "size"))
    assert [records[row][year] for row in (1, 3, 4)] == ["", str(-(2**63)), str(2**63 - 1)]
    assert [records[row][ok] for row in (0, 1, 2)] == ["true", "", "false"]
    assert [records[row][size_] for row in (2, 3, 4)] == ["1e+300", "-0.0", "2.0"]


def test_csv_refuses_a_metadata_key_named_like_a_vector_column(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        db.add(["a"], means()[:1], metadata={"z_mean_0": [1]})
        with pytest.raises(InvalidInputError, match="metadata 'z_mean_0' has the name"):
            db.export(tmp_path / "o.csv")
        db.export(tmp_path / "o.h5")


@pytest.mark.parametrize("value", [1e-45, -1.1754942e-38, 3.4e18, 0.1, 16777217, -0.0])
def test_csv_has_the_digits_of_a_float32(tmp_path: Path, value: float) -> None:
    wanted = np.array([[value, np.nextafter(np.float32(value), np.float32(0))]], np.float32)
    with LatentDB.create(tmp_path / "s.ldb", dim=2) as db:
        db.add(["a"], wanted)
        db.export(tmp_path / "o.csv")
    cells = (tmp_path / "o.csv").read_text().split("\n")[1].split(",")[2:]
    found = np.array(cells, np.float64).astype(np.float32)
    assert found.tobytes() == wanted.tobytes()


def test_parquet_holds_everything(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_writer, "BLOCK_ROWS", 4)
    size = export(snapshot, snapshot.live_rows(), tmp_path / "o.parquet")
    assert size == (tmp_path / "o.parquet").stat().st_size
    assert parquet.ParquetFile(tmp_path / "o.parquet").num_row_groups == 3
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.schema.field("z_mean").type.list_size == DIM
    assert str(table.schema.field("z_log_var").type.value_type) == "float"
    assert table.column("id").to_pylist() == IDS
    assert table.column("path").to_pylist() == [None] * COUNT
    np.testing.assert_array_equal(np.array(table.column("z_mean").to_pylist()), means())
    for key, values in METADATA.items():
        assert table.column(key).to_pylist() == values


def test_parquet_without_pyarrow_names_the_extra(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'latentdb\[parquet\]'"):
        export(snapshot, np.array([0]), tmp_path / "deep" / "o.parquet")
    assert os.listdir(tmp_path) == ["s.ldb"]


def test_h5_of_some_rows(snapshot: Snapshot, tmp_path: Path) -> None:
    rows = np.array([6, 2])
    export(snapshot, rows, tmp_path / "o.h5")
    with h5py.File(tmp_path / "o.h5") as file:
        np.testing.assert_array_equal(file["z_mean"], means()[rows])
        assert texts(file["id"]) == [IDS[6], IDS[2]]
        assert texts(file["metadata/label"]) == ["cat", ""]


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_a_filter_selects_the_same_rows_as_in_a_query(tmp_path: Path, suffix: str) -> None:
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        db.add(IDS, means(), metadata=METADATA)
        db.add(["a"], means()[:1] + 1, on_conflict="replace", metadata={"label": ["cat"]})
        written = db.export(tmp_path / f"o{suffix}", where='label == "cat"')
        assert written == 2
        wanted = db.vectors(["😀", "a"])
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), wanted)
    else:
        with h5py.File(tmp_path / "o.h5") as file:
            np.testing.assert_array_equal(file["z_mean"], wanted)
            assert texts(file["id"]) == ["😀", "a"]
            assert "z_log_var" not in file


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_no_rows_are_an_empty_file(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    empty = Store.create(tmp_path / "empty", dim=DIM).snapshot()
    for number, source in enumerate((snapshot, empty)):
        out = tmp_path / f"{number}{suffix}"
        export(source, np.empty(0, np.int64), out)
        if suffix == ".npy":
            assert np.load(out).shape == (0, DIM)
        else:
            with h5py.File(out) as file:
                assert file["z_mean"].shape == (0, DIM)
                assert file["id"].shape == (0,)


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_blocks_make_the_same_file_as_all_rows_at_once(
    snapshot: Snapshot, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = snapshot.live_rows()[::-1]
    export(snapshot, rows, tmp_path / f"whole{suffix}")
    monkeypatch.setattr(row_writer, "BLOCK_ROWS", 3)
    export(snapshot, rows, tmp_path / f"parts{suffix}")
    if suffix == ".npy":
        assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
        return
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "parts.h5") as parts:
        names: list[str] = []
        whole.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        assert len(names) == 4 + len(METADATA) + 4
        for name in names:
            np.testing.assert_array_equal(parts[name][...], whole[name][...])


def test_the_file_names_the_encoder(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", dim=DIM, model=("enc", None, {"model.json": b"{}"}))
    export(store.snapshot(), np.empty(0, np.int64), tmp_path / "o.h5")
    with h5py.File(tmp_path / "o.h5") as file:
        assert file.attrs["encoder_fingerprint"] == b"enc"


@ALL
def test_a_file_that_is_there_is_replaced_if_asked_for_and_its_folder_made(
    snapshot: Snapshot, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "deep" / f"o{suffix}"
    export(snapshot, np.array([0]), out)
    with pytest.raises(AlreadyExistsError, match="exists: give another path"):
        export(snapshot, np.array([0]), out)
    export(snapshot, np.array([0]), Output(str(out), overwrite=True))
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize("name", ["o.txt", "o", "o.H5", ".npy", "o.h5.gz"])
def test_another_ending_is_refused(snapshot: Snapshot, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"cannot export to .*, expected one of \.h5, \.npy"
    ):
        export(snapshot, np.array([0]), tmp_path / name)
    assert not (tmp_path / name).exists()


@ALL
def test_a_path_that_cannot_be_written_is_an_error(
    snapshot: Snapshot, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / f"folder{suffix}").mkdir()
    before = sorted(os.listdir(tmp_path))
    for out in (tmp_path / "file" / f"o{suffix}", tmp_path / f"folder{suffix}"):
        with pytest.raises(StoreError, match="cannot be written"):
            export(snapshot, np.array([0]), out)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_text_with_a_null_is_refused_by_h5_and_kept_by_the_others(
    tmp_path: Path, suffix: str
) -> None:
    metadata: dict[str, list[Value]] = {"label": ["a\0b"]}
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        db.add(["a"], means()[:1], metadata=metadata)
        with pytest.raises(InvalidInputError, match="'label' has text with a null, which HDF5"):
            db.export(tmp_path / "o.h5")
        assert not (tmp_path / "o.h5").exists()
        db.export(tmp_path / f"o{suffix}")
    LatentDB.import_into(tmp_path / "t.ldb", tmp_path / f"o{suffix}")
    with LatentDB.open(tmp_path / "t.ldb") as db:
        assert db.query("a", k=1)[0].metadata == {"label": "a\0b"}


@ALL
def test_a_path_with_a_null_is_refused(snapshot: Snapshot, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"a\\x00b\{suffix}' has a null character"):
        export(snapshot, np.array([0]), f"{tmp_path}/a\0b{suffix}")
    assert os.listdir(tmp_path) == ["s.ldb"]


# --- formulas -------------------------------------------------------------------

FORMULAS = ["=1+1", "+1", "-1 a", "@SUM(A1)", "\t=1", "\r=1", "a=1", " =1", "'=1"]


def test_formulas_in_csv_are_kept_or_on_request_made_text(tmp_path: Path) -> None:
    count = len(FORMULAS)
    with LatentDB.create(tmp_path / "s.ldb", dim=1) as db:
        metadata: dict[str, list[Value]] = {"label": [*FORMULAS], "n": [-1] * count}
        db.add(FORMULAS, np.full((count, 1), -1.5), metadata=metadata)
        db.export(tmp_path / "o.csv")
        db.export(tmp_path / "safe.csv", excel_safe=True)
    LatentDB.import_into(tmp_path / "t.ldb", tmp_path / "o.csv")
    with LatentDB.open(tmp_path / "t.ldb") as db:
        assert db.ids() == FORMULAS
        assert sorted(match.metadata["label"] for match in db.query("=1+1", k=count)) == sorted(  # type: ignore[type-var]
            FORMULAS
        )
    with (tmp_path / "safe.csv").open(newline="", encoding="utf-8") as file:
        _, *records = csv.reader(file)
    expected = [*("'" + text for text in FORMULAS[:6]), *FORMULAS[6:]]
    assert [record[0] for record in records] == expected
    assert [record[2] for record in records] == expected
    assert {(record[1], *record[3:]) for record in records} == {("", "-1", "-1.5")}


def test_only_csv_can_be_safe_for_a_spreadsheet(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"o\.h5: excel-safe is for \.csv"):
        export(snapshot, np.array([0]), tmp_path / "o.h5", excel_safe=True)
    assert not (tmp_path / "o.h5").exists()


# --- room -----------------------------------------------------------------------


def leave_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A disk cannot be filled in a test: let the system say that it is."""
    usage = SimpleNamespace(total=2**40, used=0, free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@ALL
def test_a_full_disk_is_an_error_before_anything_is_written(
    snapshot: Snapshot, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 1000)
    with pytest.raises(StoreError, match=r"needs about \d+ bytes, 1000 are free: make room"):
        export(snapshot, snapshot.live_rows(), tmp_path / f"o{suffix}")
    assert os.listdir(tmp_path) == ["s.ldb"]


@ALL
def test_the_room_asked_for_is_enough_for_the_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        ids = [f"r{number}" for number in range(20_000)]
        db.add(
            ids, np.full((20_000, DIM), -1.2345678e-20), metadata={"label": ["long" * 500] * 20_000}
        )
    snapshot = Store.open(tmp_path / "s.ldb").snapshot()
    leave_free(monkeypatch, 0)
    with pytest.raises(StoreError, match="needs about") as refused:
        export(snapshot, snapshot.live_rows(), tmp_path / f"o{suffix}")
    needed = int(str(refused.value).split("needs about ")[1].split()[0])
    leave_free(monkeypatch, 2**40)
    assert export(snapshot, snapshot.live_rows(), tmp_path / f"o{suffix}") <= needed


LIMITED = """
import resource, sys
from latentdb.base.errors import StoreError
from latentdb.base.outputs import Output
from latentdb.exchange.exporting import export
from latentdb.store.store import Store

snapshot = Store.open(sys.argv[1]).snapshot()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
try:
    export(snapshot, snapshot.live_rows(), Output(sys.argv[2], overwrite=True))
except StoreError as error:
    print(error)
"""


@ALL
def test_a_failed_write_is_an_error_and_the_old_file_stays(tmp_path: Path, suffix: str) -> None:
    """A quota, or a disk that another process fills meanwhile."""
    with LatentDB.create(tmp_path / "s.ldb", dim=DIM) as db:
        db.add([f"r{n}" for n in range(5000)], np.zeros((5000, DIM)))
    out = tmp_path / f"o{suffix}"
    out.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "s.ldb"), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cannot be written" in done.stdout
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == [out.name, "s.ldb"]
