"""What every engine must do: one suite for PostgreSQL and Milvus."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import EngineError, FilterError, InvalidInputError
from latentdb.database import LatentDB
from latentdb.engines import push as pushing
from latentdb.engines.conditions import translate
from latentdb.engines.connect import open_engine
from latentdb.engines.serve import read_collection, search_engine

EXPRESSIONS = [
    'label == "cat"',
    'label != "cat"',
    'not label == "cat"',
    'not (label == "cat" or year > 2000)',
    'not (label == "cat" and year > 2000)',
    'label in ("cat", "dog", "猫")',
    'label not in ("cat", "dog")',
    "label in ()",
    "label not in ()",
    "label is None",
    "label is not None and not (year is None)",
    'label == "it\'s" or label == "a \\"b\\""',
    'label > "cat"',
    'label <= "cat"',
    "1995 < year <= 2005",
    "not 1995 < year <= 2005",
    "year == 1999.5",
    "year < 1999.5",
    "2000 >= year",
    "year in (1991, 1992, 1993.5)",
    "score > 20",
    "score != 3",
    "score == 3.0 or score == 0.14285714285714285",
    "good",
    "not good",
    "good == False and good is not None",
    "good != True",
    "row_number < 4",
    'id == "a/000.png" or id == "b/001.png"',
    'id.startswith("a")',
    'not id.startswith("a") and path is None',
    'id.endswith("7.png")',
    'label.contains("a")',
    'not label.contains("a")',
    '"a" in label',
    '"a" not in label and year > 2010',
    '`taken at` > "2020-03" and `taken at` <= "2020-05"',
    'not `taken at` == "2020-03"',
    '`taken at` in ("2020-02-01", "2020-06")',
    '`taken at` not in ("2020-02-01", "2020-06")',
    "`taken at` is None",
    "`taken at` in ()",
    'seen == "2020-01-02"',
    'seen != "2020-01" and seen < "2020-02-01 12:00:00"',
]


def found_rows(db: LatentDB, uri: str, where: str) -> set[int]:
    """The rows of an expression by an engine, which is asked for more than there are."""
    snapshot = db._snapshot()
    with open_engine(uri, db._collection_name()) as engine:
        held = read_collection(snapshot, engine)
        queries = db.vectors(db.ids()[:1])
        hits = search_engine(snapshot, engine, held, queries, len(db), where)
    return set(hits.rows[hits.rows >= 0].tolist())


def test_expressions_select_what_the_store_selects(filled: LatentDB, uri: str) -> None:
    filled.push(uri)
    rows = {name: row for row, name in enumerate(filled.ids())}
    for where in EXPRESSIONS:
        wanted = {rows[name] for name in filled.ids(where=where)}
        assert found_rows(filled, uri, where) == wanted, where


def test_answers_are_those_of_the_store(filled: LatentDB, uri: str) -> None:
    for metric in ("l2", "cosine"):
        report = filled.push(uri, metric=metric)
        assert (report.rows, report.pushed) == (300, 300)
        assert report.recall >= 0.99
        for name in filled.ids()[::50]:
            here, there = filled.query(name, metric=metric), filled.query_on(uri, name)
            assert [match.id for match in there] == [match.id for match in here]
            for one, other in zip(there, here, strict=True):
                assert one.distance == pytest.approx(other.distance, abs=1e-4)
                assert (one.path, one.metadata) == (other.path, other.metadata)
            assert (there.metric, there.exact, there.recall) == (metric, False, report.recall)
    only = filled.query_on(uri, "a/000.png", where="good", k=3, exclude_self=True)
    expected = filled.query("a/000.png", where="good", k=3, exclude_self=True, metric="cosine")
    assert [match.id for match in only] == [match.id for match in expected]
    assert only.recall is None
    blend = filled.query_on(uri, like=["a/000.png", "b/001.png"], unlike=["a/002.png"])
    assert len(blend) == 10
    assert blend.recall is None


def test_a_push_follows_the_store(filled: LatentDB, uri: str) -> None:
    filled.push(uri)
    assert filled.push(uri).unchanged == 300
    filled.delete(["a/000.png", "b/001.png"])
    moved = np.full((1, 8), 9.0, np.float32)
    filled.add(["a/002.png"], moved, metadata={"year": [1]}, on_conflict="replace")
    filled.add(["new"], -moved, metadata={"label": ["dog"]})
    # Before the next push: what is gone is left out, what is new is not found.
    assert "a/000.png" not in {match.id for match in filled.query_on(uri, moved[0], k=299)}
    assert filled.query_on(uri, -moved[0])[0].id != "new"
    report = filled.push(uri)
    assert (report.rows, report.pushed, report.deleted, report.unchanged) == (299, 2, 3, 297)
    assert filled.query_on(uri, -moved[0])[0].id == "new"
    nearest = filled.query_on(uri, "a/002.png")[0]
    assert (nearest.id, nearest.metadata, nearest.distance) == ("a/002.png", {"year": 1}, 0.0)
    filled.add(["newer"], moved, metadata={"colour": ["red"]})  # a column that was not there
    assert filled.push(uri).pushed == 300
    assert found_rows(filled, uri, 'colour == "red"') == {302}


def test_queries_are_measured_around_the_centre_that_was_pushed(filled: LatentDB, uri: str) -> None:
    filled.optimize(metric="centered_cosine")
    filled.push(uri, metric="centered_cosine")
    before = filled.query_on(uri, "a/000.png")
    filled.add(["far"], np.full((1, 8), 1e4, np.float32))
    filled.optimize(metric="centered_cosine")  # around another centre
    assert filled.query_on(uri, "a/000.png") == before
    filled.push(uri, metric="centered_cosine")
    assert filled.query_on(uri, "a/000.png") != before


def test_a_push_that_is_cut_off_is_finished_by_the_next(
    filled: LatentDB,
    uri: str,
    cut_off: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "batch_rows", lambda dim: 64)
    sent = []
    for calls in (2, 3, 1, 2):
        cut_off(calls)
        with pytest.raises(KeyboardInterrupt):
            filled.push(uri)
        with pytest.raises(EngineError, match="was cut off: run latentdb push again"):
            filled.query_on(uri, "a/000.png")
        sent.append(64 * (calls - 1))
    cut_off(0)
    report = filled.push(uri)
    assert report.rows == 300
    assert report.pushed == max(0, 300 - sum(sent))
    assert filled.push(uri).unchanged == 300


def test_index_files_of_milvus_that_were_cut_short_are_made_anew(
    filled: LatentDB, tmp_path: Path
) -> None:
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    uri = f"milvus:{tmp_path / 'milvus.db'}"
    filled.push(uri)
    answer = filled.query_on(uri, "a/000.png")
    for size in (0, 1_000):
        for file in tmp_path.glob("milvus.db/**/*.idx"):
            os.truncate(file, min(size, file.stat().st_size // 2))
        assert filled.query_on(uri, "a/000.png") == answer
        assert filled.push(uri).unchanged == 300


def test_what_is_not_of_the_store_is_left_alone(
    filled: LatentDB, uri: str, tmp_path: object
) -> None:
    with pytest.raises(EngineError, match="has no such collection: run latentdb push first"):
        filled.query_on(uri, "a/000.png", collection="nothing")
    filled.push(uri, collection="shared")
    with LatentDB.create(f"{tmp_path}/other.ldb", dim=8) as other:
        other.add(["x"], np.ones((1, 8)))
        with pytest.raises(EngineError, match=r"is of another store \(.*give another name"):
            other.push(uri, collection="shared")
        with pytest.raises(EngineError, match="is of another store"):
            other.query_on(uri, "x", collection="shared")
    with pytest.raises(EngineError, match=r"that latentdb has not made: give another name"):
        filled.push(uri, collection="latentdb_collections")
    assert filled.query_on(uri, "a/000.png", collection="shared")[0].id == "a/000.png"


def test_an_empty_store_can_be_pushed(filled: LatentDB, uri: str) -> None:
    filled.push(uri)
    filled.delete(where="row_number >= 0")
    report = filled.push(uri)
    assert (report.rows, report.deleted) == (0, 300)
    assert len(filled.query_on(uri, np.zeros(8, np.float32))) == 0


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> LatentDB:
    """6,000 rows in 32 dimensions without clusters, twelve of them marked."""
    generator = np.random.default_rng(5)
    db = LatentDB.create(tmp_path_factory.mktemp("hard") / "hard.ldb", dim=32)
    marks = np.arange(6_000) % 500 == 7
    ids = [f"r{number}" for number in range(6_000)]
    db.add(ids, generator.normal(size=(6_000, 32)), metadata={"marked": marks})
    return db


def test_recall_is_tuned_and_a_low_effort_misses(hard: LatentDB, uri: str) -> None:
    report = hard.push(uri)
    assert report.recall >= 0.99
    snapshot = hard._snapshot()
    queries = np.random.default_rng(6).normal(size=(100, 32)).astype(np.float32)
    _, truth = hard.search(queries, k=10, exact=True)

    def recall(effort: int | None) -> float:
        with open_engine(uri, hard._collection_name()) as engine:
            held = read_collection(snapshot, engine)
            hits = search_engine(snapshot, engine, held, queries, 10, None, effort)
        return float(
            np.mean([np.isin(*pair).mean() for pair in zip(hits.rows, truth, strict=True)])
        )

    assert recall(10) < 0.97
    assert recall(None) >= 0.98  # other queries than it was tuned on


def test_a_strict_filter_leaves_k_of_k(hard: LatentDB, uri: str) -> None:
    hard.push(uri)
    for name in hard.ids()[::1_000]:
        here = hard.query(name, where="marked", k=10, exact=True)
        there = hard.query_on(uri, name, where="marked", k=10, effort=10)  # asks no graph
        assert [match.id for match in there] == [match.id for match in here]


def test_rows_of_a_strict_filter_are_compared_in_postgresql_without_its_graph(
    hard: LatentDB, postgresql: str
) -> None:
    import psycopg

    hard.push(postgresql)
    name = hard._collection_name()
    with open_engine(postgresql, name) as engine, psycopg.connect(postgresql) as connection:
        held = engine.held()
        plans = []
        for where in ("marked", "not marked"):
            selected, values = engine._selected(translate(where, held.columns))
            query = engine._sql(
                "EXPLAIN SELECT {row} FROM {selected} ORDER BY {vector} <-> %s LIMIT 10",
                selected=selected,
            )
            vector = str(np.zeros(32).tolist())
            connection.execute("SET enable_seqscan = off")
            found = connection.execute(query, [*values, vector]).fetchall()
            plans.append("\n".join(line for (line,) in found))
    assert "Order By: (vector" not in plans[0]
    assert "Order By: (vector" in plans[1]


def test_what_an_engine_cannot_do_is_refused(filled: LatentDB, uri: str) -> None:
    filled.push(uri)
    with pytest.raises(FilterError, match="'nothing', which is not a column"):
        filled.query_on(uri, "a/000.png", where="nothing == 1")
    with pytest.raises(FilterError, match="not a column, which no engine is asked for"):
        filled.query_on(uri, "a/000.png", where="len(label) > 3")
    with pytest.raises(FilterError, match="which an engine would round"):
        filled.query_on(uri, "a/000.png", where="score > 9007199254740993")
    with pytest.raises(InvalidInputError, match="k 0 cannot be used"):
        filled.query_on(uri, "a/000.png", k=0)
    with pytest.raises(InvalidInputError, match="metric 'kl' is no distance in a space"):
        filled.push(uri, metric="kl")


def test_uris_and_names_are_checked(filled: LatentDB, tmp_path: object) -> None:
    for uri in ("", "postgresql:", "mysql://x/y", "nothing", f"{tmp_path}/milvus.db"):
        with pytest.raises(InvalidInputError, match="names no engine: give postgresql://"):
            filled.push(uri)
    for name in ("a-b", "1a", "", "x" * 61, 'a"; drop table x'):
        with pytest.raises(InvalidInputError, match="cannot be used: give letters, digits and _"):
            filled.push("milvus:a.db", collection=name or " ")


def test_an_engine_that_is_not_there_is_one_line(filled: LatentDB) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(EngineError, match="PostgreSQL: connection") as raised:
        filled.push("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    assert "\n" not in str(raised.value)
