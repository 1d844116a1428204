"""Imports: every format reads back exactly, in one commit; a stranger's file is read safely."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from latentdb.base.errors import (
    InvalidInputError,
    LatentDBError,
    LockedError,
    MissingExtraError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
)
from latentdb.cli.main import main
from latentdb.database import LatentDB
from latentdb.exchange import csv as csv_format
from latentdb.exchange import importing, row_reader, row_writer
from latentdb.exchange import parquet as parquet_format
from latentdb.exchange.exporting import FORMATS, export
from latentdb.store import writer as writers
from latentdb.store.columns import Column, make_column
from latentdb.store.rows import Rows
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

DIM = 3
WHOLE = (".h5", ".parquet", ".csv")
EACH = pytest.mark.parametrize("suffix", FORMATS)
EACH_WHOLE = pytest.mark.parametrize("suffix", WHOLE)


def contents(snapshot: Snapshot) -> dict[str, Any]:
    """Everything of every row, bit for bit."""
    rows = snapshot.live_rows()
    log_vars = snapshot.log_vars(rows)
    return {
        name: (path, vector.tobytes(), None if log_vars is None else log_vars[n].tobytes(), repr(
            sorted(metadata.items())))
        for n, (name, path, vector, metadata) in enumerate(
            zip(snapshot.ids(rows), snapshot.paths(rows), snapshot.vectors(rows),
                snapshot.metadata(rows), strict=True)
        )
    }  # fmt: skip


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


def means(rows: int) -> Any:
    return np.random.default_rng(rows).normal(size=(rows, DIM)).astype(np.float32)


def make(path: Path, names: list[str], **given: Any) -> LatentDB:
    db = LatentDB.create(path, dim=DIM)
    db.add(names, means(len(names)), **given)
    return db


@contextmanager
def small_batches(rows: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_writer, "BLOCK_ROWS", rows)
        patch.setattr(row_reader, "BATCH_ROWS", rows)
        patch.setattr(csv_format, "_PIECE_CELLS", 1)
        patch.setattr(parquet_format, "_BATCH_ROWS", rows)
        patch.setattr(importing, "_FIRST_CHECK", rows)
        yield


# --- round trips ----------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
odd = st.sampled_from(
    ["007", "1e5", "inf", "true", "-0", "a,b", '"', "''", "\r\n", "\r", " ", "\ufeff", "=1+1", "#"]
)
name = (text | odd).filter(bool)
whole = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1])
real = st.floats(allow_nan=False) | st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308])
single = st.floats(-(2.0**60), 2.0**60, width=32)  # larger ones are refused
values = {"str": text | odd, "int": whole, "float": real, "bool": st.booleans()}


@st.composite
def stored_rows(draw: st.DrawFn) -> Rows:
    names = draw(st.lists(name, unique=True, max_size=9))
    dim = draw(st.integers(1, 4))
    vectors = st.lists(single, min_size=len(names) * dim, max_size=len(names) * dim)
    columns: dict[str, Column] = {}
    for key in draw(st.lists(st.sampled_from(["a", "größe", "z_mean_x", "label"]), unique=True)):
        kind = draw(st.sampled_from(sorted(values)))
        one = values[kind] | st.none()
        column = make_column(key, draw(st.lists(one, min_size=len(names), max_size=len(names))))
        if column is not None:
            columns[key] = column
    paths = st.lists(text, min_size=len(names), max_size=len(names))
    return Rows(
        names,
        np.array(draw(vectors), np.float32).reshape(len(names), dim),
        np.array(draw(vectors), np.float32).reshape(len(names), dim)
        if draw(st.booleans())
        else None,
        draw(paths) if draw(st.booleans()) else None,
        columns=columns,
    )


def fill(path: Path, rows: Rows) -> Store:
    store = Store.create(path, dim=rows.z_mean.shape[1])
    if len(rows):
        with store.writer() as writer:
            writer.append(rows)
    return store


@settings(max_examples=60)
@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
@given(rows=stored_rows(), batch=st.integers(1, 10))
def test_what_is_exported_reads_back_exactly(
    suffix: str, rows: Rows, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    snapshot = fill(folder / "a.ldb", rows).snapshot()
    with small_batches(batch):
        export(snapshot, snapshot.live_rows(), folder / f"o{suffix}")
        report = LatentDB.import_into(folder / "b.ldb", folder / f"o{suffix}")
    assert (report.added, report.rows) == (len(rows), len(rows))
    back = Store.open(folder / "b.ldb").snapshot()
    assert contents(back) == contents(snapshot)
    assert back.ids(back.live_rows()) == list(rows.ids)
    if len(rows):
        assert dict(back.manifest.columns) == dict(snapshot.manifest.columns)


def as_csv_has_it(rows: Rows) -> Rows:
    """An empty text is a missing one."""
    columns = {}
    for key, column in rows.columns.items():
        cells = [column.item(row) for row in range(len(rows))]
        if column.type == "str":
            cells = [cell or None for cell in cells]
        made = make_column(key, cells)
        if made is not None:
            columns[key] = made
    return Rows(rows.ids, rows.z_mean, rows.z_log_var, rows.paths, columns=columns)


@settings(max_examples=60)
@given(rows=stored_rows(), batch=st.integers(1, 10))
def test_csv_reads_back_exactly_where_the_columns_are_known(
    rows: Rows, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    rows = as_csv_has_it(rows)
    store = fill(folder / "a.ldb", rows)
    before = contents(store.snapshot())
    with LatentDB.open(folder / "a.ldb") as db, small_batches(batch):
        db.export(folder / "o.csv")
        report = db.import_file(folder / "o.csv", on_conflict="replace")
    assert (report.added, report.replaced) == (0, len(rows))
    assert contents(store.snapshot()) == before


@settings(max_examples=60)
@given(rows=stored_rows(), batch=st.integers(1, 10))
def test_csv_columns_get_the_narrowest_type_that_fits(
    rows: Rows, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    rows = as_csv_has_it(rows)
    columns = dict(rows.columns)
    for key, column in columns.items():
        if column.type == "str":
            # Text that nobody takes for anything else.
            prefixed = tuple(f"_{text_}" for text_ in column.categories)
            columns[key] = Column("str", column.values, column.missing, prefixed)
    rows = Rows(rows.ids, rows.z_mean, rows.z_log_var, rows.paths, columns=columns)
    store = fill(folder / "a.ldb", rows)
    with LatentDB.open(folder / "a.ldb") as db, small_batches(batch):
        db.export(folder / "o.csv")
        LatentDB.import_into(folder / "b.ldb", folder / "o.csv")
    back = Store.open(folder / "b.ldb").snapshot()
    assert contents(back) == contents(store.snapshot())
    assert dict(back.manifest.columns) == dict(store.snapshot().manifest.columns)


@settings(max_examples=30)
@given(rows=stored_rows(), batch=st.integers(1, 10), named=st.booleans())
def test_npy_reads_back_exactly(
    rows: Rows, batch: int, named: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    fill(folder / "a.ldb", rows)
    names = [
        f"{number}{one}".replace("\n", "").replace("\r", "") for number, one in enumerate(rows.ids)
    ]
    (folder / "ids.txt").write_text(
        "".join(f"{one}\n" for one in names), encoding="utf-8", newline=""
    )
    with LatentDB.open(folder / "a.ldb") as db, small_batches(batch):
        db.export(folder / "o.npy")
        LatentDB.import_into(
            folder / "b.ldb", folder / "o.npy", ids=folder / "ids.txt" if named else None
        )
    back = Store.open(folder / "b.ldb").snapshot()
    live = back.live_rows()
    assert back.vectors(live).tobytes() == rows.z_mean.tobytes()
    assert back.ids(live) == (names if named else [str(n) for n in range(len(rows))])


def test_the_paths_of_images_survive(store: Path, tmp_path: Path) -> None:
    before = contents(Store.open(store).snapshot())
    for suffix in WHOLE:
        with LatentDB.open(store) as db:
            db.export(tmp_path / f"o{suffix}")
            assert db.import_file(tmp_path / f"o{suffix}", on_conflict="replace").replaced == 80
        assert contents(Store.open(store).snapshot()) == before


# --- files of other programs ----------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "|u1"])
def test_npy_of_other_types_and_orders(tmp_path: Path, order: Any, kind: str) -> None:
    array = np.arange(21).reshape(7, 3).astype(kind, order=order)
    np.save(tmp_path / "o.npy", array)
    with small_batches(2):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.npy")
    with LatentDB.open(tmp_path / "s.ldb") as db:
        np.testing.assert_array_equal(db.vectors(db.ids()), np.arange(21).reshape(7, 3))


def test_h5_of_another_program(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file.create_dataset("z_mean", data=np.arange(12.0).reshape(4, 3), chunks=(3, 2),
                            compression="gzip", shuffle=True, fletcher32=True)  # fmt: skip
        file.create_dataset("id", data=np.array([5, 6, 7, 8], np.uint16))
        file.create_dataset("path", data=np.array([b"a", b"", b"c", b"d"]), compression="lzf")
        file.create_dataset("metadata/x", data=np.array([1, np.nan, 3, 4], np.float16))
        file.create_dataset("metadata/y", (4,), h5py.string_dtype(), chunks=(3,))
        file["metadata/y"][:] = ["ü", "", "w" * 1000, "z"]
        file.create_dataset("metadata/z", data=np.array([1, 0, 1, 0], ">i2"))
        file.create_dataset("metadata/z.missing", data=np.array([0, 0, 0, 1], "u1"))
    with small_batches(3):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.h5")
    snapshot = Store.open(tmp_path / "s.ldb").snapshot()
    rows = snapshot.live_rows()
    assert snapshot.ids(rows) == ["5", "6", "7", "8"]
    assert snapshot.paths(rows) == ["a", None, "c", "d"]
    np.testing.assert_array_equal(snapshot.vectors(rows), np.arange(12).reshape(4, 3))
    assert snapshot.metadata(rows) == [
        {"x": 1.0, "y": "ü", "z": 1},
        {"y": "", "z": 0},
        {"x": 3.0, "y": "w" * 1000, "z": 1},
        {"x": 4.0, "y": "z"},
    ]


@pytest.mark.parametrize("lists", [pa.list_, pa.large_list])
def test_parquet_of_another_program(tmp_path: Path, lists: Callable[..., Any]) -> None:
    table = pa.table({
        "label": pa.array(["x", None, "x", ""]).dictionary_encode(),
        "z_mean": pa.array([[1, 2], [3, 4], [5, 6], [7, 8.5]], lists(pa.float64())),
        "big": pa.array(["a", "b", None, "d"], pa.large_string()),
        "none": pa.nulls(4),
        "flag": pa.array([True, None, False, True]),
        "small": pa.array([1, 2, None, 4], pa.uint8()),
        "id": pa.array([10, 11, 12, 13]),
        "real": pa.array([0.5, float("nan"), None, 2], pa.float32()),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "o.parquet", row_group_size=3, compression="zstd")
    LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.parquet")
    snapshot = Store.open(tmp_path / "s.ldb").snapshot()
    rows = snapshot.live_rows()
    assert len(snapshot.segments) == 1
    assert snapshot.ids(rows) == ["10", "11", "12", "13"]
    np.testing.assert_array_equal(snapshot.vectors(rows), [[1, 2], [3, 4], [5, 6], [7, 8.5]])
    assert snapshot.metadata(rows) == [
        {"label": "x", "big": "a", "flag": True, "small": 1, "real": 0.5},
        {"big": "b", "small": 2},
        {"label": "x", "flag": False},
        {"label": "", "big": "d", "flag": True, "small": 4, "real": 2.0},
    ]


def test_csv_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text(
        "\ufeffz_mean_1,year,z_mean_0,id,code,ok,big,x\n"
        "2,1999,1,a,007,TRUE,9223372036854775808,\n\n"
        "4.5,,3,b,1,,1,1e3\n"
        " 6 ,-5,5e0,c,2,false,2,-inf\n",
        encoding="utf-8",
    )
    LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.csv")
    snapshot = Store.open(tmp_path / "s.ldb").snapshot()
    rows = snapshot.live_rows()
    np.testing.assert_array_equal(snapshot.vectors(rows), [[1, 2], [3, 4.5], [5, 6]])
    assert snapshot.metadata(rows) == [
        {"year": 1999, "code": "007", "ok": True, "big": "9223372036854775808"},
        {"code": "1", "big": "1", "x": 1000.0},
        {"year": -5, "code": "2", "ok": False, "big": "2", "x": float("-inf")},
    ]


# --- conflicts, and all or nothing ----------------------------------------------


@EACH_WHOLE
def test_ids_that_are_in_the_store(tmp_path: Path, suffix: str) -> None:
    with make(tmp_path / "a.ldb", ["a", "b", "c", "d"], metadata={"n": [1, 2, 3, 4]}) as db:
        db.export(tmp_path / f"o{suffix}")
    with (
        make(tmp_path / "b.ldb", ["x", "b", "d"], metadata={"n": [7, 8, 9]}) as db,
        small_batches(2),
    ):
        before = listing(tmp_path / "b.ldb")
        with pytest.raises(InvalidInputError, match=r"id 'b' \(2 in all\) is in the store: set"):
            db.import_file(tmp_path / f"o{suffix}")
        with pytest.raises(InvalidInputError, match="on_conflict 'maybe' is unknown"):
            db.import_file(tmp_path / f"o{suffix}", on_conflict="maybe")
        assert listing(tmp_path / "b.ldb") == before
        done = db.import_file(tmp_path / f"o{suffix}", on_conflict="skip")
        assert (done.added, done.replaced, done.skipped, done.rows) == (2, 0, 2, 5)
        assert db.ids() == ["x", "b", "d", "a", "c"]
        np.testing.assert_array_equal(db.vectors(["b", "c"]), [means(3)[1], means(4)[2]])
        done = db.import_file(tmp_path / f"o{suffix}", on_conflict="skip")
        assert (done.added, done.skipped) == (0, 4)
        assert db.info().version == 3, "nothing to write is no commit"
        done = db.import_file(tmp_path / f"o{suffix}", on_conflict="replace")
        assert (done.added, done.replaced, done.skipped, done.rows) == (0, 4, 0, 5)
        assert db.info().version == 4, "one commit"
        assert db.ids() == ["x", "a", "b", "c", "d"]
        np.testing.assert_array_equal(db.vectors(["a", "b", "c", "d"]), means(4))


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
@EACH
def test_an_id_twice_in_the_file_is_found_across_batches(
    tmp_path: Path, suffix: str, batch: int
) -> None:
    names = ["a", "b", "c", "d", "b", "e"]
    write_file(tmp_path / f"o{suffix}", names)
    (tmp_path / "ids.txt").write_text("\n".join(names))
    ids = tmp_path / "ids.txt" if suffix == ".npy" else None
    with (
        small_batches(batch),
        pytest.raises(InvalidInputError, match=r"id 'b' is .*(1 and 4|twice)"),
    ):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / f"o{suffix}", ids=ids)
    assert not (tmp_path / "s.ldb").exists()


def test_ids_of_the_same_hash_are_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashes(names: list[str]) -> Any:
        return np.array([len(one) for one in names], np.uint64)

    monkeypatch.setattr(importing, "hash_ids", hashes)
    write_file(tmp_path / "o.csv", ["a", "b", "cc", "d"])
    with small_batches(2):
        assert LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.csv").added == 4


def write_file(path: Path, names: list[str]) -> None:
    """A minimal file of each format."""
    rows = means(len(names))
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["z_mean"] = rows
            file.create_dataset("id", data=names, dtype=h5py.string_dtype())
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({"id": names, "z_mean": list(rows)}), path)
    else:
        lines = [",".join([one, *map(str, row)]) for one, row in zip(names, rows, strict=True)]
        path.write_text("\n".join(["id,z_mean_0,z_mean_1,z_mean_2", *lines]), encoding="utf-8")


@EACH
def test_a_write_that_fails_leaves_the_store_as_before(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / f"o{suffix}", [f"r{n}" for n in range(10)])
    make(tmp_path / "s.ldb", ["x"]).close()
    before = listing(tmp_path / "s.ldb")
    (tmp_path / "empty.ldb").mkdir()
    real, count = writers.write_new, 0

    def failing(path: Path, data: Any) -> None:
        nonlocal count
        count += path.suffix == ".h5"
        if count == 3:
            raise StoreError(f"{path} cannot be written: no space left on device")
        real(path, data)

    monkeypatch.setattr(writers, "write_new", failing)
    for name_ in ("s.ldb", "new.ldb", "empty.ldb"):
        count = 0
        with small_batches(2), pytest.raises(StoreError, match="no space left"):
            LatentDB.import_into(tmp_path / name_, tmp_path / f"o{suffix}")
        assert count == 3
    assert listing(tmp_path / "s.ldb") == before
    assert not (tmp_path / "new.ldb").exists()
    assert os.listdir(tmp_path / "empty.ldb") == []
    monkeypatch.undo()
    assert LatentDB.import_into(tmp_path / "s.ldb", tmp_path / f"o{suffix}").rows == 11


KILLED = """
import os, signal, sys
from latentdb.exchange import row_reader
from latentdb.store import writer
from latentdb.database import LatentDB

