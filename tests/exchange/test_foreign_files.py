"""Vectors as other programs save them: columns found by name, the rest left out and told."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from latentdb.base.errors import InvalidInputError, ModelMismatchError
from latentdb.database import LatentDB
from latentdb.exchange import row_reader

NAMES = ["cat/1.jpg", "cat/2.jpg", "zwölf.jpg"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)
Columns = dict[str, Any]


def as_parquet(path: Path, columns: Columns) -> Path:
    values = {
        name: list(value) if isinstance(value, np.ndarray) and value.ndim > 1 else value
        for name, value in columns.items()
    }
    parquet.write_table(pa.table(values), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_h5(path: Path, columns: Columns) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, value in columns.items():
            file[name] = value
    return path.with_suffix(".h5")


def as_npz(path: Path, columns: Columns) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **columns)
    return path.with_suffix(".npz")


def as_csv(path: Path, columns: Columns) -> Path:
    import pandas

    parts = [
        pandas.DataFrame(value, columns=[f"{name}_{n}" for n in range(value.shape[1])])
        if isinstance(value, np.ndarray) and value.ndim == 2
        else pandas.DataFrame({name: value})
        for name, value in columns.items()
    ]
    pandas.concat(parts, axis=1).to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".csv")


EACH = pytest.mark.parametrize("write", [as_parquet, as_h5, as_npz, as_csv])
Write = Callable[[Path, Columns], Path]


def check(store: Path, names: list[str], **metadata: list[Any]) -> None:
    with LatentDB.open(store) as db:
        assert db.ids() == names
        np.testing.assert_array_equal(db.vectors(names), VECTORS)
        assert set(db.rows().columns) == set(metadata)
        for key, values in metadata.items():
            assert db.rows().column(key) == values


@EACH
@pytest.mark.parametrize("vector", ["embedding", "Embeddings", "features", "vector", "z_mean"])
@pytest.mark.parametrize("name", ["filename", "ids", "image_path"])
def test_columns_are_found_by_their_names(
    tmp_path: Path, write: Write, vector: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_reader, "BATCH_ROWS", 2)
    file = write(
        tmp_path / "o", {"label": ["a", "b", "c"], vector: VECTORS, name: NAMES, "n": [1, 2, 3]}
    )
    done = LatentDB.import_into(tmp_path / "s.ldb", file)
    assert (done.added, done.left_out) == (3, ())
    check(tmp_path / "s.ldb", NAMES, label=["a", "b", "c"], n=[1, 2, 3])


@EACH
def test_columns_can_be_named(tmp_path: Path, write: Write) -> None:
    columns = {"code": NAMES, "mu": VECTORS, "id": [7, 8, 9], "embedding": VECTORS + 1}
    file = write(tmp_path / "o", columns)
    done = LatentDB.import_into(
        tmp_path / "s.ldb", file, id_column="code", vector_column="mu", on_conflict="skip"
    )
    with LatentDB.open(tmp_path / "s.ldb") as db:
        np.testing.assert_array_equal(db.vectors(NAMES), VECTORS)
    # An id that is not the id has no place; nor has another vector, save as numbers of a CSV.
    assert "id" in done.left_out
    assert ("embedding" in done.left_out) == (write is not as_csv)
    for options, message in (
        ({"id_column": "kode"}, "has no .* 'kode' among .*code"),
        ({"vector_column": "mü"}, "has no .* 'mü' among .*mu"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            LatentDB.import_into(tmp_path / "t.ldb", file, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "t.ldb").exists()


@EACH
def test_two_columns_that_could_be_the_vectors_are_not_guessed(
    tmp_path: Path, write: Write
) -> None:
    file = write(tmp_path / "o", {"id": NAMES, "embedding": VECTORS, "features": VECTORS + 1})
    with pytest.raises(InvalidInputError, match="embedding, features could each be the vectors"):
        LatentDB.import_into(tmp_path / "s.ldb", file)
    LatentDB.import_into(tmp_path / "s.ldb", file, vector_column="embedding")
    with LatentDB.open(tmp_path / "s.ldb") as db:
        np.testing.assert_array_equal(db.vectors(NAMES), VECTORS)


@EACH
def test_a_path_that_is_the_id_stays_the_path(tmp_path: Path, write: Write) -> None:
    file = write(tmp_path / "o", {"path": NAMES, "embedding": VECTORS})
    LatentDB.import_into(tmp_path / "s.ldb", file)
    with LatentDB.open(tmp_path / "s.ldb") as db:
        assert db.ids() == NAMES
        assert db.rows().paths == NAMES


@pytest.mark.parametrize("write", [as_parquet, as_h5, as_npz])
def test_what_a_store_cannot_hold_is_left_out(tmp_path: Path, write: Write) -> None:
    pictures: Any = np.zeros((3, 2, 2), np.uint8)
    if write is as_parquet:
        pictures = [{"bytes": b"x", "path": name} for name in NAMES]
    file = write(
        tmp_path / "o",
        {"image": pictures, "row": [1, 2, 3], "embedding": VECTORS, "img": NAMES, "ok": [1, 2, 3]},
    )
    done = LatentDB.import_into(tmp_path / "s.ldb", file)
    assert sorted(done.left_out) == ["image", "row"]
    check(tmp_path / "s.ldb", NAMES, ok=[1, 2, 3])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_holds_every_type_and_reads_back(tmp_path: Path, save: Any) -> None:
    save(
        tmp_path / "o.npz",
        id=np.array([10, 11, 12], "u1"),
        z_mean=VECTORS.astype(">f8"),
        z_log_var=-VECTORS,
        path=np.array([b"/a", b"", "/zwölf".encode()]),
        half=[0.5, np.nan, 1.5],
        seen=[True, False, True],
        word=["a", "", "ü"],
    )
    LatentDB.import_into(tmp_path / "s.ldb", tmp_path / "o.npz")
    check(
        tmp_path / "s.ldb", ["10", "11", "12"],
        half=[0.5, None, 1.5], seen=[True, False, True], word=["a", "", "ü"],
    )  # fmt: skip
    with LatentDB.open(tmp_path / "s.ldb") as db:
        np.testing.assert_array_equal(db.log_vars(db.ids()), -VECTORS)
        assert [path or "" for path in db.rows().paths] == ["/a", "", "/zwölf"]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b"z_mean") + 140] ^= 1  # among the numbers: the checksum tells
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": VECTORS}, "has no array 'z_mean', nor embeddings, .*among a: name .*vector-column"),
        ({"z_mean": VECTORS, "id": np.array(["a"])}, r"id holds <U1 of shape \[1\], expected text"),
        ({"z_mean": VECTORS, "id": np.zeros(3)}, "id holds float64"),
        ({"z_mean": VECTORS[0]}, r"z_mean holds float32 of shape \[4\]"),
        ({"z_mean": VECTORS.astype("c8")}, "z_mean holds complex64"),
        ({"z_mean": np.asfortranarray(VECTORS)}, "Fortran order: save it in C order"),
        ({"features": VECTORS * np.float32(np.nan)}, "features of row 0 is not finite"),
        ({"features": np.zeros((3, 0))}, "features has 0 dimensions"),
        ({"z_mean": VECTORS, "z_log_var": VECTORS[:, :2]}, r"z_log_var has shape \[3, 2\]"),
        ({"z_mean": VECTORS, "id": np.array(["a", "\ud800", "b"])}, "surrogates not allowed"),
        ({"z_mean": VECTORS, "id": np.array(["a", "b", "a"])}, "id 'a' is given twice"),
    ],
)
def test_an_npz_that_cannot_be_used_is_refused(
    tmp_path: Path, arrays: Columns, message: str
) -> None:
    np.savez(tmp_path / "o.npz", **arrays)
    refused(tmp_path / "o.npz", message)


def refused(file: Path, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as error:
        LatentDB.import_into(file.with_name("s.ldb"), file)
    assert "\n" not in str(error.value)
    assert not file.with_name("s.ldb").exists()


def test_a_hostile_npz_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    np.savez(file, z_mean=VECTORS)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        refused(file, "cannot be read")
    file.write_bytes(whole)
    damage(file)
    refused(file, "Bad CRC-32")
    # Python objects would run code: they are left out, or refused as ids.
    np.savez(file, z_mean=VECTORS, note=np.array([{}, [], None], object))
    assert LatentDB.import_into(tmp_path / "t.ldb", file).left_out == ("note",)
    np.savez(file, z_mean=VECTORS, names=np.array([1.5]), files=np.array(NAMES, object))
    refused(file, "files holds Python objects, .*: save it as text")
    # A header that declares more than the archive holds.
    header = np.lib.format.magic(1, 0) + b"\x76\x00"
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)}).encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("z_mean.npy", header + text.ljust(117) + b"\n" + bytes(64))
    refused(file, "declares shape .*, and has 64")


def test_a_model_makes_a_store_that_decodes(tmp_path: Path, model: Path, store: Path) -> None:
    with LatentDB.open(store) as db:
        names, vectors, pixels = db.ids(), db.vectors(), db.decode(db.ids()[:3])
    np.savez(tmp_path / "o.npz", filenames=names, features=vectors)
    path = tmp_path / "s.ldb"
    assert LatentDB.import_into(path, tmp_path / "o.npz", model=model).added == len(names)
    with LatentDB.open(path) as db:
        np.testing.assert_array_equal(db.decode(names[:3]), pixels)
    # It goes with the same model, and with no other.
    np.savez(tmp_path / "p.npz", filenames=["new"], features=vectors[:1])
    assert LatentDB.import_into(path, tmp_path / "p.npz", model=model).rows == len(names) + 1
    LatentDB.import_into(tmp_path / "plain.ldb", tmp_path / "p.npz")
    with pytest.raises(ModelMismatchError, match="this store has no model"):
        LatentDB.import_into(tmp_path / "plain.ldb", tmp_path / "o.npz", model=model)
    np.savez(tmp_path / "wide.npz", features=np.zeros((2, 99)))
    with pytest.raises(InvalidInputError, match="has 99 dimensions"):
        LatentDB.import_into(tmp_path / "wide.ldb", tmp_path / "wide.npz", model=model)
    assert not (tmp_path / "wide.ldb").exists()
