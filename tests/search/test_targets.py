"""Targets: ids, vectors and .npy files; images are tested where there is a model."""

from __future__ import annotations

import difflib
import io
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from latentdb.base.errors import IdNotFoundError, InvalidInputError, NotFoundError
from latentdb.database import LatentDB
from latentdb.model.codec import Codec
from latentdb.search.targets import Target, TargetLike, resolve
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

DIM = 4
IDS = ["cats/a.png", "cats/b.png", "id:odd", "x.npy", "file:y", "größe\n", "http://z"]
VECTORS = np.arange(len(IDS) * DIM, dtype=np.float32).reshape(-1, DIM)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.chdir(tmp_path)
    LatentDB.create("s.ldb", dim=DIM).add(IDS, VECTORS)
    return Store.open("s.ldb").snapshot()


def no_codec() -> Codec:
    raise AssertionError("the model was loaded without an image")


def one(snapshot: Snapshot, target: TargetLike) -> Target:
    (found,) = resolve(snapshot, no_codec, [target])
    return found


# --- ids ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in IDS if name not in ("id:odd", "file:y")])
def test_an_id_is_found(snapshot: Snapshot, name: str) -> None:
    found = one(snapshot, name)
    assert (found.kind, found.name) == ("id", name)
    np.testing.assert_array_equal(found.vector, VECTORS[IDS.index(name)])


@pytest.mark.parametrize("name", IDS)
def test_every_id_can_be_meant_by_its_prefix(snapshot: Snapshot, name: str) -> None:
    found = one(snapshot, f"id:{name}")
    assert (found.kind, found.name) == ("id", name)


def test_an_id_comes_before_a_file_of_the_same_name(snapshot: Snapshot) -> None:
    np.save("x.npy", np.full(DIM, 9.0))
    assert one(snapshot, "x.npy").kind == "id"
    assert one(snapshot, "npy:x.npy").vector.tolist() == [9.0] * DIM
    assert one(snapshot, Path("x.npy")).vector.tolist() == [9.0] * DIM


def test_targets_come_back_in_the_order_asked(snapshot: Snapshot) -> None:
    np.save("v.npy", np.zeros(DIM))
    asked: list[TargetLike] = [np.ones(DIM), "cats/b.png", "v.npy", "id:cats/a.png", "cats/b.png"]
    found = resolve(snapshot, no_codec, asked)
    assert [target.kind for target in found] == ["vector", "id", "npy", "id", "id"]
    assert [target.name for target in found][1:] == [
        "cats/b.png",
        "v.npy",
        "cats/a.png",
        "cats/b.png",
    ]
    assert resolve(snapshot, no_codec, []) == []


def test_a_mistyped_id_is_reported_with_the_nearest_one(snapshot: Snapshot) -> None:
    with pytest.raises(IdNotFoundError, match=r"neither an id nor a file: 'cats/a\.pgn' among 7"):
        one(snapshot, "cats/a.pgn")
    with pytest.raises(IdNotFoundError, match=r"did you mean 'cats/a\.png'"):
        one(snapshot, "cats/a.pgn")
    with pytest.raises(IdNotFoundError, match=r"^no id 'qqqqqqqq' .* ids look like 'cats/a\.png'"):
        one(snapshot, "id:qqqqqqqq")


