"""Segments: what is written is read, what is damaged or foreign is refused by name."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.base import files
from latentdb.base.errors import CorruptStoreError, InvalidInputError, LatentDBError
from latentdb.base.files import checksum
from latentdb.store import blocks as parts
from latentdb.store import segment as segments
from latentdb.store.blocks import MappedArray, SegmentBytes
from latentdb.store.columns import Column, Value, make_columns
from latentdb.store.manifest import FileEntry, LayoutEntry, SegmentEntry
from latentdb.store.rows import FileStats, Rows
from latentdb.store.segment import Segment, dump, hash_ids
from latentdb.store.texts import Texts

N, DIM = 6, 3
KINDS = {"s": "str", "i": "int", "f": "float", "b": "bool"}
VALUES: dict[str, list[Value]] = {
    "s": ["a", None, "", "ü", "a", "b"],
    "i": [1, 2, None, -(2**63), 2**63 - 1, 0],
    "f": [0.5, None, 1e300, -0.0, 2.0, 3.0],
    "b": [True, False, None, True, True, False],
}
NAME = "segments/a.h5"


def sample() -> Rows:
    random = np.random.default_rng(5)
    return Rows(
        ids=[f"ä/{number}.png" for number in range(N)],
        z_mean=random.normal(size=(N, DIM)).astype(np.float32),
        z_log_var=random.normal(size=(N, DIM)).astype(np.float32),
        paths=[f"/data/{number}" for number in range(N)],
        file_stats=FileStats(
            np.arange(N), np.arange(N) + 10, np.arange(N, dtype=np.uint64) + 2**63
        ),
        columns=make_columns(VALUES, N),
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"z_log_var": np.empty((0, DIM), "f4")},
            r"z_log_var: received float32 \[0, 3\], expected",
        ),
        ({"z_mean": np.zeros((N + 1, DIM), "f4")}, r"z_mean: received float32 \[7, 3\], expected"),
        ({"z_mean": np.zeros((N, DIM))}, "z_mean: received float64"),
        ({"z_mean": np.zeros(N, "f4")}, r"z_mean has shape \(6,\)"),
        ({"paths": ["/data/0"]}, "paths are 1 for 6 ids"),
        ({"file_stats": FileStats.blank(N - 1)}, "file sizes: received"),
        ({"hashes": np.zeros(N, "i8")}, "hashes of ids: received int64"),
        ({"columns": make_columns({"i": [1]}, 1)}, r"metadata 'i': received int64 \[1\]"),
        ({"columns": {"i": Column("int", np.zeros(N, "i4"))}}, "metadata 'i': received int32"),
        (
            {"columns": {"i": Column("int", np.zeros(N, "i8"), np.ones(2, bool))}},
            "missing values of 'i'",
        ),
    ],
)
def test_rows_whose_arrays_differ_are_never_made(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        replace(sample(), **change)


NUMBERS = np.array([10, 11, 12, 14, 15, 19], np.int64)


def put(
    folder: Path, made: SegmentBytes | bytes, rows: int = N, first: int = 10, last: int = 19
) -> SegmentEntry:
    """Write a segment file, and describe it with a checksum that holds.

    Bytes alone are a segment of format version 1, without a layout.
    """
    data, layout = (made, None) if isinstance(made, bytes) else (made.data, made.layout)
    (folder / "segments").mkdir(exist_ok=True)
    (folder / NAME).write_bytes(data)
    return SegmentEntry(FileEntry(NAME, len(data), checksum(data)), rows, first, last, layout)


def opened(folder: Path, data: SegmentBytes | bytes) -> Segment:
    return Segment(folder, put(folder, data), DIM, KINDS)


def read_all(segment: Segment) -> list[Any]:
    """Everything that can be asked of a segment."""
    stats = segment.file_stats
    answers: list[Any] = [
        segment.rows.tolist(),
        segment.z_mean.tolist(),
        None if segment.z_log_var is None else segment.z_log_var.tolist(),
        list(segment.ids),
        None if segment.paths is None else list(segment.paths),
        None if stats is None else [stats.sizes, stats.mtimes_ns, stats.digests],
    ]
    for key in segment.columns:
        column = segment.column(key)
        answers.append([column.item(place) for place in range(len(segment))])
    ids = ["ä/0.png", "ä/5.png", "none"]
    answers.append(segment.find(ids, hash_ids(ids)).tolist())
    return answers


# --- round trip -----------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = sample()
    segment = opened(tmp_path, dump(rows, NUMBERS))
    assert len(segment) == N
    np.testing.assert_array_equal(segment.rows, NUMBERS)
    np.testing.assert_array_equal(segment.z_mean, rows.z_mean)
    np.testing.assert_array_equal(segment.z_log_var, rows.z_log_var)
    assert list(segment.ids) == rows.ids
    assert segment.paths is not None
    assert list(segment.paths) == rows.paths
    assert segment.file_stats is not None
    assert rows.file_stats is not None
    np.testing.assert_array_equal(segment.file_stats.sizes, rows.file_stats.sizes)
    np.testing.assert_array_equal(segment.file_stats.mtimes_ns, rows.file_stats.mtimes_ns)
    np.testing.assert_array_equal(segment.file_stats.digests, rows.file_stats.digests)
    for key, values in VALUES.items():
        column = segment.column(key)
        assert column.type == KINDS[key]
        assert [column.item(place) for place in range(N)] == values


def test_what_was_not_given_is_not_there(tmp_path: Path) -> None:
    rows = Rows([f"{number}" for number in range(N)], np.zeros((N, DIM), np.float32))
    segment = opened(tmp_path, dump(rows, NUMBERS))
    assert (segment.z_log_var, segment.paths, segment.file_stats) == (None, None, None)
    for key, kind in KINDS.items():
        assert segment.column(key).type == kind
        assert [segment.column(key).item(place) for place in range(N)] == [None] * N


def test_vectors_are_mapped_read_only_and_aligned(tmp_path: Path) -> None:
    made = dump(sample(), NUMBERS)
    segment = opened(tmp_path, made)
    assert not segment.z_mean.flags.owndata
    assert not segment.z_mean.flags.writeable
    with h5py.File(io.BytesIO(made.data), "r") as file:
        assert file["z_mean"].id.get_offset() % 64 == 0
        assert file["z_mean"].chunks is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
value_lists = st.one_of(
    st.lists(st.none() | texts, min_size=1, max_size=9),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
    st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=9),
    st.lists(st.none() | st.booleans(), min_size=1, max_size=9),
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(value_lists, st.data())
def test_any_ids_and_metadata_survive(
    tmp_path_factory: pytest.TempPathFactory, values: list[Value], data: st.DataObject
) -> None:
    count = len(values)
    ids = data.draw(
        st.lists(texts.filter(bool), unique=True, min_size=count, max_size=count), "ids"
    )
    columns = make_columns({"größe": values}, count)
    rows = Rows(ids, np.zeros((count, 1), np.float32), columns=columns)
    folder = tmp_path_factory.getbasetemp()
    entry = put(folder, dump(rows, np.arange(count)), count, 0, count - 1)
    kinds = {key: column.type for key, column in columns.items()} or {"größe": "int"}
    segment = Segment(folder, entry, 1, kinds)
    assert list(segment.ids) == ids
    column = segment.column("größe")
    assert [column.item(place) for place in range(count)] == values


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(texts.filter(bool), unique=True, min_size=1, max_size=30),
    st.lists(texts, max_size=30),
    st.booleans(),
)
def test_look_up_by_id_is_that_of_a_dict(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], others: list[str], collide: bool
) -> None:
    truth = {name: place for place, name in enumerate(ids)}
    asked = [*others, *ids, *ids[:2]]
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        if collide:  # no two real ids with one xxh3 are known: force them
            patch.setattr(segments, "hash_ids", lambda names: np.full(len(names), 7, np.uint64))
        data = dump(Rows(ids, np.zeros((len(ids), 1), np.float32)), np.arange(len(ids)))
        hashes = segments.hash_ids(asked)
    segment = Segment(folder, put(folder, data, len(ids), 0, len(ids) - 1), 1, {})
    assert segment.find(asked, hashes).tolist() == [truth.get(name, -1) for name in asked]


def test_look_up_finds_each_of_many(tmp_path: Path) -> None:
    ids = [f"id{number}" for number in range(3000)]
    data = dump(Rows(ids, np.zeros((3000, 1), np.float32)), np.arange(3000))
    segment = Segment(tmp_path, put(tmp_path, data, 3000, 0, 2999), 1, {})
    order = np.random.default_rng(0).permutation(3000)
    asked = [ids[place] for place in order]
    assert segment.find(asked, hash_ids(asked)).tolist() == order.tolist()


def test_looking_for_text_that_is_no_unicode_finds_nothing(tmp_path: Path) -> None:
    segment = opened(tmp_path, dump(sample(), NUMBERS))
    asked = ["\udcff.png", "ä/3.png"]
    assert segment.find(asked, hash_ids(asked)).tolist() == [-1, 3]


def test_a_mapped_file_that_is_cut_while_it_is_open_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BELOW", 0)
    segment = opened(tmp_path, dump(sample(), NUMBERS))
    assert segment.is_intact()
    os.truncate(segment.name, 100)  # to read a row now would be SIGBUS
    assert not segment.is_intact()
    with pytest.raises(CorruptStoreError, match=r"was truncated while it was open: restore it$"):
        segment.positions(NUMBERS)


def test_positions_of_row_numbers(tmp_path: Path) -> None:
    segment = opened(tmp_path, dump(sample(), NUMBERS))
    assert segment.positions(np.array([19, 10, 14, 10])).tolist() == [5, 0, 3, 0]
    for absent in (9, 13, 20):
        with pytest.raises(CorruptStoreError, match="a row number is not where"):
            segment.positions(np.array([10, absent]))


def test_slices_and_picks_keep_every_part_together(tmp_path: Path) -> None:
    rows = sample()
    picked = rows.take(np.array([4, 1]))
    data = dump(picked, np.array([10, 19]))
    segment = Segment(tmp_path, put(tmp_path, data, 2), DIM, KINDS)
    assert list(segment.ids) == ["ä/4.png", "ä/1.png"]
    np.testing.assert_array_equal(segment.z_mean, rows.z_mean[[4, 1]])
    assert [segment.column("s").item(place) for place in range(2)] == ["a", None]
    assert segment.file_stats is not None
    assert segment.file_stats.digests.tolist() == [2**63 + 4, 2**63 + 1]
    part = rows.take(slice(2, 4))
    assert (part.ids, part.paths) == (["ä/2.png", "ä/3.png"], ["/data/2", "/data/3"])
    assert part.columns["i"].item(0) is None
    assert len(part) == 2


def stored(rows: Rows) -> dict[str, bytes]:
    """Every array of the segment that rows are written into; its groups have times."""
    found: dict[str, bytes] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(io.BytesIO(dump(rows, np.arange(len(rows))).data)) as file:
        file.visititems(add)
    return found


def test_blocks_that_are_concatenated_are_the_rows_they_were_taken_from(tmp_path: Path) -> None:
    rows = replace(sample(), hashes=hash_ids(sample().ids))
    blocks = [rows.take(slice(0, 2)), rows.take(np.arange(2, 3)), rows.take(slice(3, 6))]
    merged = Rows.concat(blocks)
    assert merged.hashes is not None
    assert stored(merged) == stored(rows)
    assert Rows.concat(blocks[:1]) is blocks[0]
    assert Rows.concat([replace(blocks[0], hashes=None), *blocks[1:]]).hashes is None
    # What a segment gives back is what was written.
    back = opened(tmp_path, dump(rows, NUMBERS)).read(np.arange(6))
    assert stored(back) == stored(rows)


def test_rows_without_images_are_concatenated_with_rows_that_have_them() -> None:
    rows = sample()
    bare = replace(rows, paths=None, file_stats=None, z_log_var=None)
    merged = Rows.concat([rows.take(slice(0, 1)), bare.take(slice(1, 3))])
    assert (merged.paths, merged.z_log_var) == (["/data/0", "", ""], None)
    assert merged.file_stats is not None
    assert merged.file_stats.digests.tolist()[1:] == [0, 0]
    without = Rows.concat([bare.take(slice(0, 1)), bare.take(slice(1, 3))])
    assert (without.paths, without.file_stats) == (None, None)


# --- columns --------------------------------------------------------------------


def test_whole_numbers_are_read_as_numbers_once_the_store_says_so(tmp_path: Path) -> None:
    entry = put(tmp_path, dump(sample(), NUMBERS))
    segment = Segment(tmp_path, entry, DIM, {**KINDS, "i": "float"})
    column = segment.column("i")
    assert column.type == "float"
    assert [column.item(place) for place in range(3)] == [1.0, 2.0, None]


def test_a_later_version_may_have_more_columns(tmp_path: Path) -> None:
    segment = opened(tmp_path, dump(sample(), NUMBERS))
    later = segment.with_columns({**KINDS, "new": "bool"})
    assert later.column("new").item(0) is None
    with pytest.raises(InvalidInputError, match="'new' is not in this store"):
        segment.column("new")


def test_a_column_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    entry = put(tmp_path, dump(sample(), NUMBERS))
    with pytest.raises(CorruptStoreError, match=r"refused, 'metadata/s/.*' is not part"):
        Segment(tmp_path, entry, DIM, {"i": "int", "f": "float", "b": "bool"}).check_layout()


def test_a_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    entry = put(tmp_path, dump(sample(), NUMBERS))
    with pytest.raises(CorruptStoreError, match="refused, 'metadata/f/float' is not part"):
        Segment(tmp_path, entry, DIM, {**KINDS, "f": "bool"}).check_layout()


# --- damage ---------------------------------------------------------------------


def check_refused(folder: Path, entry: SegmentEntry) -> None:
    with pytest.raises(CorruptStoreError, match=rf"^{re.escape(str(folder / NAME))} is damaged"):
        Segment(folder, entry, DIM, KINDS).check_layout()


def test_every_sampled_flip_is_noticed(tmp_path: Path) -> None:
    good = dump(sample(), NUMBERS)
    old = put(tmp_path, good.data)  # of format version 1
    answers = repr(read_all(Segment(tmp_path, old, DIM, KINDS)))
    entry = put(tmp_path, good)
    refused = 0
    for place in range(0, len(good.data), 13):
        damaged = bytearray(good.data)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / NAME).write_bytes(damaged)
        check_refused(tmp_path, old)
        with pytest.raises(CorruptStoreError, match="is damaged"):
            Segment(tmp_path, entry, DIM, KINDS).check()
        try:
            assert repr(read_all(Segment(tmp_path, entry, DIM, KINDS))) == answers
        except CorruptStoreError as error:
            assert "is damaged: " in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20


def test_only_what_is_used_is_checked(tmp_path: Path) -> None:
    count, dim = 20_000, 64
    z_mean = np.repeat(np.arange(count, dtype=np.float32), dim).reshape(count, dim)
    made = dump(Rows([f"{n}" for n in range(count)], z_mean), np.arange(count))
    entry = put(tmp_path, made, count, 0, count - 1)
    with h5py.File(tmp_path / NAME) as file:
        start = file["z_mean"].id.get_offset()
    data = bytearray(made.data)
    data[start + 4 * dim * 10_000] ^= 1
    (tmp_path / NAME).write_bytes(data)
    segment = Segment(tmp_path, entry, dim, {})
    assert segment.z_means(np.array([5, 19_999]))[:, 0].tolist() == [5, 19_999]
    with pytest.raises(CorruptStoreError, match=r"z_mean is damaged: .* from byte 2555904 of it"):
        segment.z_means(np.array([5, 10_001]))
    with pytest.raises(CorruptStoreError, match="z_mean is damaged"):
        _ = segment.z_mean
    assert segment.ids[10_000] == "10000"


def test_an_id_is_looked_up_in_the_one_block_where_its_hash_must_be(tmp_path: Path) -> None:
    count = 200_000  # hashes in 25 blocks
    ids = [f"{n}" for n in range(count)]
    made = dump(Rows(ids, np.zeros((count, 1), np.float32)), np.arange(count))
    entry = put(tmp_path, made, count, 0, count - 1)
    with h5py.File(tmp_path / NAME) as file:
        start = file["id/hashes"].id.get_offset()
    data = bytearray(made.data)
    data[start + 1] ^= 1  # in the first block
    (tmp_path / NAME).write_bytes(data)
    hashes = hash_ids(ids)
    late = np.flatnonzero(hashes > 2**63)[:3].tolist()
    segment = Segment(tmp_path, entry, 1, {})
    assert [segment.find_one(ids[n], hashes[n]) for n in late[:1]] == late[:1]
    segment = Segment(tmp_path, entry, 1, {})
    assert segment.find([ids[late[1]]], hashes[late[1:2]]).tolist() == late[1:2]
    with pytest.raises(CorruptStoreError, match="id/hashes is damaged"):
        segment.find_one(ids[int(hashes.argmin())], hashes.min())


@pytest.mark.parametrize("dim", [1, 3, 16_384, 20_000])
def test_vectors_by_position_are_those_of_the_whole(tmp_path: Path, dim: int) -> None:
    random = np.random.default_rng(dim)
    count = 300_000 // dim + 2
    z_mean = random.normal(size=(count, dim)).astype(np.float32)
    made = dump(Rows([f"{n}" for n in range(count)], z_mean), np.arange(count))
    segment = Segment(tmp_path, put(tmp_path, made, count, 0, count - 1), dim, {})
    for size in (0, 1, 3, 40):
        positions = random.integers(0, count, size)
        np.testing.assert_array_equal(segment.z_means(positions), z_mean[positions])
    np.testing.assert_array_equal(segment.z_mean, z_mean)


def test_every_truncation_and_extension_is_noticed(tmp_path: Path) -> None:
    made = dump(sample(), NUMBERS)
    good = made.data
    entry = put(tmp_path, made)
    for length in [*range(0, len(good), 101), len(good) - 1]:
        (tmp_path / NAME).write_bytes(good[:length])
        check_refused(tmp_path, entry)
    for extra in (b"\0", b"x" * 100, good):
        (tmp_path / NAME).write_bytes(good + extra)
        check_refused(tmp_path, entry)


def relaid(folder: Path, change: Callable[[dict[str, Any]], None]) -> SegmentEntry:
    """A segment whose layout a stranger has changed, with the checksum made to fit."""
    made = dump(sample(), NUMBERS)
    place, size = made.layout.offset, made.layout.bytes
    document = json.loads(made.data[place : place + size])
    change(document)
    text = json.dumps(document).encode()
    layout = LayoutEntry(len(made.data), len(text), checksum(text))
    return put(folder, SegmentBytes(made.data + text, layout))


def set_part(name: str, number: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["parts"][name][number] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_part("z_mean", 0, 10**12),
        set_part("z_mean", 0, -8),
        set_part("z_mean", 0, "0"),
        set_part("z_mean", 1, "|O"),
        set_part("z_mean", 1, "<f8"),
        set_part("z_mean", 1, "no type"),
        set_part("z_mean", 1, "(2"),
        set_part("z_mean", 1, "9" * 5000),
        set_part("z_mean", 2, [N, 2**62]),
        set_part("z_mean", 2, [N, -1]),
        set_part("z_mean", 2, None),
        set_part("z_mean", 3, 10**6),
        set_part("z_mean", 3, -1),
        lambda document: document["parts"].pop("z_mean"),
        lambda document: document["parts"].update(other=document["parts"]["z_mean"]),
        lambda document: document.pop("blocks"),
        lambda document: document.update(blocks=[0, 10**9, "0" * 32]),
        lambda document: document.update(blocks=[0, 1, "0" * 32]),
        lambda document: document.update(parts=[]),
    ],
)
def test_a_layout_that_cannot_be_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    entry = relaid(tmp_path, change)
    with pytest.raises(CorruptStoreError, match=re.escape(str(tmp_path / NAME))):
        read_all(Segment(tmp_path, entry, DIM, KINDS))


def test_a_layout_that_hdf5_does_not_share_is_found_by_check(tmp_path: Path) -> None:
    def swap(document: dict[str, Any]) -> None:
        parts = document["parts"]
        parts["z_mean"], parts["z_log_var"] = parts["z_log_var"], parts["z_mean"]

    entry = relaid(tmp_path, swap)
    with pytest.raises(CorruptStoreError, match="its layout differs from its HDF5"):
        Segment(tmp_path, entry, DIM, KINDS).check().check_layout()


@pytest.mark.parametrize(
    ("first", "last"), [(9, 19), (10, 18), (0, 30)], ids=["first", "last", "both"]
)
def test_row_numbers_are_those_of_the_manifest(tmp_path: Path, first: int, last: int) -> None:
    entry = put(tmp_path, dump(sample(), NUMBERS), N, first, last)
    with pytest.raises(CorruptStoreError, match=r"a\.h5: its row numbers differ from the manifest"):
        Segment(tmp_path, entry, DIM, KINDS).check_layout()


@pytest.mark.parametrize(("rows", "dim"), [(N - 1, DIM), (N + 1, DIM), (N, DIM + 1)])
def test_shapes_are_those_of_the_manifest(tmp_path: Path, rows: int, dim: int) -> None:
    entry = put(tmp_path, dump(sample(), NUMBERS), rows)
    with pytest.raises(CorruptStoreError, match=r"a\.h5: refused, '.*' is .*, expected"):
        Segment(tmp_path, entry, dim, KINDS).check_layout()


def lose_after(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Delete the file of a segment as soon as this function has mapped it."""
    map_it = getattr(parts, name)

    def map_and_lose(path: Path, *rest: Any) -> Any:
        view = map_it(path, *rest)
        path.unlink()
        return view

    monkeypatch.setattr(parts, name, map_and_lose)


