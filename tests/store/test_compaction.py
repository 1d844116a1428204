"""Merging segments and dropping deleted rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.database import LatentDB
from latentdb.store import compaction
from latentdb.verify import verify


def filled(path: Path, batches: int, each: int = 10) -> LatentDB:
    db = LatentDB.create(path, dim=3)
    random = np.random.default_rng(0)
    for batch in range(batches):
        ids = [f"{batch}-{n}" for n in range(each)]
        extra = {"late": [batch] * each} if batch > batches // 2 else None
        db.add(ids, random.normal(size=(each, 3)).astype(np.float32), metadata=extra)
    return db


def content(db: LatentDB) -> dict[str, tuple[list[float], object]]:
    ids = db.ids()
    late = dict.fromkeys(db.ids(where="late >= 0"), True) if "late" in db.info().columns else {}
    return {
        name: (vector, late.get(name))
        for name, vector in zip(ids, db.vectors(ids).tolist(), strict=True)
    }


def test_everything_is_merged_and_nothing_changes(tmp_path: Path) -> None:
    db = filled(tmp_path / "a", 7)
    before = content(db)
    rows_before = db.search(np.zeros((1, 3)), k=70)[1]
    done = db.compact()
    assert (done.merged, done.written, done.dropped, done.segments) == (7, 1, 0, 1)
    assert content(db) == before
    # Row numbers are for ever.
    assert np.array_equal(db.search(np.zeros((1, 3)), k=70)[1], rows_before)
    assert db.compact().merged == 0


def test_deleted_rows_leave_the_disk(tmp_path: Path) -> None:
    db = filled(tmp_path / "a", 4, each=500)
    size = db.info().bytes
    assert db.delete(where='id.startswith("1-")') == 500
    assert db.info().deleted_rows == 500
    done = db.compact()
    assert done.dropped == 500
    told = db.info()
    assert (told.rows, told.deleted_rows) == (1500, 0)
    assert told.bytes < 0.85 * size
    assert not [name for name in db.ids() if name.startswith("1-")]
    assert verify(tmp_path / "a").problems == ()


def test_a_store_of_deleted_rows_only_becomes_empty(tmp_path: Path) -> None:
    db = filled(tmp_path / "a", 3)
    db.delete(db.ids())
    assert db.compact().segments == 0
    assert (len(db), db.query(np.zeros(3)).matches) == (0, ())
    assert db.add(["new"], np.ones((1, 3))) == 1
    # Numbers are not given again.
    assert db.search(np.ones((1, 3)), k=1)[1].tolist() == [[30]]


def test_many_small_commits_are_merged_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MOST_SEGMENTS", 8)
    db = filled(tmp_path / "a", 60, each=2)
    assert db.info().segments <= 9
    assert len(db) == 120


def test_deletes_are_compacted_past_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_LEAST_ROWS", 10)
    db = filled(tmp_path / "a", 2)
    db.delete([f"0-{n}" for n in range(5)])
    assert db.info().deleted_rows == 5
    db.delete([f"0-{n}" for n in range(5, 8)])
    assert (db.info().deleted_rows, len(db)) == (0, 12)


def test_readers_keep_their_version_while_segments_are_merged(tmp_path: Path) -> None:
    db = filled(tmp_path / "a", 5)
    with LatentDB.open(tmp_path / "a") as reader:
        snapshot = reader._snapshot()
        db.delete(["0-0"])
        db.compact()
        rows = snapshot.live_rows()
        assert len(rows) == 50
        assert snapshot.ids(rows)[0] == "0-0"
        assert len(reader) == 49


def test_the_index_stays_right_when_rows_it_holds_are_compacted_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdb.ann import plan

    monkeypatch.setattr(plan, "EXACT_ROWS", 1500)
    random = np.random.default_rng(1)
    centres = random.normal(size=(40, 6)) * 4
    points = (centres[random.integers(0, 40, 3000)] + random.normal(size=(3000, 6)) * 0.2).astype(
        np.float32
    )
    db = LatentDB.create(tmp_path / "a", dim=6)
    db.add([str(n) for n in range(3000)], points)
    assert db.info().index is not None
    db.delete([str(n) for n in range(0, 3000, 12)])
    db.compact()
    told = db.info()
    assert told.index is not None
    assert told.deleted_rows == 0
    _, rows = db.search(points[:300], k=5)
    assert (rows >= 0).all()
    assert not (rows % 12 == 0).any()
    assert verify(tmp_path / "a").problems == ()
    db.optimize()
    assert db._snapshot().manifest.deletions is None


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from(["add", "delete", "compact"]), min_size=4, max_size=14), st.randoms()
)
def test_any_order_of_changes_keeps_the_rows(steps: list[str], random: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        db = LatentDB.create(Path(folder) / "a", dim=1)
        expected: dict[str, float] = {}
        for number, step in enumerate(steps):
            if step == "add":
                db.add([f"{number}-{n}" for n in range(3)], np.full((3, 1), number))
                expected |= {f"{number}-{n}": float(number) for n in range(3)}
            elif step == "delete" and expected:
                name = random.choice(sorted(expected))  # type: ignore[attr-defined]
                db.delete([name])
                del expected[name]
            else:
                db.compact()
            ids = db.ids()
            assert dict(zip(ids, db.vectors(ids)[:, 0].tolist(), strict=True)) == expected
        assert verify(Path(folder) / "a").problems == ()