row_reader.BATCH_ROWS, count, real = 2, 0, writer.write_new

def write(path, data):
    global count
    count += path.suffix == ".h5"
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)

writer.write_new = write
LatentDB.import_into(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("new", [False, True])
def test_a_killed_import_leaves_the_store_as_before(tmp_path: Path, new: bool) -> None:
    write_file(tmp_path / "o.h5", [f"r{n}" for n in range(10)])
    before: dict[str, Any] = {}
    if not new:
        with make(tmp_path / "s.ldb", ["x"]) as db:
            before = contents(db._snapshot())
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "s.ldb"), str(tmp_path / "o.h5")], timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert contents(Store.open(tmp_path / "s.ldb").snapshot()) == before
    assert LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.h5").rows == 10 + (not new)


def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for names in (["a", "x", "c"], ["a", "b"], ["a", "b", "c", "d"]):
        write_file(tmp_path / "o.csv", ["a", "b", "c"])
        monkeypatch.setattr(
            importing, "_check_types", lambda *a, names=names: write_file(tmp_path / "o.csv", names)
        )
        with pytest.raises(StoreError, match=r"changed while it was read: import it again"):
            LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.csv")
        assert not (tmp_path / "s.ldb").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    write_file(tmp_path / "o.csv", ["a"])
    make(tmp_path / "s.ldb", ["x"])
    db = LatentDB.open(tmp_path / "s.ldb", lock_timeout=0)
    with (
        Store.open(tmp_path / "s.ldb").writer(),
        pytest.raises(LockedError, match="is being written by process"),
    ):
        db.import_file(tmp_path / "o.csv")


