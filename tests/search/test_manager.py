"""When the search index is built, and what happens when it is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentdb.ann import plan
from latentdb.base.errors import InvalidInputError
from latentdb.base.progress import Progress
from latentdb.database import LatentDB
from latentdb.search.manager import IndexManager
from latentdb.store.manifest import IndexEntry, Settings
from latentdb.store.rows import Rows
from latentdb.store.store import Store

DIM = 8
LIMIT = 1200  # the tuner wants 1,000 rows to ask about


def vectors_of(count: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, dim)).astype(np.float32)


def names(start: int, stop: int) -> list[str]:
    return [f"r{number}" for number in range(start, stop)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", LIMIT)  # for speed; the real one is 50,000


def filled(path: Path, count: int, recall: float = 0.9) -> LatentDB:
    db = LatentDB.create(path, dim=DIM, recall=recall)
    db.add(names(0, count), vectors_of(count))
    return db


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has just got its index; not to be changed."""
    path = tmp_path_factory.mktemp("template") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EXACT_ROWS", LIMIT)
        filled(path, LIMIT + 1)
    return path


@pytest.fixture
def db(template: Path, tmp_path: Path) -> LatentDB:
    """A copy of it."""
    return LatentDB.open(shutil.copytree(template, tmp_path / "s"))


def entry_of(db: LatentDB) -> IndexEntry:
    entry = db.info().index
    assert entry is not None
    return entry


def index_file(db: LatentDB) -> Path:
    return Path(db.info().path) / entry_of(db).file.name


def check_exact(db: LatentDB) -> None:
    vectors = db.vectors(db.ids())
    query = vectors_of(1, seed=77)[0]
    matches = db.query(query, k=10)
    assert matches.exact
    true = np.sort(np.linalg.norm(vectors.astype(np.float64) - query, axis=1))[:10]
    np.testing.assert_allclose([match.distance for match in matches], true, rtol=1e-6)


# --- when -----------------------------------------------------------------------


def test_a_small_store_has_no_index(tmp_path: Path) -> None:
    db = filled(tmp_path / "s", LIMIT)
    assert (db.info().index, db.info().search, db.info().covered_rows) == (None, "exact scan", 0)
    check_exact(db)


def test_an_index_is_built_where_a_scan_has_become_slower(tmp_path: Path) -> None:
    db = filled(tmp_path / "s", LIMIT)
    db.add(names(LIMIT, LIMIT + 1), vectors_of(1, seed=1))
    entry = entry_of(db)
    assert (entry.kind, entry.rows, entry.rows_below) == ("ivf-sq4", LIMIT + 1, LIMIT + 1)
    assert (entry.recall_target, entry.recall_k) == (0.9, 10)
    assert entry.recall_measured >= 0.9
    assert not db.query("r0").exact
    assert index_file(db).stat().st_size == entry.file.bytes


def test_an_index_is_kept_while_few_rows_are_unindexed_and_rebuilt_when_many_are(
    db: LatentDB,
) -> None:
    first = entry_of(db)
    db.add(names(5000, 5000 + LIMIT), vectors_of(LIMIT, seed=1))
    assert entry_of(db) == first
    db.add(["one more"], vectors_of(1, seed=2))
    assert entry_of(db).rows == 2 * LIMIT + 2
    assert entry_of(db).file != first.file


def test_where_an_index_is_no_gain_it_is_not_tried_at_every_commit(tmp_path: Path) -> None:
    db = LatentDB.create(tmp_path / "s", dim=64, recall=1.0)
    noise = np.random.default_rng(0).normal(size=(LIMIT + 2, 64))
    hard = (1e-25 * noise).astype(np.float32)  # its squares are 0 in float32
    db.add(names(0, LIMIT + 1), hard[:-1])
    assert db.info().index is None
    settings = Store.open(tmp_path / "s").snapshot().manifest.settings
    assert settings == Settings(recall=1.0, exact_rows=2 * (LIMIT + 1))
    version = db.info().version
    db.add(["next"], hard[-1:])
    assert db.info().version == version + 1  # the rows, and no second try


def test_optimize_takes_a_new_recall_and_keeps_it(tmp_path: Path) -> None:
    db = filled(tmp_path / "s", LIMIT + 1, recall=0.5)
    probes = entry_of(db).parameters["effort_10"]
    info = db.optimize(recall=0.99)
    assert info.recall_target == 0.99
    assert info.index is not None
    assert info.index.recall_target == 0.99
    assert info.index.parameters["effort_10"] > probes
    assert db.optimize().recall_target == 0.99


