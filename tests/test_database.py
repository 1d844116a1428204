"""The facade: what it promises beyond its parts."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import latentdb
from latentdb.ann import plan
from latentdb.base.errors import (
    AlreadyExistsError,
    ClosedError,
    IdNotFoundError,
    InvalidInputError,
    LockedError,
    ModelError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
    StoreNotFoundError,
)
from latentdb.database import LatentDB
from latentdb.model.codec import Codec
from latentdb.model.training import train_model
from latentdb.store.rows import Rows
from latentdb.store.store import Store
from tests.conftest import make_images


@pytest.fixture
def vectors(tmp_path: Path) -> LatentDB:
    """A store of ready-made vectors: 0..9 on a line."""
    db = LatentDB.create(tmp_path / "vectors.ldb", dim=3)
    line = np.zeros((10, 3), np.float32)
    line[:, 0] = np.arange(10)
    metadata = {"half": ["low"] * 5 + ["high"] * 5, "n": list(range(10))}
    db.add([f"p{n}" for n in range(10)], line, metadata=metadata)
    return db


def test_an_indexed_image_finds_itself_first(store: Path, images: Path) -> None:
    with LatentDB.open(store) as db:
        for target in ("disc/007.png", images / "disc/007.png", db.vectors(["disc/007.png"])[0]):
            matches = db.query(target, k=3)
            assert matches[0].id == "disc/007.png"
            assert matches[0].distance < 1e-3
            assert [match.rank for match in matches] == [1, 2, 3]
            distances = [match.distance for match in matches]
            assert distances == sorted(distances)
            assert matches[0].path == str(images / "disc/007.png")
        assert matches.exact
        assert matches.scanned == 80


def test_a_model_is_not_used_for_the_store_that_replaced_its_own(
    tmp_path: Path, model: Path, images: Path
) -> None:
    with LatentDB.create(tmp_path / "a.ldb", model) as db:
        shutil.rmtree(tmp_path / "a.ldb")
        LatentDB.create(tmp_path / "a.ldb", dim=4).add(["x"], np.zeros((1, 4)))
        image = images / "disc/000.png"
        for use in (
            lambda: db.codec,
            lambda: db.query(image),
            lambda: db.decode(np.zeros((1, 4), np.float32)),
            lambda: db.index_images(images),
        ):
            with pytest.raises(StoreError, match="was replaced by another store"):
                use()
    assert LatentDB.open(tmp_path / "a.ldb").ids() == ["x"]


def test_decode_reconstructs_the_image_roughly(store: Path, images: Path) -> None:
    with LatentDB.open(store) as db:
        ids = db.ids()
        decoded = db.decode(ids)
        originals = np.stack([np.asarray(Image.open(images / name)) for name in ids])
        assert decoded.dtype == np.uint8
        error = np.square(decoded.astype(float) - originals).mean()
        other_error = np.square(decoded.astype(float) - np.roll(originals, 7, axis=0)).mean()
        assert error < other_error
        assert np.array_equal(db.decode(db.vectors(ids)), decoded)
        assert np.array_equal(db.decode(ids[0])[0], decoded[0])
        assert db.decode([]).shape == (0, 16, 16, 3)


def test_a_blend_of_one_is_that_one_to_the_pixel(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        pair = ["disc/001.png", "square/002.png"]
        for method in ("linear", "slerp", "norm"):
            vector = db.blend(pair, weights=[1, 0], method=method)
            assert np.array_equal(vector, db.vectors(pair[:1])[0])
        db.write(vector, tmp_path / "blend.png")
        db.decode_to(pair[:1], tmp_path / "decode.png")
        assert (tmp_path / "blend.png").read_bytes() == (tmp_path / "decode.png").read_bytes()
        path = db.interpolate(*pair, steps=5)
        assert np.array_equal(path[[0, -1]], db.vectors(pair))


def test_average_is_the_mean_of_the_selected_rows(vectors: LatentDB) -> None:
    assert vectors.average().vector.tolist() == [4.5, 0, 0]
    mean = vectors.average(where='half == "low"')
    assert (mean.vector.tolist(), mean.rows) == ([2, 0, 0], 5)
    with pytest.raises(NotFoundError, match="no row matches"):
        vectors.average(where="n > 99")


def test_search_takes_and_gives_arrays(vectors: LatentDB) -> None:
    distances, rows = vectors.search(np.array([[0, 0, 0], [8.9, 0, 0]]), k=2)
    assert np.allclose(distances, [[0, 1], [0.1, 0.9]])
    assert [vectors.ids(line) for line in rows] == [["p0", "p1"], ["p9", "p8"]]
    distances, rows = vectors.search(np.zeros((1, 3)), k=3, where="n >= 8")
    assert rows.tolist() == [[8, 9, -1]]
    assert distances.tolist() == [[8, 9, np.inf]]
    assert vectors.search(np.zeros((2, 3)), k=12)[1][:, 10:].tolist() == [[-1, -1]] * 2


def test_conflicts(vectors: LatentDB) -> None:
    new = np.ones((2, 3), np.float32)
    with pytest.raises(InvalidInputError, match=r"'p0' \(1 in all\) is in the store"):
        vectors.add(["p0", "q"], new)
    assert "q" not in vectors
    assert vectors.add(["p0", "q"], new, on_conflict="skip") == 1
    assert vectors.vectors(["p0"]).tolist() == [[0, 0, 0]]
    assert vectors.add(["p0", "r"], new, on_conflict="replace") == 2
    assert vectors.vectors(["p0"]).tolist() == [[1, 1, 1]]
    assert len(vectors) == 12
    with pytest.raises(InvalidInputError, match="on_conflict 'never' is unknown"):
        vectors.add(["z"], new[:1], on_conflict="never")


@pytest.mark.parametrize(
    ("ids", "z_mean", "message"),
    [
        (["a"], [[1, 2]], r"shape \[1, 2\]: expected \[n, 3\]"),
        (["a"], [[1, 2, np.nan]], "not finite in row 0"),
        (["a"], [[1, 2, 1e39]], "not finite in row 0"),
        (
            ["a", "b"],
            [[1, 2, 3], [1, -1e19, 2]],
            r"z_mean of row 1 has a value of 1\.0e\+19, too large "
            r"for float32 distances: in 3 dimensions values must be below 2\.9e\+18",
        ),
        (["a"], [["x", "y", "z"]], "are not numbers"),
        (["a", "b"], [[1, 2, 3]], "1 rows for 2 ids"),
        (["a", "a"], [[1, 2, 3]] * 2, "'a' is given twice"),
        ([""], [[1, 2, 3]], "text that is not empty"),
        ([3], [[1, 2, 3]], "id 3 cannot be used"),
        (["\ud800"], [[1, 2, 3]], "not valid Unicode"),
        ("abc", [[1, 2, 3]] * 3, "the single text 'abc'"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    vectors: LatentDB, ids: list[str], z_mean: list[list[float]], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vectors.add(ids, np.array(z_mean))
    assert len(vectors) == 10


def test_z_log_var_is_for_all_rows_or_none(vectors: LatentDB, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="have no z_log_var: leave it out"):
        vectors.add(["a"], np.ones((1, 3)), z_log_var=np.ones((1, 3)))
    assert vectors.log_vars(["p0"]) is None
    with LatentDB.create(tmp_path / "with.ldb", dim=2) as db:
        db.add(["a"], np.ones((1, 2)), z_log_var=np.full((1, 2), -1))
        stored = db.log_vars(["a"])
        assert stored is not None
        assert stored.tolist() == [[-1, -1]]
        with pytest.raises(InvalidInputError, match="pass it too"):
            db.add(["b"], np.ones((1, 2)))


def test_another_model_is_refused_naming_both_fingerprints(
    store: Path, images: Path, tmp_path: Path
) -> None:
    other = train_model([images], tmp_path / "m", epochs=1, latent_dim=4, seed=99)
    with LatentDB.open(store) as db:
        stored = db.codec.config
        fingerprints = f"{other.config.encoder_fingerprint}.*{stored.encoder_fingerprint}"
        with pytest.raises(ModelMismatchError, match=fingerprints):
            db.index_images(images, model=tmp_path / "m")
        with pytest.raises(ModelMismatchError, match=fingerprints):
            db.decode("disc/000.png", model=tmp_path / "m")
        other_codec = Codec.from_folder(tmp_path / "m")
        mixed = {**db.codec.files, "decoder.keras": other_codec.files["decoder.keras"]}
        config = latentdb.ModelConfig(
            **{**vars(stored), "decoder_fingerprint": other_codec.config.decoder_fingerprint}
        )
        codec = Codec(config, mixed["encoder.keras"], mixed["decoder.keras"])
        decoders = f"{other_codec.config.decoder_fingerprint}.*{stored.decoder_fingerprint}"
        with pytest.raises(ModelMismatchError, match=decoders):
            db.decode("disc/000.png", model=codec)


def test_a_store_without_a_model_says_what_it_cannot_do(
    vectors: LatentDB, images: Path, model: Path
) -> None:
    with pytest.raises(ModelError, match="this store has no model"):
        vectors.decode("p1")
    with pytest.raises(ModelError, match="this store has no model"):
        vectors.query(images / "disc/000.png")
    with pytest.raises(ModelMismatchError, match="has no model, received one with encoder"):
        vectors.index_images(images, model=model)


def test_create_and_open_say_what_is_wrong(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InvalidInputError, match="received none"):
        LatentDB.create(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="received more than one"):
        LatentDB.create(tmp_path / "a", model=model, dim=3)
    for dim in (-1, 70_000, 2.5):
        with pytest.raises(InvalidInputError, match=r"dim .* cannot be used"):
            LatentDB.create(tmp_path / "a", dim=dim)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"recall 1\.5 cannot be used"):
        LatentDB.create(tmp_path / "a", dim=3, recall=1.5)
    with pytest.raises(StoreNotFoundError, match="a does not exist: make one with latentdb index"):
        LatentDB.open(tmp_path / "a")
    LatentDB.create(tmp_path / "a", dim=3).close()
    with pytest.raises(AlreadyExistsError, match="is a store already"):
        LatentDB.create(tmp_path / "a", dim=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(AlreadyExistsError, match="is not a store: give another path"):
        LatentDB.create(tmp_path / "full", dim=3)


def test_a_store_is_whole_by_itself(store: Path, tmp_path: Path) -> None:
    """It decodes after being moved, without the model folder it was made from."""
    moved = store.rename(tmp_path / "moved.ldb")
    with LatentDB.open(moved) as db:
        assert db.decode("disc/000.png").shape == (1, 16, 16, 3)


def test_readers_see_what_writers_commit(tmp_path: Path) -> None:
    with (
        LatentDB.create(tmp_path / "a", dim=2) as writer,
        LatentDB.open(tmp_path / "a", lock_timeout=0) as reader,
    ):
        assert reader.query(np.zeros(2)).matches == ()
        writer.add(["x"], np.zeros((1, 2)))
        assert [match.id for match in reader.query(np.zeros(2))] == ["x"]
        with writer._open_store().writer(), pytest.raises(LockedError, match=f"{os.getpid()}"):
            reader.add(["y"], np.zeros((1, 2)))


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    LatentDB.create(tmp_path / "a", dim=2).add(["x"], np.zeros((1, 2)))
    holds, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with LatentDB.open(tmp_path / "a")._open_store().writer():
            holds.set()
            may_end.wait(60)

    other = threading.Thread(target=write)
    other.start()
    assert holds.wait(60)
    with (
        LatentDB.open(tmp_path / "a", lock_timeout=0.1) as db,
        pytest.raises(LockedError, match="is being written by process"),
    ):
        db.delete(["x"])
    threading.Timer(0.2, may_end.set).start()
    with LatentDB.open(tmp_path / "a", lock_timeout=60) as db:
        assert db.delete(["x"]) == 1
    other.join()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "5"])
def test_a_lock_timeout_that_is_no_time_is_refused(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"lock_timeout .* cannot be used"):
        LatentDB.create(tmp_path / "a", dim=2, lock_timeout=timeout)
    assert not LatentDB.exists(tmp_path / "a")


def test_an_index_is_left_to_optimize_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_200)
    vectors = np.random.default_rng(0).random((1_300, 4))
    with LatentDB.create(tmp_path / "a", dim=4, auto_index=False) as db:
        db.add([f"r{n}" for n in range(1_300)], vectors)
        assert db.info().index is None
        assert db.optimize().index is not None


def test_a_closed_or_forked_database_is_refused(vectors: LatentDB) -> None:
    child = os.fork()
    if not child:
        # In the child: only its exit code tells.
        try:
            vectors.query("p0")
        except ClosedError as error:
            os._exit(7 if "before a fork" in str(error) else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    vectors.close()
    with pytest.raises(ClosedError, match="is closed"):
        len(vectors)


def test_k_and_rows_are_checked(vectors: LatentDB) -> None:
    for k in (0, -1, 1.5, True, 10**9):
        with pytest.raises(InvalidInputError, match=r"k .* cannot be used"):
            vectors.query("p0", k=k)  # type: ignore[arg-type]
    assert len(vectors.query("p0", k=50)) == 10
    with pytest.raises(IdNotFoundError, match=r"row -1 .* no match, keep rows\[rows >= 0\]"):
        vectors.ids(np.array([0, -1]))
    with pytest.raises(IdNotFoundError, match="row 99 is not in the store"):
        vectors.ids(np.array([99]))


def test_ten_matches_are_the_default_whatever_is_excluded(vectors: LatentDB) -> None:
    rows = np.zeros((20, 3), np.float32)
    vectors.add([f"q{n}" for n in range(20)], rows, metadata={"n": list(range(100, 120))})
    found = vectors.query_many(["p0", np.zeros(3)], exclude_self=True)
    assert [len(matches) for matches in found] == [10, 10]
    assert len(vectors.query("p0", where="n >= 100", exclude_self=True)) == 10
    assert len(vectors.query("p0", radius=100, exclude_self=True)) == 29


def test_info_counts(vectors: LatentDB) -> None:
    vectors.add(["p0"], np.ones((1, 3)), on_conflict="replace",
                metadata={"half": ["x"], "n": [0]})  # fmt: skip
    info = vectors.info()
    assert (info.rows, info.deleted_rows, info.segments, info.dim) == (10, 1, 2, 3)
    assert info.model is None
    assert info.search == "exact scan"
    on_disk = sum(p.stat().st_size for p in Path(info.path).glob("segments/*"))
    assert info.bytes == on_disk


@given(st.data())
def test_any_ids_and_metadata_come_back_as_they_were(data: st.DataObject) -> None:
    import tempfile

    name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    ids = data.draw(st.lists(name, min_size=1, max_size=6, unique=True))
    text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    labels = [data.draw(text) for _ in ids]
    counts = [data.draw(st.none() | st.integers(-(2**63), 2**63 - 1)) for _ in ids]
    with tempfile.TemporaryDirectory() as folder:
        db = LatentDB.create(Path(folder) / "db", dim=1)
        line = np.arange(len(ids), dtype=np.float32)[:, None]
        db.add(ids, line, metadata={"label": labels, "count": counts})
        with LatentDB.open(Path(folder) / "db") as again:
            assert again.ids() == ids
            assert again.vectors(ids).tolist() == line.tolist()
            for match in again.query(np.zeros(1), k=len(ids)):
                row = ids.index(match.id)
                metadata = {"label": labels[row], "count": counts[row]}
                assert dict(match.metadata) == {
                    key: value for key, value in metadata.items() if value is not None
                }


def test_the_index_serves_large_stores_and_new_rows_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(100, 8))
    points = centres[random.integers(0, 100, 51_000)] + 0.3 * random.normal(size=(51_000, 8))
    points = points.astype(np.float32)
    with LatentDB.create(tmp_path / "big.ldb", dim=8, recall=0.95) as db:
        db.add([str(n) for n in range(51_000)], points)
        info = db.info()
        assert info.search == "ivf-sq4"
        assert info.index is not None
        assert info.index.recall_measured >= 0.95
        assert info.covered_rows == 51_000
        assert not db.query("7").exact
        db.add(["new"], points[7:8] + 1e-3)
        assert [match.id for match in db.query("7", k=2)] == ["7", "new"]
        db.optimize(recall=0.9)
        assert db.info().recall_target == 0.9
        assert db.info().covered_rows == 51_001


def test_images_given_to_a_pathlib_path_or_text(tmp_path: Path, model: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    with LatentDB.create(tmp_path / "a.ldb", model=str(model)) as db:
        assert db.index_images(str(folder)).added == 2
        assert db.query(f"file:{folder}/disc/000.png", k=1)[0].id == "disc/000.png"
        np.save(tmp_path / "v.npy", db.vectors(["disc/000.png"])[0])
        assert db.query(f"npy:{tmp_path}/v.npy", k=1)[0].id == "disc/000.png"
        assert db.query(tmp_path / "v.npy", k=1)[0].id == "disc/000.png"


def test_a_store_that_holds_immeasurable_vectors_is_read(tmp_path: Path) -> None:
    """They were not refused before."""
    vectors = np.array([[3e38, 0, 0], [-3e38, 0, 0], [1, 2, 3]], np.float32)
    LatentDB.create(tmp_path / "s.ldb", dim=3).close()
    with Store.open(tmp_path / "s.ldb").writer() as writer:
        writer.append(Rows(["a", "b", "c"], vectors), np.empty(0, np.int64))
    with LatentDB.open(tmp_path / "s.ldb") as db:
        assert db.vectors(["a", "b", "c"]).tolist() == vectors.tolist()
        assert [match.id for match in db.query("c", k=1)] == ["c"]
        db.add(["d"], np.full((1, 3), 2.8e18))
        assert len(db) == 4
    assert LatentDB.verify(tmp_path / "s.ldb").problems == ()


def test_a_backup_is_a_store_of_its_own(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*words: Any, **named: Any) -> None:
        raise OSError(18, "cross-device link")

    with LatentDB.open(store) as db:
        db.delete(["disc/001.png"])
        with db._open_store().writer():
            db.backup(tmp_path / "linked.ldb")
        with pytest.raises(AlreadyExistsError):
            db.backup(tmp_path / "linked.ldb")
        monkeypatch.setattr(os, "link", no_links)
        db.backup(tmp_path / "copied.ldb")
        rows = db.ids()
        db.delete(where="id is not None")
        db.compact()
    shutil.rmtree(store)
    for name in ("linked.ldb", "copied.ldb"):
        assert LatentDB.verify(tmp_path / name).problems == ()
        with LatentDB.open(tmp_path / name) as copy:
            assert copy.ids() == rows
            assert copy.decode("disc/000.png").shape == (1, 16, 16, 3)
            assert copy.delete(["disc/000.png"]) == 1