@pytest.mark.parametrize(("version", "below"), [(1, 0), (2, 0), (2, files.READ_BELOW)])
def test_a_segment_that_goes_once_it_is_mapped_is_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, below: int
) -> None:
    monkeypatch.setattr(files, "READ_BELOW", below)
    made = dump(sample(), NUMBERS)
    entry = put(tmp_path, made.data if version == 1 else made)
    expected = repr(read_all(Segment(tmp_path, entry, DIM, KINDS)))
    lose_after(monkeypatch, "map_checked" if version == 1 else "read_or_map")
    assert repr(read_all(Segment(tmp_path, entry, DIM, KINDS))) == expected
    assert not (tmp_path / NAME).exists()


# --- strangers ------------------------------------------------------------------
# The manifest's checksum guards against damage; a stranger writes both files.

Edit = Callable[[h5py.File], None]


def forged(folder: Path, edit: Edit) -> SegmentEntry:
    """A good segment after an edit, with the checksum made to fit."""
    path = folder / "forged.h5"
    path.write_bytes(dump(sample(), NUMBERS).data)
    with h5py.File(path, "r+") as file:
        edit(file)
    return put(folder, path.read_bytes())


def instead(name: str, make: Callable[[h5py.File], None]) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[name]
        make(file)

    return edit