@EACH
def test_a_file_without_rows_makes_an_empty_store(tmp_path: Path, suffix: str) -> None:
    with LatentDB.create(tmp_path / "a.ldb", dim=DIM) as db:
        db.export(tmp_path / f"o{suffix}")
    assert LatentDB.import_into(tmp_path / "b.ldb", tmp_path / f"o{suffix}").rows == 0
    with LatentDB.open(tmp_path / "b.ldb") as db:
        assert (len(db), db.info().dim) == (0, DIM)


# --- what does not fit ----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_latents_of_another_encoder_are_refused(tmp_path: Path, suffix: str) -> None:
    def store(where: str, print_: str) -> Store:
        return Store.create(tmp_path / where, dim=DIM, model=(print_, None, {"model.json": b"{}"}))

    export(store("a", "one").snapshot(), np.empty(0, np.int64), tmp_path / f"o{suffix}")
    for where, print_ in (("b", "one"), ("c", "other")):
        made = store(where, print_)
        with made.writer() as writer, importing.opened(tmp_path / f"o{suffix}") as opened:
            if print_ == "one":
                importing.import_rows(writer, opened)
                continue
            with pytest.raises(ModelMismatchError, match=r"encoder one, .* of encoder other"):
                importing.import_rows(writer, opened)


@EACH_WHOLE
def test_rows_that_do_not_fit_the_store_are_refused(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"o{suffix}"
    with make(tmp_path / "a.ldb", ["a"], metadata={"n": ["x"]}) as db:
        db.export(out)
    db = LatentDB.create(tmp_path / "dim", dim=2)
    with pytest.raises(InvalidInputError, match="has 3 dimensions, this store 2"):
        db.import_file(out)
    with make(tmp_path / "log", ["b"], z_log_var=means(1)) as db:
        with pytest.raises(InvalidInputError, match="has no z_log_var, and this store's"):
            db.import_file(out)
        db.export(tmp_path / f"log{suffix}")
    with make(tmp_path / "kind", ["b"], metadata={"n": [1]}) as db:
        before = listing(tmp_path / "kind")
        with pytest.raises(InvalidInputError, match="metadata 'n' is str and in this store int"):
            db.import_file(out)
        with pytest.raises(InvalidInputError, match="has z_log_var, and this store's rows have"):
            db.import_file(tmp_path / f"log{suffix}")
        assert listing(tmp_path / "kind") == before


@EACH
def test_vectors_that_are_not_finite_are_named_by_row(tmp_path: Path, suffix: str) -> None:
    bad = np.zeros((5, DIM))
    bad[3, 1] = 1e39
    if suffix == ".npy":
        np.save(tmp_path / "o.npy", bad)
    elif suffix == ".h5":
        with h5py.File(tmp_path / "o.h5", "w") as file:
            file["z_mean"], file["id"] = bad, np.arange(5)
    elif suffix == ".parquet":
        parquet.write_table(
            pa.table({"id": list("abcde"), "z_mean": list(bad)}), tmp_path / "o.parquet"
        )
    else:
        lines = [",".join(map(str, [n, *row])) for n, row in enumerate(bad)]
        (tmp_path / "o.csv").write_text("\n".join(["id,z_mean_0,z_mean_1,z_mean_2", *lines]))
    with small_batches(2), pytest.raises(InvalidInputError, match=r"z_mean of row 3 is not finite"):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / f"o{suffix}")
    assert not (tmp_path / "s.ldb").exists()


