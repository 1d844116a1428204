"""scripts/bench_search in its small form, and what its figures rest on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    composed,
    latentdb_system,
    latents,
    measuring,
    peerage,
    runs,
    sets,
    systems,
    tables,
)
from benchmarks.measuring import hits, lines, tune
from benchmarks.runs import Work
from benchmarks.sets import K

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench_search"), *map(str, words)]
    # The clone's code also where latentdb is not installed from it.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    return done


# --- the whole -----------------------------------------------------------------------


def test_a_small_run_measures_and_names_what_it_cannot(tmp_path: Path) -> None:
    words = [
        "--quick", "--rows", 2000, "--sets", "easy", "--peers", "faiss-ivf-flat,hnswlib",
        "--part", "search", "--part", "filters", "--part", "composed",
        "--part", "growth", "--growth", 1500,
        "--venv", tmp_path / "none", "--no-install",
        "--work", tmp_path / "work", "--json", tmp_path / "all.json",
    ]  # fmt: skip
    done = bench(*words)
    report = json.loads((tmp_path / "all.json").read_text())
    found = report["search"]["lines"]["easy"]
    for name in ("latentdb", "faiss-ivf-flat"):
        assert found[name]["failed"] is None
        assert found[name]["recall"] >= 0.99
        assert all(found[name][key] > 0 for key in (
            "index_s", "p50_ms", "p99_ms", "qps", "cold_s", "build_mib", "search_mib"))  # fmt: skip
        assert 256 <= found[name]["bytes_a_row"] < 1000
    assert found["hnswlib"]["failed"] == f"not installed in {tmp_path / 'none'}"
    assert f"| easy | hnswlib | not installed in {tmp_path / 'none'} | - |" in done.stdout

    pair = report["search"]["phases"]["easy"]["latentdb"]["pair-single"]
    assert pair["twin"] == "exact scan"
    assert pair["search_recall"] == pair["query_recall"] == pair["faiss_recall"] == 1.0
    assert pair["query_us"] > pair["faiss_us"] > 0

    cells = report["filters"]["easy"]["cells"]
    assert len(cells) == 15
    assert {cell["kept"] for cell in cells} == {1000, 200, 20, 2, 1}
    assert min(cell["recall"] for cell in cells) == 1.0
    asked = report["composed"]["easy"]["cells"]
    assert [cell["kind"] for cell in asked] == list(composed.KINDS)
    assert {cell["recall"] for cell in asked} == {1.0}
    assert "| easy | a + b - c | 1.0000 |" in done.stdout
    assert report["growth"]["1500"]["growth-single"]["recall"] == 1.0
    assert "| 1,500 |" in done.stdout
    assert not list((tmp_path / "work" / "stores").rglob("*.ldb"))

    again = bench(*words)
    # Nothing is measured twice; only the date and the revision could differ.
    assert again.stdout == done.stdout
    assert " build" not in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sets", "none"], "there is no set 'none': choose of easy, hard, real"),
        (["--peers", "oracle"], "there is no peer 'oracle': choose of faiss-ivf-sq8"),
        (["--rows", "10"], "fewer than 1,000 rows"),
        (["--recall", "0"], "--recall 0.0 cannot be reached"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str) -> None:
    done = bench(*words, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_real_latents_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    none = tmp_path / "none.tar.gz"
    done = bench("--sets", "real", "--work", tmp_path / "w", "--archive", none, code=1)
    assert done.stderr == (
        f"{none} is not there: give --archive, or --latents Z_MEAN.npy Z_LOG_VAR.npy\n"
    )


def test_latents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mu.npy", np.zeros((5, 3), np.float32))
    np.save(tmp_path / "log.npy", np.zeros((5, 2), np.float32))
    files = tmp_path / "mu.npy", tmp_path / "log.npy"
    assert latents.get(tmp_path, list(files), tmp_path / "none", None, 1.0) == files
    with pytest.raises(ValueError, match=r"is \(5, 3\), .* is \(5, 2\): give z_mean and z_log_var"):
        sets.make_source("real", 1, files)


# --- the vectors ---------------------------------------------------------------------


def real(folder: Path) -> tuple[Path, Path]:
    """Latents of forty images that need not be."""
    random = np.random.default_rng(3)
    np.save(folder / "mu.npy", random.normal(size=(40, 6)).astype(np.float32))
    np.save(folder / "log.npy", random.normal(-4, 1, size=(40, 6)).astype(np.float32))
    return folder / "mu.npy", folder / "log.npy"


@pytest.mark.parametrize("name", sets.NAMES)
def test_rows_are_the_same_at_every_size_and_queries_are_none(name: str, tmp_path: Path) -> None:
    source = sets.make_source(name, 1, real(tmp_path))
    few = np.concatenate([part for _, part in source.chunks(700)])
    many = np.concatenate([part for _, part in source.chunks(60_000)])
    assert few.shape == (700, source.centres.shape[1])
    assert few.dtype == many.dtype == np.float32
    assert len(many) == 60_000
    np.testing.assert_array_equal(many[:700], few)
    assert not np.array_equal(many[50_000:50_100], many[:100])
    for which in (0, 1):
        _, queries = source.queries(which, 50)
        assert np.abs(many[None, :1000] - queries[:, None]).max(axis=2).min() > 0
    assert not np.array_equal(source.queries(0, 9)[1], source.queries(1, 9)[1])


def test_a_third_of_easy_is_dead_and_real_repeats_its_images(tmp_path: Path) -> None:
    easy = np.concatenate([part for _, part in sets.make_source("easy", 1).chunks(5000)])
    spread = np.sort(easy.std(axis=0))
    assert spread[sets.DIM // 3 - 1] < 0.05
    assert spread[sets.DIM // 3] > 0.5
    source = sets.make_source("real", 1, real(tmp_path))
    clusters, rows = next(source.chunks(400))
    assert clusters.tolist() == list(range(40)) * 10
    apart = (rows - source.centres[clusters]) / source.scales[clusters]
    assert abs(float(apart.std()) - 1) < 0.05


def test_the_truth_is_that_of_numpy_and_counts_through_blocks() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 5)).astype(np.float32)
    queries = random.normal(size=(7, 5)).astype(np.float32)
    apart = ((rows[None].astype(np.float64) - queries[:, None]) ** 2).sum(axis=2)
    expected = np.argsort(apart, axis=1)[:, :K]
    blocks = [rows[:3], rows[3:150], rows[150:]]
    np.testing.assert_array_equal(sets.nearest(blocks, queries, K), expected)


def test_a_set_is_written_once_and_read_in_parts(tmp_path: Path) -> None:
    source = sets.make_source("easy", 1)
    sets.make(source, 1200, tmp_path)
    rows = sets.Rows(tmp_path / "rows.npy")
    assert (rows.count, rows.dim) == (1200, sets.DIM)
    parts = dict(rows.parts(500))
    assert list(parts) == [0, 500, 1000]
    np.testing.assert_array_equal(np.concatenate(list(parts.values())), rows.mapped())
    assert rows.sample(64).shape == (64, sets.DIM)
    queries, truth = sets.load(tmp_path, "test")
    assert truth.shape == (sets.QUERIES, K)
    np.testing.assert_array_equal(truth, sets.nearest([rows.mapped()], queries, K))
    before = (tmp_path / "rows.npy").stat().st_mtime_ns
    sets.make(source, 1200, tmp_path)
    assert (tmp_path / "rows.npy").stat().st_mtime_ns == before


# --- the measuring -------------------------------------------------------------------


def test_recall_counts_what_there_is_to_find() -> None:
    truth = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    found = np.array([[4, 9, 2, -1], [6, 5, -1, -1]])
    assert hits(found, truth).tolist() == [0.5, 1.0]
    assert lines([[1, 2, 3], [4], []], 2).tolist() == [[1, 2], [4, -1], [-1, -1]]


@given(st.integers(1, 50), st.integers(1, 5000))
def test_a_grid_ascends_and_ends_where_it_should(low: int, more: int) -> None:
    values = measuring.grid(low, low + more)
    assert values[0] == low
    assert values[-1] == low + more
    assert all(one < other for one, other in pairwise(values))


@given(st.integers(0, 59), st.floats(0.5, 1.0))
def test_the_least_value_that_reaches_the_recall_is_found(position: int, target: float) -> None:
    values = measuring.grid(1, 1000)[:60]
    asked: list[int] = []

    def shares(value: int) -> Any:
        asked.append(value)
        return np.full(100, target + 1e-6 if value >= values[position] else target - 0.1)

    found = tune(shares, values, target, 2.0)
    assert (found["value"], found["reached"]) == (values[position], True)
    assert found["recall"] == pytest.approx(target, abs=1e-5)
    assert len(asked) <= 8


def test_a_margin_is_asked_for_and_a_recall_out_of_reach_is_reported() -> None:
    # Nine of ten queries find all, one finds 0.9: mean 0.99, standard error 0.003.
    share = np.tile([1.0] * 9 + [0.9], 10)
    assert tune(lambda _: share, [1, 2, 3], 0.989, 0.0)["value"] == 1
    found = tune(lambda value: share if value < 3 else np.ones(100), [1, 2, 3], 0.989, 2.0)
    assert found["value"] == 3
    assert tune(lambda _: share, [1, 2, 3], 0.989, 2.0) == {
        "value": 3,
        "recall": pytest.approx(0.99),
        "reached": False,
    }


def test_memory_is_that_of_this_process() -> None:
    peak = measuring.Peak(watch=True)
    memory = peak.mebibytes()
    assert 10 < memory["resident"] < 1 << 20


def test_the_twin_of_a_store_has_its_index_and_its_recall(tmp_path: Path) -> None:
    """Above 50,000 rows latentdb answers from an index: raw FAISS reads the same file."""
    random = np.random.default_rng(5)
    centres = random.normal(size=(50, 6))
    vectors = (centres[random.integers(0, 50, 51_300)] + random.normal(0, 0.3, (51_300, 6))).astype(
        np.float32
    )
    rows, queries = vectors[:51_000], vectors[51_000:]
    np.save(tmp_path / "rows.npy", rows)
    truth = sets.nearest([rows], queries, K)
    built = latentdb_system.Default().build(
        sets.Rows(tmp_path / "rows.npy"), tmp_path, {"recall": 0.95}
    )
    assert built["told"]["covered"] == 51_000
    assert built["index_s"] > 0
    one = latentdb_system.pair_single(tmp_path, tmp_path / "rows.npy", queries, truth)
    assert one["twin"].startswith("the store's own index file, ")
    assert one["search_recall"] >= 0.94
    assert one["query_recall"] >= 0.94  # by id
    assert one["faiss_recall"] == pytest.approx(one["search_recall"], abs=0.01)
    many = latentdb_system.pair_batch(tmp_path, tmp_path / "rows.npy", queries, truth)
    assert many["ratio"] > 0


# --- processes, time limits, and what is saved ---------------------------------------


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_what_takes_too_long_is_ended_and_named(tmp_path: Path) -> None:
    work = Work(tmp_path / "w", {}, limit=1)
    slow = program(tmp_path / "slow", "sleep 600")
    done = work.run("easy", "chroma", "build", {}, python=slow)
    assert done["failed"] == "took longer than 1 s (stopped in build)"
    assert 1 <= done["seconds"] < 30
    assert "took longer than" in work.cold("easy", "usearch", {}, python=slow)["failed"]


def test_what_fails_is_named_by_its_last_line_and_not_run_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "w", {}, limit=60)
    bad = program(tmp_path / "bad", "echo 'Trace' >&2; echo 'OSError: no more' >&2; exit 3")
    expected = "build: OSError: no more"
    assert work.run("easy", "chroma", "build", {}, python=bad)["failed"] == expected
    never = tmp_path / "is not there"
    assert work.run("easy", "chroma", "build", {}, python=never)["failed"] == expected
    line = tables.summary(work.known("easy", "chroma"), 1000)
    assert "OSError: no more" in tables.systems({"easy": {"chroma": line}})
    work.forget("easy", "chroma")
    assert work.known("easy", "chroma") == {}


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    Work(tmp_path, {"seed": 1}, limit=1)
    Work(tmp_path, {"seed": 1}, limit=2)
    with pytest.raises(SystemExit, match="holds results of other settings"):
        Work(tmp_path, {"seed": 2}, limit=1)


def test_every_peer_has_a_package_to_ask_for() -> None:
    for name, entry in systems.SYSTEMS.items():
        assert entry.peer == (entry.packages[0] in peerage.ASKED), name
        system = systems.make(name)
        assert isinstance(system, systems.System)
        assert bool(system.steps)


def test_of_several_rounds_the_middle_one_counts() -> None:
    phases = {
        f"single-{turn}": {"p50_ms": p50, "p99_ms": 2.0, "recall": 1.0, "memory": {}}
        for turn, p50 in enumerate((0.5, 0.9, 0.4))
    }
    found = tables.summary(phases, 1000)
    assert found["p50_ms"] == 0.5
    assert found["p50_range_ms"] == [0.4, 0.9]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.031, "0.031"), (1.23, "1.23"), (678.9, "679"), (4e3, "4,000")],
)  # fmt: skip
def test_numbers_have_three_figures(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def test_no_process_starts_with_threads_it_was_not_given() -> None:
    assert "OMP_NUM_THREADS" not in runs._environment(None)
    assert runs._environment(1)["OMP_NUM_THREADS"] == "1"