def other_file(file: h5py.File) -> str:
    """A file with everything a segment has: following the reference would succeed."""
    path = str(Path(file.filename).with_name("other.h5"))
    Path(path).write_bytes(dump(sample(), NUMBERS).data)
    return path


def soft_link(file: h5py.File) -> None:
    file["z_mean"] = h5py.SoftLink("/z_log_var")


def external_link(file: h5py.File) -> None:
    file["z_mean"] = h5py.ExternalLink(other_file(file), "/z_mean")


def external_storage(file: h5py.File) -> None:
    stored = [(other_file(file), 0, 4 * N * DIM)]
    file.create_dataset("z_mean", (N, DIM), "<f4", external=stored)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((N, DIM), "<f4")
    layout[:] = h5py.VirtualSource(other_file(file), "z_mean", (N, DIM))
    file.create_virtual_dataset("z_mean", layout)


def chunked(file: h5py.File) -> None:
    file.create_dataset("z_mean", (N, DIM), "<f4", chunks=(2, DIM))


def gzipped(file: h5py.File) -> None:
    file.create_dataset("z_mean", data=np.zeros((N, DIM), "<f4"), compression="gzip")


def bomb(file: h5py.File) -> None:
    file.create_dataset("z_mean", (2**40, DIM), "<f4", chunks=(2**16, DIM), compression="gzip")