@pytest.mark.parametrize("name", ["o.txt", "o", "o.mat", ".npy"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot import .*, expected one of \.h5, \.npy"):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / name)


@EACH
def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / f"o{suffix}")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    for kind in ("pipe", "folder"):
        with pytest.raises(InvalidInputError, match="is no regular file"):
            LatentDB.import_into(tmp_path / "s.ldb", tmp_path / f"{kind}{suffix}")
    with pytest.raises(InvalidInputError, match="null character"):
        LatentDB.import_into(tmp_path / "s.ldb", f"{tmp_path}/\0{suffix}")
    assert not (tmp_path / "s.ldb").exists()


def test_ids_beside_the_file_are_for_npy(tmp_path: Path) -> None:
    write_file(tmp_path / "o.csv", ["a"])
    write_file(tmp_path / "o.npy", ["a", "b"])
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\n")
    with pytest.raises(InvalidInputError, match="holds its ids itself"):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.csv", ids=ids)
    for text_, message in (
        (b"a\n", "has 2 rows, and .*ids.txt 1 ids"),
        (b"a\nb\nc", "has 2 rows, and .*ids.txt 3 ids"),
        (b"a\n\nb", "line 2 is empty, expected an id"),
        (b"a\n\xff", "ids.txt: its text is not UTF-8"),
        (b"a\nb\0", "cannot be used"),
    ):
        ids.write_bytes(text_)
        with pytest.raises(InvalidInputError, match=message):
            LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.npy", ids=ids)
    assert not (tmp_path / "s.ldb").exists()


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "o.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'latentdb\[parquet\]'"):
        LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.parquet")


