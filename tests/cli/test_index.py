"""index: models made elsewhere, bad files, progress and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from latentdb.database import LatentDB
from latentdb.model.training import train_model
from tests.cli.running import run, run_error, run_json
from tests.conftest import draw_shape, make_images


def test_index_with_keras_files(tmp_path: Path, images: Path, model: Path) -> None:
    networks = ("--encoder", model / "encoder.keras", "--decoder", model / "decoder.keras")
    ranged = ("--pixel-range", "0..1")
    assert run_json("index", tmp_path / "a.ldb", images, *networks, *ranged)["added"] == 80
    assert run_json("index", tmp_path / "a.ldb", images, *networks)["unchanged"] == 80
    info = run_json("info", tmp_path / "a.ldb")["model"]
    assert (info["latent_dim"], info["has_z_log_var"]) == (4, True)
    crop = ("--resize", "crop", "--pixel-range", "-1..1", "--recall", 0.9)
    run("index", tmp_path / "b.ldb", images, *networks, *crop)
    other = run_json("info", tmp_path / "b.ldb")
    assert other["model"]["preprocessing"]["resize"] == "crop"
    assert other["recall_target"] == 0.9
    assert "has fingerprint" in run_error("index", tmp_path / "b.ldb", images, "--model", model)


def test_keras_files_that_do_not_show_their_pixel_range_are_refused(
    tmp_path: Path, images: Path
) -> None:
    model = tmp_path / "m"
    # One step from random weights: its pictures are grey, whatever the range.
    train_model([images], model, arch="mlp", epochs=1, latent_dim=2, batch=1000)
    networks = ("--encoder", model / "encoder.keras", "--decoder", model / "decoder.keras")
    message = run_error("index", tmp_path / "a.ldb", images, *networks)
    assert "does not show the pixel range" in message
    assert "give --pixel-range" in message
    assert not (tmp_path / "a.ldb").exists()


def test_bad_files_are_listed_at_the_end(store: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    (folder / "bad.png").write_text("no picture")
    result = run("index", store, folder)
    assert "1 bad" in result.stdout
    assert "1 bad file was skipped:" in result.stderr
    assert "bad.png: a text file" in result.stderr
    assert "bad.png: a text file" in run_error("index", store, folder, "--strict")


def test_a_run_of_bad_files_only_fails(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").touch()
    result = run("index", tmp_path / "a.ldb", tmp_path / "in", "--model", model, code=1)
    assert "bad.png: empty file" in result.stderr


def test_a_run_of_mostly_bad_files_says_so_first_and_fails(store: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 1)  # two images
    for number in range(7):
        (folder / f"lfs{number}.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "empty.png").touch()
    (folder / "notes.txt").touch()
    (folder / "shot.NEF").touch()
    result = run("index", store, folder, code=1)
    lines = result.stderr.splitlines()
    assert lines[0] == "Error: 8 of 10 files cannot be read, more than --allow-bad 50%"
    assert lines[1] == "8 bad files were skipped:"
    reason = "a git-LFS pointer, not the image: run git lfs pull"
    assert lines[2] == f"  7 files: {reason}"
    assert [Path(line.strip()).name for line in lines[3:8]] == [f"lfs{n}.jpg" for n in range(5)]
    assert lines[8] == "    and 2 more; --json lists all"
    assert lines[9].endswith("empty.png: empty file")
    assert "2 added, 0 updated, 0 unchanged (skipped), 8 bad" in result.stdout
    assert "not images by their ending: .nef 1 (camera raw), .txt 1" in result.stdout
    for allowed in ("8", "80%"):
        run("index", store, folder, "--allow-bad", allowed)
    done = json.loads(run("index", store, folder, "--allow-bad", 7, "--json", code=1).stdout)
    assert (done["failed"], len(done["bad"])) == (True, 8)
    assert done["passed_over"] == {".nef": 1, ".txt": 1}
    assert "give a number of files, or P%" in run_error("index", store, folder, "--allow-bad", "x")


def test_art_that_vanishes_over_the_background_is_noted(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, level in (("white", 255), ("black", 0)):
        art = Image.new("LA", (16, 16), (level, 0))
        art.paste((level, 255), (4, 4, 12, 12))
        art.save(folder / f"{name}.png")
    Image.new("RGB", (16, 16), "white").save(folder / "plain.png")
    Image.new("RGBA", (16, 16), "white").save(folder / "opaque.png")
    result = run("index", store, folder)
    assert "note: 1 transparent image (in/white.png) is one colour over the background" in (
        result.stderr
    )


def test_progress_shows_on_a_terminal_and_ctrl_c_ends_a_run_cleanly(
    tmp_path: Path, model: Path
) -> None:
    """A real terminal, a real process, a real Ctrl-C in the middle."""
    folder = make_images(tmp_path / "in", 400)
    db = tmp_path / "db.ldb"
    code = (
        "import sys, time\n"
        "from latentdb.ingest import execution, planner, read_ahead\n"
        "from latentdb.cli.main import main\n"
        "read_ahead.BATCH = 16; execution.COMMIT_ROWS = 64; execution.FIRST_SECONDS = 1e9\n"
        "one = planner.ImagePlanner._read_one\n"
        "def slow(self, *a): time.sleep(0.02); return one(self, *a)\n"
        "planner.ImagePlanner._read_one = slow\n"
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
    assert b"rows committed" in seen
    assert b"Traceback" not in seen
    with LatentDB.open(db) as opened:
        rows = len(opened)
    assert 64 <= rows < 800
    done = run_json("index", db, folder)
    assert (done["unchanged"], done["added"]) == (rows, 800 - rows)


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_quiet_and_json_print_nothing_on_stderr(store: Path, images: Path, flag: str) -> None:
    result = run("index", store, images, flag)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1 or flag == "--json"


def test_rows_and_images_without_a_partner_are_told_with_examples(
    store: Path, images: Path, tmp_path: Path
) -> None:
    folder = make_images(tmp_path / "in", 2)
    table = tmp_path / "m.tsv"
    table.write_text("\tNummer\tyear\n0\tdisc\\000\t1990\n1\tdisc/9.png\t1991\n")
    words = ("index", store, folder, "--metadata", table)
    assert "one must name the image" in run_error(*words)
    result = run(*words, "--metadata-column", "nummer", "--labels-from-folders")
    lines = result.stderr.splitlines()
    assert lines == [
        f"note: {folder} has the images of {images}: they have the same ids",
        "note: a column without a name (the index of a table?) was left out",
        "note: labels from the topmost folder: 2 (disc, square)",
        f"1 row of {table} without an image in this run: 'disc/9.png'",
        f"3 images without a row in {table}: 'disc/001.png', 'square/000.png', 'square/001.png'",
    ]
    found = run_json(*words, "--metadata-column", "Nummer")["unmatched"]
    assert (found["rows"], found["images"], len(found["image_examples"])) == (1, 3, 3)
    assert (
        "only with --metadata"
        in run("index", store, folder, "--metadata-column", "x", code=2).stderr
    )


def test_a_first_run_without_a_row_leaves_no_store(tmp_path: Path, model: Path) -> None:
    db, folder = tmp_path / "a.ldb", tmp_path / "in"
    folder.mkdir()
    (folder / "bad.png").touch()
    run("index", db, folder, "--model", model, code=1)
    run("index", db, folder, "--model", model, "--strict", code=1)
    run("index", db, folder, "--model", model, "--metadata", tmp_path / "gone.csv", code=1)
    assert not db.exists()
    db.mkdir()  # that was there before stays
    run("index", db, folder, "--model", model, code=1)
    assert list(db.iterdir()) == []
    make_images(folder, 1)
    run("index", db, folder, "--model", model)
    assert run_json("index", db, folder)["unchanged"] == 2


def test_a_store_without_rows_protects_no_model(tmp_path: Path, images: Path, model: Path) -> None:
    other = tmp_path / "other"
    train_model([images], other, latent_dim=3, epochs=1, arch="mlp")
    db, folder = tmp_path / "a.ldb", make_images(tmp_path / "in", 1)
    run("index", db, folder, "--model", model)
    assert "fingerprint" in run_error("index", db, folder, "--model", other)
    run("delete", db, *run_json("list", db)["records"][0].values())
    assert "fingerprint" in run_error("index", db, folder, "--model", other)
    run("delete", db, *(row["id"] for row in run_json("list", db)["records"]))
    (db / "mine.txt").touch()
    assert "was not removed: mine.txt is in its folder" in run_error(
        "index", db, folder, "--model", other
    )
    (db / "mine.txt").unlink()
    result = run("index", db, folder, "--model", other)
    assert f"note: {db} had no rows and another model: it is made anew" in result.stderr
    assert run_json("info", db)["dim"] == 3
    assert run_json("index", db, folder, "--model", other)["unchanged"] == 2


def test_what_became_of_files_is_told(store: Path, images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "in"))
    run("relocate", store, images, folder)
    (folder / "disc/000.png").rename(folder / "disc/first.png")
    (folder / "disc/001.png").unlink()
    (folder / "out").symlink_to(images)
    result = run("index", store, folder, "--exclude", "square")
    assert "1 file had been renamed: the ids are the new ones" in result.stdout
    assert "1 image whose file is gone, kept unless --prune is given: disc/001.png" in result.stdout
    assert "1 file or folder excluded" in result.stdout
    assert f"1 link out of the folder passed over, which --follow-links follows: {folder}/out" in (
        result.stdout
    )
    assert "deleted from the store: disc/001.png" in run("index", store, folder, "--prune").stdout
    draw_shape("disc", 70).save(tmp_path / "in/disc/new.png")
    second = Path(shutil.copytree(folder / "disc", tmp_path / "second"))
    draw_shape("disc", 71).save(second / "new.png")
    result = run("index", store, second)
    assert f"note: ids of images in {second} begin with second/" in result.stderr
    copy = Path(shutil.copytree(folder, tmp_path / "copy", symlinks=True))
    draw_shape("disc", 72).save(copy / "disc/first.png")
    result = run("index", store, copy, code=1)
    assert "Error: 1 file left out, with the ids of other files:" in result.stderr