def compact(file: h5py.File) -> None:
    settings_ = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings_.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((N, DIM))
    h5py.h5d.create(file.id, b"z_mean", h5py.h5t.IEEE_F32LE, space, settings_)


def huge(file: h5py.File) -> None:
    file.create_dataset("z_mean", (2**43, DIM), "<f4")


def unwritten(file: h5py.File) -> None:
    settings_ = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings_.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((N, DIM))
    h5py.h5d.create(file.id, b"z_mean", h5py.h5t.IEEE_F32LE, space, settings_)


def vlen_text(file: h5py.File) -> None:
    file.create_dataset("z_mean", data=["x"] * N, dtype=h5py.string_dtype())


def vlen_numbers(file: h5py.File) -> None:
    file.create_dataset("z_mean", (N,), h5py.vlen_dtype(np.dtype("f4")))


def compound(file: h5py.File) -> None:
    file.create_dataset("z_mean", (N,), np.dtype([("x", "<f4", (DIM,))]))


def enum(file: h5py.File) -> None:
    file.create_dataset("z_mean", data=np.ones((N, DIM), bool))


def references(file: h5py.File) -> None:
    file.create_dataset("z_mean", (N, DIM), h5py.ref_dtype)


def fixed_text(file: h5py.File) -> None:
    file.create_dataset("z_mean", data=np.full((N, DIM), b"abcd", "S4"))