# --- hostile files --------------------------------------------------------------


def refused(file: Path, message: str) -> None:
    store = file.with_name("s.ldb")
    with pytest.raises(InvalidInputError, match=message) as error:
        LatentDB.import_into(store, file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert not store.exists()


def vlen_of_one(file: Any) -> None:
    """A thousand ids that are one text of a megabyte: patched below, once written."""
    data = file.create_dataset("metadata/bomb", (1000,), h5py.string_dtype())
    data[0] = "x" * 1_000_000


def double_deflate(file: Any) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1000,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((1000,))
    h5py.h5d.create(file.id, b"path", h5py.h5t.NATIVE_INT8, space, plist)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((1000,), "<i8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (1000,))
    file.create_virtual_dataset("metadata/v", layout)


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "soft": (lambda f: f.__setitem__("path", h5py.SoftLink("/id")), "refused, 'path' is a soft or"),
    "external": (
        lambda f: f.__setitem__("path", h5py.ExternalLink("/etc/passwd", "x")),
        "refused, 'path' is a soft or external link",
    ),
    "inner": (
        lambda f: f.__setitem__("metadata/m", h5py.ExternalLink("/etc/passwd", "x")),
        "refused, 'metadata/m' is a soft or external link",
    ),
    "virtual": (virtual, "refused, 'metadata/v' is virtual, expected contiguous"),
    "storage": (
        lambda f: f.create_dataset("path", (1000,), "i1", external=[("/etc/passwd", 0, 1000)]),
        "refused, 'path' has external storage",
    ),
    "huge": (
        lambda f: f.create_dataset("z_log_var", (2**40, DIM), "<f4"),
        "refused, 'z_log_var' of shape .* is .* bytes, of which the file holds 0",
    ),
    "sparse": (
        lambda f: f.create_dataset("z_log_var", (2**40, DIM), "<f4", chunks=(100, DIM)),
        "refused, 'z_log_var' of shape",
    ),
    "packed": (
        lambda f: f.create_dataset("path", (2**30,), "S9", chunks=(1000,), compression=9),
        "refused, 'path' of shape",
    ),
    "chunk": (
        lambda f: f.create_dataset("path", (2**29,), "i1", chunks=(2**29,), compression=9),
        "refused, 'path' has chunks over",
    ),
    "filters": (double_deflate, r"refused, 'path' has filters \[1, 1\], expected deflate"),
    "scaled": (
        lambda f: f.create_dataset("path", data=np.zeros(1000, "i4"), scaleoffset=4),
        r"refused, 'path' has filters \[6\]",
    ),
    "texts": (
        lambda f: f.create_dataset(
            "path", data=["a"] * 1000, dtype=h5py.string_dtype(), chunks=(10,), compression=1
        ),
        "refused, 'path' is text of variable length with a filter",
    ),
    "compound": (
        lambda f: f.create_dataset("path", data=np.zeros(1000, "i4,i4")),
        "refused, 'path' does not hold numbers or text",
    ),
    "reference": (
        lambda f: f.create_dataset("path", (1000,), h5py.ref_dtype),
        "refused, 'path' does not hold numbers or text",
    ),
    "lists": (
        lambda f: f.create_dataset("path", (1000,), h5py.vlen_dtype("i4")),
        "refused, 'path' does not hold numbers or text",
    ),
    "enum": (
        lambda f: f.create_dataset("metadata/e", (1000,), h5py.enum_dtype({"a": 1}), fillvalue=1)
        .__setitem__(0, 1),
        "metadata/e holds an enumeration",
    ),
    "group": (lambda f: f.create_group("path"), "refused, 'path' is not a data set"),
    "deep": (lambda f: f.create_group("metadata/m/n"), "refused, 'metadata/m' is not a data set"),
    "unknown": (lambda f: f.create_dataset("x", data=[1]), "'x' is none of id, path, z_mean"),
    "numbers": (lambda f: f.create_dataset("path", data=np.zeros(1000)), "path holds float"),
    "short": (lambda f: f.create_dataset("path", data=[b"a"]), r"path has shape \[1\], expected"),
    "width": (
        lambda f: f.create_dataset("z_log_var", data=np.zeros((1000, 2))),
        r"z_log_var has shape \[1000, 2\], expected \[1000, 3\]",
    ),
    "flat": (lambda f: f.create_dataset("z_log_var", data=np.zeros(1000)), "z_log_var has shape"),
    "key": (
        lambda f: f.create_dataset("metadata/row", data=np.zeros(1000)),
        "metadata key 'row' is reserved",
    ),
    "odd key": (
        lambda f: f.create_dataset("metadata/a\tb", data=np.zeros(1000)),
        r"metadata key 'a\\tb' cannot",
    ),
    "missing": (
        lambda f: f.create_dataset("metadata/x.missing", data=np.zeros(1000, bool)),
        "metadata/x.missing must hold booleans, and have metadata/x beside it",
    ),
    "beyond": (
        lambda f: f.create_dataset("metadata/n", data=np.full(1000, 2**63, "u8")),
        "metadata/n has a whole number beyond",
    ),
    "bytes": (
        lambda f: f.create_dataset("path", data=np.full(1000, b"\xff")),
        "its text is not UTF-8",
    ),
    "null": (
        lambda f: f.create_dataset("path", data=np.full(1000, b"a\0b")),
        "path 'a\\\\x00b' has a null character",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_hostile_h5_is_refused_by_name(tmp_path: Path, what: str) -> None:
    write, message = HOSTILE[what]
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["z_mean"], file["id"] = np.zeros((1000, DIM), "<f4"), np.arange(1000)
        write(file)
    refused(tmp_path / "o.h5", message)


def test_many_references_to_one_text_are_refused(tmp_path: Path) -> None:
    for chunks in (None, (250,)):
        with h5py.File(tmp_path / "o.h5", "w") as file:
            file["z_mean"], file["id"] = np.zeros((1000, DIM), "<f4"), np.arange(1000)
            data = file.create_dataset("path", (1000,), h5py.string_dtype(), chunks=chunks)
            data[:] = ["x" * 100_000] + ["y"] * 999
            first = (
                data.id.get_offset() if chunks is None else data.id.get_chunk_info(0).byte_offset
            )
            areas = [(first, 1000)] if chunks is None else [
                (data.id.get_chunk_info(n).byte_offset, 250) for n in range(4)]  # fmt: skip
        content = bytearray((tmp_path / "o.h5").read_bytes())
        one = content[first : first + 16]
        for offset, count in areas:
            content[offset : offset + 16 * count] = one * count
        (tmp_path / "o.h5").write_bytes(content)
        with h5py.File(tmp_path / "o.h5") as file:
            assert len(file["path"][999]) == 100_000, "the file is as it was meant"
        refused(tmp_path / "o.h5", "refused, the texts up to 'path' are longer than the file")


def test_a_damaged_heap_of_texts_is_an_error_or_harmless(tmp_path: Path) -> None:
    """HDF5 itself reads some of them for ever."""
    write_file(tmp_path / "o.h5", ["a", "b", "c"])
    whole = (tmp_path / "o.h5").read_bytes()
    at = whole.index(b"GCOL")
    for offset in range(at, at + 80):
        for value in (0, 1, 7, 255):
            content = bytearray(whole)
            content[offset] = value
            (tmp_path / "o.h5").write_bytes(content)
            try:
                LatentDB.import_into(tmp_path / f"{offset}.{value}", tmp_path / "o.h5")
            except InvalidInputError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017


def header(shape: object, kind: object = "<f4", order: bool = False, version: int = 1) -> bytes:
    text_ = repr({"descr": kind, "fortran_order": order, "shape": shape}).encode() + b"\n"
    size = len(text_).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text_


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
        (header((2**62, 3)), "declares shape"),
        (header((2**70, 2**10)), "declares shape"),
        (header((5, 3)) + b"\0" * 59, "declares shape .*, 60 bytes, and has 59"),
        (header((-1, 3)), "declares shape"),
        (header((5, -3)), "z_mean has -3 dimensions"),
        (header((5, 0)), "z_mean has 0 dimensions, expected 1 to"),
        (header((1, 10**6)), "z_mean has 1000000 dimensions"),
        (header((3,)), r"has shape \[3\], expected \[rows, dimensions\]"),
        (header((1, 1, 1)), "has shape"),
        (header((1, 1), "|O") + b"cos\nsystem\n", "holds object, expected numbers"),
        (header((1, 1), "<U4"), "holds <U4, expected numbers"),
        (header((1, 1), "<c8"), "holds complex64"),
        (header((1, 1), [("a", "<f4")]), "expected numbers"),
        (header((1, 1), "nonsense"), "cannot be read"),
        (header("__import__('os')"), "cannot be read"),
        (header((1, 1), version=3), r"is of .npy version \(3, 0\)"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 15 + b"\n", "cannot be read"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"'" * 15 + b"\n", "cannot be read"),
    ],
)
def test_a_hostile_npy_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "o.npy").write_bytes(data)
    refused(tmp_path / "o.npy", message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty, expected a header"),
        (b"a,b\n1,2", "has no column 'id', nor path or filename, among a, b"),
        (b"id,z_mean_0,id\n", "has column 'id' twice"),
        (b"id,x\n", "has no numbered columns 'z_mean'"),
        (b"id,z_mean_1\n", "has 1 columns z_mean_.., and no z_mean_0"),
        (b"id,z_mean_0,z_mean_2\n", "no z_mean_1"),
        (b"id,z_mean_0,z_mean_00\n", "no z_mean_1"),
        (b"id,z_mean_0,z_mean_1,z_log_var_0\n", "z_log_var has 1 dimensions and z_mean 2"),
        (b"id,z_mean_0,row\n", "metadata key 'row' is reserved"),
        (b"id,z_mean_0,\n", "metadata key '' cannot"),
        (b"id,z_mean_0\na,1\n\nb,2,3\n", "line 4 has 3 cells, its header 2"),
        (b"id,z_mean_0\na,1\n,2\n", "line 3 has no id"),
        (b"id,z_mean_0\na,1\nb,\n", "line 3: z_mean_0 is '', expected a number"),
        (b"id,z_mean_0\na,1\nb,one\n", "line 3: z_mean_0 is 'one', expected"),
        (b"id,z_mean_0\na,nan\n", "z_mean of row 0 is not finite"),
        (b"id,z_mean_0\na,1\nb,1e19\n", r"z_mean of row 1 has a value of 1\.0e\+19, too large"),
        (b'id,z_mean_0\n"a,1\nb,2', "line 3: unexpected end"),
        (b'id,z_mean_0\n"a"x,1\n', "line 2: "),
        (b"id,z_mean_0\n\xff,1\n", "its text is not UTF-8"),
        (b"id,z_mean_0\na\0,1\n", r"cannot be used|line contains NUL"),
        (b"id,z_mean_0,path\na,1,x\0\n", r"null character|line contains NUL"),
        (b"id,z_mean_0\n" + b"a" * 100, "a line has 90 characters, expected fewer"),
    ],
)
def test_a_hostile_csv_is_refused(
    tmp_path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_reader, "_MAX_LINE", 90)
    (tmp_path / "o.csv").write_bytes(data)
    refused(tmp_path / "o.csv", message)


