"""What a compiled model file may hold: read as data, before a runtime parses it.

A store may come from a stranger, and ONNX can do more than a network needs:
name other files on the disk as its weights, call operators of other libraries,
loop, branch, and draw random numbers.  Only what is listed here passes.  The
numbers are the field numbers of onnx.proto (https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latentdb.base.errors import ModelError

FINGERPRINT = "fingerprint"  # key of the metadata that says of which model a file is
DOMAINS = ("", "ai.onnx")  # two names of the standard operators
MAX_BYTES = (2 << 30) - 1  # of any protobuf message
MAX_FIELDS = 200_000  # a network of a thousand layers has some 50,000

# What layers without a state are made of: no loop, no branch, nothing random.
_NAMES = """
    Abs Add ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv ConvTranspose DepthToSpace Div Elu Equal Erf Exp Expand Flatten
    Floor Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mul Neg Not PRelu Pad Pow
    Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize Round Selu Shape Sigmoid Sign Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Tanh ThresholdedRelu Tile Transpose Unsqueeze
    Where
"""
OPERATORS = frozenset(_NAMES.split())

# Message -> allowed field -> message inside it; "" for numbers, bytes and what is not looked into.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {1: "", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "graph", 8: "opset", 14: "entry"},
    "opset": {1: "domain", 2: ""},
    "entry": {1: "key", 2: "value"},
    "graph": {1: "node", 2: "", 5: "tensor", 10: "", 11: "", 12: "", 13: ""},
    "node": {1: "", 2: "", 3: "", 4: "operator", 5: "attribute", 6: "", 7: "domain"},
    "attribute": {1: "", 2: "", 3: "", 4: "", 5: "tensor", 7: "", 8: "", 9: "", 13: "", 20: ""},
    "tensor": {1: "", 2: "", 4: "", 5: "", 7: "", 8: "", 9: "", 10: "", 12: "", 14: "location"},
}
_FORBIDDEN = {
    ("tensor", 13): "weights in another file",
    ("node", 8): "an operator of its own",
    ("attribute", 6): "a graph inside an operator",
    ("attribute", 11): "a graph inside an operator",
    ("model", 20): "training",
    ("model", 25): "operators of its own",
}
_TEXTS = ("domain", "operator", "key", "value")
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxFile:
    """What an .onnx file says of itself.

    Attributes
    ----------
    fingerprint
        Of the model it was compiled from; None if it does not say.
    operators
        The operators it uses.
    """

    fingerprint: str | None
    operators: frozenset[str]


def inspect(data: bytes, name: str) -> OnnxFile:
    """Read an .onnx file without running anything of it.

    Parameters
    ----------
    data
        The file.
    name
        What an error calls it.

    Raises
    ------
    ModelError
        If it is damaged or holds anything that is not on the lists.
    """
    walk = _Walk()
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes are more than such a file can have")
        walk.message(memoryview(data), "model")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{name} is not a compiled model that can be used: {error}") from error
    return OnnxFile(walk.metadata.get(FINGERPRINT), frozenset(walk.operators))


class _Walk:
    """One pass over a file, through every occurrence of every field."""

    def __init__(self) -> None:
        self.fields = 0
        self.operators: set[str] = set()
        self.metadata: dict[str, str] = {}

    def message(self, data: memoryview, kind: str) -> None:
        allowed = _FIELDS[kind]
        entry = {"key": "", "value": ""}
        for number, wire, value in self._split(data):
            if (kind, number) in _FORBIDDEN:
                raise ValueError(f"it has {_FORBIDDEN[kind, number]}")
            if number not in allowed:
                raise ValueError(f"its {kind} has a field {number}, which is not known")
            inside = allowed[number]
            if inside == "location":
                if wire != _VARINT or value != 0:
                    raise ValueError("it has weights in another file")
            elif inside and (wire != _LENGTH or not isinstance(value, memoryview)):
                raise ValueError(f"field {number} of its {kind} is not what it should be")
            elif inside in _TEXTS and isinstance(value, memoryview):
                text = bytes(value).decode()
                self._text(inside, text)
                entry[inside] = text
            elif inside and isinstance(value, memoryview):
                self.message(value, inside)
        if kind == "entry":
            self.metadata[entry["key"]] = entry["value"]

    def _text(self, kind: str, text: str) -> None:
        if kind == "domain" and text not in DOMAINS:
            raise ValueError(f"it needs operators of {text!r}, only the standard ones are run")
        if kind == "operator":
            if text not in OPERATORS:
                raise ValueError(f"operator {text!r} is not on the list of those that are run")
            self.operators.add(text)

    def _split(self, data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        """The fields of a message: number, wire type, and a number or the bytes."""
        place = 0
        while place < len(data):
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            key, place = _varint(data, place)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise ValueError(f"it has a field {number}")
            if wire == _VARINT:
                value, place = _varint(data, place)
                yield number, wire, value
                continue
            if wire == _LENGTH:
                length, place = _varint(data, place)
            elif wire in (_EIGHT, _FOUR):
                length = 8 if wire == _EIGHT else 4
            else:
                raise ValueError(f"it has a field of wire type {wire}")
            if length > len(data) - place:
                raise ValueError("it is cut off")
            yield number, wire, data[place : place + length]
            place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than ten bytes")