@pytest.mark.parametrize(
    "typed",
    [
        "class_7/img_00123.jpg", "class_7/img_0123.png", "class_7/img_000123.png",
        "clas_7/img_00123.png", "class_7/img_01023.png", "clsas_7/img_00123.png",
        "Class_7/IMG_00123.png", "img_00123.png", "class_7/img_00123", "klass_7/img_00123.pnf",
        "class_7\\img_00123.png",
    ],
)  # fmt: skip
def test_few_ids_are_compared_in_full_and_the_nearest_is_found(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"class_{n % 10}/img_{n * 41:05}.png" for n in range(500)]
    LatentDB.create(tmp_path / "s", dim=DIM).add(ids, np.zeros((500, DIM), np.float32))
    (nearest,) = difflib.get_close_matches(typed, ids, n=1)
    compared = []
    ratio = difflib.SequenceMatcher.ratio

    def counted_ratio(matcher: difflib.SequenceMatcher[str]) -> float:
        compared.append(matcher)
        return ratio(matcher)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted_ratio)
    with pytest.raises(IdNotFoundError, match="did you mean 'class_") as caught:
        one(Store.open(tmp_path / "s").snapshot(), typed)
    assert len(compared) == 100
    monkeypatch.undo()
    found = str(caught.value).split("did you mean '")[1].split("'")[0]
    ratios = [difflib.SequenceMatcher(None, name, typed).ratio() for name in (found, nearest)]
    assert ratios[0] == ratios[1]  # of several that are equally near, it may be another


def test_of_equally_near_ids_the_one_that_agrees_longest_is_suggested(tmp_path: Path) -> None:
    ids = [f"cat/{n:04}.jpg" for n in range(60)]
    LatentDB.create(tmp_path / "s", dim=DIM).add(ids, np.zeros((60, DIM), np.float32))
    with pytest.raises(IdNotFoundError, match=r"did you mean 'cat/000\d\.jpg' or 'cat/000\d"):
        one(Store.open(tmp_path / "s").snapshot(), "cat/000l.jpg")


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    snapshot = Store.create(tmp_path / "s", dim=DIM).snapshot()
    with pytest.raises(IdNotFoundError, match="the store is empty: add images with latentdb index"):
        one(snapshot, "a")


def test_a_replaced_id_is_its_new_vector(snapshot: Snapshot) -> None:
    with LatentDB.open("s.ldb") as db:
        db.add(["cats/a.png"], np.full((1, DIM), 7.0), on_conflict="replace")
    assert one(Store.open("s.ldb").snapshot(), "cats/a.png").vector.tolist() == [7.0] * DIM
    assert one(snapshot, "cats/a.png").vector.tolist() == VECTORS[0].tolist()


@pytest.mark.parametrize("text", ["", "id:", "a\0b", "x" * 5000, ":", "id:id:"])
def test_a_text_that_is_nothing_is_reported(snapshot: Snapshot, text: str) -> None:
    with pytest.raises(IdNotFoundError, match=r"no id|neither an id nor a file"):
        one(snapshot, text)


@pytest.mark.parametrize("text", ["\udcff.png", "id:\udcff"])
def test_a_text_that_is_no_unicode_is_reported(snapshot: Snapshot, text: str) -> None:
    with pytest.raises(IdNotFoundError, match=r"no id|neither an id nor a file"):
        one(snapshot, text)