VECTORS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "b"]}, "has no column 'z_mean'"),
        ({"z_mean": VECTORS}, "has no column 'id'"),
        ({"id": ["a", None], "z_mean": VECTORS}, "row 1 has no id"),
        ({"id": ["a", ""], "z_mean": VECTORS}, "id '' cannot be used"),
        ({"id": [0.5, 1.5], "z_mean": VECTORS}, "column 'id' holds double, expected text"),
        ({"id": ["a", "b"], "z_mean": [1.0, 2.0]}, "'z_mean' holds double, expected lists of"),
        ({"id": ["a", "b"], "z_mean": [["a"], ["b"]]}, "expected lists of numbers"),
        ({"id": ["a", "b"], "z_mean": [[1.0], None]}, "'z_mean' has missing values from row 0"),
        ({"id": ["a", "b"], "z_mean": [[1.0], [None]]}, "'z_mean' has missing values"),
        ({"id": ["a", "b"], "z_mean": [[1.0], [1.0, 2.0]]}, "of row 1 has 2 numbers, expected 1"),
        (
            {"id": ["a", "b"], "z_mean": pa.array([[], []], pa.list_(pa.float32()))},
            "z_mean has 0 dimensions",
        ),
        ({"id": ["a", "b"], "z_mean": VECTORS, "x": [[1], [2]]}, "column 'x' holds list"),
        ({"id": ["a", "b"], "z_mean": VECTORS, "x": [b"a", b"b"]}, "column 'x' holds binary"),
        (
            {"id": ["a", "b"], "z_mean": VECTORS, "x": pa.array([1, 2], pa.duration("s"))},
            "column 'x' holds duration",
        ),
        ({"id": ["a", "b"], "z_mean": VECTORS, "a\tb": [1, 2]}, r"metadata key 'a\\tb' cannot"),
        ({"id": ["a", "b"], "z_mean": VECTORS, "path": [1, 2]}, "'path' holds int64"),
        (
            {"id": ["a", "b"], "z_mean": VECTORS, "n": pa.array([1, 2**63], pa.uint64())},
            "n has a whole number beyond",
        ),
        ({"id": ["a", "b"], "z_mean": VECTORS, "z_log_var": [[1.0], [2.0]]}, "make them equal"),
    ],
)
def test_a_hostile_parquet_is_refused(tmp_path: Path, columns: Any, message: str) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "o.parquet")
    refused(tmp_path / "o.parquet", message)