def named_type(file: h5py.File) -> None:
    file["z_mean"] = np.dtype("<f4")


def empty(file: h5py.File) -> None:
    file.create_dataset("z_mean", data=h5py.Empty("<f4"))


def group(file: h5py.File) -> None:
    file.create_group("z_mean").create_dataset("inner", data=np.zeros((N, DIM), "<f4"))


def cycle(file: h5py.File) -> None:
    file["z_mean"] = file["/"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (soft_link, "is a soft or external link"),
        (external_link, "is a soft or external link"),
        (external_storage, "has external storage, which reads other files"),
        (virtual, "is virtual, expected contiguous"),
        (chunked, "is chunked, expected contiguous"),
        (gzipped, "is chunked, expected contiguous"),
        (bomb, "is chunked, expected contiguous"),
        (compact, "is compact, expected contiguous"),
        (huge, "of which the file holds 0"),
        (unwritten, "of which the file holds 0"),
        (vlen_text, "does not hold numbers"),
        (vlen_numbers, "does not hold numbers"),
        (compound, "does not hold numbers"),
        (enum, "does not hold numbers"),
        (references, "does not hold numbers"),
        (fixed_text, "does not hold numbers"),
        (named_type, "is not a data set"),
        (cycle, "is one object too many"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_trick_of_hdf5_is_refused_by_name(
    tmp_path: Path, make: Callable[[h5py.File], None], why: str
) -> None:
    entry = forged(tmp_path, instead("z_mean", make))
    with pytest.raises(CorruptStoreError, match=rf"a\.h5: refused, 'z_mean.*' .*{why}"):
        Segment(tmp_path, entry, DIM, KINDS).check_layout()


@pytest.mark.parametrize("make", [empty, group])
def test_what_is_no_array_of_numbers_is_refused(
    tmp_path: Path, make: Callable[[h5py.File], None]
) -> None:
    entry = forged(tmp_path, instead("z_mean", make))
    with pytest.raises(CorruptStoreError, match=r"a\.h5"):
        Segment(tmp_path, entry, DIM, KINDS).check_layout()


@pytest.mark.parametrize("name", ["z_mean", "row", "id/hashes", "id/order", "id/offsets"])
@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2", "<i2", ">i8", "u1"])
def test_another_type_is_refused_by_name(tmp_path: Path, name: str, dtype: str) -> None:
    def edit(file: h5py.File) -> None:
        values = np.zeros(file[name].shape, dtype)
        del file[name]
        file.create_dataset(name, data=values)

    with pytest.raises(CorruptStoreError, match=rf"a\.h5: refused, '{name}' is .*, expected"):
        Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS).check_layout()


@pytest.mark.parametrize("shape", [(N + 1, DIM), (DIM, N), (N * DIM,), (), (0, DIM), (N, DIM, 1)])
def test_another_shape_is_refused_by_name(tmp_path: Path, shape: tuple[int, ...]) -> None:
    edit = instead(
        "z_mean", lambda file: file.create_dataset("z_mean", data=np.zeros(shape, "<f4"))
    )
    with pytest.raises(CorruptStoreError, match=r"a\.h5: refused, 'z_mean' is .*, expected"):
        Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS).check_layout()


