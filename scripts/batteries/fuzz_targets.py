"""The targets of `fuzz`: each reader with its input, and what must hold of its answers."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from batteries import fuzz_inputs as inputs
from batteries.failing import one_line
from batteries.fuzz_inputs import changed, changed_json
from batteries.fuzz_stores import Target, check_answers, deletions, index, layout, manifest, segment
from batteries.world import DIM, BrokenPromise
from latentdb.base.errors import LatentDBError
from latentdb.database import LatentDB
from latentdb.verify import verify

_ROWS = 6


# --- filters --------------------------------------------------------------------------------

_COLUMNS: dict[str, list[Any]] = {
    "label": ["cat", "dog", None, "", "é", "a\0b", "Cat", "x" * 300, "0", "cat"],
    "year": [0, 1, -1, None, 2**53 + 1, 2**63 - 1, -(2**63), 2000, 2001, 7],
    "score": [0.0, -0.5, 1e308, None, 5e-324, float(2**53), 0.1, -1e-9, 3.0, 2000.0],
    "odd": [True, False, None, True, True, False, False, True, False, True],
}
_VALUES = ("'cat'", "'c'", "''", "'a\\0b'", "0", "-1", "2000", "2001.0", "0.1", "1e308", "1e999",
           "-0.0", "9007199254740993", "9007199254740992.0", "9223372036854775807",
           "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9" * 400,
           "True", "False", "None")  # fmt: skip
_TOKENS = (*_VALUES, *_COLUMNS, "id", "path", "(", ")", "[", "]", "{", "}", ",", ":", "and", "or",
           "not", "in", "is", "==", "!=", "<", "<=", ">", ">=", ".startswith(", ".endswith(",
           ".contains(", ".__class__", "+", "-", "*", "**", "lambda", "if", "else", "for", ":=",
           "\n", "\\", "#", "f'{label}'", "b'x'", "1j", "...", "\0", "\ud800", "é", "\u202e",
           "not " * 200, "(" * 300, "-" * 90, "'" * 3)  # fmt: skip


class _Text(str):
    """A str with the one method that filters have and Python has not."""

    __slots__ = ()

    def contains(self, part: str) -> bool:
        return part in self


@st.composite
def _expressions(draw: Callable[[st.SearchStrategy[Any]], Any], depth: int = 3) -> str:
    """An expression, most of them valid."""
    if depth and draw(st.booleans()):
        left, right = draw(_expressions(depth - 1)), draw(_expressions(depth - 1))
        return draw(
            st.sampled_from((f"({left}) and {right}", f"{left} or ({right})", f"not ({left})"))
        )
    key = draw(st.sampled_from([*_COLUMNS, "id"]))
    fitting = {"label": _VALUES[:4], "id": _VALUES[:4], "odd": _VALUES[-3:-1]}
    values = draw(st.sampled_from((*[fitting.get(key, _VALUES[4:-3])] * 4, _VALUES)))
    value, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    sign = draw(st.sampled_from(("==", "!=", "<", "<=", ">", ">=")))
    forms = (
        f"{key} {sign} {value}", f"{value} {sign} {key}", f"{value} < {key} <= {other}",
        f"{key} in ({value}, {other})", f"{key} not in [{value}]", f"{key} is None", key,
        f"{key} is not None", f"{value} in {key}", f"{key}.startswith({value})",
        f"{key}.endswith({value})", f"{key}.contains({value})", f"not {key}",
    )  # fmt: skip
    return str(draw(st.sampled_from(forms)))


def filters(folder: Path) -> Target:
    """Expressions; those that are accepted select the rows for which Python says they are true."""
    folder.mkdir()
    rows = len(_COLUMNS["year"])
    db = LatentDB.create(folder / "store", dim=1)
    ids = [f"id{number}" for number in range(rows)]
    db.add(ids, np.zeros((rows, 1), np.float32), metadata=_COLUMNS)

    def check(text: str) -> str:
        found = db.ids(where=text)
        if set(found) & set(db.ids(where=f"not ({text}\n)")):
            raise BrokenPromise("a row is selected by an expression and by its opposite")
        for number, name in enumerate(ids):
            values = {key: column[number] for key, column in _COLUMNS.items()}
            if None in values.values():
                continue  # Python knows no unknown
            values |= {"id": name, "path": ""}
            values = {k: _Text(v) if isinstance(v, str) else v for k, v in values.items()}
            # The expression was accepted: it is comparisons of columns with values.
            if bool(eval(f"({text.strip()}\n)", {"__builtins__": {}}, values)) != (name in found):
                raise BrokenPromise(f"{name} with {values} is selected wrongly")
        return "answered"

    words = st.lists(st.sampled_from(_TOKENS), max_size=12).map(" ".join)
    glued = st.lists(st.sampled_from(_TOKENS), max_size=8).map("".join)
    return Target(
        st.one_of(_expressions(), _expressions(), words, glued, st.text(max_size=30)),
        check,
        "label == 'cat' and year > -5",
    )


# --- imports --------------------------------------------------------------------------------


class _Import:
    """Imports files into copies of an empty store, and holds the outcome to its word."""

    def __init__(self, folder: Path, suffix: str, *, dim: int = 2) -> None:
        folder.mkdir(parents=True)
        self.folder, self.file = folder, folder / f"rows{suffix}"
        self.dim = dim

    def samples(self) -> list[bytes]:
        """What export writes, with and without z_log_var and metadata."""
        found = []
        for log_var in (False, True):
            path = self.folder / f"sample {log_var}"
            vectors = np.arange(_ROWS * self.dim, dtype=np.float32).reshape(_ROWS, -1) / 8
            columns = {key: values[:_ROWS] for key, values in _COLUMNS.items() if key != "label"}
            columns |= {"label": ["cat", "dog", None, "", "é", "x"]}
            with LatentDB.create(path, dim=self.dim) as db:
                ids, log_vars = [f"é{n}" for n in range(_ROWS)], vectors if log_var else None
                metadata = columns if log_var else None
                db.add(ids, vectors, z_log_var=log_vars, metadata=metadata)
                db.export(self.file, overwrite=True)
            found.append(self.file.read_bytes())
        return found

    def __call__(self, data: bytes, ids: bytes | None = None) -> str:
        self.file.write_bytes(data)
        path = self.folder / "store"
        shutil.rmtree(path, ignore_errors=True)
        lines = None
        if ids is not None:
            lines = self.folder / "ids.txt"
            lines.write_bytes(ids)
        try:
            report = LatentDB.import_into(path, self.file, ids=lines)
        except LatentDBError:
            if path.exists():
                raise BrokenPromise("a store is left of an import that failed") from None
            raise
        if problems := verify(path).problems:
            raise BrokenPromise(f"after the import, {problems[0].file}: {problems[0].what}")
        check_answers(path)
        with LatentDB.open(path) as db:
            if not report.added == report.rows == len(db):
                raise BrokenPromise(f"{report} of {len(db)} rows")
        return "answered"


_CSV = ("id", "path", "z_mean_0", "z_mean_1", "z_log_var_0", "z_mean_00", "z_mean_2", "year",
        "label", ",", ",,", "\n", "\r", "\r\n", '"', '""', '","', "\0", "nan", "inf", "-inf",
        "1e999", "1e39", "-0", "1_0", "٣", "0x1", " 1", "1 ", "9" * 30, "9223372036854775808",
        "true", "False", "é", "\ufeff", "\u202e", "\u2028", "x" * 5000, "1." + "0" * 400,
        "id,z_mean_0\n", "\na,1,2", "=1+1")  # fmt: skip


def csv(folder: Path) -> Target:
    """CSV: changed files and made-up text; as rows, and as a table of metadata."""
    from latentdb.exchange.tables import read_table

    run = _Import(folder, ".csv")
    texts = [b"id,z_mean_0,z_mean_1\na,1,2\nb,3,4\n", b"id,z_mean_0,year\na,1,2\nb,3,\n"]
    tokens = [token.encode() for token in _CSV] + [b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"]
    pieces = st.lists(st.sampled_from(_CSV), max_size=20).map("".join).map(str.encode)
    table = folder / "table.csv"

    def check(data: bytes) -> str:
        table.write_bytes(data)
        try:
            read_table(table)
        except LatentDBError as error:
            one_line(error)
        return run(data)

    made = pieces.map(lambda rest: b"id,z_mean_0,year\na,1,2\n" + rest)
    return Target(st.one_of(changed([*texts, *run.samples()], tokens), made), check, texts[0])


_DTYPES = (
    "<f4",
    ">f4",
    "<f8",
    "<f2",
    "<i8",
    "<u8",
    "?",
    "S3",
    "<U3",
    "<c8",
    "<M8[s]",
    "V4",
    "<g",
    "i1",
)


@st.composite
def _arrays(draw: Callable[[st.SearchStrategy[Any]], Any], rows: int | None = None) -> Any:
    """An array of any type and shape, with any numbers."""
    shape = draw(
        st.sampled_from(((_ROWS, 2), (_ROWS,), (0, 2), (_ROWS, 0), (), (_ROWS, 2, 1), (1,)))
    )
    if rows is not None and len(shape) and draw(st.integers(0, 3)):
        shape = (rows, *shape[1:])
    raw = draw(st.sampled_from((bytes(range(64)), b"\0" * 64, b"\xff" * 64, b"a\0b\0" * 16)))
    dtype = np.dtype(draw(st.sampled_from(_DTYPES)))
    count = int(np.prod(shape))
    data = (raw * (dtype.itemsize * (count + 1) // 64 + 1))[: dtype.itemsize * count]
    made = np.frombuffer(data, dtype, count) if count else np.empty(0, dtype)
    if dtype.kind == "?":
        made = np.frombuffer(data, "u1", count) % 2 == 1 if count else made
    return made.reshape(shape)


def npy(folder: Path) -> Target:
    """``.npy``: changed files, odd headers and arrays; a file of ids beside some."""
    run = _Import(folder, ".npy")
    samples = run.samples()
    ids = "".join(f"é{n}\n" for n in range(_ROWS)).encode()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 2), }"
    tokens = [b"'<f8'", b"'|O'", b"True", b"(6,)", b"(-6, -2)", b"(2**62, 2)", b"(99999999999, 2)",
              b"(6, 2L)", b"[('a', '<f4')]", b"None", b"__import__('os')", b"(" * 150, b"'S0'",
              b"'V0'", b"(0, 2)", b"(6, 0)", b"(True, 2)", b"(6.0, 2)", b"(6, 2, 1)", b"\0",
              b"'<f4,'"]  # fmt: skip

    def headed(text: bytes, version: bytes = b"\x01\x00") -> bytes:
        width = 2 if version[0] == 1 else 4
        return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + bytes(48)

    def saved(array: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    made = st.one_of(
        changed(samples), _arrays().map(saved),
        changed([header], tokens).map(headed),
        changed([header], tokens).map(lambda text: headed(text, b"\x02\x00")),
    )  # fmt: skip
    names = st.one_of(
        st.none(), changed([ids], [b"\n", b"\r", b"\0", b"\xff", b"\n\n", b"\xe2\x80\xa8"])
    )
    return Target(st.tuples(made, names), lambda pair: run(*pair), (samples[0], ids))


def h5(folder: Path) -> Target:
    """``.h5`` files: changed ones, and data sets of any type, shape, layout and filter."""
    import h5py

    run = _Import(folder, ".h5")
    samples = run.samples()

    def saved(sets: dict[str, tuple[Any, dict[str, Any]]]) -> bytes:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, (values, options) in sets.items():
                if isinstance(values, np.ndarray) and values.dtype.kind in "UM":  # HDF5 has neither
                    kind = "S12" if values.dtype.kind == "U" else "<i8"
                    values = np.ascontiguousarray(values).reshape(values.shape).view(kind)
                try:
                    file.create_dataset(name, data=values, **options)
                except (TypeError, ValueError, OSError):  # chunks of a scalar, a filter on text
                    if name in file:
                        del file[name]
                    file.create_dataset(name, data=values)
        return buffer.getvalue()

    texts = [f"é{n}" for n in range(_ROWS)]
    good = np.ones((_ROWS, 2), np.float32)
    names = ("id", "path", "z_mean", "z_log_var", "metadata/a", "metadata/a.missing", "metadata/b",
             "metadata/a/b", "metadata/id", "metadata/", "other", "metadata/é")  # fmt: skip
    plain: dict[str, Any] = {"id": texts, "z_mean": good, "path": [*texts[1:], ""]}
    options = st.sampled_from(
        ({}, {}, {"chunks": True}, {"compression": "gzip"}, {"shuffle": True},
         {"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 2}, {"maxshape": (None,)})
    )  # fmt: skip
    values = st.one_of(
        _arrays(_ROWS),
        st.sampled_from((texts, np.array([b"a\0b"] * _ROWS), [""] * _ROWS, [1] * _ROWS, "x")),
    )
    entries = st.dictionaries(st.sampled_from(names), st.tuples(values, options), max_size=4)

    def complete(sets: dict[str, Any]) -> dict[str, Any]:
        whole = {name: (values, {}) for name, values in plain.items()} | sets
        if "metadata/a/b" in whole:
            whole.pop("metadata/a", None)
        whole.pop("metadata/", None)
        return whole

    made = st.one_of(changed(samples), entries.map(complete).map(saved))
    return Target(made, run, samples[1])


def parquet(folder: Path) -> Target:
    """``.parquet`` files: changed ones, and columns of any type."""
    import pyarrow as pa
    from pyarrow import parquet as files

    run = _Import(folder, ".parquet")
    samples = run.samples()
    lists = [[float(n), 1.0] for n in range(_ROWS)]
    texts = [f"é{n}" for n in range(_ROWS)]
    columns = [
        pa.array(texts), pa.array(texts, pa.large_string()), pa.array([*texts[1:], None]),
        pa.array(range(_ROWS)), pa.array(range(_ROWS), pa.uint8()),
        pa.array([2**64 - 1] * _ROWS, pa.uint64()), pa.array([None] * _ROWS),
        pa.array([True, None] * 3), pa.array([float("nan"), None] * 3),
        pa.array([1, 2, None, 4, 5, 6]), pa.array(["a\0b"] * _ROWS), pa.array([""] * _ROWS),
        pa.array(texts).dictionary_encode(), pa.array([b"\xff"] * _ROWS),
        pa.array([0] * _ROWS, pa.timestamp("s")), pa.array([1.5] * _ROWS, pa.float16()),
        pa.array(lists), pa.array(lists, pa.list_(pa.float32(), 2)),
        pa.array(lists, pa.large_list(pa.float64())), pa.array([[1, 2]] * _ROWS),
        pa.array([*lists[1:], None]), pa.array([*lists[1:], None], pa.list_(pa.float32(), 2)),
        pa.array([*lists[1:], [1.0]]), pa.array([*lists[1:], [None, 1.0]]),
        pa.array([[]] * _ROWS, pa.list_(pa.float32())), pa.array([[float("inf"), 1]] * _ROWS),
        pa.array([[1e300, 1]] * _ROWS), pa.array([[[1.0]]] * _ROWS), pa.array([{"a": 1}] * _ROWS),
        pa.array([["a", "b"]] * _ROWS), pa.array([[True, False]] * _ROWS),
        pa.array([[2**63 + 1, 1]] * _ROWS, pa.list_(pa.uint64())),
        pa.nulls(_ROWS, pa.list_(pa.float32(), 2)),
        pa.array([[1.5, 2.0]] * _ROWS, pa.list_(pa.float16(), 2)),
        pa.array([1] * _ROWS, pa.decimal128(5)),
    ]  # fmt: skip
    names = ("id", "path", "z_mean", "z_log_var", "a", "b", "year", "row", "", "a b", "é")
    plain = {"id": columns[0], "z_mean": columns[17]}

    def saved(made: tuple[dict[str, Any], dict[str, Any], int]) -> bytes:
        chosen, options, repeat = made
        table = pa.table({**plain, **chosen})
        buffer = io.BytesIO()
        files.write_table(pa.concat_tables([table] * repeat), buffer, **options)
        return buffer.getvalue()

    options = st.sampled_from(
        ({}, {"compression": "gzip"}, {"compression": "none", "use_dictionary": False},
         {"data_page_version": "2.0"}, {"row_group_size": 2}, {"version": "1.0"},
         {"write_page_index": True}, {"compression": "zstd"}, {"store_schema": False})
    )  # fmt: skip
    entries = st.dictionaries(st.sampled_from(names), st.sampled_from(columns), max_size=4)
    made = st.tuples(entries, options, st.sampled_from((1, 1, 2))).map(saved)
    return Target(st.one_of(changed(samples), made), run, samples[1])


# --- models and images ------------------------------------------------------------------------


def onnx(folder: Path) -> Target:
    """ONNX: what is accepted as data, and then run by ONNX Runtime where that is installed."""
    from latentdb.base.errors import ModelError
    from latentdb.onnx.inspect import OPERATORS, inspect
    from latentdb.onnx.runtime import CompiledNetwork, is_available

    folder.mkdir()
    names = sorted(OPERATORS)
    more = [names[start : start + 4] for start in range(0, len(names), 4)]
    samples = [inputs.onnx_file(), *(inputs.onnx_file(each) for each in more)]
    for sample in samples:
        inspect(sample, "a sample")
    tokens = [
        name.encode() for name in ("Loop", "If", "Scan", "RandomNormal", "Softmax", "Relu", "ORTM")
    ]
    tokens += [b"\xff" * 9 + b"\x01", b"\x80" * 20, b"\x6a\x00", b"\xa2\x01\x00", b"ai.onnx.ml"]

    def check(data: bytes) -> str:
        found = inspect(data, "it")
        if not found.operators <= OPERATORS:
            raise BrokenPromise(f"operators {found.operators} were accepted")
        if is_available() and found.fingerprint is not None:
            network = CompiledNetwork(data, "it", fingerprint=found.fingerprint)
            try:
                network(np.ones((2, 4), np.float32))
            except ModelError as error:
                one_line(error)
        return "answered"

    whole = st.sampled_from(samples)
    return Target(
        st.one_of(changed(samples[:1], tokens), changed(samples, tokens), whole), check, samples[0]
    )


def keras(folder: Path) -> Target:
    """Keras files: changed bytes, configurations and arrays; read and searched, not built."""
    from latentdb.kerasfile import builder, container, graph, locate

    folder.mkdir()
    new, old = inputs.keras_config(), inputs.legacy_config()
    weights = inputs.keras_weights()
    text = json.dumps(new)
    whole = [inputs.keras_file(text, weights),
             inputs.keras_file(text, weights, zipfile.ZIP_DEFLATED),
             inputs.legacy_file(json.dumps(old)),
             inputs.legacy_file(json.dumps(old), fixed=True)]  # fmt: skip

    def read(data: bytes) -> str:
        file = container.parse(data, "it")
        file.weights.digest()
        model = graph.Architecture(file)
        found = locate.find(model)
        for tensor in (found.z_mean, found.z_log_var, found.decoder):
            for step in graph.upstream([tensor]) if tensor is not None else ():
                builder.unsupported(step.tensor.layer)
                if step.action == "input":
                    graph.input_shape(step.tensor.layer)
        locate.candidates(model)
        return "answered"

    for data in whole:
        read(data)
    made = st.one_of(
        changed(whole),
        changed_json(new).map(inputs.dump_json).map(lambda text: inputs.keras_file(text, weights)),
        changed_json(old).map(inputs.dump_json).map(inputs.legacy_file),
        changed_json(old).map(inputs.dump_json).map(lambda t: inputs.legacy_file(t, fixed=True)),
        changed([weights]).map(lambda data: inputs.keras_file(text, data)),
    )
    return Target(made, read, whole[0])


def config(folder: Path) -> Target:
    """``model.json`` of a store or a model folder."""
    from latentdb.images.decode import Preprocessing
    from latentdb.model.config import ModelConfig

    folder.mkdir()
    whole = ModelConfig(Preprocessing(16, 16, 3), DIM, "e" * 16, "d" * 16, False, precision="bf16")
    text = whole.to_json()

    def check(data: bytes) -> str:
        read = ModelConfig.from_json(data.decode(errors="replace"), "model.json")
        if ModelConfig.from_json(read.to_json(), "model.json") != read:
            raise BrokenPromise("it reads as something else when written again")
        return "answered"

    made = changed_json(json.loads(text)).map(inputs.dump_json).map(str.encode)
    return Target(st.one_of(made, made, changed([text.encode()])), check, text.encode())


def images(folder: Path) -> Target:
    """Image files of all formats, by every library and every resize rule."""
    from latentdb.base.errors import ImageError
    from latentdb.images.decode import RESIZE_RULES, Preprocessing, decode_pixels, probe

    folder.mkdir()
    file = folder / "image"
    specs = [
        Preprocessing(8, 12, channels, resize=rule) for channels in (1, 3) for rule in RESIZE_RULES
    ]
    samples = inputs.image_files()
    tokens = [b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xdd", b"Exif\0\0", b"IHDR", b"IDAT",
              b"acTL", b"RIFF", b"VP8X", b"ANMF", b"II*\0", b"MM\0*", b"II+\0", b"\x21\xf9",
              b"eXIf", b"tRNS"]  # fmt: skip

    def check(made: tuple[bytes, Preprocessing]) -> str:
        data, spec = made
        file.write_bytes(data)
        try:
            probe(os.fspath(file))
        except ImageError as error:
            one_line(error)
        pixels = decode_pixels(data, spec, name="it")
        if pixels.shape != spec.shape or pixels.dtype != np.uint8:
            raise BrokenPromise(f"pixels {pixels.dtype} {pixels.shape}")
        return "answered"

    return Target(
        st.tuples(changed(samples, tokens), st.sampled_from(specs)), check, (samples[0], specs[0])
    )


TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": manifest,
    "segment": segment,
    "layout": layout,
    "deletions": deletions,
    "index": index,
    "filters": filters,
    "csv": csv,
    "npy": npy,
    "h5": h5,
    "parquet": parquet,
    "onnx": onnx,
    "keras": keras,
    "config": config,
    "images": images,
}
