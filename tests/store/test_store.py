"""The store: commits that hold, row numbers that stay, readers that are never disturbed."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batteries.hostile import reseal_file
from latentdb.base import files
from latentdb.base.errors import (
    AlreadyExistsError,
    CorruptStoreError,
    IdNotFoundError,
    InvalidInputError,
    LockedError,
    StoreError,
    StoreNotFoundError,
)
from latentdb.database import LatentDB
from latentdb.store import manifest as manifests
from latentdb.store import segment as segments
from latentdb.store import writer as writers
from latentdb.store.columns import make_columns
from latentdb.store.manifest import Settings
from latentdb.store.rows import Rows
from latentdb.store.segment import hash_ids
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store
from latentdb.store.writer import GRACE_SECONDS, Writer

DIM = 8


def some(
    ids: Sequence[str], *, seed: int = 0, log_var: bool = False, **metadata: Sequence[Any]
) -> Rows:
    random = np.random.default_rng(seed)
    means = random.normal(size=(len(ids), DIM)).astype(np.float32)
    return Rows(
        list(ids),
        means,
        means - 1 if log_var else None,
        columns=make_columns(metadata, len(ids)),
    )


def append(store: Store, rows: Rows, replaced: Sequence[int] = ()) -> list[int]:
    with store.writer() as writer:
        return [int(row) for row in writer.append(rows, np.array(replaced, np.int64))]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and its content, but for the lock's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s.ldb", dim=DIM)


# --- create and open ------------------------------------------------------------


def test_a_new_store_is_empty_and_durable(tmp_path: Path) -> None:
    Store.create(tmp_path / "deep" / "s.ldb", dim=3, settings=Settings(recall=0.9))
    snapshot = Store.open(tmp_path / "deep" / "s.ldb").snapshot()
    assert (len(snapshot), snapshot.dim, snapshot.manifest.settings.recall) == (0, 3, 0.9)
    assert snapshot.live_rows().tolist() == []
    assert snapshot.locate(["a"]).tolist() == [-1]
    assert snapshot.vectors(np.empty(0, np.int64)).shape == (0, 3)


def test_a_model_is_kept_and_checked(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", dim=3, model=("enc", "dec", {"model.json": b"{}"}))
    snapshot = Store.open(tmp_path / "s").snapshot()
    model = snapshot.manifest.model
    assert model is not None
    assert (model.encoder_fingerprint, model.decoder_fingerprint) == ("enc", "dec")
    assert snapshot.file(model.files[0])[:] == b"{}"
    (tmp_path / "s" / "model" / "model.json").write_bytes(b"[]")
    with pytest.raises(CorruptStoreError, match=r"model\.json is damaged"):
        snapshot.file(model.files[0])


@pytest.mark.parametrize("dim", [0, -1, 65_537, 1.0, "8", True, None])
def test_an_impossible_dim_is_refused(tmp_path: Path, dim: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be used: give 1 to 65536"):
        Store.create(tmp_path / "s", dim=dim)
    assert not (tmp_path / "s").exists()


def test_a_store_is_not_created_over_another(store: Store) -> None:
    before = tree(store.path)
    with pytest.raises(AlreadyExistsError, match="is a store already"):
        Store.create(store.path, dim=4)
    assert tree(store.path) == before


def test_a_store_is_not_created_over_other_things(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file"):
        with pytest.raises(AlreadyExistsError, match="exists and is not a store"):
            Store.create(tmp_path / name, dim=4)
    assert tree(tmp_path) == {"file": b"x", "folder/mine.txt": b"x"}


def test_a_creation_that_was_killed_can_be_done_again(tmp_path: Path) -> None:
    for name in manifests.FOLDERS:
        (tmp_path / "s" / name).mkdir(parents=True)
    (tmp_path / "s" / "LOCK").touch()
    (tmp_path / "s" / ".MANIFEST.json.123.tmp").write_bytes(b"half")
    (tmp_path / "s" / "model" / "model.json").write_bytes(b"half")
    Store.create(tmp_path / "s", dim=4, model=("e", None, {"model.json": b"{}"}))
    snapshot = Store.open(tmp_path / "s").snapshot()
    assert snapshot.manifest.model is not None
    assert snapshot.file(snapshot.manifest.model.files[0])[:] == b"{}"


@pytest.mark.parametrize("name", ["model", "index", "segments"])
def test_a_folder_of_the_user_is_not_taken_for_a_killed_creation(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "project" / name / "model.json"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    os.utime(mine, (0, 0))
    with pytest.raises(AlreadyExistsError, match="project exists and is not a store"):
        Store.create(tmp_path / "project", dim=4, model=("e", None, {"model.json": b"other"}))
    assert mine.read_bytes() == b"mine"


def test_opening_what_is_no_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="missing does not exist: make one with"):
        Store.open(tmp_path / "missing")
    with pytest.raises(StoreNotFoundError, match="is not a latentdb store"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreNotFoundError, match="is a file, and a latentdb store is a folder"):
        Store.open(tmp_path / "file")


@pytest.mark.parametrize("call", [lambda path: Store.create(path, dim=4), Store.open])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, call: Callable[[str], Store]) -> None:
    with pytest.raises(InvalidInputError, match=r"a\\x00b' has a null character"):
        call(f"{tmp_path}/a\0b")
    with pytest.raises(StoreError, match=r"xx.* cannot be (made|read): file name too long"):
        call(f"{tmp_path}/{'x' * 300}")


# --- rows -----------------------------------------------------------------------


def test_rows_come_back_by_number_and_by_id(store: Store) -> None:
    first = some(["a", "b"], seed=1, log_var=True, year=[1, None])
    second = some(["c"], seed=2, log_var=True, year=[3])
    assert append(store, first) == [0, 1]
    assert append(store, second) == [2]
    snapshot = store.snapshot()
    asked = ["c", "x", "a", "a"]
    assert snapshot.locate(asked).tolist() == [2, -1, 0, 0]
    assert snapshot.locate(asked, hash_ids(asked)).tolist() == [2, -1, 0, 0]
    assert snapshot.locate([]).tolist() == []
    rows = np.array([2, 0, 1, 2])
    assert snapshot.ids(rows) == ["c", "a", "b", "c"]
    means = np.concatenate([first.z_mean, second.z_mean])
    np.testing.assert_array_equal(snapshot.vectors(rows), means[rows])
    np.testing.assert_array_equal(snapshot.log_vars(rows), means[rows] - 1)
    assert snapshot.metadata(rows) == [{"year": 3}, {"year": 1}, {}, {"year": 3}]
    assert snapshot.paths(rows) == [None] * 4


def test_find_names_what_is_missing(store: Store) -> None:
    append(store, some(["a"]))
    snapshot = store.snapshot()
    assert snapshot.find(["a"]).tolist() == [0]
    with pytest.raises(IdNotFoundError, match=r"^no id 'x' \(and 1 more\) among 1 rows"):
        snapshot.find(["a", "x", "y"])


def test_rows_that_never_were_are_told(store: Store) -> None:
    for rows in ([0], [-1]):
        with pytest.raises(CorruptStoreError, match="row number"):
            store.snapshot().vectors(np.array(rows))
    append(store, some(["a"]))
    for rows in ([1], [-1], [0, 99]):
        with pytest.raises(CorruptStoreError, match="row number"):
            store.snapshot().vectors(np.array(rows))


def test_row_numbers_are_stable_and_never_given_again(store: Store) -> None:
    append(store, some(["a", "b", "c"]))
    assert append(store, some(["b"], seed=9), [1]) == [3]
    assert append(store, some(["b"], seed=10), [3]) == [4]
    snapshot = store.snapshot()
    assert snapshot.live_rows().tolist() == [0, 2, 4]
    assert snapshot.locate(["a", "b", "c"]).tolist() == [0, 4, 2]
    assert (len(snapshot), snapshot.manifest.deleted_rows) == (3, 2)
    assert snapshot.is_deleted(np.arange(6)).tolist() == [False, True, False, True, False, False]
    np.testing.assert_array_equal(
        snapshot.vectors(np.array([4]))[0], some(["b"], seed=10).z_mean[0]
    )


def test_one_append_may_become_several_segments(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "SEGMENT_BYTES", 4 * DIM * 10)
    rows = some([f"r{n}" for n in range(25)], label=["x", None, "y", "z", None] * 5)
    assert append(store, rows) == list(range(25))
    snapshot = Store.open(store.path).snapshot()
    assert [len(segment) for segment in snapshot.segments] == [10, 10, 5]
    assert snapshot.manifest.version == 2
    np.testing.assert_array_equal(snapshot.vectors(np.arange(25)), rows.z_mean)
    labels = [found.get("label") for found in snapshot.metadata(np.arange(25))]
    assert labels == ["x", None, "y", "z", None] * 5


DELETE = "-"


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[str], list[str]]]:
    """Commits: ids that are new, and ids that are replaced; or no new ones, and ids to delete."""
    known: set[str] = set()
    commits = []
    for _ in range(draw(st.integers(1, 5))):
        ids = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=5))
        if draw(st.booleans()) and known:
            commits.append(([DELETE], [i for i in ids if i in known]))
            known -= set(ids)
            continue
        commits.append(([i for i in ids if i not in known], [i for i in ids if i in known]))
        known |= set(ids)
    return commits


@settings(deadline=None, max_examples=25, derandomize=True)
@given(histories())
def test_a_store_is_a_dict_with_row_numbers(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[list[str], list[str]]]
) -> None:
    store = Store.create(tmp_path_factory.mktemp("s") / "s", dim=DIM)
    truth: dict[str, tuple[int, np.ndarray[Any, Any]]] = {}
    given_rows: set[int] = set()
    old: list[tuple[Snapshot, dict[str, tuple[int, np.ndarray[Any, Any]]]]] = []
    for seed, (new, again) in enumerate(history):
        if new == [DELETE]:
            with store.writer() as writer:
                writer.delete(np.array([truth.pop(name)[0] for name in again], np.int64))
            old.append((store.snapshot(), dict(truth)))
            continue
        ids = [*again, *new]
        rows = some(ids, seed=seed)
        numbers = append(store, rows, [truth[name][0] for name in again])
        assert not given_rows & set(numbers)
        given_rows |= set(numbers)
        for place, name in enumerate(ids):
            truth[name] = (numbers[place], rows.z_mean[place])
        old.append((store.snapshot(), dict(truth)))
    for snapshot, then in [*old, (Store.open(store.path).snapshot(), truth)]:
        assert len(snapshot) == len(then)
        assert snapshot.live_rows().tolist() == sorted(row for row, _ in then.values())
        asked = list("abcdefgh")
        assert snapshot.locate(asked).tolist() == [then.get(i, (-1,))[0] for i in asked]
        for name, (row, vector) in then.items():
            assert snapshot.ids(np.array([row])) == [name]
            np.testing.assert_array_equal(snapshot.vectors(np.array([row]))[0], vector)


# --- columns --------------------------------------------------------------------


def test_columns_may_come_later(store: Store) -> None:
    append(store, some(["a"]))
    early = store.snapshot()
    append(store, some(["b"], year=[2000]))
    append(store, some(["c"], label=["x"]))
    rows = np.arange(3)
    assert store.snapshot().manifest.columns == {"year": "int", "label": "str"}
    assert store.snapshot().metadata(rows) == [{}, {"year": 2000}, {"label": "x"}]
    assert early.metadata(rows[:1]) == [{}]


def test_whole_numbers_fit_a_column_of_numbers(store: Store) -> None:
    append(store, some(["a"], size=[0.5]))
    append(store, some(["b"], size=[2]))
    assert store.snapshot().metadata(np.arange(2)) == [{"size": 0.5}, {"size": 2.0}]


def test_numbers_widen_a_column_of_whole_numbers(store: Store) -> None:
    append(store, some(["a"], size=[1]))
    append(store, some(["b"], size=[0.5]))
    assert store.snapshot().manifest.columns == {"size": "float"}
    assert store.snapshot().metadata(np.arange(2)) == [{"size": 1.0}, {"size": 0.5}]


def test_a_column_of_another_kind_is_refused_and_nothing_written(store: Store) -> None:
    append(store, some(["a"], year=[1]))
    before = tree(store.path)
    with pytest.raises(InvalidInputError, match="'year' holds int in this store, received str"):
        append(store, some(["b"], year=["x"]))
    assert tree(store.path) == before


def test_too_many_columns_are_refused_and_the_most_can_be_read(store: Store) -> None:
    columns: dict[str, Any] = {f"k{number}": ["x", None] for number in range(1001)}
    with pytest.raises(InvalidInputError, match=r"1001 metadata keys are too many: .* 1000"):
        append(store, some(["a", "b"], **columns))
    del columns["k1000"]
    append(store, some(["a", "b"], **columns))
    assert len(Store.open(store.path).snapshot().metadata(np.arange(2))[0]) == 1000


# --- versions -------------------------------------------------------------------


def test_an_unchanged_store_gives_the_same_snapshot(store: Store) -> None:
    assert store.snapshot() is store.snapshot()


def test_another_store_object_sees_a_commit_at_once(store: Store) -> None:
    reader = Store.open(store.path)
    assert len(reader.snapshot()) == 0
    append(store, some(["a"]))
    assert len(reader.snapshot()) == 1


def test_an_old_snapshot_answers_after_its_files_are_gone(store: Store) -> None:
    append(store, some(["a", "b"], label=["x", "y"]))
    append(store, some(["a"], seed=4), [0])
    old = Store.open(store.path).snapshot()
    append(store, some(["b"], seed=5), [1])
    for path in [*(store.path / "segments").iterdir()]:
        path.unlink()
    assert old.live_rows().tolist() == [1, 2]
    assert old.ids(old.live_rows()) == ["b", "a"]
    np.testing.assert_array_equal(old.vectors(np.array([1]))[0], some(["a", "b"]).z_mean[1])
    assert old.metadata(np.array([1])) == [{"label": "y"}]


def test_a_reader_beside_a_writer_always_finds_a_whole_version(store: Store) -> None:
    failures: list[str] = []
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(25):
                append(store, some([f"r{number}"], seed=number))
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader = Store.open(store.path)
    while not done.is_set():
        snapshot = reader.snapshot()
        if snapshot.ids(snapshot.live_rows()) != [f"r{n}" for n in range(len(snapshot))]:
            failures.append(f"{len(snapshot)} rows")
    thread.join()
    assert failures == []
    assert len(reader.snapshot()) == 25


def test_a_missing_segment_is_told_by_name(store: Store) -> None:
    append(store, some(["a"]))
    name = store.snapshot().manifest.segments[0].file.name
    (store.path / name).unlink()
    with pytest.raises(CorruptStoreError, match=rf"{name} is missing, and the manifest names it"):
        Store.open(store.path)


def test_a_missing_list_of_deletions_never_brings_rows_back(store: Store) -> None:
    append(store, some(["a"]))
    append(store, some(["a"], seed=1), [0])
    deletions = store.snapshot().manifest.deletions
    assert deletions is not None
    (store.path / deletions.file.name).unlink()
    with pytest.raises(CorruptStoreError, match=r"\.deleted is missing"):
        Store.open(store.path)


def test_a_list_of_deletions_that_does_not_ascend_is_refused(store: Store) -> None:
    append(store, some(["a", "b", "c"]))
    append(store, some(["a", "b"], seed=1), [0, 1])
    deletions = store.snapshot().manifest.deletions
    assert deletions is not None
    (store.path / deletions.file.name).write_bytes(np.array([1, 0], "<i8").tobytes())
    reseal_file(store.path, deletions.file.name)
    with pytest.raises(CorruptStoreError, match=r"\.deleted: refused, its row numbers do not asc"):
        Store.open(store.path)


def test_a_damaged_list_of_deletions_is_told(store: Store) -> None:
    append(store, some(["a"]))
    append(store, some(["a"], seed=1), [0])
    deletions = store.snapshot().manifest.deletions
    assert deletions is not None
    (store.path / deletions.file.name).write_bytes(bytes([1] + [0] * 7))
    with pytest.raises(CorruptStoreError, match=r"\.deleted is damaged"):
        Store.open(store.path)


def test_a_segment_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    append(store, some(["a"]))
    path = store.path / store.snapshot().manifest.segments[0].file.name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=path.name):
        Store.open(store.path)


@pytest.mark.parametrize("name", ["segments", "index", "model"])
def test_a_folder_that_is_a_link_is_neither_read_nor_emptied(
    store: Store, tmp_path: Path, name: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("precious")
    os.utime(home / "letter.txt", (0, 0))
    (store.path / name).rmdir()
    (store.path / name).symlink_to(home)
    with pytest.raises(StoreError, match=f"{name} is a link, to which nothing is written"):
        Store.open(store.path).writer().__enter__()
    assert os.listdir(home) == ["letter.txt"]


# --- failed writes --------------------------------------------------------------

FULL_DISK = """
import resource, sys
import numpy as np
from latentdb.base.errors import StoreError
from latentdb.store.rows import Rows
from latentdb.store.store import Store