def test_parquet_with_a_column_twice_or_no_rows_is_refused(tmp_path: Path) -> None:
    arrays = [pa.array(["a"]), pa.array(["b"]), pa.array([[1.0]])]
    parquet.write_table(
        pa.Table.from_arrays(arrays, ["id", "id", "z_mean"]), tmp_path / "o.parquet"
    )
    refused(tmp_path / "o.parquet", "has column 'id' twice")
    none = pa.table(
        {"id": pa.array([], pa.string()), "z_mean": pa.array([], pa.list_(pa.float32()))}
    )
    parquet.write_table(none, tmp_path / "o.parquet")
    refused(tmp_path / "o.parquet", "has no rows, and is of no fixed width")


def test_a_small_parquet_of_many_equal_rows_ends_soon(tmp_path: Path) -> None:
    """A dictionary makes a small file of rows without end."""
    ids = pa.DictionaryArray.from_arrays(
        pa.array(np.tile(np.arange(50_000, dtype=np.int32), 40)), [f"r{n}" for n in range(50_000)]
    )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(ids), "<f4")), 1)
    table = pa.table({"id": ids, "z_mean": vectors})
    parquet.write_table(table, tmp_path / "o.parquet", compression="zstd")
    refused(tmp_path / "o.parquet", "id 'r0' is in rows 0 and 50000")