@pytest.mark.parametrize(
    "name", ["row", "z_mean", "id/hashes", "id/order", "id/offsets", "id/bytes", "path/bytes"]
)
def test_a_missing_data_set_is_told_by_name(tmp_path: Path, name: str) -> None:
    entry = forged(tmp_path, instead(name, lambda file: None))
    with pytest.raises(CorruptStoreError, match=rf"a\.h5: '{name}' is missing"):
        Segment(tmp_path, entry, DIM, KINDS).check_layout()


@pytest.mark.parametrize("name", ["extra", "id/extra", "metadata/x/int", "metadata/s/int2"])
def test_an_extra_data_set_is_refused_by_name(tmp_path: Path, name: str) -> None:
    entry = forged(tmp_path, lambda file: file.create_dataset(name, data=np.zeros(N, "<i8")))
    with pytest.raises(CorruptStoreError, match=rf"refused, '{name}' is not part of a segment"):
        Segment(tmp_path, entry, DIM, KINDS).check_layout()


def test_too_many_objects_are_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        target = file.create_group("many")
        for number in range(10_001):  # each name leads to the same group
            target[f"{number}"] = file["id"]

    with pytest.raises(CorruptStoreError, match="is one object too many"):
        Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS).check_layout()


@pytest.mark.parametrize("data", [b"x", b"\0" * 5000, b"\x89HDF\r\n\x1a\n" + b"\xff" * 500])
def test_what_is_no_hdf5_is_told_with_its_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CorruptStoreError, match=r"a\.h5 is not a readable HDF5 file"):
        Segment(tmp_path, put(tmp_path, data), DIM, KINDS).check_layout()


