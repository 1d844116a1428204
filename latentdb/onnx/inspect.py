"""Check what an .onnx file holds, as data, before a runtime parses it.

A store may come from a stranger, and ONNX can do more than a network needs:
name other files on the disk as its weights, call operators of other libraries,
loop, branch, and draw random numbers.  Only what is listed here is accepted, and a
runtime gets what was read, written anew: a file can be valid in two formats.
Field numbers are those of onnx.proto (https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latentdb.base.errors import ModelError
from latentdb.base.protobuf import LENGTH, VARINT, FieldReader
from latentdb.base.wording import counted, quoted

FINGERPRINT = "fingerprint"  # metadata key: the fingerprint of the compiled encoder or decoder
DOMAINS = ("", "ai.onnx")  # both name the standard operators
MAX_BYTES = (2 << 30) - 1  # limit of every protobuf message
MAX_FIELDS = 200_000  # a network of 1,000 layers has about 50,000

# Operators of stateless layers: no loop, no branch, no random numbers.
_OPERATOR_NAMES = """
    Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvTranspose Cos DepthToSpace Div Elu Equal Erf Exp
    Expand Flatten Floor Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max
    MaxPool Mean Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow Reciprocal ReduceL2 ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu
    Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    Sub Tanh ThresholdedRelu Tile Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_OPERATOR_NAMES.split())

# Message type -> allowed field -> type of the value: another message or one of _TEXTS;
# "" for numbers and for bytes that are not inspected.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {1: "", 2: "", 3: "", 4: "", 5: "", 6: "", 7: "graph", 8: "opset", 14: "entry"},
    "opset": {1: "domain", 2: ""},
    "entry": {1: "key", 2: "value"},
    "graph": {1: "node", 2: "", 5: "tensor", 10: "", 11: "", 12: "", 13: "", 16: ""},
    "node": {1: "", 2: "", 3: "", 4: "operator", 5: "attribute", 6: "", 7: "domain", 9: ""},
    "attribute": {1: "", 2: "", 3: "", 4: "", 5: "tensor", 7: "", 8: "", 9: "", 13: "", 20: ""},
    "tensor": {
        1: "",
        2: "",
        4: "",
        5: "",
        7: "",
        8: "",
        9: "",
        10: "",
        12: "",
        14: "location",
        16: "",
    },
}
_FORBIDDEN = {
    ("tensor", 13): "weights in another file: export it as one file (external_data=False)",
    ("node", 8): "a custom operator",
    ("attribute", 6): "a graph inside an operator",
    ("attribute", 11): "a graph inside an operator",
    ("model", 20): "training information",
    ("model", 25): "custom operators",
}
_TEXTS = ("domain", "operator", "key", "value")
_IR_VERSION, _OPSETS, _GRAPH = 1, 8, 7  # the fields of a model that compute something
_DROPPED = {  # texts for people, and the metadata that torch gives to each node
    "graph": (10, 16),
    "node": (6, 9),
    "attribute": (13,),
    "tensor": (12, 16),
}
_ORT_MARK = b"ORTM"  # in bytes 4 to 8: ONNX Runtime then reads a flatbuffer, whatever else it is

Bytes = bytes | memoryview


@dataclass(frozen=True)
class OnnxFile:
    """What an .onnx file states about itself.

    Attributes
    ----------
    fingerprint
        Of the encoder or decoder it was compiled from; None if not stated.
    operators
        The operators it uses.
    """

    fingerprint: str | None
    operators: frozenset[str]


def inspect(data: bytes, name: str, *, any_operator: bool = False) -> OnnxFile:
    """The fingerprint and the operators of an .onnx file, read without running it.

    Parameters
    ----------
    data
        The file.
    name
        Its name in error messages.
    any_operator
        Accept operators that are not on the list: a caller cuts them off before it is run.

    Raises
    ------
    ModelError
        If it is damaged, or holds a field or an operator that is not allowed.
    """
    return _parse(data, name, any_operator=any_operator).found


