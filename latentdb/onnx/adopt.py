"""Turn ONNX files of any framework into an encoder and a decoder as latentdb runs them.

The graph keeps its operators and weights.  What differs between frameworks is
settled in it once: images are ``[n, height, width, channels]``, latents ``[n, d]``,
the encoder's outputs z_mean and z_log_var, and nothing else is left.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentdb.base.condition import CONDITION_HINT, INDEX, NUMBER, ONE_HOT, ConditionInput
from latentdb.base.errors import InvalidInputError, MissingExtraError, ModelError
from latentdb.base.wording import quoted
from latentdb.onnx.inspect import DOMAINS, inspect, rewrite
from latentdb.onnx.runtime import CompiledNetwork, is_available

SUFFIX = ".onnx"
_MEANS = (
    "z_mean", "zmean", "mu", "z_mu", "mean", "mean_z", "z_loc", "loc", "embedding",
    "encoder_outputs_mean",
)  # fmt: skip
_LOG_VARS = ("z_log_var", "zlogvar", "log_var", "logvar", "log_variance", "log_covariance")
_SIGMAS = ("sigma", "std", "z_sigma", "z_std", "scale", "stddev")
_FLOAT32 = 1  # in TensorProto.DataType
_NUMBERS = (_FLOAT32, 6, 7)  # and int32, int64
_MOVES = frozenset(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
_MAX_SIDE = 4096  # pixels of an image, and numbers of a latent, that a trial run may make
_MAX_LATENT = 1 << 20
_PREFIX = "latentdb."  # of the names of nodes and tensors added here

Floats = NDArray[np.float32]
Dims = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class AdoptedModel:
    """An encoder and a decoder of ONNX files, in one layout.

    Attributes
    ----------
    encoder, decoder
        .onnx files; None for no decoder.
    image
        Height, width and channels of an image.
    latent_dim
        Dimensions of z_mean.
    latent_shape
        Shape of z_mean in the file.
    encoder_condition, decoder_condition
        What the second input of each took: as in `latentdb.kerasfile.convert.ConvertedModel`.
    has_z_log_var
        Whether the encoder's second output is z_log_var.
    notes
        One sentence for each choice that a person may want to override.
    """

    encoder: bytes
    decoder: bytes | None
    image: tuple[int, int, int]
    latent_dim: int
    has_z_log_var: bool
    notes: tuple[str, ...]
    latent_shape: tuple[int, ...]
    encoder_condition: ConditionInput | None = None
    decoder_condition: ConditionInput | None = None


def is_onnx(path: object) -> bool:
    """Whether a file is named as an ONNX file."""
    return isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(SUFFIX)


def graph_digest(data: bytes, name: str) -> str:
    """A digest of the operators, settings and weights of an .onnx file, without its metadata.

    Raises
    ------
    ModelError
        If it holds something that is not allowed.
    """
    return sha256(rewrite(data, name)[1]).hexdigest()


def add_sigmoid(data: bytes, name: str) -> bytes:
    """The .onnx file of an adopted decoder with a sigmoid behind it."""
    graph = _Graph(data, name)
    graph.append("Sigmoid", graph.outputs[0])
    return graph.bytes()


def check_extra() -> None:
    """Raise `MissingExtraError` where the packages that run ONNX files are missing."""
    if not is_available() or importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("an ONNX model", "fast")


class LatentOutputs(NamedTuple):
    """The outputs of an encoder by name.

    Attributes
    ----------
    z_mean, second
        The mean, and the log variance or the standard deviation; None for neither.
    is_sigma
        Whether the second is the standard deviation.
    notes
        One sentence for each choice that a person may want to override.
    """

    z_mean: str
    second: str | None
    is_sigma: bool
    notes: tuple[str, ...]


def choose_outputs(
    outputs: Sequence[str], name: str, z_mean: str | None, z_log_var: str | None
) -> LatentOutputs:
    """z_mean and z_log_var among an encoder's outputs, by name or else by position.

    Parameters
    ----------
    outputs
        Their names, in order.
    name
        The encoder, for errors.
    z_mean, z_log_var
        The names, if they are known.

    Raises
    ------
    InvalidInputError
        If there is no output of a name given.
    """
    names = {one.lower().replace(".", "_").replace("-", "_"): one for one in outputs}

    def known(options: Sequence[str]) -> str | None:
        return next((names[option] for option in options if option in names), None)

    for given in (z_mean, z_log_var):
        if given is not None and given not in outputs:
            have = ", ".join(quoted(one) for one in outputs[:8])
            raise InvalidInputError(f"{name} has no output {quoted(given)}: it has {have}")
    mean = z_mean or known(_MEANS)
    variance, sigma = z_log_var or known(_LOG_VARS), None if z_log_var else known(_SIGMAS)
    notes = []
    if mean is None:
        mean = outputs[0]
        if len(outputs) > 1:
            notes.append(f"z_mean is the first output, {quoted(mean)}; --z-mean names another")
        if variance is None and sigma is None and len(outputs) in (2, 3):
            variance = outputs[1]
            notes.append(
                f"z_log_var is the second output, {quoted(variance)}; --z-log-var names another"
            )
    return LatentOutputs(
        mean, variance or sigma, variance is None and sigma is not None, tuple(notes)
    )


def adopt(
    encoder: tuple[bytes, str],
    decoder: tuple[bytes, str] | None,
    *,
    z_mean: str | None = None,
    z_log_var: str | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    conditional: bool = False,
) -> AdoptedModel:
    """An encoder and a decoder of ONNX files, of whichever framework and layout.

    Parameters
    ----------
    encoder, decoder
        Bytes of each file and its name; None for no decoder.
    z_mean, z_log_var
        Names of the encoder's outputs; found by name, then by position.
    image_size, channels
        Height and width, and 1 or 3; from the encoder's input if not given.
    conditional
        Whether encoder and decoder may have a second input, the condition.

    Raises
    ------
    MissingExtraError
        Without the extra ``fast``.
    ModelError
        If a file is no such network, or holds something that is not allowed.
    """
    check_extra()
    data, name = encoder
    graph = _Graph(data, name, conditional=conditional)
    image = graph.read_images(image_size, channels)
    taken, condition_notes = graph.join_condition(image)
    notes = [*graph.choose_latents(z_mean, z_log_var), *condition_notes]
    batch = np.zeros((2, *graph.input_shape), np.float32)
    own_shape = graph.run(batch)[0].shape[1:]  # before it is flattened: the decoder may want it
    dim = math.prod(own_shape)
    if not 0 < dim <= _MAX_LATENT:
        raise ModelError(f"{name} gives latents of shape {list(own_shape)}: expected [d]")
    graph.flatten_outputs()
    outputs = graph.run(batch)
    if any(output.shape != (2, dim) for output in outputs):
        shapes = " and ".join(str(list(output.shape[1:])) for output in outputs)
        raise ModelError(f"the outputs of {name} have shapes {shapes}: expected equal ones")
    graph.check_batch(_noise(graph.input_shape))
    if len(own_shape) > 1:
        notes.append(f"latents of shape {list(own_shape)} are stored as {dim:,} numbers each")
    second = of_decoder = None
    if decoder is not None:
        second, of_decoder, more = _adopt_decoder(
            *decoder, own_shape, image, conditional=conditional
        )
        notes += more
    return AdoptedModel(
        graph.bytes(), second, image, dim, len(outputs) > 1, tuple(notes), own_shape,
        taken, of_decoder,
    )  # fmt: skip


def _noise(shape: tuple[int, ...]) -> Floats:
    """Four random inputs."""
    return np.random.default_rng(0).random((4, *shape), np.float32)


def _adopt_decoder(
    data: bytes,
    name: str,
    latent: tuple[int, ...],
    image: tuple[int, int, int],
    *,
    conditional: bool,
) -> tuple[bytes, ConditionInput | None, list[str]]:
    graph = _Graph(data, name, conditional=conditional, latent=latent)
    graph.read_latents(latent)
    taken, notes = graph.join_condition((math.prod(latent),))
    graph.keep_outputs(graph.outputs)
    results = graph.run(np.zeros((2, *graph.input_shape), np.float32))
    height, width, channels = image
    for output, result in zip(list(graph.outputs), results, strict=True):
        shape = result.shape[1:]
        if result.ndim < 2 or len(result) != 2 or math.prod(shape) != math.prod(image):
            continue
        graph.keep_outputs([output])
        graph.check_batch(_noise(graph.input_shape))
        if shape == (channels, height, width) and shape != image:
            graph.append("Transpose", output, perm=[0, 2, 3, 1])
        elif len(shape) == 1 and channels > 1:
            raise ModelError(
                f"{name} gives flat images of {channels} channels, whose order it does not say: "
                "reshape them to [n, channels, height, width] before the export"
            )
        return graph.bytes(), taken, notes
    shapes = " and ".join(str(list(result.shape)) for result in results)
    raise ModelError(
        f"{name} gives {shapes} for 2 latents: expected images of {height}x{width} with "
        f"{channels} channel{'s' if channels > 1 else ''}"
    )


def _dims(value: Any) -> Dims:
    """The sizes that an input states; None for any."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _order(value: Any, latent: tuple[int, ...] | None) -> tuple[bool, int, int]:
    """Sorts image or latent before the condition: by its shape, else by its size."""
    sizes = _dims(value)[1:]
    return sizes != latent, -len(sizes), -math.prod(size or 1 for size in sizes)