def set_values(name: str, values: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        file[name][...] = values

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_values("id/offsets", 0), "offsets do not fit"),
        (set_values("id/offsets", 10**15), "offsets do not fit"),
        (set_values("path/offsets", -1), "offsets do not fit"),
        (set_values("metadata/s/str", 99), "codes without a category"),
        (set_values("metadata/s/str", -1), "codes without a category"),
        (set_values("metadata/s/categories/offsets", 7), "offsets do not fit"),
        (set_values("id/order", 10**6), "id order is out of bounds"),
        (set_values("id/order", -5), "id order is out of bounds"),
        (set_values("id/bytes", 0xFF), "text is not UTF-8"),
        (set_values("metadata/s/categories/bytes", 0xFF), "text is not UTF-8"),
    ],
)
def test_numbers_that_cannot_be_are_told(tmp_path: Path, edit: Edit, message: str) -> None:
    entry = forged(tmp_path, edit)
    with pytest.raises(CorruptStoreError, match=rf"a\.h5: .*{message}"):
        read_all(Segment(tmp_path, entry, DIM, KINDS))


def test_text_offsets_that_do_not_ascend_are_told() -> None:
    offsets = MappedArray(np.array([0, 5, 2, 4]), None, "offsets")
    texts_ = Texts(offsets, MappedArray(np.zeros(4, np.uint8), None, "bytes"), "a.h5")
    with pytest.raises(CorruptStoreError, match=r"a\.h5: its text offsets do not fit"):
        list(texts_)
    with pytest.raises(CorruptStoreError, match=r"a\.h5: its text offsets do not ascend"):
        _ = texts_[1]


