"""The manifest: what it promises of damage, of strangers and of a second writer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentdb.base.errors import CorruptStoreError, StoreError, StoreNotFoundError
from latentdb.store import manifest as manifests
from latentdb.store.columns import COLUMN_TYPES
from latentdb.store.manifest import (
    FORMAT_VERSION,
    DeletionsEntry,
    FileEntry,
    IndexEntry,
    LayoutEntry,
    Manifest,
    ModelEntry,
    SegmentEntry,
    Settings,
    TombstonesEntry,
    dump,
    load,
)
from latentdb.store.roots import Root

HEX = "0123456789abcdef"
SEGMENT, DELETED = "segments/a.h5", "segments/c.deleted"


def entry(name: str) -> FileEntry:
    return FileEntry(name, 4096, HEX * 2)


INDEX = IndexEntry(
    file=entry("index/d.faiss"),
    kind="ivf-sq8",
    rows_below=250,
    rows=240,
    parameters={"lists": 62, "probes_10": 5, "probes_100": 9},
    recall_target=0.99,
    recall_measured=0.995,
    recall_k=10,
    queries=500,
    build_seconds=1.5,
)

FULL = Manifest(
    uuid=HEX * 2,
    version=7,
    dim=64,
    next_row=300,
    segments=(
        SegmentEntry(entry("segments/a.h5"), 100, 0, 99),
        SegmentEntry(entry("segments/b.h5"), 150, 100, 299, LayoutEntry(9, 1, 2 * HEX)),
    ),
    deletions=DeletionsEntry(entry("segments/c.deleted"), 5, 3),
    index=INDEX,
    model=ModelEntry("enc", None, (entry("model/encoder.keras"), entry("model/model.json"))),
    columns={"label": "str", "größe": "float"},
    settings=Settings(0.95, 40_000),
    roots=(Root("/photos"), Root("/größe/more", "more/")),
)


def sealed(body: Any, version: Any = FORMAT_VERSION) -> bytes:
    """A manifest file around any body, with a checksum that holds: what a stranger can make."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    document = {
        "format": "latentdb",
        "format_version": version,
        "checksum": sha256(f"{version} {text}".encode()).hexdigest(),
        "manifest": body,
    }
    return json.dumps(document).encode()


def body_of(manifest: Manifest) -> Any:
    return json.loads(dump(manifest))["manifest"]


# --- round trip -----------------------------------------------------------------

whole = st.integers(0, 2**40)
share = st.floats(0, 1)
checksums = st.text(HEX, min_size=32, max_size=32)
stems = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


def files(folder: str, ending: str) -> st.SearchStrategy[FileEntry]:
    names = stems.map(lambda stem: f"{folder}/{stem}.{ending}")
    return st.builds(FileEntry, names, st.integers(1, 2**40), checksums)


@st.composite
def segment_entries(draw: st.DrawFn) -> tuple[SegmentEntry, ...]:
    entries = []
    first = 0
    for file in draw(st.lists(files("segments", "h5"), max_size=4)):
        first += draw(st.integers(0, 5))
        last = first + draw(st.integers(0, 1000))
        entries.append(SegmentEntry(file, draw(st.integers(1, last - first + 1)), first, last))
        first = last + 1
    return tuple(entries)


indexes = st.builds(
    IndexEntry,
    file=files("index", "faiss"),
    kind=st.text(),
    rows_below=whole,
    rows=st.integers(1, 2**40),
    parameters=st.dictionaries(st.text(max_size=10), whole, max_size=4),
    recall_target=share,
    recall_measured=share,
    recall_k=st.integers(1, 1000),
    queries=st.integers(1, 1000),
    build_seconds=st.floats(allow_nan=False, allow_infinity=False),
)
roots = st.builds(
    Root,
    st.text().map(lambda text: "/" + text),
    st.just("") | st.text().map(lambda text: text + "/"),
)
tombstones = st.builds(TombstonesEntry, files("segments", "tombstones"), st.integers(1, 2**40))
MODEL_FILES = files("model", "keras")
models = st.builds(
    ModelEntry,
    st.text(),
    st.none() | st.text(),
    st.lists(files("model", "keras"), max_size=3).map(tuple),
)


