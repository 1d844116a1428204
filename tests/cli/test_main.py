"""The command line as a whole: a session, errors, exit codes, JSON, help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from latentdb.cli.main import main
from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json


def test_train_index_query_decode(tmp_path: Path, images: Path) -> None:
    model, db = tmp_path / "m", tmp_path / "db.ldb"
    done = run_json(
        "train", images, "--out", model, "--epochs", 1, "--latent-dim", 3, "--arch", "mlp"
    )
    assert done["images"] == 72
    assert done["config"]["preprocessing"]["channels"] == 3
    done = run_json("index", db, images, "--model", model, "--labels-from-folders")
    assert (done["added"], done["bad"]) == (80, [])
    assert "80 unchanged (skipped)" in run("index", db, images).stdout
    answer = run_json("query", db, "disc/004.png", "-k", 2)
    assert set(answer) == {"metric", "exact", "scanned", "matches", "recall"}
    assert set(answer["matches"][0]) == {"rank", "id", "distance", "path", "metadata"}
    assert answer["matches"][0]["id"] == "disc/004.png"
    assert answer["matches"][0]["metadata"] == {"label": "disc"}
    lines = run("query", db, "disc/004.png", "-k", 2).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].split() == ["1", "0.0000", "disc/004.png", "label=disc"]
    out = tmp_path / "out"
    written = run_json("decode", db, "disc/004.png", images / "square/001.png", "--out", out)
    assert written["written"][0] == str(out / "disc/004.png")
    assert written["files"][0] == {"id": "disc/004.png", "file": str(out / "disc/004.png")}
    assert len(list(out.rglob("*.png"))) == 2
    again = run_error("decode", db, "disc/004.png", "--out", out)
    assert "004.png exists: give another path, or replace it with --force" in again
    run("decode", db, "disc/004.png", "--out", out, "--force")


def test_errors_are_one_line_and_make_nothing(store: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    new = tmp_path / "new.ldb"
    assert "nowhere does not exist" in run_error("index", new, tmp_path / "nowhere", "--model", "m")
    assert "no images in" in run_error("index", new, tmp_path / "empty", "--model", "m")
    assert "m is not a folder: give a model" in run_error("index", new, images, "--model", "m")
    assert "give --model MODEL" in run_error("index", new, images, code=2)
    assert not new.exists()
    assert "does not exist: make one with latentdb index" in run_error("query", new, "x")
    assert "did you mean 'disc/000.png'" in run_error("query", store, "disk/000.png")
    assert "columns are: id, label, path" in run_error(
        "query", store, "disc/000.png", "--where", "x>1"
    )
    assert "k 0 cannot be used" in run_error("query", store, "disc/000.png", "-k", 0)
    assert "not a list of numbers" in run_error(
        "blend", store, "disc/000.png", "--weights", "1,x", "--out", "x.png", code=2
    )
    assert "1 weight for 2 latents" in run_error(
        "blend", store, "disc/000.png", "disc/001.png", "--weights", "1", "--out", "x.png"
    )
    assert "give --out PNG, --query K" in run_error("blend", store, "disc/000.png", code=2)
    assert "1 step cannot make a path" in run_error(
        "interpolate", store, "disc/000.png", "disc/001.png", "--steps", 1, "--out", "x.png"
    )
    assert "cannot export to '.csvx'" in run_error("export", store, tmp_path / "x.csvx")
    assert "No such command 'qwery'" in run_error("qwery", code=2)


def test_every_command_has_json_and_help() -> None:
    for name, command in main.commands.items():
        if name != "serve":  # it answers in the browser, until Ctrl-C
            assert "--json" in run(name, "--help").stdout
        assert command.help, name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["query", "--help"], ["info", "DB"], ["info", "DB", "--json"]],
    ids=" ".join,
)
def test_output_to_a_full_disk_is_an_error_of_one_line(
    tmp_path: Path, arguments: list[str]
) -> None:
    LatentDB.create(tmp_path / "s.ldb", dim=2).close()
    words = [str(tmp_path / "s.ldb") if word == "DB" else word for word in arguments]
    command = [sys.executable, "-m", "latentdb", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        both = subprocess.run(command, stdout=full, stderr=full, timeout=60)
    assert done.stderr == "Error: the output cannot be written: no space left on device\n"
    assert (done.returncode, both.returncode) == (1, 1)


@pytest.mark.parametrize("command", ["query", "show", "decode", "delete", "blend"])
def test_arguments_in_the_wrong_order_are_told(command: str, store: Path, images: Path) -> None:
    picture = images / "disc/000.png"
    more = ("--out", "x") if command in ("decode", "blend") else ()
    wrong = run_error(command, picture, store, *more)
    assert wrong.endswith(f"; {store} is a store: give it first")
    assert "is a store" not in run_error("query", store.parent / "nothing", "disc/000.png")