def test_optimize_of_a_small_store_drops_the_index(
    db: LatentDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 2 * LIMIT)
    assert db.optimize().index is None
    check_exact(db)


def test_the_limit_is_that_of_the_dimensions_of_the_metric(tmp_path: Path) -> None:
    """Wasserstein compares 2 x 64 of them: half as many rows are few."""
    count = LIMIT - 100
    vectors = vectors_of(count, dim=64)
    with LatentDB.create(tmp_path / "s", dim=64, recall=0.5) as db:
        db.add(names(0, count), vectors, z_log_var=vectors)
        assert db.info().index is None
        index = db.optimize(metric="wasserstein").index
        assert index is not None
        assert (index.metric, index.rows) == ("wasserstein", count)
        assert db.optimize(metric="l2").index is None
        assert db.info().index is None


# --- what was built when the limit was lower --------------------------------------


@pytest.fixture
def _higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 4 * LIMIT)
    monkeypatch.setattr(plan, "_UNINDEXED_ROWS", LIMIT)


@pytest.mark.usefixtures("_higher")
def test_an_index_below_the_limit_goes_on_being_used(tmp_path: Path, db: LatentDB) -> None:
    first = entry_of(db)
    with LatentDB.open(tmp_path / "s") as again, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not again.query("r0").exact
        again.add(names(5_000, 5_000 + LIMIT), vectors_of(LIMIT, seed=1))
        again.delete(names(0, LIMIT // 20))
        again.compact()
        assert entry_of(again) == first
        found = again.query("r5001", k=5)
        assert (found.matches[0].id, found.exact) == ("r5001", False)
    assert LatentDB.verify(tmp_path / "s").problems == ()


@pytest.mark.usefixtures("_higher")
def test_an_index_below_the_limit_is_extended(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EXACT_ROWS", LIMIT)
        db = filled(tmp_path / "s", 2 * LIMIT)
    db.add(names(5_000, 5_001 + LIMIT), vectors_of(LIMIT + 1, seed=1))
    assert len(db) < plan.EXACT_ROWS
    assert (entry_of(db).rows, entry_of(db).trained_rows) == (3 * LIMIT + 1, 2 * LIMIT)


@pytest.mark.parametrize("by", ["deletes", "adds", "damage"])
@pytest.mark.usefixtures("_higher")
def test_an_index_below_the_limit_is_dropped_where_it_would_be_built_anew(
    tmp_path: Path, db: LatentDB, by: str
) -> None:
    """It costs nothing, and leaves the store as one that is new."""
    if by == "deletes":
        db.delete(names(0, LIMIT // 5))
    elif by == "adds":
        db.add(names(5_000, 5_002 + LIMIT), vectors_of(LIMIT + 2, seed=1))
    else:
        damage(index_file(db), "flipped")
        with LatentDB.open(tmp_path / "s") as again, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again.add(["one more"], vectors_of(1, seed=1))
    with LatentDB.open(tmp_path / "s") as again, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.info().index is None
        check_exact(again)
    assert LatentDB.verify(tmp_path / "s").problems == ()


@pytest.mark.usefixtures("_higher")
def test_rows_newer_than_the_index_are_no_more_than_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query scans them on top of the index: the limit of stores without is not theirs."""
    db = filled(tmp_path / "s", 4 * LIMIT + 1)
    first = entry_of(db)
    db.add(names(10_000, 10_000 + LIMIT), vectors_of(LIMIT, seed=1))
    assert entry_of(db) == first
    db.add(["one more"], vectors_of(1, seed=2))
    assert entry_of(db).rows == 5 * LIMIT + 2


def test_building_is_reported(db: LatentDB) -> None:
    reported: list[Progress] = []
    db.optimize(report=reported.append)
    assert reported[0].stage == f"building the search index over {LIMIT + 1} rows"
    assert {item.stage for item in reported[1:]} == {
        "trying 4-bit codes",
        "training the search index",
        "building the search index",
        "tuning the search index",
    }


# --- loss -----------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "link":
        path.rename(path.with_suffix(".moved"))
        path.symlink_to(path.with_suffix(".moved"))


HOW = [
    "missing",
    "flipped",
    "truncated",
    "empty",
    "folder",
    "link",
]


@pytest.mark.parametrize("how", HOW)
def test_without_its_index_a_store_warns_once_and_answers_exactly(
    tmp_path: Path, db: LatentDB, how: str
) -> None:
    damage(index_file(db), how)
    db = LatentDB.open(tmp_path / "s")
    with pytest.warns(RuntimeWarning, match=r"every row is scanned instead, latentdb optimize"):
        db.query("r0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_exact(db)


CUT = """
import os, sys, warnings
from latentdb import LatentDB

db = LatentDB.open(sys.argv[1])
assert not db.query("r0").exact
os.truncate(sys.argv[2], 100)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert db.query("r0").exact
print([str(warning.message) for warning in caught])
"""


def test_an_index_that_is_cut_while_it_is_open_is_no_signal(tmp_path: Path, db: LatentDB) -> None:
    """Touching what was cut off a mapped file ends a process: so in one of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path / "s"), str(index_file(db))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is damaged: it has 100 bytes" in done.stdout


def test_the_warning_names_the_file(tmp_path: Path, db: LatentDB) -> None:
    path = index_file(db)
    damage(path, "flipped")
    with pytest.warns(RuntimeWarning, match=rf"{path} is damaged: its checksum is"):
        LatentDB.open(tmp_path / "s").query("r0")


@pytest.mark.parametrize("by", ["optimize", "add"])
def test_a_lost_index_is_rebuilt(tmp_path: Path, db: LatentDB, by: str) -> None:
    damage(index_file(db), "missing")
    db = LatentDB.open(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if by == "optimize":
            db.optimize()
        else:
            db.add(["one more"], vectors_of(1, seed=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not db.query("r0").exact
    assert index_file(db).exists()


def test_a_lost_index_folder_is_made_again(tmp_path: Path, db: LatentDB) -> None:
    shutil.rmtree(index_file(db).parent)
    fresh = LatentDB.open(tmp_path / "s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh.add(["one more"], vectors_of(1, seed=2))
    assert not fresh.query("r0").exact


def test_an_index_the_manifest_misstates_is_not_used(tmp_path: Path, db: LatentDB) -> None:
    """The file is whole, but it is of other rows: only its content tells."""
    store = Store.open(tmp_path / "s")
    with store.writer() as writer:
        snapshot = writer.snapshot
        manifest = snapshot.manifest
        assert manifest.index is not None
        other = IndexEntry(**{**vars(manifest.index), "rows": LIMIT})
        writer.set_index(manifest.index.file, other, manifest.settings, built_from=snapshot)
    db = LatentDB.open(tmp_path / "s")
    with pytest.warns(RuntimeWarning, match=rf"has {LIMIT + 1} rows of 8 .* says {LIMIT} of 8"):
        check_exact(db)


def test_an_index_manager_opens_an_index_once_and_a_new_one_again(
    tmp_path: Path, db: LatentDB
) -> None:
    store = Store.open(tmp_path / "s")
    indexes = IndexManager()
    first = indexes.open(store.snapshot())
    assert first is not None
    assert indexes.open(store.snapshot()) is first
    db.optimize()
    second = indexes.open(store.snapshot())
    assert second is not None
    assert second is not first


# --- failure --------------------------------------------------------------------

FULL_DISK = """
import resource, sys
import numpy as np
from latentdb.ann import plan
from latentdb.database import LatentDB
from latentdb.base.errors import StoreError

plan.EXACT_ROWS = int(sys.argv[2])
with LatentDB.open(sys.argv[1]) as db:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))
    print(db.add(["new"], np.full((1, 8), 9.0)))
    print(db.query("new", k=1)[0].id)
"""


def test_rows_that_were_added_are_not_reported_as_failed(tmp_path: Path) -> None:
    filled(tmp_path / "s", LIMIT)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "s"), str(LIMIT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows = len(LatentDB.open(tmp_path / "s"))
    assert rows == LIMIT + 1, done.stderr
    assert done.stdout.split() == ["1", "new"], done.stderr
    assert "index" in done.stderr  # as a warning


def test_an_index_that_does_not_fit_leaves_the_store_and_its_old_index(
    tmp_path: Path, db: LatentDB
) -> None:
    before = entry_of(db)
    files = sorted((tmp_path / "s" / "index").iterdir())
    script = FULL_DISK.split("    print(db.add")[0] + "    db.optimize()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s"), str(LIMIT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert ".faiss cannot be written: file too large" in done.stderr
    fresh: Any = LatentDB.open(tmp_path / "s")
    assert entry_of(fresh) == before
    assert sorted((tmp_path / "s" / "index").iterdir()) == files
    assert not fresh.query("r0").exact


def test_rows_deleted_before_the_index_was_built_do_not_build_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdb.ann import plan
    from latentdb.database import LatentDB

    monkeypatch.setattr(plan, "EXACT_ROWS", 1500)
    random = np.random.default_rng(1)
    centres = random.normal(size=(40, 6)) * 4
    points = centres[random.integers(0, 40, 3000)] + random.normal(size=(3000, 6)) * 0.2
    with LatentDB.create(tmp_path / "a", dim=6) as db:
        db.add([str(n) for n in range(3000)], points)
        first = db.info().index
        db.delete([str(n) for n in range(500)])  # past a tenth: built again, once
        second = db.info().index
        db.add(["later"], points[:1])
        third = db.info().index
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.file != second.file
    assert second.rows == 2500
    assert second.file == third.file


# --- rows that came and went after the index was built --------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_an_index_of_deleted_rows_is_extended(
    tmp_path: Path, db: LatentDB, compacted: bool
) -> None:
    """A row that was compacted away is in the index, but nowhere else."""
    db.add(names(LIMIT + 1, 3 * LIMIT), vectors_of(2 * LIMIT - 1, seed=1))
    first = entry_of(db)
    assert first.rows == 3 * LIMIT
    db.delete(names(0, LIMIT // 5))
    if compacted:
        assert db.compact().dropped == LIMIT // 5
    assert entry_of(db) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        db.add(names(5_000, 5_001 + LIMIT), vectors_of(LIMIT + 1, seed=2))
    second = entry_of(db)
    assert second.rows == 4 * LIMIT + 1  # and so it was not built anew
    assert second.trained_rows == first.trained_rows
    assert not np.isin(db.search(vectors_of(50, seed=3), k=10)[1], np.arange(LIMIT // 5)).any()
    assert LatentDB.verify(tmp_path / "s").problems == ()


def test_a_row_that_is_replaced_over_and_over_is_one_unindexed_row(db: LatentDB) -> None:
    first = entry_of(db)
    for number in range(15):
        db.add(names(0, LIMIT // 12), vectors_of(LIMIT // 12, seed=number), on_conflict="replace")
    assert entry_of(db) == first
    assert db.query("r5", k=1)[0].id == "r5"


def test_vectors_that_no_index_can_hold_are_scanned(tmp_path: Path) -> None:
    """faiss would end the process: their squares leave float32."""
    huge = vectors_of(LIMIT + 1) * np.float32(1e25)
    with LatentDB.create(tmp_path / "s", dim=DIM) as far:
        with Store.open(tmp_path / "s").writer() as writer:  # add refuses them
            writer.append(Rows(names(0, LIMIT + 1), huge))
        assert "no index reaches" in far.optimize().why
        assert far.info().index is None
        check_exact(far)


# --- the centre -----------------------------------------------------------------


def test_the_centre_is_recorded_and_stays_until_it_is_asked_for_again(tmp_path: Path) -> None:
    def between(db: LatentDB) -> float:
        matches = db.query("r1", k=len(db), metric="centered_cosine")
        return {match.id: match.distance for match in matches}["r2"]

    vectors = vectors_of(100)
    with LatentDB.create(tmp_path / "s", dim=DIM) as db:
        db.add(names(0, 100), vectors)
        with pytest.raises(InvalidInputError, match=r"run latentdb optimize --metric centered_cos"):
            between(db)
        db.optimize(metric="centered_cosine")
        centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
        one, two = centred[1] / np.linalg.norm(centred[1]), centred[2] / np.linalg.norm(centred[2])
        expected = between(db)
        assert expected == pytest.approx(1 - one @ two, rel=1e-5)
        db.add(names(100, LIMIT + 1), vectors_of(LIMIT - 99) + 5)
        assert db.info().index is not None, "built around the recorded centre"
        assert between(db) == expected
        db.optimize(recall=0.9)
        assert between(db) == expected
        db.optimize(metric="l2")
        assert between(db) == expected
    with LatentDB.open(tmp_path / "s") as db:
        assert between(db) == expected
        db.optimize(metric="centered_cosine")
        assert between(db) != pytest.approx(expected, rel=1e-3)


def test_cosine_of_two_rows_stays_as_others_are_added(tmp_path: Path) -> None:
    vectors = vectors_of(10) + 1
    with LatentDB.create(tmp_path / "s", dim=DIM) as db:
        db.add(names(0, 10), vectors)
        before = db.query("r1", k=10, metric="cosine")
        distances = {match.id: match.distance for match in before}
        db.add(names(10, 15), vectors_of(5) + 50)
        after = db.query("r1", k=15, metric="cosine")
        assert distances.items() <= {match.id: match.distance for match in after}.items()