@st.composite
def manifest_versions(draw: st.DrawFn) -> Manifest:
    segments = draw(segment_entries())
    rows = sum(segment.rows for segment in segments)
    last = segments[-1].last_row if segments else -1
    deletions = None
    if rows and draw(st.booleans()):
        held = draw(st.integers(0, rows))
        deletions = DeletionsEntry(
            draw(files("segments", "deleted")), held + draw(st.integers(1, 9)), held
        )
    next_row = last + 1 + draw(st.integers(0, 10))
    index, below = draw(st.none() | indexes), st.integers(0, next_row)
    return Manifest(
        uuid=draw(st.text()),
        version=draw(whole),
        dim=draw(st.integers(1, manifests.MAX_DIM)),
        next_row=next_row,
        segments=segments,
        deletions=deletions,
        index=None if index is None else replace(index, rows_below=draw(below)),
        model=draw(st.none() | models),
        columns=draw(
            st.dictionaries(
                st.sampled_from(["label", "year", "größe", "_x", "ok"]),
                st.sampled_from(COLUMN_TYPES),
            )
        ),
        settings=draw(st.builds(Settings, share, whole)),
        roots=tuple(draw(st.lists(roots, max_size=3))),
        tombstones=draw(st.none() | tombstones),
    )


@settings(deadline=None, max_examples=150, derandomize=True)
@given(manifest_versions())
def test_what_is_dumped_is_loaded(manifest: Manifest) -> None:
    assert load(dump(manifest), "M") == manifest


def test_counts_and_names_are_those_of_the_entries() -> None:
    assert (FULL.rows, FULL.deleted_rows) == (247, 3)
    assert FULL.file_names() == {
        "segments/a.h5",
        "segments/b.h5",
        "segments/c.deleted",
        "index/d.faiss",
        "model/encoder.keras",
        "model/model.json",
    }
    buried = replace(FULL, tombstones=TombstonesEntry(entry("segments/e.tombstones"), 3))
    assert buried.file_names() - FULL.file_names() == {"segments/e.tombstones"}
    assert Manifest("u", 1, 4).file_names() == set()


def test_the_sealing_of_this_test_file_is_that_of_the_manifest() -> None:
    assert load(sealed(body_of(FULL)), "M") == FULL


# --- damage ---------------------------------------------------------------------


def check_damaged(data: bytes) -> None:
    """Damage is either without effect or told, with the file named."""
    try:
        loaded = load(data, "STORE/MANIFEST.json")
    except StoreError as error:
        assert str(error).startswith("STORE/MANIFEST.json ")  # noqa: PT017
        return
    assert loaded == FULL


def test_every_changed_byte_is_harmless_or_told() -> None:
    good = dump(FULL)
    for place in range(len(good)):
        values = {good[place] ^ (1 << bit) for bit in range(8)} | set(b' 019e"}],\\')
        for value in values:
            check_damaged(good[:place] + bytes([value]) + good[place + 1 :])


def test_every_lost_and_every_doubled_byte_is_harmless_or_told() -> None:
    good = dump(FULL)
    for place in range(len(good)):
        check_damaged(good[:place] + good[place + 1 :])
        check_damaged(good[:place] + good[place : place + 1] + good[place:])


def test_every_truncation_is_told() -> None:
    good = dump(FULL).rstrip()
    for length in range(len(good)):
        with pytest.raises(
            CorruptStoreError, match=r"^M is damaged .*latentdb verify --repair goes back"
        ):
            load(good[:length], "M")


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"3", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b"\0" * 100],
    ids=["empty", "null", "list", "number", "text", "object", "bytes", "deep", "zeros"],
)
def test_what_is_no_manifest_is_told(data: bytes) -> None:
    with pytest.raises(CorruptStoreError, match=r"^M is damaged"):
        load(data, "M")