@EACH
def test_damage_is_an_error_of_one_line_or_harmless(tmp_path: Path, suffix: str) -> None:
    """Cuts and flipped bytes, everywhere: an error of ours or an import, nothing else."""
    names = [f"r{n}" for n in range(20)]
    metadata = {"label": ["x", None] * 10, "n": [*range(19), None], "f": [0.5] * 20}
    with make(tmp_path / "a.ldb", names, z_log_var=means(20), metadata=metadata) as db:
        db.export(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in random.integers(0, len(whole), 40)]
    for offset in random.integers(0, len(whole), 160):
        content = bytearray(whole)
        content[offset] ^= 1 << int(random.integers(8))
        damaged.append(bytes(content))
    out = tmp_path / f"o{suffix}"
    messages = []
    for number, content in enumerate(damaged):
        out.write_bytes(content)
        store = tmp_path / f"{number}.ldb"
        try:
            LatentDB.import_into(store, out)
        except LatentDBError as error:
            messages.append(str(error))
            assert not store.exists()
    assert len(messages) >= 20
    assert [message for message in messages if "\n" in message] == []


# --- the command line -----------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    write_file(tmp_path / "o.csv", ["a", "b"])
    run = CliRunner().invoke
    words = ["import", str(tmp_path / "s.ldb"), str(tmp_path / "o.csv")]
    result = run(main, words)
    assert (result.exit_code, result.stdout.split(";")[0]) == (0, "2 added, 0 replaced, 0 skipped")
    result = run(main, words)
    assert result.exit_code == 1
    assert "is in the store: set on-conflict to skip or replace" in result.stderr
    result = run(main, [*words, "--on-conflict", "replace", "--json"])
    report = json.loads(result.stdout)
    assert (report["added"], report["replaced"], report["skipped"], report["rows"]) == (0, 2, 0, 2)
    write_file(tmp_path / "o.npy", ["a", "b"])
    (tmp_path / "ids.txt").write_text("b\nc\n")
    words = ["import", str(tmp_path / "s.ldb"), str(tmp_path / "o.npy")]
    words += ["--ids", str(tmp_path / "ids.txt"), "--on-conflict", "skip"]
    result = run(main, words)
    assert (result.exit_code, result.stdout.split(";")[0]) == (0, "1 added, 0 replaced, 1 skipped")
    with LatentDB.open(tmp_path / "s.ldb") as db:
        assert db.ids() == ["a", "b", "c"]


def test_a_csv_left_half_read_does_not_change_the_limit_of_the_process(tmp_path: Path) -> None:
    import csv

    from latentdb.exchange.importing import opened

    (tmp_path / "a.csv").write_text("id,z_mean_0\na,1\nb,2\n")
    before = csv.field_size_limit()
    with opened(tmp_path / "a.csv", None) as source:
        parts = source.ids()
        next(parts)
        assert csv.field_size_limit() == before


@pytest.mark.parametrize("suffix", [".h5", ".csv", ".parquet"])
def test_dates_and_any_keys_come_back(tmp_path: Path, suffix: str) -> None:
    metadata = {
        "taken": [date(2020, 1, 31), None, date(1, 1, 1)],
        "at": [datetime(2020, 1, 31, 5, 6, 7, 8), datetime(9999, 12, 31), None],
        "Year taken": [1990, None, 2000],
        "exif.iso/100 %": ["x", "y", None],
        "class.missing": [True, None, False],
        "class": [0.5, 1.5, None],
    }
    db = LatentDB.create(tmp_path / "a.ldb", dim=1)
    db.add(["a", "b", "c"], np.eye(3, 1), metadata=metadata)
    db.compact()
    assert db.ids(where='`Year taken` < 1995 and taken == "2020-01" and at > "2020"') == []
    assert db.ids(where='`Year taken` < 1995 and taken == "2020-01" and at >= "2020"') == ["a"]
    db.export(tmp_path / f"o{suffix}")
    LatentDB.import_into(tmp_path / "b.ldb", tmp_path / f"o{suffix}")
    assert LatentDB.verify(tmp_path / "b.ldb").problems == ()
    copy = LatentDB.open(tmp_path / "b.ldb")
    assert copy.info().columns == db.info().columns
    for name in "abc":
        assert copy[name].metadata == db[name].metadata
    assert [row.id for row in copy.rows(order_by="-at")] == ["b", "a", "c"]
    table = pa.table(copy)
    assert table.column("taken").to_pylist() == metadata["taken"]
    assert table.column("at").to_pylist() == metadata["at"]


def test_times_of_parquet_are_read_in_any_unit_and_zone(tmp_path: Path) -> None:
    at = datetime(2020, 1, 31, 5)
    columns = {
        "id": ["a"],
        "z_mean": pa.array([[1.0]]),
        "ns": pa.array([at], pa.timestamp("ns")),
        "zone": pa.array([at], pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([at.date()], pa.date64()),
    }
    parquet.write_table(pa.table(columns), tmp_path / "m.parquet")
    LatentDB.import_into(tmp_path / "a.ldb", tmp_path / "m.parquet")
    row = LatentDB.open(tmp_path / "a.ldb")["a"]
    assert row.metadata == {"ns": at, "zone": at, "day": at.date()}
    columns["day"] = pa.array([5_000_000], pa.int32()).cast(pa.date32())
    parquet.write_table(pa.table(columns), tmp_path / "far.parquet")
    with pytest.raises(InvalidInputError, match="day has a date beyond the years 1 to 9999"):
        LatentDB.import_into(tmp_path / "b.ldb", tmp_path / "far.parquet")
