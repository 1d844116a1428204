"""Images in archives and arrays: indexed, found unchanged, read back, refused with a reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdb.base.errors import ImageError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.images.decode import read_bytes
from latentdb.images.sources import source_type, split_sources
from latentdb.store.originals import intact_paths
from tests.conftest import draw_shape, make_images

N = 70  # more than a chunk


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    draw_shape("disc" if number % 2 else "square", number).save(file, kind)
    return file.getvalue()


def pixels(count: int) -> Any:
    return np.stack([np.asarray(draw_shape("disc", number)) for number in range(count)])


FILES = {f"{'disc' if n % 2 else 'square'}/{n:03d}.png": image_bytes(n) for n in range(N)}


def tar_of(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "tar": lambda folder: tar_of(folder / "a.tar", FILES),
    "tar.gz": lambda folder: tar_of(folder / "a.tar.gz", FILES, "w:gz"),
    "zip": lambda folder: zip_of(folder / "a.zip", FILES),
}


@pytest.fixture
def db(tmp_path: Path, model: Path) -> LatentDB:
    return LatentDB.create(tmp_path / "s.ldb", model)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_gives_the_rows_of_its_unpacked_folder(
    db: LatentDB, tmp_path: Path, model: Path, kind: str
) -> None:
    archive = ARCHIVES[kind](tmp_path)
    done = db.index_images(archive, labels_from_folders=True)
    assert (done.added, done.bad, done.failed) == (N, (), False)
    folder = tmp_path / "unpacked"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with LatentDB.create(tmp_path / "other.ldb", model) as other:
        other.index_images(folder, labels_from_folders=True)
        names = sorted(FILES)
        assert sorted(db.ids()) == sorted(other.ids()) == names
        np.testing.assert_allclose(db.vectors(names), other.vectors(names), atol=1e-4)
        assert [row.metadata for row in db.get(names)] == [r.metadata for r in other.get(names)]
    row = db[names[5]]
    assert row.path == f"{archive}!{names[5]}"
    assert read_bytes(row.path) == FILES[names[5]]
    assert db.show(names[5], out=tmp_path / "row.png").file_exists
    # Again: nothing is encoded; after a touch neither, and the rows get the new time.
    assert db.index_images(archive).unchanged == N
    os.utime(archive, ns=(1, 1))
    done = db.index_images(archive)
    assert (done.unchanged, done.restamped, done.encoded) == (N, N, 0)
    assert db.index_images(archive).restamped == 0
    moved = archive.rename(tmp_path / f"moved-{archive.name}")
    done = db.index_images(moved)
    assert (done.unchanged, done.restamped, done.rows) == (N, N, N)
    assert db[names[5]].path == f"{moved}!{names[5]}"


def test_a_changed_member_is_encoded_again(db: LatentDB, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", FILES)
    db.index_images(archive)
    tar_of(archive, {**FILES, "disc/001.png": image_bytes(101), "new.png": image_bytes(102)})
    os.utime(archive, ns=(5, 5))
    done = db.index_images(archive)
    assert (done.added, done.updated, done.encoded, done.rows) == (1, 1, 2, N + 1)


def test_what_was_measured_of_a_member_goes_with_its_content(db: LatentDB, tmp_path: Path) -> None:
    files = {name: FILES[name] for name in ("disc/001.png", "disc/003.png")}
    archive = tar_of(tmp_path / "a.tar", files)
    db.index_images(archive)
    db.update(db.ids(), {"reconstruction_error": 2.5, "texture": 1.5, "year": 2000})
    tar_of(archive, {**files, "disc/001.png": image_bytes(101)})
    os.utime(archive, ns=(5, 5))
    assert db.index_images(archive).updated == 1
    assert db["disc/001.png"].metadata == {"year": 2000}
    assert db["disc/003.png"].metadata["reconstruction_error"] == 2.5


def test_shards_of_samples_bring_their_metadata(db: LatentDB, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(3):
            key = f"{shard}{number:04d}"
            files[f"{key}.jpg"] = image_bytes(10 * shard + number, "JPEG")
            files[f"{key}.cls"] = str(number).encode()
            files[f"{key}.txt"] = f"a picture of {number}".encode()
            record = {"width": number, "score": number / 2 if shard else 1, "deep": [1], "ok": True}
            files[f"{key}.json"] = json.dumps(record).encode()
        tar_of(shards / f"{shard}.tar", files)
    (shards / "README.md").touch()
    for sources in (shards, str(shards / "*.tar"), sorted(shards.glob("*.tar"))):
        done = db.index_images(sources)
        assert (done.rows, done.bad) == (6, ())
    assert db.info().columns == {
        "label": "str", "ok": "bool", "score": "float", "text": "str", "width": "int"
    }  # fmt: skip
    assert db["10002.jpg"].metadata == {
        "label": "2", "text": "a picture of 2", "width": 2, "score": 1.0, "ok": True
    }  # fmt: skip


def test_metadata_of_another_type_is_left_out_with_a_note(db: LatentDB, tmp_path: Path) -> None:
    files = {"a.png": image_bytes(1), "a.json": b'{"n": 1, "s": "x", "big": 1e999}',
             "b.png": image_bytes(2), "b.json": b'{"n": "two", "s": 3, "\\n": 1}',
             "c.png": image_bytes(3), "c.json": b"no json", "d.json": b"{}"}  # fmt: skip
    done = db.index_images(zip_of(tmp_path / "a.zip", files))
    assert (done.added, done.bad) == (3, ())
    assert db["b.png"].metadata == {"s": "3"}
    assert [note.split(":")[0] for note in done.notes] == [
        "1 values of 'n' in archives were left out",
        r"1 values of '\n' in archives were left out",
    ]


def test_what_is_no_image_in_an_archive_is_bad_or_left_out(db: LatentDB, tmp_path: Path) -> None:
    files = {"good.png": image_bytes(1), "bad.png": b"no picture", "empty.png": b"",
             "../out.png": image_bytes(2), "/abs.png": image_bytes(3), ".hidden.png": b"x",
             "__MACOSX/._good.png": b"x", "notes.pdf": b"%PDF"}  # fmt: skip
    for archive in (tar_of(tmp_path / "a.tar", files), zip_of(tmp_path / "b.zip", files)):
        done = db.index_images(archive, allow_bad=10)
        bad = {os.path.basename(each.path.split("!")[1]): each.reason for each in done.bad}
        assert bad == {"bad.png": "a text file", "empty.png": "empty file"}
    assert db.ids() == ["good.png"]


def test_two_images_of_one_id_are_a_conflict(db: LatentDB, tmp_path: Path) -> None:
    one = tar_of(tmp_path / "1.tar", {"a.png": image_bytes(1)})
    two = tar_of(tmp_path / "2.tar", {"a.png": image_bytes(2), "b.png": image_bytes(3)})
    done = db.index_images([one, two])
    assert (done.added, len(done.conflicts), done.failed) == (2, 1, True)
    later = db.index_images(two)
    assert (later.unchanged, len(later.conflicts)) == (1, 1)
    folder = make_images(tmp_path / "in", 1)
    (folder / "disc/000.png").rename(folder / "c.png")
    both = tar_of(tmp_path / "3.tar", {"c.png": image_bytes(50)})
    done = db.index_images([folder, both])
    assert (done.added, len(done.conflicts)) == (2, 1)
    assert len(db) == len(set(db.ids()))


def test_a_truncated_archive_keeps_what_was_read(db: LatentDB, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", FILES)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2 // 512 * 512 + 100])
    done = db.index_images(archive)
    assert 0 < done.added < N
    assert [each.reason[:30] for each in done.bad][-1] == "damaged or truncated archive ("
    damaged = {
        "x.tar": b"no tar" * 1000,
        "x.zip": b"PK\3\4",
        "x.npz": b"x",
        "x.tar.gz": b"\x1f\x8b" + bytes(50),
        "x.npy": b"\x93NUMPY",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        done = db.index_images(tmp_path / name)
        assert (done.added, len(done.bad), done.failed) == (0, 1, True), name


def test_a_zip_that_declares_less_than_it_holds_is_refused(db: LatentDB, tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a.png": b"\0" * 100_000, "b.png": image_bytes(1)})
    data = archive.read_bytes().replace(struct.pack("<I", 100_000), struct.pack("<I", 10))
    archive.write_bytes(data)
    done = db.index_images(archive)
    assert (done.added, len(done.bad)) == (1, 1)


@pytest.mark.parametrize("shape", ["grey", "colour", "alpha"])
def test_arrays_are_indexed_with_their_labels(db: LatentDB, tmp_path: Path, shape: str) -> None:
    images = pixels(12)
    if shape == "grey":
        images = images[..., 0]
    if shape == "alpha":
        images = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
    labels = np.arange(12) % 3
    np.save(tmp_path / "plain.npy", images)
    np.savez_compressed(tmp_path / "set.npz", train_images=images, train_labels=labels[:, None])
    done = db.index_images([tmp_path / "plain.npy", tmp_path / "set.npz"])
    assert (done.added, done.encoded, done.bad) == (24, 12, ())  # both hold the same
    assert db["plain/07"].path == f"{tmp_path}/plain.npy!7"
    assert db["train_images/07"].metadata == {"label": "1"}
    np.testing.assert_allclose(db["plain/07"].z_mean, db["train_images/07"].z_mean)
    (match,) = db.query(images[7], k=1)
    assert match.distance < 1e-2
    for name in ("plain/07", "train_images/07"):
        data = Image.open(io.BytesIO(read_bytes(db[name].path or "")))
        assert np.array_equal(np.asarray(data), images[7])
    assert db.index_images([tmp_path / "plain.npy", tmp_path / "set.npz"]).unchanged == 24


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_indexed_with_their_labels(db: LatentDB, tmp_path: Path, ending: str) -> None:
    images = pixels(5)[..., 0]
    write = gzip.compress if ending else bytes
    file = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    file.write_bytes(write(struct.pack(">IIII", 2051, *images.shape) + images.tobytes()))
    label = struct.pack(">II", 2049, 5) + bytes([3, 1, 4, 1, 5])
    (tmp_path / f"t10k-labels-idx1-ubyte{ending}").write_bytes(write(label))
    assert db.index_images(file).added == 5
    assert [row.metadata["label"] for row in db.rows()] == ["3", "1", "4", "1", "5"]
    path = db.rows()[2].path
    assert path == f"{file}!2"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_bytes(path)))), images[2])


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 8, 8), "f4"), "holds float32, expected uint8"),
        (np.zeros((2, 8), "u1"), r"has shape \[2, 8\]"),
        (np.zeros((2, 8, 8, 5), "u1"), r"has shape \[2, 8, 8, 5\]"),
        (np.asfortranarray(np.zeros((2, 8, 8), "u1")), "Fortran order"),
    ],
)
def test_arrays_that_could_be_misread_are_refused(
    db: LatentDB, tmp_path: Path, array: Any, told: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    done = db.index_images(tmp_path / "a.npy")
    assert len(done.bad) == 1
    assert done.added == 0
    with pytest.raises(ImageError, match=told):
        raise ImageError(done.bad[0].path, done.bad[0].reason)


def test_a_parquet_file_of_images_is_indexed(db: LatentDB, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"bytes": image_bytes(n), "path": f"{n}.png" if n else None} for n in range(4)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": records, "label": [0, 1, 1, 0], "n": [1, None, 3, 4]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    parquet.write_table(table, tmp_path / "d.parquet", row_group_size=3)
    assert db.index_images(tmp_path / "d.parquet").added == 4
    assert db.ids() == ["d/0", "1.png", "2.png", "3.png"]
    assert db["2.png"].metadata == {"label": "dog", "n": 3}
    assert read_bytes(db["3.png"].path or "") == image_bytes(3)
    parquet.write_table(pa.table({"n": [1]}), tmp_path / "no.parquet")
    assert "no column of images" in db.index_images(tmp_path / "no.parquet").bad[0].reason


def test_a_member_that_is_gone_is_told(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", {"a.png": b"x"})
    for path, told in (
        (f"{archive}!b.png", "a.tar has no such image"),
        (f"{tmp_path}/none.tar!b.png", "no such file"),
        (f"{tmp_path}/none!b.png", "no such file"),
    ):
        with pytest.raises(ImageError, match=told):
            read_bytes(path)


def test_sources_are_told_apart(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    archive = tar_of(tmp_path / "a.tar", FILES)
    assert split_sources([folder, archive]) == ([str(folder)], [str(archive)])
    tar_of(folder / "b.tar", FILES)
    assert split_sources([folder]) == ([str(folder)], [])
    with pytest.raises(InvalidInputError):
        split_sources([])


def test_pruning_a_folder_keeps_the_rows_of_an_archive_in_it(db: LatentDB, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "in", 1)
    archive = tar_of(folder / "a.tar", {"x.png": image_bytes(9)})
    db.index_images([folder, archive])
    assert db.index_images(folder, prune=True).pruned == 0
    assert "x.png" in db.ids()
    db.delete(["x.png"])
    assert (db.index_images(archive).deleted, len(db)) == (1, 2)
    assert db.index_images(archive, restore=True).added == 1


@pytest.mark.parametrize(("make", "ending"), [(zip_of, "zip"), (tar_of, "tar"), (tar_of, "tgz")])
def test_images_in_an_archive_are_originals_while_they_are_what_was_indexed(
    db: LatentDB,
    tmp_path: Path,
    make: Callable[[Path, Mapping[str, bytes]], Path],
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = make(tmp_path / f"a.{ending}", FILES)
    db.index_images(archive)
    snapshot = db._snapshot()
    rows = snapshot.live_rows()
    assert intact_paths(snapshot, rows) == snapshot.paths(rows)
    os.utime(archive, (1, 1))  # the same content, at another time
    passes: list[int] = []
    source: Any = source_type(str(archive))
    find = source.find
    monkeypatch.setattr(
        source, "find", lambda self, names: (passes.append(len(names)), find(self, names))[1]
    )
    assert intact_paths(snapshot, rows) == snapshot.paths(rows)
    assert passes == [N]
    name = db.ids()[0]
    make(archive, {**FILES, name: image_bytes(N)})
    assert intact_paths(snapshot, rows[:2]) == [None, snapshot.paths(rows[1:2])[0]]
    archive.unlink()
    assert intact_paths(snapshot, rows[:2]) == [None, None]


def test_labels_in_an_archive_are_below_its_splits(db: LatentDB, tmp_path: Path) -> None:
    files = {f"{split}/{name}": data for split in ("train", "val") for name, data in FILES.items()}
    report = db.index_images(tar_of(tmp_path / "a.tar", files), labels_from_folders=True)
    assert {row.metadata["label"] for row in db.rows()} == {"disc", "square"}
    assert "nearest folder" in " ".join(report.notes)