class _Graph:
    """One network, changed in place."""

    def __init__(
        self,
        data: bytes,
        name: str,
        *,
        conditional: bool = False,
        latent: tuple[int, ...] | None = None,
    ) -> None:
        inspect(data, name, any_operator=True)  # nothing below reads a field that it refuses
        import onnx

        self.name = name
        self._onnx = onnx
        try:
            self._model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own types
            raise ModelError(f"{name} is damaged: onnx cannot parse it") from error
        graph = self._graph = self._model.graph
        if not any(opset.domain in DOMAINS for opset in self._model.opset_import):
            raise ModelError(f"{name} states no version of the standard operators")
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) == 2 and conditional:
            inputs.sort(key=lambda value: _order(value, latent))
        elif len(inputs) != 1:
            names = ", ".join(quoted(value.name) for value in inputs[:5])
            hint = f"; {CONDITION_HINT}" if len(inputs) == 2 else ""
            raise ModelError(f"{name} has {len(inputs)} inputs ({names}): expected one{hint}")
        self._condition = inputs[1] if len(inputs) > 1 else None
        tensor = inputs[0].type.tensor_type
        if tensor.elem_type != _FLOAT32:
            raise ModelError(f"{name} does not take float32: export it as float32")
        self.input: str = inputs[0].name
        self.shape: Dims = _dims(inputs[0])
        self.outputs: list[str] = [value.name for value in graph.output]
        if not self.shape or not self.outputs:
            raise ModelError(f"{name} states no shape of its input, or has no output")
        if self.shape[0] is not None and self.shape[0] < 1:
            raise ModelError(f"{name} has an input of shape {list(self.shape)}")
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
        self._batch = self.shape[0]
        if self._batch is not None:
            self._free_batch(self._batch)

    def read_images(
        self, image_size: tuple[int, int] | None, channels: int | None
    ) -> tuple[int, int, int]:
        """Make the input ``[n, height, width, channels]``; returns the last three."""
        sizes = self.shape[1:]
        height, width = image_size or (None, None)
        if len(sizes) == 3:
            first = sizes[0] in (1, 3) and (sizes[2] not in (1, 3) or sizes[0] == channels)
            own = sizes[0] if first else sizes[2]
            rows, columns = sizes[1:] if first else sizes[:2]
            if own not in (1, 3):
                raise ModelError(
                    f"{self.name} takes inputs of shape {list(sizes)}: expected 1 or 3 channels, "
                    "first or last"
                )
        elif len(sizes) == 2:
            first, own, (rows, columns) = False, 1, sizes
        elif len(sizes) == 1 and sizes[0]:
            first, own = False, 1
            side = math.isqrt(sizes[0])
            rows, columns = (height, width) if height else (side, side)
            if (rows or 0) * (columns or 0) != sizes[0]:
                raise ModelError(
                    f"{self.name} takes flat images of {sizes[0]} numbers: give --image-size of "
                    "grey ones; reshape colours to [n, 3, height, width] before the export"
                )
        else:
            raise ModelError(f"{self.name} takes inputs of shape {list(sizes)}: expected images")
        if channels not in (None, own) or any(
            given not in (None, stated) and stated is not None
            for given, stated in ((height, rows), (width, columns))
        ):
            raise ModelError(
                f"{self.name} takes images of shape {list(sizes)}, which are not of the image size "
                "and channels given: leave them out"
            )
        height, width = rows or height, columns or width
        if height is None or width is None:
            raise ModelError(f"{self.name} takes images of any size: give --image-size")
        if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
            raise ModelError(f"{self.name} takes images of {height}x{width}, at most {_MAX_SIDE}")
        image = (height, width, own)
        if len(sizes) == 3 and first:
            self._prepend("Transpose", image, perm=[0, 3, 1, 2])
        elif len(sizes) < 3:
            self._prepend_reshape(image, [height, width] if len(sizes) == 2 else [height * width])
        else:
            self._set_input(self.input, image)
        return image

    def read_latents(self, latent: tuple[int, ...]) -> None:
        """Make the input ``[n, d]``, whatever the shape of a latent is."""
        sizes = self.shape[1:]
        if len(sizes) != len(latent) or any(
            size not in (None, own) for size, own in zip(sizes, latent, strict=True)
        ):
            raise ModelError(
                f"{self.name} takes latents of shape {list(sizes)}, the encoder gives "
                f"{list(latent)}: give the decoder that belongs to it"
            )
        if len(latent) == 1:
            self._set_input(self.input, latent)
        else:
            self._prepend_reshape((math.prod(latent),), list(latent))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what `run` takes, without the batch axis."""
        return tuple(size or 0 for size in _dims(self._graph.input[0])[1:])

    def join_condition(self, shape: tuple[int, ...]) -> tuple[ConditionInput | None, list[str]]:
        """Make the input one vector: the input, of a shape, and the condition after it.

        Returns what the condition takes, and a note; without a condition nothing is changed.
        """
        if self._condition is None:
            return None, []
        name, own = self._condition.name, _dims(self._condition)[1:]
        kind = self._condition.type.tensor_type.elem_type
        width, size = math.prod(side or 0 for side in own), math.prod(shape)
        if len(own) > 1 or not 0 < width <= _MAX_SIDE or kind not in _NUMBERS:
            raise ModelError(
                f"{self.name} takes {quoted(name)} of shape {list(own)}: expected a condition of "
                "float32 or int64, which is [k], one-hot, or one number"
            )
        taken = ConditionInput(ONE_HOT, width)
        if width == 1:
            rows = self._table_rows(name)
            is_number = kind == _FLOAT32 and rows is None
            taken = ConditionInput(NUMBER) if is_number else ConditionInput(INDEX, rows)
        whole, main = _PREFIX + "joined", self._graph.input[0].name
        nodes = [
            *self._part(whole, main, range(size), shape, _FLOAT32),
            *self._part(whole, name, range(size, size + width), own, kind),
        ]
        self._replace(self._graph.node, [*nodes, *self._graph.node])
        self._set_input(whole, [size + width])
        return taken, [taken.note(quoted(name))]

    def _part(
        self, whole: str, name: str, columns: range, shape: Sequence[int | None], kind: int
    ) -> list[Any]:
        """Nodes that make a tensor, of a shape and a type, of some columns of another."""
        helper, steps = self._onnx.helper, [f"{_PREFIX}{name}.{number}" for number in range(2)]
        limits = {"starts": [columns.start], "ends": [columns.stop], "axes": [1]}
        constants = {**limits, "shape": [-1, *(side or 1 for side in shape)]}
        for key, values in constants.items():
            tensor = self._onnx.numpy_helper.from_array(
                np.array(values, np.int64), f"{_PREFIX}{name}.{key}"
            )
            self._graph.initializer.append(tensor)
        *inputs, sizes = (f"{_PREFIX}{name}.{key}" for key in constants)
        return [
            helper.make_node("Slice", [whole, *inputs], [steps[0]]),
            helper.make_node("Reshape", [steps[0], sizes], [steps[1]]),
            helper.make_node("Cast", [steps[1]], [name], to=kind),
        ]

    def _table_rows(self, name: str) -> int | None:
        """Rows of the embedding that an input is looked up in; None if that does not show."""
        weights = {tensor.name: tensor.dims for tensor in self._graph.initializer}
        same = {name}
        for node in self._graph.node:
            if node.op_type in _MOVES and node.input and node.input[0] in same:
                same.update(node.output)
            elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in same:
                dims = weights.get(node.input[0])
                return int(dims[0]) if dims else None
        return None

    def choose_latents(self, z_mean: str | None, z_log_var: str | None) -> list[str]:
        """Make z_mean and z_log_var the outputs, by name or else by position; returns notes."""
        chosen = choose_outputs(self.outputs, self.name, z_mean, z_log_var)
        second = chosen.second
        self.keep_outputs([chosen.z_mean] if second is None else [chosen.z_mean, second])
        if not chosen.is_sigma or second is None:
            return list(chosen.notes)
        self.append("Log", second)
        half = _PREFIX + "two"
        tensor = self._onnx.numpy_helper.from_array(np.array(2, np.float32), half)
        self._graph.initializer.append(tensor)
        self.append("Mul", self.outputs[1], half)
        return [*chosen.notes, f"z_log_var is 2 log of the output {quoted(second)}"]

    def flatten_outputs(self) -> None:
        for output in list(self.outputs):
            self.append("Flatten", output, axis=1)

    def keep_outputs(self, outputs: Sequence[str]) -> None:
        """Cut off everything that these outputs do not need."""
        graph, needed, nodes = self._graph, set(outputs), []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        nodes.reverse()
        weights = [tensor for tensor in graph.initializer if tensor.name in needed]
        self._replace(graph.node, nodes)
        self._replace(graph.initializer, weights)
        self.outputs = list(outputs)
        for output in outputs:  # of pixels as bytes, perhaps
            if self._types.get(output, _FLOAT32) != _FLOAT32:
                self.append("Cast", output, to=_FLOAT32)
        self._state_outputs()

    def append(self, operator: str, output: str, *inputs: str, **settings: Any) -> None:
        """Pass one output through another operator."""
        name = f"{_PREFIX}{len(self._graph.node)}"
        node = self._onnx.helper.make_node(operator, [output, *inputs], [name], **settings)
        self._graph.node.append(node)
        self.outputs[self.outputs.index(output)] = name
        self._state_outputs()

    def run(self, values: Floats) -> list[Floats]:
        try:
            return CompiledNetwork(self.bytes(), self.name)(values)
        except ModelError as error:
            if self._batch is None:
                raise
            raise self._fixed_batch() from error

    def _fixed_batch(self) -> ModelError:
        return ModelError(
            f"{self.name} takes batches of exactly {self._batch}: export it with a batch axis of "
            'any size (dynamic_axes={"image": {0: "n"}}, or dynamic_shapes)'
        )

    def _free_batch(self, size: int) -> None:
        """Take batches of any size where the file states one, as torch writes it by default.

        Reshapes that name the size name none instead.  `check_batch` compares.
        """
        numpy_helper = self._onnx.numpy_helper
        shapes = {tensor.name: tensor for tensor in self._graph.initializer}
        for node in self._graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                shapes[node.output[0]] = node.attribute[0].t
        for node in self._graph.node:
            tensor = shapes.get(node.input[1]) if node.op_type == "Reshape" else None
            if tensor is None:
                continue
            sizes = numpy_helper.to_array(tensor).tolist()
            if isinstance(sizes, list) and sizes and sizes[0] == size and -1 not in sizes:
                changed = numpy_helper.from_array(np.array([-1, *sizes[1:]], np.int64), tensor.name)
                tensor.CopyFrom(changed)
        stated = next(value for value in self._graph.input if value.name == self.input)
        stated.type.tensor_type.shape.dim[0].dim_param = "n"

    def check_batch(self, values: Floats) -> None:
        """Compare images alone with a batch of the size that the file states, if it states one.

        Raises
        ------
        ModelError
            If results depend on the size of the batch, or on other images in it.
        """
        if self._batch is None:
            return
        rows = np.resize(values, (self._batch, *values.shape[1:]))
        whole = self.run(rows)
        apart = [self.run(rows[number : number + 1]) for number in range(min(2, len(rows)))]
        for number, single in enumerate(apart):
            for one, many in zip(single, whole, strict=True):
                if not np.allclose(one[0], many[number], rtol=1e-4, atol=1e-5):
                    raise self._fixed_batch()

    def bytes(self) -> bytes:
        """The file, with what `inspect` allows and no more."""
        model = self._model
        kept = [item for item in model.opset_import if item.domain in DOMAINS]
        self._replace(model.opset_import, kept)
        del self._graph.value_info[:]  # shapes between the layers, which are derived again
        return rewrite(model.SerializeToString(deterministic=True), self.name)[1]

    def _state_outputs(self) -> None:
        helper = self._onnx.helper
        values = [helper.make_tensor_value_info(name, _FLOAT32, None) for name in self.outputs]
        self._replace(self._graph.output, values)

    def _set_input(self, name: str, shape: Sequence[int]) -> None:
        value = self._onnx.helper.make_tensor_value_info(name, _FLOAT32, ["n", *shape])
        self._replace(self._graph.input, [value])

    def _prepend(self, operator: str, shape: Sequence[int], *inputs: str, **settings: Any) -> None:
        name = _PREFIX + "input"
        node = self._onnx.helper.make_node(operator, [name, *inputs], [self.input], **settings)
        self._graph.node.insert(0, node)
        self._set_input(name, shape)

    def _prepend_reshape(self, shape: Sequence[int], to: Sequence[int]) -> None:
        sizes = self._onnx.numpy_helper.from_array(np.array([-1, *to], np.int64), _PREFIX + "sizes")
        self._graph.initializer.append(sizes)
        self._prepend("Reshape", shape, sizes.name)

    @staticmethod
    def _replace(field: Any, values: Sequence[Any]) -> None:
        copies = []
        for value in values:  # copied first: they may belong to the field itself
            copy = type(value)()
            copy.CopyFrom(value)
            copies.append(copy)
        del field[:]
        field.extend(copies)
