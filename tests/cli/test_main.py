"""The command line: what is printed, to where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from latentdb.cli.main import main
from latentdb.database import LatentDB
from tests.conftest import make_images


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def told(*arguments: object) -> Any:
    """What a command prints with --json: one document, nothing else."""
    return json.loads(run(*arguments, "--json").stdout)


def error(*arguments: object, code: int = 1) -> str:
    """The error of a command: one line on stderr, nothing on stdout, no traceback."""
    result = run(*arguments, code=code)
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    if code == 1:
        assert len(lines) == 1
        assert lines[0].startswith("Error: ")
    return lines[-1]


def test_train_index_query_decode(tmp_path: Path, images: Path) -> None:
    model, db = tmp_path / "m", tmp_path / "db.ldb"
    done = told("train", images, "--out", model, "--epochs", 1, "--latent-dim", 3, "--arch", "mlp")
    assert done["images"] == 72
    assert done["config"]["preprocessing"]["channels"] == 3
    done = told("index", db, images, "--model", model, "--labels-from-folders")
    assert (done["added"], done["bad"]) == (80, [])
    assert "80 unchanged (skipped)" in run("index", db, images).stdout
    answer = told("query", db, "disc/004.png", "-k", 2)
    assert set(answer) == {"metric", "exact", "scanned", "matches"}
    assert set(answer["matches"][0]) == {"rank", "id", "distance", "path", "metadata"}
    assert answer["matches"][0]["id"] == "disc/004.png"
    assert answer["matches"][0]["metadata"] == {"label": "disc"}
    shown = run("query", db, "disc/004.png", "-k", 2).stdout.splitlines()
    assert len(shown) == 2
    assert shown[0].split() == ["1", "0.0000", "disc/004.png", "label=disc"]
    out = tmp_path / "out"
    written = told("decode", db, "disc/004.png", images / "square/001.png", "--out", out)
    assert written["written"][0] == str(out / "disc_004.png")
    assert len(list(out.iterdir())) == 2


def test_query_options(store: Path, images: Path, tmp_path: Path) -> None:
    only = told("query", store, "id:disc/000.png", "--where", 'label == "square"', "-k", 3)
    assert {match["metadata"]["label"] for match in only["matches"]} == {"square"}
    run("query", store, images / "disc/000.png", "--sheet", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 900
    assert run("query", store, "disc/000.png", "--where", 'label == "x"').stdout == "no matches\n"


def test_blend_average_interpolate(store: Path, tmp_path: Path) -> None:
    pair = ("disc/000.png", "square/000.png")
    run("blend", store, *pair, "--weights", "1,0", "--out", tmp_path / "blend.png")
    run("decode", store, pair[0], "--out", tmp_path / "decode.png")
    assert (tmp_path / "blend.png").read_bytes() == (tmp_path / "decode.png").read_bytes()
    found = told("blend", store, *pair, "--weights", "3,1", "--query", 2, "--method", "slerp")
    assert len(found["vector"]) == 4
    assert len(found["matches"]["matches"]) == 2
    mean = told("average", store, "--where", 'label == "disc"', "--out", tmp_path / "mean.npy")
    assert mean["rows"] == 40
    with LatentDB.open(store) as db:
        expected = db.vectors(db.ids(where='label == "disc"')).mean(axis=0)
    assert np.allclose(np.load(tmp_path / "mean.npy"), expected, atol=1e-6)
    run("interpolate", store, *pair, "--steps", 4, "--out", tmp_path / "path.gif")
    with Image.open(tmp_path / "path.gif") as picture:
        assert picture.n_frames == 6


def test_info_export_optimize_model(store: Path, model: Path, tmp_path: Path) -> None:
    info = told("info", store)
    assert (info["rows"], info["columns"], info["index"]) == (80, {"label": "str"}, None)
    assert "exact scan (recall 1; target 0.99)" in run("info", store).stdout
    assert told("export", store, tmp_path / "all.h5")["rows"] == 80
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["z_mean"].shape == (80, 4)
        assert file["id"].asstr()[0] == "disc/000.png"
    run("export", store, tmp_path / "some.npy", "--where", 'label == "disc"')
    assert np.load(tmp_path / "some.npy").shape == (40, 4)
    assert told("optimize", store, "--recall", 0.9)["recall_target"] == 0.9
    assert "z_sampling" in run("model", model).stdout
    assert told("model", model)["latent_dim"] == 4


def test_index_with_keras_files(tmp_path: Path, images: Path, model: Path) -> None:
    halves = ("--encoder", model / "encoder.keras", "--decoder", model / "decoder.keras")
    # So short a training leaves a doubt.
    asked = error("index", tmp_path / "a.ldb", images, *halves)
    assert "the pixel range cannot be told" in asked
    assert "give --pixel-range" in asked
    assert not (tmp_path / "a.ldb").exists()
    ranged = ("--pixel-range", "0..1")
    assert told("index", tmp_path / "a.ldb", images, *halves, *ranged)["added"] == 80
    assert told("index", tmp_path / "a.ldb", images, *halves)["unchanged"] == 80
    info = told("info", tmp_path / "a.ldb")["model"]
    assert (info["latent_dim"], info["has_z_log_var"]) == (4, True)
    crop = ("--resize", "crop", "--pixel-range", "-1..1", "--recall", 0.9)
    run("index", tmp_path / "b.ldb", images, *halves, *crop)
    other = told("info", tmp_path / "b.ldb")
    assert other["model"]["preprocessing"]["resize"] == "crop"
    assert other["recall_target"] == 0.9
    assert "has fingerprint" in error("index", tmp_path / "b.ldb", images, "--model", model)


def test_errors_are_one_line_and_make_nothing(store: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    new = tmp_path / "new.ldb"
    assert "nowhere does not exist" in error("index", new, tmp_path / "nowhere", "--model", "m")
    assert "no images in" in error("index", new, tmp_path / "empty", "--model", "m")
    assert "m is not a folder: expected a model" in error("index", new, images, "--model", "m")
    assert "give --model MODEL" in error("index", new, images, code=2)
    assert not new.exists()
    assert "not a latentdb store" in error("query", new, "x")
    assert "did you mean 'disc/000.png'" in error("query", store, "disk/000.png")
    assert "columns are: id, label, path" in error("query", store, "disc/000.png", "--where", "x>1")
    assert "k 0 cannot be used" in error("query", store, "disc/000.png", "-k", 0)
    assert "no list of numbers" in error(
        "blend", store, "disc/000.png", "--weights", "1,x", "--out", "x.png", code=2
    )
    assert "1 weights for 2 latents" in error(
        "blend", store, "disc/000.png", "disc/001.png", "--weights", "1", "--out", "x.png"
    )
    assert "give --out PNG, --query K" in error("blend", store, "disc/000.png", code=2)
    assert "1 steps make no path" in error(
        "interpolate", store, "disc/000.png", "disc/001.png", "--steps", 1, "--out", "x.png"
    )
    assert "cannot export to '.csvx'" in error("export", store, tmp_path / "x.csvx")
    assert "No such command 'qwery'" in error("qwery", code=2)


def test_bad_files_are_listed_at_the_end(store: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    (folder / "bad.png").write_text("no picture")
    result = run("index", store, folder)
    assert "1 bad" in result.stdout
    assert "1 bad files were skipped:" in result.stderr
    assert "bad.png: not one of JPEG" in result.stderr
    assert "bad.png: not one of JPEG" in error("index", store, folder, "--strict")


def test_a_run_of_bad_files_only_fails(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").touch()
    result = run("index", tmp_path / "a.ldb", tmp_path / "in", "--model", model, code=1)
    assert "bad.png: empty file" in result.stderr


def test_every_command_has_json_and_help() -> None:
    for name, command in main.commands.items():
        assert "--json" in run(name, "--help").stdout
        assert command.help, name


def test_progress_shows_on_a_terminal_and_ctrl_c_ends_a_run_cleanly(
    tmp_path: Path, model: Path
) -> None:
    """A real terminal, a real process, a real Ctrl-C in the middle."""
    folder = make_images(tmp_path / "in", 400)
    db = tmp_path / "db.ldb"
    code = (
        "import sys, time\n"
        "from latentdb.ingest import ingest, reading\n"
        "from latentdb.cli.main import main\n"
        "reading.BATCH = 16; ingest.COMMIT_ROWS = 64; ingest.FIRST_SECONDS = 1e9\n"
        "one = reading.ImagePlanner._one\n"
        "def slow(self, *a): time.sleep(0.02); return one(self, *a)\n"
        "reading.ImagePlanner._one = slow\n"
        "main(sys.argv[1:])"
    )
    ours, theirs = pty.openpty()
    arguments = ["index", str(db), str(folder), "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    interrupted = False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal closes with the process
            break
        if not part:
            break
        seen += part
        if not interrupted and db.exists() and len(list((db / "segments").glob("*"))) >= 2:
            process.send_signal(signal.SIGINT)
            interrupted = True
    assert process.wait(timeout=60) == 130
    os.close(ours)
    assert b"indexing" in seen
    assert b"rows are committed" in seen
    assert b"Traceback" not in seen
    with LatentDB.open(db) as opened:
        rows = len(opened)
    assert 64 <= rows < 800
    done = told("index", db, folder)
    assert (done["unchanged"], done["added"]) == (rows, 800 - rows)


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_nothing_but_the_answer_when_asked(store: Path, images: Path, flag: str) -> None:
    result = run("index", store, images, flag)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1 or flag == "--json"