def test_a_newer_format_is_told_before_its_content_is_judged() -> None:
    with pytest.raises(StoreError, match=r"M has format version 7, .* reads up to 6: upgrade"):
        load(sealed({"anything": "else"}, version=7), "M")


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_a_format_version_that_never_was_is_told(version: Any) -> None:
    with pytest.raises(CorruptStoreError, match="checksum does not match"):
        load(sealed(body_of(FULL), version=version), "M")


# --- metrics --------------------------------------------------------------------

CENTRE = tuple(n / 4 for n in range(64))


def test_cosine_of_a_manifest_before_version_3_was_centred() -> None:
    body = body_of(FULL)
    body["settings"]["metric"] = body["index"]["metric"] = "cosine"
    body["index"]["centre"] = list(CENTRE)
    manifest = load(sealed(body, 2), "M")
    assert manifest.index is not None
    assert manifest.index.metric == manifest.settings.metric == "centered_cosine"
    assert manifest.settings.centre == CENTRE
    body["settings"]["metric"] = "l2"
    assert load(sealed(body, 2), "M").settings.metric == "l2"
    del body["index"]["centre"]
    with pytest.raises(CorruptStoreError, match="the index has no centre"):
        load(sealed(body, 2), "M")
    body["index"] = None
    body["settings"]["metric"] = "cosine"
    assert load(sealed(body, 2), "M").settings.metric == "centered_cosine"
    assert load(sealed(body, 3), "M").settings.metric == "cosine"


@pytest.mark.parametrize("metric", ["l2", "wasserstein", "cosine", "centered_cosine"])
@pytest.mark.parametrize("centre", [(), CENTRE])
def test_earlier_versions_refuse_only_a_manifest_that_they_would_misread(
    metric: str, centre: tuple[float, ...]
) -> None:
    settings = replace(FULL.settings, metric=metric, centre=centre)
    manifest = replace(FULL, settings=settings)
    data = dump(manifest)
    assert load(data, "M") == manifest
    old = metric in ("l2", "wasserstein") and not centre
    assert json.loads(data)["format_version"] == (2 if old else 3)


def test_a_default_metric_is_stated_where_it_is_not_l2() -> None:
    assert "default_metric" not in body_of(FULL)["settings"]
    for metric, centre, version in (("wasserstein", (), 2), ("cosine", (), 3)):
        settings = replace(FULL.settings, metric="l2", centre=centre, default_metric=metric)
        data = dump(replace(FULL, settings=settings))
        assert load(data, "M").settings == settings
        assert json.loads(data)["format_version"] == version
    body = body_of(FULL)
    for metric, reason in (
        ("centered_cosine", "the default metric has no centre"),
        ("best", "settings are unknown"),
    ):
        body["settings"]["default_metric"] = metric
        with pytest.raises(CorruptStoreError, match=reason):
            load(sealed(body), "M")


def test_a_store_without_roots_and_tombstones_has_the_bytes_of_before() -> None:
    assert not {"roots", "tombstones"} & set(body_of(replace(FULL, roots=())))
    assert "roots" in body_of(FULL)


def test_earlier_versions_would_delete_tombstones_as_garbage() -> None:
    buried = replace(FULL, tombstones=TombstonesEntry(entry("segments/e.tombstones"), 3))
    assert json.loads(dump(buried))["format_version"] == 4
    assert load(dump(buried), "M") == buried


def test_half_precision_takes_a_newer_format() -> None:
    # Older readers would say that a segment is damaged.
    assert "dtype" not in body_of(FULL)
    half = replace(FULL, dtype="float16")
    assert json.loads(dump(half))["format_version"] == 6
    assert load(dump(half), "M") == half
    body = body_of(half)
    body["dtype"] = "float8"
    with pytest.raises(CorruptStoreError, match="its dtype 'float8' is unknown"):
        load(sealed(body), "M")


@pytest.mark.parametrize("sides", [1, 63, 65])
def test_a_centre_of_other_dimensions_is_refused(sides: int) -> None:
    body = body_of(FULL)
    body["settings"]["centre"] = [0.5] * sides
    with pytest.raises(CorruptStoreError, match="the centre has other dimensions"):
        load(sealed(body), "M")


# --- strangers ------------------------------------------------------------------