store = Store.open(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
count = int(sys.argv[3])
before = store.snapshot().manifest
with store.writer() as writer:
    try:
        writer.append(
            Rows([f"n{n}" for n in range(count)], np.ones((count, 8), np.float32)), np.array([0])
        )
    except StoreError as error:
        print(error)
    assert store.snapshot().manifest == writer.snapshot.manifest == before, "the store changed"
"""


def append_on_a_full_disk(store: Store, limit: int, rows: int) -> str:
    """Try to append where no file can have over `limit` bytes; the message of the error."""
    before = tree(store.path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(store.path), str(limit), str(rows)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert tree(store.path) == before
    return done.stdout


def test_a_segment_that_does_not_fit_leaves_the_store_as_it_was(store: Store) -> None:
    append(store, some(["a", "b", "c"]))
    said = append_on_a_full_disk(store, 20_000, rows=2000)
    assert ".h5 cannot be written: file too large" in said


def test_a_manifest_that_does_not_fit_takes_the_segments_back(store: Store) -> None:
    for number in range(60):
        append(store, some([f"r{number}"]))
    manifest = (store.path / "MANIFEST.json").stat().st_size
    segment = store.snapshot().manifest.segments[0].file.bytes
    assert segment < 3 * manifest // 4
    said = append_on_a_full_disk(store, 3 * manifest // 4, rows=1)
    assert "cannot be written: file too large" in said
    assert "MANIFEST.json" in said


def test_a_list_of_deletions_that_does_not_fit_takes_the_segments_back(store: Store) -> None:
    count = 3000
    append(store, some([f"r{number}" for number in range(count)]))
    append(store, some(["x"]), range(count - 1))
    said = append_on_a_full_disk(store, 8 * count - 100, rows=1)
    assert ".deleted cannot be written: file too large" in said


def _index_entry() -> manifests.IndexEntry:
    return manifests.IndexEntry(
        manifests.FileEntry("", 0, ""), "ivf-sq8", 1, 1, {}, 0.9, 0.9, 10, 5, 0.1
    )


APPENDING = """
import sys
import numpy as np
from latentdb.store.rows import Rows
from latentdb.store.store import Store

with Store.open(sys.argv[1]).writer() as writer:
    for number in range(10_000):
        ids = [f"{number}-{n}" for n in range(50)]
        replaced = [] if number % 3 else writer.snapshot.live_rows()[:1]
        writer.append(Rows(ids, np.full((50, 8), number, np.float32)), np.array(replaced, int))
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [0, 3, 8])
def test_a_killed_writer_loses_nothing_it_acknowledged(store: Store, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(store.path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for number in range(after + 1):
            assert process.stdout.readline() == f"{number}\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        rest = [int(line) for line in process.stdout if line.endswith("\n")]
    acknowledged = max([after, *rest])
    snapshot = Store.open(store.path).snapshot()
    commits = snapshot.manifest.version - 1
    assert commits - 1 in (acknowledged, acknowledged + 1)
    rows = snapshot.live_rows()
    numbers = [int(name.split("-")[0]) for name in snapshot.ids(rows)]
    assert set(numbers) == set(range(commits))
    np.testing.assert_array_equal(snapshot.vectors(rows)[:, 0], numbers)
    append(store, some(["after"]))  # the lock is free, too


def test_a_version_that_no_reader_can_open_is_not_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, some(["a"]))
    before = tree(store.path)
    with pytest.raises(InvalidInputError, match="z_mean has 3 dimensions: this store has 8"):
        append(store, Rows(["b"], np.zeros((1, 3), np.float32)))

    write, damage = segments.dump_arrays, {"z_mean": np.zeros((2, DIM), np.float32)}
    monkeypatch.setattr(segments, "dump_arrays", lambda arrays: write({**arrays, **damage}))
    with pytest.raises(StoreError, match=r"nothing was committed.*'z_mean' is float32 \(2, 8\)"):
        append(store, some(["b"]))
    damage = {"metadata/year/int": np.arange(7)}  # a reader opens it when it is asked for
    with pytest.raises(StoreError, match=r"nothing was committed.*'metadata/year/int' is int64"):
        append(store, some(["b"], year=[1]))
    assert tree(store.path) == before
    monkeypatch.undo()
    assert append(store, some(["b"], year=[1])) == [1]
    assert Store.open(store.path).snapshot().metadata(np.array([1])) == [{"year": 1}]


MANY_SEGMENTS = """
import os, resource, sys
import numpy as np
from latentdb import LatentDB

limit = len(os.listdir("/dev/fd")) + 24  # what imports and one call need
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
with LatentDB.open(sys.argv[1]) as db:
    db.add(["new"], np.ones((1, 8)))
    print(len(db), db.query("new", k=1)[0].id, db.info().segments)
print(LatentDB.verify(sys.argv[1]).problems)
"""


def test_small_segments_need_no_descriptor_each(store: Store) -> None:
    with store.writer() as writer:
        writer.append(some([f"r{number}"]) for number in range(90))
    words = [sys.executable, "-c", MANY_SEGMENTS, str(store.path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["91", "new", "91", "()"]), done.stderr


def test_a_store_may_have_more_large_segments_than_the_soft_limit_of_open_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BELOW", 0)
    used = len(os.listdir("/dev/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, hard))
        with store.writer() as writer:
            writer.append(some([f"r{number}"]) for number in range(90))
        with LatentDB.open(store.path) as db, LatentDB.open(store.path) as other:
            assert len(db.ids()) == len(other.ids()) == 90
            db.add(["new"], np.ones((1, DIM)))
            assert other.query("new", k=1)[0].id == "new"
        assert LatentDB.verify(store.path).problems == ()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- garbage collection ---------------------------------------------------------


def age(path: Path) -> None:
    stamp = path.stat().st_mtime - GRACE_SECONDS - 60
    os.utime(path, (stamp, stamp))


def orphan(store: Store, name: str) -> Path:
    path = store.path / name
    path.write_bytes(b"orphan")
    return path


def test_garbage_collection_deletes_old_orphans_and_nothing_else(store: Store) -> None:
    append(store, some(["a", "b"]))
    append(store, some(["a"], seed=1), [0])
    named = store.snapshot().manifest.file_names()
    for name in named:
        age(store.path / name)
    old = [orphan(store, name) for name in ("segments/x.h5", "index/x.faiss", "model/x.json")]
    for path in old:
        age(path)
    fresh = orphan(store, "segments/y.h5")
    (store.path / "segments" / "folder").mkdir()
    with store.writer() as writer:
        assert writer.collect_garbage() == 3
    assert not any(path.exists() for path in old)
    assert fresh.exists()
    assert (store.path / "segments" / "folder").is_dir()
    assert all((store.path / name).exists() for name in named)
    assert Store.open(store.path).snapshot().locate(["a", "b"]).tolist() == [2, 1]


def test_a_replaced_file_has_its_grace_from_the_commit_that_dropped_it(store: Store) -> None:
    append(store, some(["a"]))
    append(store, some(["a"], seed=1), [0])
    deletions = store.snapshot().manifest.deletions
    assert deletions is not None
    old = store.path / deletions.file.name
    age(old)
    with store.writer() as writer:
        writer.append(some(["a"], seed=2), np.array([1]))
        assert writer.collect_garbage() == 0
    assert old.exists()
    age(old)
    with store.writer() as writer:
        assert writer.collect_garbage() == 0  # of the version before, to which a repair goes back
        writer.append(some(["b"]))
        assert writer.collect_garbage() == 1
    assert not old.exists()


def test_garbage_collection_deletes_the_manifest_a_killed_writer_left(store: Store) -> None:
    left = orphan(store, ".MANIFEST.json.1.tmp")
    age(left)
    with store.writer() as writer:
        writer.collect_garbage()
    assert not left.exists()


# --- one writer -----------------------------------------------------------------


def test_there_is_one_writer(store: Store) -> None:
    other = Store.open(store.path)
    with store.writer() as writer:
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), other.writer():
            pass
        writer.append(some(["a"]))
        assert len(other.snapshot()) == 1
    with other.writer() as second:
        assert isinstance(second, Writer)
        assert len(second.snapshot) == 1


def test_a_writer_begins_with_what_is_committed(store: Store) -> None:
    stale = Store.open(store.path)
    stale.snapshot()
    append(store, some(["a"]))
    assert append(stale, some(["b"])) == [1]
    assert store.snapshot().locate(["a", "b"]).tolist() == [0, 1]


def test_the_index_of_a_version_is_set_and_dropped(store: Store) -> None:
    append(store, some(["a"]))
    settings = Settings(recall=0.8)
    with store.index_file(b"index") as file, store.writer() as writer:
        writer.set_index(file, _index_entry(), settings, built_from=writer.snapshot)
        entry = writer.snapshot.manifest.index
        assert entry is not None
        assert writer.snapshot.file(entry.file)[:] == b"index"
        writer.drop_index(Settings(recall=0.7))
    manifest = Store.open(store.path).snapshot().manifest
    assert (manifest.index, manifest.settings.recall) == (None, 0.7)


def test_an_index_file_that_is_gone_is_not_committed(store: Store) -> None:
    """One that waited for the lock for longer than garbage is kept."""
    append(store, some(["a"]))
    with store.index_file(b"index") as file, store.writer() as writer:
        (store.path / file.name).unlink()
        with pytest.raises(StoreError, match="is gone: run it again"):
            writer.set_index(file, _index_entry(), Settings(), built_from=writer.snapshot)
    assert Store.open(store.path).snapshot().manifest.index is None


# --- files that change under an open store ------------------------------------------


def test_a_mapped_segment_that_is_cut_is_named_and_one_that_is_restored_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BELOW", 0)
    append(store, some(["a", "b"]))
    snapshot = store.snapshot()
    file = store.path / snapshot.manifest.segments[0].file.name
    whole = file.read_bytes()
    os.truncate(file, 10)
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=rf"{file.name} is damaged: it has 10 bytes"):
            store.snapshot()
    file.with_suffix(".new").write_bytes(whole)
    file.with_suffix(".new").rename(file)
    assert store.snapshot().locate(["b"]).tolist() == [1]


def test_a_small_segment_is_in_memory_and_answers_whatever_becomes_of_its_file(
    store: Store,
) -> None:
    append(store, some(["a", "b"]))
    snapshot = store.snapshot()
    vectors = snapshot.vectors(np.array([0, 1])).tolist()
    os.truncate(store.path / snapshot.manifest.segments[0].file.name, 10)
    assert store.snapshot().vectors(np.array([0, 1])).tolist() == vectors
    with pytest.raises(CorruptStoreError, match="is damaged: it has 10 bytes"):
        Store.open(store.path)


def test_a_writer_that_commits_nothing_makes_what_it_found_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest may be of a writer that was killed before it synced the folder."""
    store = Store.create(tmp_path / "a", dim=2)
    synced: list[Path] = []
    for module in ("store", "writer"):
        monkeypatch.setattr(f"latentdb.store.{module}.sync_folder", synced.append)
    with store.writer():
        pass
    assert synced == [store.path]
    with store.writer() as writer:
        writer.append(Rows(["a"], np.zeros((1, 2), np.float32)))
    assert synced[1:] == [store.path / "segments"]  # the manifest's own commit does the rest


# --- another store at the same path -------------------------------------------------


def make_other(path: Path) -> None:
    shutil.rmtree(path)
    append(Store.create(path, dim=DIM), some(["other"]))


@pytest.mark.parametrize("opened", ["created", "opened", "read"])
def test_a_handle_does_not_survive_the_replacement_of_its_store(store: Store, opened: str) -> None:
    if opened == "opened":
        store = Store.open(store.path)
    if opened == "read":
        append(store, some(["a"]))
    make_other(store.path)
    before = tree(store.path)
    for _ in range(2):
        with pytest.raises(StoreError, match="replaced by another store since it was opened"):
            store.snapshot()
        with pytest.raises(StoreError, match="replaced by another store since it was opened"):
            append(store, some(["b"]))
    assert tree(store.path) == before
    assert Store.open(store.path).snapshot().ids(np.array([0])) == ["other"]


def test_an_earlier_version_does_not_survive_the_replacement_of_its_store(store: Store) -> None:
    append(store, some(["a"]))
    first = store.snapshot().manifest.version
    append(store, some(["b"]))
    earlier = Store.open(store.path, version=first)
    assert earlier.snapshot().ids(np.array([0])) == ["a"]
    (store.path / "MANIFEST.json").write_text("damaged")
    assert earlier.snapshot().ids(np.array([0])) == ["a"]  # what it was opened for
    make_other(store.path)
    for _ in range(2):
        with pytest.raises(StoreError, match="replaced by another store since it was opened"):
            earlier.snapshot()


def test_a_writer_whose_store_is_replaced_commits_nothing_to_the_new_one(store: Store) -> None:
    append(store, some(["a"]))
    with contextlib.suppress(StoreError), store.writer() as writer:
        make_other(store.path)
        before = tree(store.path)
        with pytest.raises(StoreError, match="replaced by another store"):
            writer.append(some(["b"]))
    assert tree(store.path) == before


def test_a_writer_whose_store_is_removed_says_so(store: Store) -> None:
    with contextlib.suppress(StoreError), store.writer() as writer:
        shutil.rmtree(store.path)
        with pytest.raises(StoreNotFoundError, match="does not exist"):
            writer.append(some(["b"]))


def test_what_a_call_does_not_need_is_not_read(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", dim=DIM)
    for number in range(3):
        append(store, some([f"{number}-{n}" for n in range(5)], seed=number, n=[number] * 5))
    entry = store.snapshot().manifest.segments[0]
    file = tmp_path / "s" / entry.file.name
    data = bytearray(file.read_bytes())
    assert entry.layout is not None
    data[entry.layout.offset + 1] ^= 1  # nothing of the segment can be read
    file.write_bytes(data)
    with LatentDB.open(tmp_path / "s") as db:
        assert (len(db), db.count(), db.info().segments) == (15, 15, 3)
        assert db["2-3"].metadata == {"n": 2}  # later segments are looked into first
        for call in (lambda: db["0-1"], lambda: db.count("n == 1"), lambda: db.query("2-3")):
            with pytest.raises(CorruptStoreError, match=r"checksum of its layout is wrong"):
                call()


def test_places_count_the_rows_that_segments_hold(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", dim=DIM)
    append(store, some(list("abcd")))
    append(store, some(list("efgh")), replaced=[1])
    append(store, some(list("ij")))
    with store.writer() as writer:
        manifest = writer.snapshot.manifest
        first = writer.snapshot.segments[0]
        kept = np.array([0, 2, 3])
        writer.replace_segments(manifest.segments[:1], first.read(kept), first.rows[kept])
    snapshot = store.snapshot()
    rows = np.array([9, 0, 3, 4, 2, 7])
    assert snapshot.places(rows).tolist() == [8, 0, 2, 3, 1, 6]
    assert snapshot.places(np.empty(0, np.int64)).tolist() == []
    assert Store.create(tmp_path / "e", dim=DIM).snapshot().places(rows[:0]).tolist() == []
