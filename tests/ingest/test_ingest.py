"""Images to rows: what is new, changed, bad, interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import ImageError, InvalidInputError, NotFoundError
from latentdb.base.progress import Progress
from latentdb.database import LatentDB
from latentdb.images.decode import read_image
from latentdb.model.codec import Codec
from tests.conftest import draw_shape, make_images


def fresh(tmp_path: Path, model: Path) -> LatentDB:
    return LatentDB.create(tmp_path / "db.ldb", model=model)


def test_every_row_is_the_latent_of_its_image(store: Path, images: Path, model: Path) -> None:
    codec = Codec.from_folder(model)
    with LatentDB.open(store) as db:
        ids = db.ids()
        expected, log_vars = codec.encode(
            np.stack([read_image(images / name, codec.config.preprocessing) for name in ids])
        )
        assert sorted(ids) == ids
        assert len(ids) == 80
        assert np.allclose(db.vectors(ids), expected, atol=1e-5)
        stored = db.log_vars(ids)
        assert stored is not None
        assert log_vars is not None
        assert np.allclose(stored, log_vars, atol=1e-5)


def test_a_second_run_skips_all_and_commits_nothing(store: Path, images: Path) -> None:
    with LatentDB.open(store) as db:
        version = db.info().version
        done = db.index_images(images, labels_from_folders=True)
        assert (done.added, done.updated, done.unchanged, done.rows) == (0, 0, 80, 80)
        assert db.info().version == version


def test_new_and_changed_images_are_encoded_and_touched_ones_are_not(
    tmp_path: Path, model: Path
) -> None:
    folder = make_images(tmp_path / "in", 3)
    with fresh(tmp_path, model) as db:
        db.index_images(folder, labels_from_folders=True)
        before = db.vectors(["disc/000.png"])
        draw_shape("square", 77).save(folder / "disc/000.png")
        os.utime(folder / "disc/001.png", ns=(1, 1))
        draw_shape("disc", 78).save(folder / "disc/new.png")
        done = db.index_images(folder)
        assert (done.added, done.updated, done.unchanged, done.rows) == (1, 1, 5, 7)
        assert not np.array_equal(db.vectors(["disc/000.png"]), before)
        assert db.ids().count("disc/000.png") == 1
        # Its metadata stays when only its pixels changed.
        match = db.query("disc/000.png", k=1)[0]
        assert (match.id, dict(match.metadata)) == ("disc/000.png", {"label": "disc"})


def test_a_moved_folder_is_recognised_by_content(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 3)
    with fresh(tmp_path, model) as db:
        db.index_images(folder)
        moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
        done = db.index_images(moved)
        assert (done.added, done.updated, done.unchanged) == (0, 0, 6)


def test_rehash_finds_changes_that_size_and_time_hide(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    file = folder / "disc/000.png"

    def draw(seed: int) -> None:
        draw_shape("square", seed).save(file)
        # Bytes after the end of a PNG are ignored: every image has the same size and time.
        file.write_bytes(file.read_bytes().ljust(4096, b"\0"))
        os.utime(file, ns=(1, 1))

    with fresh(tmp_path, model) as db:
        draw(76)
        db.index_images(folder)
        before = db.vectors(["disc/000.png", "disc/001.png"])
        draw(77)
        done = db.index_images(folder)
        assert (done.added, done.updated, done.unchanged) == (0, 0, 4)
        done = db.index_images(folder, rehash=True)
        assert (done.added, done.updated, done.unchanged, done.restamped) == (0, 1, 3, 0)
        after = db.vectors(["disc/000.png", "disc/001.png"])
        assert not np.array_equal(after[0], before[0])
        assert np.array_equal(after[1], before[1])
        version = db.info().version
        assert db.index_images(folder, rehash=True).unchanged == 4
        assert db.info().version == version


def test_bad_files_are_skipped_and_named_and_the_rest_is_indexed(
    tmp_path: Path, model: Path
) -> None:
    folder = make_images(tmp_path / "in", 2)
    whole = (folder / "disc/000.png").read_bytes()
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    with fresh(tmp_path, model) as db:
        done = db.index_images(folder)
        reasons = {Path(bad.path).name: bad.reason for bad in done.bad}
        assert done.added == 4
        assert set(reasons) == {"empty.png", "text.jpg", "cut.png", "dangling.png", "pipe.png"}
        assert reasons["empty.png"] == "empty file"
        assert reasons["pipe.png"] == "not a regular file"
        assert reasons["text.jpg"] == "a text file"
        assert set(db.ids()) == {f"{k}/00{n}.png" for k in ("disc", "square") for n in range(2)}


def test_strict_raises_and_committed_rows_stay(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    (folder / "empty.png").touch()
    with fresh(tmp_path, model) as db:
        with pytest.raises(ImageError, match=r"empty\.png: empty file"):
            db.index_images(folder, strict=True)
        assert db.index_images(folder).rows == 4


def test_labels_and_metadata_files(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    draw_shape("disc", 5).save(folder / "loose.png")
    table = tmp_path / "table.csv"
    table.write_text("id,year,score\ndisc/000.png,1999,0.5\nsquare/001.png,,1\nnone.png,1,1\n")
    with fresh(tmp_path, model) as db:
        done = db.index_images(folder, metadata=table, labels_from_folders=True)
        assert (done.unmatched.rows, done.unmatched.images) == (1, 3)
        assert db.info().columns == {"label": "str", "score": "float", "year": "int"}
        assert db.ids(where='label == "disc" and year < 2000') == ["disc/000.png"]
        assert db.ids(where="score >= 1") == ["square/001.png"]
        assert db.ids(where="label is None") == ["loose.png"]


def test_metadata_can_be_added_later_without_encoding_again(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 2)
    with fresh(tmp_path, model) as db:
        db.index_images(folder)
        before = db.vectors(db.ids())
        done = db.index_images(folder, labels_from_folders=True)
        assert (done.added, done.updated, done.unchanged, done.rows) == (0, 4, 0, 4)
        assert sorted(db.ids(where='label == "disc"')) == ["disc/000.png", "disc/001.png"]
        assert np.array_equal(db.vectors(db.ids()), before)
        again = db.index_images(folder, labels_from_folders=True)
        assert (again.updated, again.unchanged) == (0, 4)


def test_metadata_of_another_type_is_refused_before_anything_is_added(
    tmp_path: Path, model: Path
) -> None:
    folder = make_images(tmp_path / "in", 2)
    table = tmp_path / "table.jsonl"  # in a CSV, 3 would be read as the text that the store has
    table.write_text('{"id": "disc/000.png", "label": 3}\n')
    with fresh(tmp_path, model) as db:
        db.index_images(folder / "square", labels_from_folders=True)
        db.index_images(folder, labels_from_folders=True)
        rows = len(db)
        with pytest.raises(InvalidInputError, match="'label' is int here and str in this store"):
            db.index_images(folder, metadata=table)
        assert len(db) == rows


def test_missing_and_empty_sources_are_errors(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with fresh(tmp_path, model) as db:
        with pytest.raises(InvalidInputError, match=r"no images in .*empty"):
            db.index_images(tmp_path / "empty")
        with pytest.raises(NotFoundError, match="nowhere does not exist"):
            db.index_images(tmp_path / "nowhere")
        with pytest.raises(InvalidInputError, match="no images were given"):
            db.index_images([])


def test_images_are_refused_where_rows_have_no_z_log_var(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    with fresh(tmp_path, model) as db:
        db.add(["bare"], np.zeros((1, 4)))
        with pytest.raises(InvalidInputError, match="rows have no z_log_var"):
            db.index_images(folder)
        assert db.ids() == ["bare"]


def test_progress_counts_every_file(store: Path, images: Path) -> None:
    seen: list[Progress] = []
    with LatentDB.open(store) as db:
        db.index_images(images, report=seen.append)
    assert seen[-1].done == 80


RUN = """
import sys
from latentdb.ingest import execution, ingest, read_ahead
from latentdb.database import LatentDB
execution.COMMIT_ROWS, execution.COMMIT_SECONDS, execution.FIRST_SECONDS = 8, 1e9, 1e9
read_ahead.BATCH = 4
append = ingest.Writer.append
def announce(self, *rows):
    append(self, *rows)
    print("committed", flush=True)
    if len(sys.argv) > 3:
        sys.stdin.read(1)
ingest.Writer.append = announce
with LatentDB.open(sys.argv[1]) as db:
    print(db.index_images(sys.argv[2]).added)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumes_at_its_last_commit(
    tmp_path: Path, model: Path, how: signal.Signals
) -> None:
    folder = make_images(tmp_path / "in", 20)
    path = tmp_path / "db.ldb"
    LatentDB.create(path, model=model).close()
    arguments = [sys.executable, "-c", RUN, str(path), str(folder)]
    process = subprocess.Popen(
        [*arguments, "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    for _ in range(2):
        assert process.stdout.readline() == "committed\n"
        if _ == 0:
            process.stdin.write("x")
            process.stdin.flush()
    os.kill(process.pid, how)
    process.communicate("x" * 100, timeout=60)
    assert process.returncode not in (0, None)
    with LatentDB.open(path) as db:
        committed = len(db)
        # Ctrl-C commits what was encoded besides; a kill cannot.
        assert committed == 16 if how == signal.SIGKILL else 16 <= committed < 40
        vectors = db.vectors(db.ids())
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(40 - committed)
    with LatentDB.open(path) as db:
        assert len(db) == 40
        assert np.array_equal(db.vectors(db.ids())[:committed], vectors)
