"""ONNX files of any layout become an encoder and a decoder of one; others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError, LatentDBError, MissingExtraError, ModelError
from latentdb.database import LatentDB
from latentdb.model.codec import Codec
from latentdb.model.config import ModelConfig, ModelOptions
from latentdb.onnx import adopt as adopting
from latentdb.onnx.adopt import adopt
from tests.conftest import SIZE

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DIM = 4
PIXELS = SIZE * SIZE * 3
WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (PIXELS, DIM)).astype(np.float32)
FIRST = [3, SIZE, SIZE]  # channels first, as torch has them


def network(
    shape: list[int], nodes: list[Any], outputs: list[str], *weights: Any, batch: Any = "n"
) -> Any:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def encoder(
    shape: list[int] = FIRST, outputs: tuple[str, ...] = ("mu", "logvar"), batch: Any = "n"
) -> Any:
    """Each output is another multiple of ``flat @ WEIGHTS``, exponentiated for a scale."""
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
    ]
    for number, name in enumerate(outputs, 1):
        weights.append(numpy_helper.from_array(np.array(number, np.float32), f"f{number}"))
        product = f"p{number}" if name == "scale" else name
        nodes.append(helper.make_node("Mul", ["h", f"f{number}"], [product]))
        if name == "scale":
            nodes.append(helper.make_node("Exp", [product], [name]))
    return network(shape, nodes, list(outputs), *weights, batch=batch)


def decoder(latent: tuple[int, ...] = (DIM,), image: list[int] = FIRST) -> Any:
    """Images that are ``sigmoid(latent @ WEIGHTS.T)``."""
    sizes = np.array([-1, *image], np.int64)
    nodes = [
        helper.make_node("Flatten", ["x"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Reshape", ["s", "sizes"], ["y"]),
    ]
    weights = numpy_helper.from_array(WEIGHTS.T.copy(), "w")
    return network(list(latent), nodes, ["y"], weights, numpy_helper.from_array(sizes, "sizes"))


def save(folder: Path, first: Any, second: Any = None) -> tuple[Path, Path]:
    paths = folder / "encoder.onnx", folder / "decoder.onnx"
    paths[0].write_bytes(first.SerializeToString())
    paths[1].write_bytes((second or decoder()).SerializeToString())
    return paths


def pixels(count: int = 3) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def expected(images: Any, shape: list[int]) -> Any:
    values = images.astype(np.float32) / 255
    values = np.moveaxis(values, -1, 1) if shape == FIRST else values
    return values.reshape(len(images), -1) @ WEIGHTS


@pytest.mark.parametrize("shape", [FIRST, [SIZE, SIZE, 3]])
def test_channels_come_first_or_last(tmp_path: Path, shape: list[int]) -> None:
    files = save(tmp_path, encoder(shape), decoder(image=shape))
    codec = Codec.from_files(*files)
    images = pixels()
    z_mean, z_log_var = codec.encode(images)
    np.testing.assert_allclose(z_mean, expected(images, shape), atol=1e-5)
    assert z_log_var is not None
    np.testing.assert_allclose(z_log_var, 2 * z_mean, atol=1e-5)
    flat = 255 / (1 + np.exp(-(z_mean @ WEIGHTS.T)))
    decoded = np.moveaxis(flat.reshape(-1, *FIRST), 1, -1) if shape == FIRST else flat
    assert np.abs(codec.decode(z_mean) - decoded.reshape(images.shape)).max() <= 0.51
    assert codec.notes == ()


def test_sigma_becomes_z_log_var(tmp_path: Path) -> None:
    codec = Codec.from_files(*save(tmp_path, encoder(outputs=("loc", "scale"))))
    z_mean, z_log_var = codec.encode(pixels())
    assert z_log_var is not None
    np.testing.assert_allclose(z_log_var, 2 * 2 * z_mean, atol=1e-4)
    assert "2 log" in codec.notes[0]


def test_outputs_are_chosen_by_name_then_by_position(tmp_path: Path) -> None:
    named = Codec.from_files(*save(tmp_path, encoder(outputs=("z", "logvar", "mu"))))
    np.testing.assert_allclose(named.encode(pixels())[0], 3 * expected(pixels(), FIRST), atol=1e-5)
    files = save(tmp_path, encoder(outputs=("12", "13")))
    codec = Codec.from_files(*files)
    assert codec.config.has_z_log_var
    assert "--z-mean" in codec.notes[0]
    other = Codec.from_files(*files, options=ModelOptions(z_mean="13", z_log_var="12"))
    assert other.config.encoder_fingerprint != codec.config.encoder_fingerprint
    with pytest.raises(InvalidInputError, match="has no output 'mu': it has '12', '13'"):
        Codec.from_files(*files, options=ModelOptions(z_mean="mu"))


def test_a_sampled_z_beside_z_mean_is_cut_off(tmp_path: Path) -> None:
    model = encoder()
    model.graph.node.append(helper.make_node("RandomNormalLike", ["mu"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    codec = Codec.from_files(*save(tmp_path, model))
    assert codec.config.latent_dim == DIM
    with pytest.raises(ModelError, match="RandomNormalLike"):
        Codec.from_files(*save(tmp_path, model), options=ModelOptions(z_mean="z"))


def test_spatial_latents_are_stored_flat(tmp_path: Path) -> None:
    model = encoder()
    del model.graph.output[1:]
    sizes = numpy_helper.from_array(np.array([-1, 1, 2, 2], np.int64), "sizes")
    model.graph.initializer.append(sizes)
    model.graph.node.append(helper.make_node("Reshape", ["mu", "sizes"], ["grid"]))
    model.graph.output[0].name = "grid"
    codec = Codec.from_files(*save(tmp_path, model, decoder((1, 2, 2))))
    assert codec.config.latent_dim == 4
    assert codec.decode(codec.encode(pixels())[0]).shape == (3, SIZE, SIZE, 3)
    assert "[1, 2, 2]" in codec.notes[0]


def test_node_metadata_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    plain = Codec.from_files(*save(tmp_path, encoder()))
    model = encoder()
    for part in (model.graph, model.graph.node[0], model.graph.initializer[0], model):
        part.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="model.py:1")
    marked = Codec.from_files(*save(tmp_path, model))
    assert marked.config == plain.config
    weights = numpy_helper.from_array(WEIGHTS * 2, "w")
    model.graph.initializer[0].CopyFrom(weights)
    other = Codec.from_files(*save(tmp_path, model))
    assert other.config.encoder_fingerprint != plain.config.encoder_fingerprint


def external(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")


def conditional(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("label", TensorProto.FLOAT, ["n", 10]))


def loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["z"], body=body))


def half(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def lying_weights(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]


def huge_image(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def negative_image(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -5


def fixed_batch(model: Any) -> None:
    """Images that depend on the others of their batch."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.node[2].input[0] = "apart"
    model.graph.node.insert(2, helper.make_node("Sub", ["h", "centre"], ["apart"]))
    model.graph.node.insert(2, helper.make_node("ReduceMean", ["h"], ["centre"], axes=[0]))


