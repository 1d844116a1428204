"""The architecture, as the folder listing shows it: floors, lazy imports, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "latentdb"

# A module imports modules of lower floors only.
FLOORS = (
    ("errors",),
    (
        "files",
        "inputs",
        "progress",
        "metadata",
        "metrics",
        "plan",
        "arithmetic",
        "vae",
        "jpeg",
        "onnxfile",
        "pixelrange",
        "modelfile",
    ),
    ("forgery",),
    (
        "images",
        "folders",
        "manifest",
        "filters",
        "index",
        "engine",
        "exporter",
        "architecture",
        "backend",
    ),
    ("tuning", "compiled", "card", "allowlist"),
    ("halves",),
    ("foreign",),
    ("codec", "parts", "drawing"),
    ("adoption", "segment", "leftovers"),
    ("lookup",),
    ("snapshot",),
    ("store",),
    ("compaction", "target", "answers", "source", "reading"),
    ("query", "ingest", "models", "pictures", "verify", "export", "hdf5", "parquet"),
    ("search", "training", "importing", "decoding"),
    ("upkeep",),
    ("handle",),
    ("reader",),
    ("database",),
    ("console", "shell"),
    ("options",),
    ("asking",),
    ("cli",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# Only these touch the heavy libraries, and only inside functions (vae excepted).
HEAVY = {
    "tensorflow": {"vae", "codec", "exporter"},
    "keras": {"vae", "backend"},
    "faiss": {"index", "tuning", "forgery"},
    "h5py": {"parts", "modelfile", "export", "hdf5"},
    "pyarrow": {"export", "parquet"},
    "onnxruntime": {"engine"},
    "openvino": {"engine"},
    "onnx": {"exporter"},
    "tf2onnx": {"exporter"},
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(name: str) -> list[tuple[str, bool]]:
    """Modules that a module imports, and whether at its head."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "latentdb":
            names = [f"latentdb.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found += [(module, id(node) not in inside) for module in names]
    return found


def test_every_module_has_a_floor() -> None:
    assert sorted(FLOOR) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    used = {m.split(".")[1] for m, _ in imports(name) if m.startswith("latentdb.")}
    assert {other for other in used if FLOOR[other] >= FLOOR[name]} == set()


@pytest.mark.parametrize("name", MODULES)
def test_heavy_imports_are_lazy_and_at_home(name: str) -> None:
    for module, at_head in imports(name):
        library = module.split(".")[0]
        if library in HEAVY:
            assert name in HEAVY[library], f"{name} imports {library}"
            assert not at_head or name == "vae", f"{name} imports {library} at its head"
        assert not (module == "latentdb.vae" and at_head), f"{name} imports vae at its head"


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_small(name: str) -> None:
    text = (PACKAGE / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            told = ast.get_docstring(node)
            first = node.body[1 if told and len(node.body) > 1 else 0].lineno
            assert (node.end_lineno or 0) - first < 80, f"{name}.{node.name} is too long"


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Heavy libraries that a fresh interpreter has loaded after some code."""
    told = f"{code}\nimport sys; print('LOADED', *sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", told, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("LOADED")[1].split())


RUN = "import sys; from latentdb.cli import main; main(sys.argv[1:], standalone_mode=False)"


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by(RUN, "--help") == set()
    assert loaded_by("import latentdb; latentdb.LatentDB") == set()


def test_a_query_by_id_loads_no_tensorflow(store: Path) -> None:
    loaded = loaded_by(RUN, "query", str(store), "id:disc/000.png")
    assert loaded == {"faiss"}


def test_a_query_by_id_loads_only_what_it_needs(store: Path) -> None:
    code = f"{RUN}\nprint('LOADED', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, "query", str(store), "id:disc/000.png", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split("LOADED")[1].split())
    assert {"latentdb.reader", "latentdb.search"} <= loaded
    unneeded = {"database", "codec", "images", "ingest", "decoding", "tuning", "verify", "export"}
    assert not loaded & {f"latentdb.{name}" for name in unneeded}


def test_a_search_by_vector_and_info_load_no_tensorflow(store: Path) -> None:
    code = (
        "import sys, numpy as np; from latentdb import LatentDB\n"
        "db = LatentDB.open(sys.argv[1]); db.search(np.zeros((1, 4), 'f4')); db.info()"
    )
    assert not loaded_by(code, str(store)) & {"tensorflow", "keras"}


@pytest.mark.parametrize(
    "words",
    [
        ("query", "{store}", "{image}"),
        ("query", "{store}", "{image}", "--sheet", "{out}/sheet.png"),
        ("decode", "{store}", "disc/000.png", "--out", "{out}/one.png"),
        ("blend", "{store}", "disc/000.png", "{image}", "--out", "{out}/blend.png"),
        ("index", "{store}", "{image}"),
        ("info", "{store}"),
        ("verify", "{store}"),
    ],
    ids=lambda words: "-".join(words[:1] + words[3:4]),
)
def test_with_the_extra_no_command_on_a_store_loads_tensorflow(
    words: tuple[str, ...], store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from conftest import draw_shape

    image = tmp_path / "new.png"
    draw_shape("disc", 77).save(image)
    filled = [word.format(store=store, image=image, out=tmp_path) for word in words]
    loaded = loaded_by(RUN, *filled)
    assert not loaded & {"tensorflow", "keras", "onnx", "tf2onnx", "openvino"}
    assert ("onnxruntime" in loaded) == (words[0] not in ("info", "verify"))