# --- vectors --------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2, 3, 4],
        (1.0, 2.0, 3.0, 4.0),
        np.array([[1, 2, 3, 4]], np.float16),
        np.array([1, 2, 3, 4], np.int8),
        np.array([1, 0, 2, 0, 3, 0, 4, 0], np.float64)[::2],
    ],
)
def test_a_vector_may_come_in_many_types(snapshot: Snapshot, vector: Any) -> None:
    found = one(snapshot, vector)
    assert (found.kind, found.name) == ("vector", "vector")
    assert found.vector.dtype == np.float32
    assert found.vector.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1, 2, 3], r"shape \[1, 3\]: expected \[n, 4\]"),
        (np.zeros((2, DIM)), r"the vector has shape \[2, 4\]: expected \[4\]"),
        (np.zeros(0), r"shape \[1, 0\]"),
        (3.0, r"the vector has shape \[\]"),
        (None, r"the vector has shape \[\]"),
        (["cats/a.png", "cats/b.png"], "a list of texts, not numbers: expected one target"),
        ([1j] * DIM, "not numbers"),
        ([True] * DIM, "not numbers"),
        ([None] * DIM, "not numbers"),
        ([1, 2, 3, np.nan], "not finite"),
        ([1, 2, 3, np.inf], "not finite"),
        ([1, 2, 3, 1e39], "not finite"),
    ],
)
def test_what_is_no_vector_of_the_store_is_reported(
    snapshot: Snapshot, vector: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        one(snapshot, vector)


def test_a_ragged_vector_is_reported(snapshot: Snapshot) -> None:
    ragged: Any = [[1, 2], [3]]
    with pytest.raises(
        InvalidInputError, match=rf"the vector is not numbers .*: expected \[{DIM}\]"
    ):
        one(snapshot, ragged)


def test_a_masked_vector_is_reported(snapshot: Snapshot) -> None:
    with pytest.raises(InvalidInputError, match="masked"):
        one(snapshot, np.ma.masked_equal([1.0, 2.0, 3.0, 4.0], 2.0))


# --- .npy files -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
def test_a_npy_file_is_a_vector(snapshot: Snapshot, shape: tuple[int, ...], dtype: str) -> None:
    np.save("v.npy", np.arange(DIM, dtype=dtype).reshape(shape))
    for target in ("v.npy", "npy:v.npy", Path("v.npy")):
        found = one(snapshot, target)
        assert (found.kind, found.name) == ("npy", "v.npy")
        assert found.vector.tolist() == [0, 1, 2, 3]


def test_a_npy_file_of_another_name_is_settled_by_its_prefix(snapshot: Snapshot) -> None:
    with open("vector.dat", "wb") as file:
        np.save(file, np.ones(DIM))
    assert one(snapshot, "npy:vector.dat").vector.tolist() == [1] * DIM


@pytest.mark.parametrize("target", ["npy:gone.npy", Path("gone.npy"), "npy:", "npy:a\0b"])
def test_a_missing_npy_file_is_reported(snapshot: Snapshot, target: TargetLike) -> None:
    with pytest.raises(NotFoundError, match=r"does not exist: expected a \.npy file"):
        one(snapshot, target)


def test_a_npy_file_whose_name_is_too_long_is_reported(snapshot: Snapshot) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        one(snapshot, "npy:" + "x" * 300)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(DIM + 1), r"v\.npy have shape \[1, 5\]"),
        (np.zeros((2, DIM)), r"v\.npy has shape \[2, 4\]"),
        (np.full(DIM, np.nan), r"v\.npy are not finite"),
        (np.array(["a"] * DIM), r"v\.npy are not numbers"),
    ],
)
def test_a_npy_file_that_does_not_fit_is_reported_by_name(
    snapshot: Snapshot, array: Any, message: str
) -> None:
    np.save("v.npy", array)
    with pytest.raises(InvalidInputError, match=message):
        one(snapshot, "v.npy")


class Evil:
    """Ends the tests when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exit_tests, ("a pickle was run",)


def exit_tests(why: str) -> NoReturn:
    pytest.exit(why)


def test_a_pickle_in_a_npy_file_is_not_run(snapshot: Snapshot) -> None:
    np.save("v.npy", np.array([Evil()], object), allow_pickle=True)
    with pytest.raises(InvalidInputError, match=r"v\.npy is not a \.npy file of numbers"):
        one(snapshot, "v.npy")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x93NUMPY", b"\x93NUMPY\x09\x00", b"\x80\x04N.", b"\0" * 500]
)
def test_what_is_no_npy_file_is_reported(snapshot: Snapshot, content: bytes) -> None:
    Path("v.npy").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"v\.npy is not a \.npy file of numbers"):
        one(snapshot, "v.npy")


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(DIM))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npz(),
        b"PK\x03\x04 no zip",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}"),
        npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**40},)}}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,"),
        npy("{'descr': ',f4', 'fortran_order': False, 'shape': (4,)}"),
        npy("{b'descr': '<f4', 'fortran_order': False, 'shape': (4,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"),
        npy("{{}: 1}"),
    ],
    ids=["npz", "zip", "huge", "overflow", "token", "syntax", "bytes-key", "bool", "dict-key"],
)
def test_a_damaged_npy_file_is_reported(snapshot: Snapshot, content: bytes) -> None:
    Path("v.npy").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"v\.npy is not a \.npy file of numbers"):
        one(snapshot, "v.npy")