def long_name(model: Any) -> None:
    model.graph.node.append(helper.make_node("\x1b[31m" + "N" * 1_000_000, ["mu"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    model.graph.output[0].CopyFrom(model.graph.output[2])
    del model.graph.output[1:]


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (external, "weights in another file.*external_data=False"),
        (conditional, "2 inputs.*conditional"),
        (loop, "a graph inside an operator"),
        (half, "float32"),
        (lying_weights, "encoder.onnx"),
        (huge_image, "at most"),
        (negative_image, "at most"),
        (fixed_batch, "batches of exactly 2.*dynamic_axes"),
        (long_name, "not on the list"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, forge: Callable[[Any], None], message: str
) -> None:
    model = encoder()
    forge(model)
    with pytest.raises(LatentDBError, match=message) as caught:
        Codec.from_files(*save(tmp_path, model))
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 700


def conditional_encoder(kind: int, size: list[int], *, batch: Any = "n") -> Any:
    """An encoder whose z_mean depends on a class, given as a vector or looked up."""
    given, table = [("x", TensorProto.FLOAT, FIRST), ("y", kind, size)], WEIGHTS[: 3 * DIM, 0]
    look = ("Gather", ["table", "y"]) if kind != TensorProto.FLOAT else ("MatMul", ["y", "table"])
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["h"]),
            helper.make_node(*look, ["own"]),
            helper.make_node("Reshape", ["own", "shape"], ["vector"]),
            helper.make_node("Add", ["h", "vector"], ["mu"]),
        ],
        "network",
        [helper.make_tensor_value_info(name, of, [batch, *dims]) for name, of, dims in given[::-1]],
        [helper.make_tensor_value_info("mu", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(WEIGHTS, "w"),
            numpy_helper.from_array(100 * table.reshape(3, DIM), "table"),
            numpy_helper.from_array(np.array([-1, DIM], np.int64), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conditional_decoder() -> Any:
    """A decoder that adds a number to the latents."""
    model = decoder()
    model.graph.node[0].input[0] = "sum"
    model.graph.node.insert(0, helper.make_node("Add", ["x", "angle"], ["sum"]))
    angle = helper.make_tensor_value_info("angle", TensorProto.FLOAT, ["n", 1])
    model.graph.input.insert(0, angle)
    return model


@pytest.mark.parametrize(
    ("kind", "size", "form"),
    [
        (TensorProto.FLOAT, [3], "one_hot"),
        (TensorProto.INT64, [], "index"),
        (TensorProto.INT32, [1], "index"),
    ],
)
@pytest.mark.parametrize("batch", ["n", 2])
def test_the_condition_is_the_second_input(
    tmp_path: Path, kind: int, size: list[int], form: str, batch: Any
) -> None:
    options = ModelOptions(condition="digit")
    path, _ = save(tmp_path, conditional_encoder(kind, size, batch=batch))
    codec = Codec.from_files(path, options=options)
    condition = codec.config.condition
    assert condition is not None
    assert (condition.encoder, condition.categories) == (form, ("0", "1", "2"))
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    labels = [2, 0, 1, 1, 2]
    found, _ = codec.encode(images, [{"digit": number} for number in labels])
    values = (images / np.float32(255)).transpose(0, 3, 1, 2).reshape(5, -1)
    table = 100 * WEIGHTS[: 3 * DIM, 0].reshape(3, DIM)
    assert np.allclose(found, values @ WEIGHTS + table[labels], atol=1e-4)
    assert Codec.from_bytes(codec.config, codec.files["encoder.model.onnx"], None, name="it")


def test_a_number_is_the_condition_of_a_decoder(tmp_path: Path) -> None:
    files = save(tmp_path, encoder(), conditional_decoder())
    with pytest.raises(ModelError, match=r"2 inputs .*--condition KEY names"):
        Codec.from_files(*files)
    codec = Codec.from_files(*files, options=ModelOptions(condition="angle"))
    assert codec.config.condition is not None
    assert codec.config.condition.decoder == "number"
    plain = Codec.from_files(*save(tmp_path, encoder(), decoder((DIM,))))
    latents = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)
    moved = codec.decode(latents, [{"angle": value} for value in (0.5, -1, 0)])
    shift = np.array([[0.5], [-1], [0]], np.float32)
    assert np.array_equal(moved, plain.decode(latents + shift))
    assert not np.array_equal(moved, plain.decode(latents))


def test_a_decoder_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes latents of shape"):
        Codec.from_files(*save(tmp_path, encoder(), decoder((DIM, 1))))
    with pytest.raises(ModelError, match="expected images of 16x16"):
        Codec.from_files(*save(tmp_path, encoder(), small_decoder()))
    with pytest.raises(ModelError, match="of two formats"):
        Codec.from_files(tmp_path / "encoder.onnx", "decoder.keras")


def small_decoder() -> Any:
    return network([DIM], [helper.make_node("Relu", ["x"], ["y"])], ["y"])


def test_without_the_extra_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "is_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'latentdb\[fast\]'"):
        adopt((b"", "encoder.onnx"), None)


def test_a_store_with_an_onnx_model_works_as_any_other(tmp_path: Path, images: Path) -> None:
    files = save(tmp_path, encoder())
    path = tmp_path / "shapes.ldb"
    options = ModelOptions(pixel_range="0..1")
    with LatentDB.create(path, model=files, options=options) as db:
        assert db.index_images(images).added == 80
    for file in files:
        file.unlink()  # the store holds its own
    with LatentDB.open(path) as db:
        one, other = db.ids()[:2]
        assert db.query(images / one, k=1).matches[0].id == one
        assert db.decode([one]).shape == (1, SIZE, SIZE, 3)
        assert db.blend([one, other]).shape == (DIM,)
        assert db.info().compiled
        assert LatentDB.verify(path).problems == ()
        db.backup(tmp_path / "copy.ldb")
    names = {file.name for file in (path / "model").iterdir()}
    assert names == {"encoder.model.onnx", "decoder.model.onnx", "model.json"}
    config = ModelConfig.from_json((path / "model" / "model.json").read_text(), "model.json")
    assert config.format == "onnx"
    with pytest.raises(ModelError, match="format 'torch' is not one of keras, onnx"):
        ModelConfig.from_json(config.to_json().replace('"onnx"', '"torch"'), "model.json")


def test_a_batch_of_one_size_is_freed_where_images_do_not_depend_on_it() -> None:
    """torch's export states the size of its example, and reshapes to it."""
    free = adopt((encoder().SerializeToString(), "e"), None)
    for size in (1, 5):
        made = encoder(batch=size)
        sizes = numpy_helper.from_array(np.array([size, PIXELS], np.int64), "sizes")
        made.graph.node[0].CopyFrom(helper.make_node("Reshape", ["x", "sizes"], ["flat"]))
        made.graph.initializer.append(sizes)
        found = adopt((made.SerializeToString(), "e"), None)
        values = np.random.default_rng(1).random((7, SIZE, SIZE, 3), np.float32)
        expected, given = (
            adopting.CompiledNetwork(one.encoder, "e")(values) for one in (free, found)
        )
        assert all(np.array_equal(a, b) for a, b in zip(expected, given, strict=True))


def test_pixels_as_bytes_are_taken() -> None:
    made = decoder()
    made.graph.node.append(helper.make_node("Mul", ["y", "most"], ["scaled"]))
    made.graph.node.append(helper.make_node("Cast", ["scaled"], ["bytes"], to=TensorProto.UINT8))
    made.graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "most"))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("bytes", TensorProto.UINT8, None))
    parts = ((encoder().SerializeToString(), "e"), (made.SerializeToString(), "d"))
    decoded = adopting.CompiledNetwork(adopt(*parts).decoder or b"", "d")(
        np.ones((2, DIM), np.float32)
    )[0]
    assert decoded.shape == (2, SIZE, SIZE, 3)
    assert decoded.dtype == np.float32
    assert decoded.max() > 100
