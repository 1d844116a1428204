"""The architecture: packages import downwards only, heavy libraries late and in their places."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import draw_shape

PACKAGE = Path(__file__).resolve().parents[1] / "latentdb"

# A package imports packages of the lines below it, and itself.
ORDER = (
    "cli keras",
    "analysis annotation composition database editing inspection maintenance outputs querying "
    "reader row_access saving serving stored_model verify",
    "explorer",
    "insight",
    "cluster engines exchange output",
    "ingest search",
    "model",
    "kerasfile onnx store",
    "ann images",
    "base",
)
LINE = {name: line for line, names in enumerate(ORDER) for name in names.split()}
FACADE = LINE["database"]  # a line of modules, which import each other without a cycle
# The packages that import a heavy library, always inside functions.
HEAVY = {
    "tensorflow": {"kerasfile", "model", "onnx"},
    "keras": {"keras", "kerasfile", "model"},
    "faiss": {"ann"},
    "h5py": {"base", "exchange", "kerasfile", "store"},
    "pyarrow": {"base", "exchange", "images"},
    "onnxruntime": {"onnx"},
    "openvino": {"onnx"},
    "onnx": {"onnx"},
    "tf2onnx": {"onnx"},
    "starlette": {"explorer"},
    "uvicorn": {"explorer"},
    "psycopg": {"engines"},
    "pymilvus": {"engines"},
    "ray": {"cluster"},
}
# They are about keras alone: they import it at their heads, and nobody else imports them there.
KERAS_MODULES = {
    "latentdb.keras",
    "latentdb.kerasfile.sampling",
    "latentdb.model.fitting",
    "latentdb.model.network",
    "latentdb.model.presets",
    "latentdb.model.stages",
    "latentdb.model.vae",
    "latentdb.model.views",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules that a module imports when it runs, and whether at its head."""
    tree = ast.parse(path.read_text())
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
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            home = node.module or ""
            # `from latentdb.store import manifest` imports a module of that package.
            names = [f"{home}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else home for name in names]
        else:
            continue
        found += [(name, id(node) not in inside) for name in names]
    return found


def own(path: Path) -> set[str]:
    """Modules of latentdb that a module imports."""
    return {name for name, _ in imports(path) if name.startswith("latentdb.")}


def room(module: str) -> str:
    return module.split(".")[1]


INNER = [name for name in MODULES if name not in ("latentdb", "latentdb.__main__")]


def test_every_package_has_its_line() -> None:
    assert {room(name) for name in INNER} == set(LINE)


@pytest.mark.parametrize("name", INNER)
def test_imports_go_downwards(name: str) -> None:
    here = room(name)
    for other in own(MODULES[name]):
        there = room(other)
        below = LINE[there] > LINE[here] or LINE[there] == LINE[here] == FACADE
        assert there == here or below, f"{name} imports {other}"


def test_no_module_imports_itself_through_others() -> None:
    above: dict[str, set[str]] = {name: own(path) for name, path in MODULES.items()}
    while leaves := {name for name, used in above.items() if not used & above.keys()}:
        above = {name: used for name, used in above.items() if name not in leaves}
    assert above == {}


@pytest.mark.parametrize("name", INNER)
def test_heavy_imports_are_lazy_and_at_home(name: str) -> None:
    for module, at_head in imports(MODULES[name]):
        library = module.split(".")[0]
        if library in HEAVY:
            assert room(name) in HEAVY[library], f"{name} imports {library}"
            assert not at_head or name in KERAS_MODULES, f"{name} imports {library} at its head"
        if module in KERAS_MODULES:
            assert not at_head or name in KERAS_MODULES, f"{name} imports {module} at its head"


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after some code."""
    code = f"{code}\nimport sys; print('LOADED', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("LOADED")[1].split())


RUN = "import sys; from latentdb.cli.main import main; main(sys.argv[1:], standalone_mode=False)"


def test_help_loads_nothing_heavy() -> None:
    assert not loaded_by(RUN, "--help") & HEAVY.keys()
    assert not loaded_by("import latentdb; latentdb.LatentDB") & HEAVY.keys()


def test_a_query_by_id_loads_only_what_it_needs(store: Path) -> None:
    loaded = loaded_by(RUN, "query", str(store), "id:disc/000.png", "--json")
    assert loaded & HEAVY.keys() == {"faiss"}
    assert {"latentdb.reader", "latentdb.search.searcher"} <= loaded
    unneeded = (
        "database",
        "verify",
        "model.codec",
        "images.decode",
        "ingest.ingest",
        "output.sinks",
        "ann.builder",
        "ann.tuning",
        "exchange.exporting",
    )
    assert not loaded & {f"latentdb.{name}" for name in unneeded}
    assert all(f"latentdb.{name}" in MODULES for name in unneeded)


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
    image = tmp_path / "new.png"
    draw_shape("disc", 77).save(image)
    filled = [word.format(store=store, image=image, out=tmp_path) for word in words]
    loaded = loaded_by(RUN, *filled)
    assert not loaded & {"tensorflow", "keras", "onnx", "tf2onnx", "openvino"}
    assert ("onnxruntime" in loaded) == (words[0] not in ("info", "verify"))
