"""Model files read as data: their contents, and what is refused before it is unpacked."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.base.errors import ModelError, NotFoundError
from latentdb.kerasfile import container
from latentdb.kerasfile.container import parse, read_file
from latentdb.kerasfile.runtime import load_keras
from zoo.excess import arrays as weights_of

CONFIG = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}


@lru_cache
def legacy_file() -> bytes:
    """A model as an .h5, which keras 3 still writes."""
    keras = load_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old.h5"
        model.save(path)
        return path.read_bytes()


def keras_file(
    config: object = CONFIG, weights: bytes | None = None, method: int = zipfile.ZIP_STORED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("model.weights.h5", weights_of(a=[1.0]) if weights is None else weights)
    return buffer.getvalue()


def h5_file(config: object = CONFIG, *, fixed: bool = False) -> bytes:
    buffer = io.BytesIO()
    text = json.dumps(config).encode()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = np.bytes_(text) if fixed else text.decode()
        file["model_weights/dense/dense/kernel:0"] = np.ones((2, 3), np.float32)
        file["optimizer_weights/iteration"] = 7
    return buffer.getvalue()


def damaged_deflate() -> bytes:
    """A .keras file whose first packed file begins with a block of an unknown kind."""
    data = bytearray(keras_file(method=zipfile.ZIP_DEFLATED))
    data[30 + len("config.json")] = 7
    return bytes(data)


def far_root() -> bytes:
    """An .h5 file whose root group lies where no offset of Python reaches."""
    data = bytearray(h5_file())
    data[64:72] = (2**63 + 8).to_bytes(8, "little")
    return bytes(data)


def test_both_formats_give_configuration_and_arrays() -> None:
    new = parse(keras_file(weights=weights_of(x__y=np.arange(6.0).reshape(2, 3), z=5)), "a")
    assert (new.config, new.legacy, sorted(new.weights)) == (CONFIG, False, ["x/y", "z"])
    assert new.weights.array("x/y").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert new.weights.array("z") == 5
    for fixed in (False, True):
        old = parse(h5_file(fixed=fixed), "b")
        assert (old.config, old.legacy) == (CONFIG, True)
        assert list(old.weights) == ["dense/dense/kernel:0"]


def test_a_long_configuration_of_an_h5_is_read_from_its_heap() -> None:
    long = {**CONFIG, "pad": "x" * 200_000}
    assert parse(h5_file(long), "a").config == long


def test_the_digest_is_of_names_and_values() -> None:
    first = parse(keras_file(weights=weights_of(a=[1.0], b=[2.0])), "a").weights.digest()
    again = parse(
        keras_file(weights=weights_of(b=[2.0], a=[1.0]), method=zipfile.ZIP_DEFLATED), "a"
    )
    assert again.weights.digest() == first
    other = parse(keras_file(weights=weights_of(a=[1.0], b=[2.5])), "a").weights.digest()
    assert other != first


def test_the_digest_is_that_of_the_first_version() -> None:
    """Stores have it in their manifests: a scalar counts as an array of one number."""
    expected = sha256(b"a <f8 (2,);" + np.array([1.0, 2.0]).tobytes())
    expected.update(b"b <i8 (1,);" + np.array([7]).tobytes())
    file = parse(keras_file(weights=weights_of(b=7, a=[1.0, 2.0], seed_generator=3)), "a")
    assert file.weights.digest() == expected.hexdigest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a .keras model file"),
        (b"PK\x03\x04", "is not a .keras model file"),
        (keras_file()[:-30], "is not a .keras model file"),
        (keras_file("[" * 100_000), "nests too deeply, over 200 levels"),
        (keras_file("9" * 5000), "is not a .keras model file"),
        (keras_file([1]), "has no model configuration"),
        (keras_file({"class_name": "x"}), "has no model configuration"),
        (keras_file(method=zipfile.ZIP_LZMA), "packed with another method"),
        (keras_file(method=zipfile.ZIP_BZIP2), "packed with another method"),
        (keras_file(weights=b"no"), "is not a .keras model file"),
        (damaged_deflate(), "is not a .keras model file"),
        (keras_file(weights=weights_of(a=["text"])), "is refused: 'a'"),
        (h5_file([1]), "its configuration is damaged"),
        (far_root(), "is not an .h5 model file"),
    ],
)
def test_damaged_files_are_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        parse(data, "it")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("it ")


def test_two_files_of_one_name_are_refused() -> None:
    buffer = io.BytesIO(keras_file())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match="or two of one name"):
        parse(buffer.getvalue(), "it")


def test_limits_hold_before_anything_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_CONFIG", 100)
    with pytest.raises(ModelError, match="expected at most 100"):
        parse(keras_file({**CONFIG, "pad": " " * 200}, method=zipfile.ZIP_DEFLATED), "it")
    with pytest.raises(ModelError, match="over 100 bytes"):
        parse(h5_file({**CONFIG, "pad": " " * 200}, fixed=True), "it")
    monkeypatch.setattr(container, "MAX_PARAMETERS", 5)
    with pytest.raises(ModelError, match="has 6 parameters, expected at most 5"):
        parse(keras_file(weights=weights_of(a=np.zeros(6))), "it")
    monkeypatch.setattr(container, "MAX_UNPACKED", 1000)
    with pytest.raises(ModelError, match="expected at most 1,000"):
        parse(keras_file(), "it")


def test_soft_links_and_packed_arrays_are_refused() -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["a"] = h5py.SoftLink("/b")
    with pytest.raises(ModelError, match="'a' is a soft or external link"):
        parse(keras_file(weights=buffer.getvalue()), "it")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("a", data=np.zeros(1000), compression="gzip")
    with pytest.raises(ModelError, match="'a' is chunked, expected contiguous"):
        parse(keras_file(weights=buffer.getvalue()), "it")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["model_weights"] = h5py.ExternalLink("/x", "/y")
        file.attrs["model_config"] = json.dumps(CONFIG)
    with pytest.raises(ModelError, match="'model_weights' is a soft or external link"):
        parse(buffer.getvalue(), "it")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_h5_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(legacy_file())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = parse(bytes(content), "it")
    except ModelError:
        return
    for name in file.weights:
        file.weights.array(name)


def test_paths_that_are_not_model_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"missing\.keras does not exist: expected an encoder"):
        read_file(tmp_path / "missing.keras", "an encoder")
    with pytest.raises(ModelError, match="is a folder: expected an encoder"):
        read_file(tmp_path, "an encoder")
    (tmp_path / "a.keras").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match=r"a\.keras is a pointer of Git LFS.*run git lfs pull"):
        parse(read_file(tmp_path / "a.keras", "an encoder"), "a.keras")


def test_numbers_that_numpy_does_not_have_are_refused() -> None:
    """A bfloat16 has the bytes of no numpy type; h5py calls it float32."""
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_size(2)
    bfloat16.set_ebias(127)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        h5py.h5d.create(file.id, b"a", bfloat16, h5py.h5s.create_simple((2,)))
        file["b"] = np.zeros(100)
    with pytest.raises(ModelError, match="'a' holds numbers of a type that numpy does not have"):
        parse(keras_file(weights=buffer.getvalue()), "it")