def rewrite(data: bytes, name: str) -> tuple[OnnxFile, bytes]:
    """What `inspect` returns, and the same network in bytes for a runtime.

    They hold the fields that were inspected and that compute something, in one
    order and in the shortest encoding, and begin with the version of the format.

    Raises
    ------
    ModelError
        As `inspect`.
    """
    parser = _parse(data, name)
    return parser.found, b"".join(parser.parts)


def _parse(data: bytes, name: str, *, any_operator: bool = False) -> _Parser:
    parser = _Parser(any_operator)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has {len(data):,} bytes, at most {MAX_BYTES:,} are allowed")
        if data[4:8] == _ORT_MARK:
            raise ValueError("it is a file in the format of ONNX Runtime too")
        parser.model(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{name} is not a usable ONNX model: {error}") from error
    return parser


class _Parser:
    """One pass over every occurrence of every field of a file."""

    def __init__(self, any_operator: bool) -> None:
        self.any_operator = any_operator
        self._reader = FieldReader(MAX_FIELDS)
        self.operators: set[str] = set()
        self.metadata: dict[str, str] = {}
        self.parts: list[Bytes] = []

    @property
    def found(self) -> OnnxFile:
        return OnnxFile(self.metadata.get(FINGERPRINT), frozenset(self.operators))

    def model(self, data: memoryview) -> None:
        """Read a file, and write the fields that compute something to `parts`."""
        written = list(self._fields(data, "model"))
        for number, what in ((_IR_VERSION, "format version"), (_GRAPH, "graph")):
            count = sum(field == number for field, _ in written)
            if count != 1:
                raise ValueError(f"it has {counted(count, what)}, expected 1")
        for number in (_IR_VERSION, _OPSETS, _GRAPH):
            for field, parts in written:
                if field == number:
                    self.parts += parts

    def _message(self, data: memoryview, message_type: str) -> list[Bytes]:
        dropped = _DROPPED.get(message_type, ())
        return [
            part
            for field, parts in self._fields(data, message_type)
            if field not in dropped
            for part in parts
        ]

    def _fields(self, data: memoryview, message_type: str) -> Iterator[tuple[int, list[Bytes]]]:
        """The fields of a message, inspected, and each written anew."""
        allowed = _FIELDS[message_type]
        entry = {"key": "", "value": ""}
        for number, wire, value in self._reader.split(data):
            if (message_type, number) in _FORBIDDEN:
                raise ValueError(f"it has {_FORBIDDEN[message_type, number]}")
            if number not in allowed:
                raise ValueError(f"its {message_type} has the unknown field {number}")
            value_type = allowed[number]
            tag = _encode(number << 3 | wire)
            if isinstance(value, int):
                parts: list[Bytes] = [tag, _encode(value)]
            else:
                parts = [tag, value] if wire != LENGTH else [tag, _encode(len(value)), value]
            if value_type == "location":
                if wire != VARINT or value != 0:
                    raise ValueError(f"it has {_FORBIDDEN['tensor', 13]}")
            elif value_type:
                if wire != LENGTH or not isinstance(value, memoryview):
                    raise ValueError(f"field {number} of its {message_type} has the wrong type")
                if value_type in _TEXTS:
                    entry[value_type] = text = bytes(value).decode()
                    self._check_text(value_type, text)
                else:
                    inner = self._message(value, value_type)
                    parts = [tag, _encode(sum(map(len, inner))), *inner]
            yield number, parts
        if message_type == "entry":
            self.metadata[entry["key"]] = entry["value"]

    def _check_text(self, text_type: str, text: str) -> None:
        if text_type == "domain" and text not in DOMAINS:
            raise ValueError(
                f"it needs operators of {quoted(text)}, only standard ones are allowed"
            )
        if text_type == "operator":
            if text not in OPERATORS and not self.any_operator:
                raise ValueError(f"operator {quoted(text)} is not on the list of allowed operators")
            self.operators.add(text)


def _encode(value: int) -> bytes:
    """The shortest encoding of a variable-length integer of at most 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