TRICKS = [
    "../x",
    "/etc/passwd",
    "segments/../../x",
    "segments/..",
    "segments/.hidden",
    "segments/a/b",
    "segments//a",
    "segments/",
    "segments",
    "SEGMENTS/a.h5",
    "other/a.h5",
    "./segments/a.h5",
    "segments\\..\\x",
    "segments/a\0b",
    "segments/a\n",
    "segments/é.h5",
    "segments/a",
    "segments/a.b.h5",
    "segments/a.h5.sh",
    "segments/a.H5",
    "index/a.h5",
    "model/a.b.c.onnx",
    "model/authorized_keys",
    "MANIFEST.json",
    "",
]


@pytest.mark.parametrize("name", TRICKS)
@pytest.mark.parametrize(
    "place",
    [
        lambda file: replace(FULL, segments=(SegmentEntry(file, 1, 0, 0),), deletions=None),
        lambda file: replace(FULL, deletions=DeletionsEntry(file, 3, 3)),
        lambda file: replace(FULL, index=replace(INDEX, file=file)),
        lambda file: replace(FULL, model=ModelEntry("e", None, (file,))),
        lambda file: replace(FULL, tombstones=TombstonesEntry(file, 3)),
    ],
    ids=["segment", "deletions", "index", "model", "tombstones"],
)
def test_a_file_name_stays_in_the_folders_of_the_store(
    name: str, place: Callable[[FileEntry], Manifest]
) -> None:
    with pytest.raises(CorruptStoreError, match=r"M is damaged \(file name .* is not allowed\)"):
        load(dump(place(entry(name))), "M")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "0 is out of bounds"),
        ({"dim": 65_537}, "65537 is out of bounds"),
        ({"dim": True}, "True is out of bounds"),
        ({"version": -1}, "-1 is out of bounds"),
        ({"next_row": 299}, "row numbers beyond next_row"),
        ({"next_row": 2**61}, f"{2**61} is out of bounds"),
        ({"index": replace(INDEX, rows_below=301)}, "the index has row numbers beyond next_row"),
        (
            {"deletions": DeletionsEntry(entry(DELETED), 251, 251)},
            "more rows are deleted",
        ),
        ({"deletions": DeletionsEntry(entry(DELETED), 3, 4)}, "4 is out of bounds"),
        ({"segments": FULL.segments[::-1]}, "row numbers of segments overlap"),
        (
            {"segments": (SegmentEntry(entry("segments/a.h5"), 101, 0, 99),)},
            "more rows than row numbers",
        ),
        ({"columns": {"label": "object"}}, "unknown type"),
        ({"roots": (Root("photos"),)}, "root 'photos' is not absolute"),
        ({"roots": (Root("/photos", "a"),)}, "prefix 'a' does not end with /"),
        ({"roots": (Root("/photos"),) * 1_001}, "more than 1,000 roots"),
        ({"settings": Settings(recall=1.5)}, "1.5 is not between 0 and 1"),
        (
            {"segments": (SegmentEntry(FileEntry("segments/a.h5", 0, HEX * 2), 1, 0, 0),)},
            "0 is out",
        ),
        (
            {"segments": (SegmentEntry(FileEntry("segments/a.h5", 1, "AB"), 1, 0, 0),)},
            "malformed",
        ),
    ],
)
def test_what_no_store_can_be_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptStoreError, match=message):
        load(dump(replace(FULL, **change)), "M")


NASTY: list[Any] = [None, True, -1, 0, 1.5, 10**400, 2**63, "", "x", [], {}, [[]], [1], {"a": 1}]


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(body, dict | list):
        for key, value in body.items() if isinstance(body, dict) else enumerate(body):
            yield from places(value, (*path, key))


def test_any_value_at_any_place_is_accepted_or_told() -> None:
    good = body_of(FULL)
    raised = []
    for path in places(good):
        for value in NASTY:
            body = deepcopy(good)
            if path:
                target = body
                for key in path[:-1]:
                    target = target[key]
                target[path[-1]] = value
            else:
                body = value
            try:
                load(sealed(body), "M")
            except StoreError:
                continue
            except Exception as error:  # noqa: BLE001  # that is what is looked for
                raised.append((path, value, repr(error)))
    assert raised == []