def test_scalar_category_offsets_are_refused(tmp_path: Path) -> None:
    name = "metadata/s/categories/offsets"
    edit = instead(name, lambda file: file.create_dataset(name, data=np.int64(0)))
    with pytest.raises(CorruptStoreError, match="categories"):
        read_all(Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS))


def test_text_of_two_dimensions_is_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        values = file["id/bytes"][...][:, None]
        del file["id/bytes"]
        file.create_dataset("id/bytes", data=values)

    with pytest.raises(CorruptStoreError, match="'id/bytes'"):
        Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS).check_layout()


@pytest.mark.parametrize("name", ["file/sizes", "file/mtimes_ns", "file/digests"])
def test_facts_of_another_type_are_refused(tmp_path: Path, name: str) -> None:
    edit = instead(name, lambda file: file.create_dataset(name, data=np.zeros(N, "<f8")))
    segment = Segment(tmp_path, forged(tmp_path, edit), DIM, KINDS)
    with pytest.raises(CorruptStoreError, match=rf"refused, '{name}'"):
        _ = segment.file_stats


def test_forged_bytes_never_give_another_error(tmp_path: Path) -> None:
    """With a checksum that fits, any flip is refused, or read as numbers and text."""
    good = dump(sample(), NUMBERS).data
    random = np.random.default_rng(11)
    refused = 0
    for _ in range(250):
        damaged = bytearray(good)
        for place in random.integers(len(good), size=2):
            damaged[place] = random.integers(256)
        try:
            read_all(opened(tmp_path, bytes(damaged)))
        except LatentDBError:
            refused += 1
    assert 0 < refused < 250


def test_an_absent_text_column_can_be_written(tmp_path: Path) -> None:
    """Every value missing leaves no category, and a table of no bytes."""
    column = Column("str", np.zeros(N, "<i4"), np.ones(N, bool))
    rows = Rows([f"{n}" for n in range(N)], np.zeros((N, DIM), "f4"), columns={"s": column})
    segment = opened(tmp_path, dump(rows, NUMBERS))
    assert [segment.column("s").item(place) for place in range(N)] == [None] * N