OPTIONAL = (
    *("layout", "metric", "centre", "trained_rows", "milliseconds", "memory", "prefer", "roots"),
)  # what an earlier revision did not have


def test_any_lost_key_is_told() -> None:
    good = body_of(FULL)
    for path in places(good):
        if not path or not isinstance(path[-1], str) or path[0] == "columns":
            continue
        body = deepcopy(good)
        target = body
        for key in path[:-1]:
            target = target[key]
        if path[-2:-1] == ("parameters",) or path[-1] in OPTIONAL:
            continue
        del target[path[-1]]
        with pytest.raises(CorruptStoreError, match="M is damaged"):
            load(sealed(body), "M")


@pytest.mark.parametrize("key", ["", "a\nb", "\0", "id", "z_mean"])
def test_a_column_name_that_no_writer_accepts_is_told(key: str) -> None:
    with pytest.raises(CorruptStoreError, match="M is damaged"):
        load(dump(replace(FULL, columns={key: "int"})), "M")


@pytest.mark.parametrize(
    ("columns", "version"),
    [({"a": "int"}, 2), ({"a b": "int"}, 5), ({"a": "date"}, 5), ({"class": "str"}, 5)],
)
def test_dates_and_keys_that_are_no_names_take_a_newer_format(
    columns: dict[str, str], version: int
) -> None:
    # Older readers would call the store damaged.
    manifest = Manifest("u", 1, 3, columns=columns)
    assert json.loads(dump(manifest))["format_version"] == version
    assert load(dump(manifest), "M").columns == columns


# --- read and commit ------------------------------------------------------------


def test_commit_is_what_read_finds(tmp_path: Path) -> None:
    manifests.commit(tmp_path, FULL)
    assert manifests.read(tmp_path) == FULL
    newer = replace(FULL, version=8)
    manifests.commit(tmp_path, newer)
    assert manifests.read(tmp_path) == newer
    assert os.listdir(tmp_path) == ["MANIFEST.json"]


def test_what_no_reader_could_read_is_not_committed(tmp_path: Path) -> None:
    manifests.commit(tmp_path, FULL)
    with pytest.raises(StoreError, match=r"not replaced: no reader .*-1 is out of bounds"):
        manifests.commit(tmp_path, replace(FULL, version=-1))
    assert manifests.read(tmp_path) == FULL
    assert os.listdir(tmp_path) == ["MANIFEST.json"]


def test_a_segment_is_a_line_whatever_a_text_holds() -> None:
    odd = replace(FULL, model=ModelEntry('{"file":{', "a\n{", ()))
    assert load(dump(odd), "M") == odd
    lines = dump(FULL).decode().splitlines()
    assert sum("segments/a.h5" in line or "segments/b.h5" in line for line in lines) == 2


def test_read_says_what_to_do_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"is not a latentdb store .*latentdb index"):
        manifests.read(tmp_path)
    with pytest.raises(StoreNotFoundError, match=r"missing does not exist: make one with"):
        manifests.read(tmp_path / "missing")
    (tmp_path / "photo").mkdir()
    manifests.commit(tmp_path / "photo", FULL)
    with pytest.raises(StoreNotFoundError, match=r"unlike does not exist: make one"):
        manifests.read(tmp_path / "unlike")
    with pytest.raises(StoreNotFoundError, match=r"does not exist: did you mean .*photo\? Or"):
        manifests.read(tmp_path / "photos")
    with pytest.raises(StoreNotFoundError, match=r"nowhere/photos does not exist: make one"):
        manifests.read(tmp_path / "nowhere/photos")


def test_read_names_the_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_bytes(b"{}")
    with pytest.raises(CorruptStoreError, match=rf"^{tmp_path}/MANIFEST.json is damaged"):
        manifests.read(tmp_path)


def test_a_manifest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(dump(FULL))
    (tmp_path / "MANIFEST.json").symlink_to(tmp_path / "real.json")
    with pytest.raises(StoreError, match=r"MANIFEST\.json"):
        manifests.read(tmp_path)
