"""The query command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json
from tests.cli.vectors import DIM, ROWS, latents


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store without an index; not to be changed."""
    path = tmp_path_factory.mktemp("query") / "s.ldb"
    with LatentDB.create(path, dim=DIM) as made:
        made.add(
            [f"r{number}" for number in range(ROWS)],
            latents(ROWS),
            z_log_var=latents(ROWS, 1),
            metadata={"n": list(range(ROWS))},
        )
    return str(path)


def test_a_query_is_json_of_a_fixed_shape(db: str) -> None:
    found = run_json("query", db, "r5", "-k", 3)
    assert list(found) == ["metric", "exact", "scanned", "matches", "recall"]
    assert (found["metric"], found["exact"], found["scanned"]) == ("l2", True, ROWS)
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3]
    first = found["matches"][0]
    assert first == {"rank": 1, "id": "r5", "distance": 0.0, "path": None, "metadata": {"n": 5}}


def test_matches_are_printed_a_line_each(db: str) -> None:
    lines = run("query", db, "r5", "-k", 3).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["1", "0.0000", "r5", "n=5"]
    assert run("query", db, "r5", "--where", "n < 0").stdout == "no matches\n"


@pytest.mark.parametrize("metric", ["l2", "cosine", "wasserstein", "kl"])
def test_metrics_are_those_of_the_api(db: str, metric: str) -> None:
    found = run_json("query", db, "r5", "--metric", metric)
    with LatentDB.open(db) as opened:
        expected = opened.query("r5", metric=metric)
    assert found["metric"] == metric
    assert [match["id"] for match in found["matches"]] == [match.id for match in expected]


def test_a_radius_gives_all_within_it(db: str) -> None:
    within = run_json("query", db, "r5", "--radius", 0.3)["matches"]
    with LatentDB.open(db) as opened:
        vectors = opened.vectors(opened.ids())
        distances = np.linalg.norm(vectors.astype(np.float64) - vectors[5], axis=1)
    assert len(within) == (distances <= 0.3).sum() > 10
    two = run_json("query", db, "r5", "--radius", 0.3, "-k", 2)
    assert two["matches"] == within[:2]


def test_exact_compares_every_row(large_store: Path) -> None:
    run("optimize", large_store, "--recall", 0.9)
    rough, exact = (run_json("query", large_store, "r5", *how) for how in ((), ("--exact",)))
    assert (rough["exact"], exact["exact"]) == (False, True)
    assert exact["scanned"] == ROWS


def test_the_target_and_examples_are_left_out(db: str) -> None:
    how = ("--like", "r6", "--like", "r7", "--unlike", "r8")
    found = run("query", db, "r5", *how, "--exclude-self", "-k", ROWS, "--json")
    ids = {match["id"] for match in json.loads(found.stdout)["matches"]}
    assert ids == {f"r{number}" for number in range(ROWS)} - {"r5", "r6", "r7", "r8"}


def test_examples_alone_are_a_query(db: str) -> None:
    found = run_json("query", db, "--like", "r6", "--like", "r7", "-k", 4)
    with LatentDB.open(db) as opened:
        expected = opened.query(opened.vectors(["r6", "r7"]).mean(axis=0), k=4)
    assert [match["id"] for match in found["matches"]] == [match.id for match in expected]


def test_a_text_file_of_targets(db: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("r5\nid:r6\n")
    found = run_json("query", db, "--targets", tmp_path / "t.txt", "-k", 2)
    assert list(found) == ["queries"]
    assert [one["target"] for one in found["queries"]] == ["r5", "id:r6"]
    assert list(found["queries"][0]) == [
        "target",
        "metric",
        "exact",
        "scanned",
        "matches",
        "recall",
    ]
    for answer, name in zip(found["queries"], ("r5", "r6"), strict=True):
        alone = run_json("query", db, name, "-k", 2)
        assert {key: value for key, value in answer.items() if key != "target"} == alone
    lines = run("query", db, "--targets", tmp_path / "t.txt", "-k", 2).stdout.splitlines()
    assert len(lines) == 6
    assert [lines[0], lines[3]] == ["r5:", "id:r6:"]


def test_a_npy_file_of_targets(db: str, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", latents(ROWS)[[3, 9]])
    how = ("--targets", tmp_path / "t.npy", "-k", 1, "--where", "n > 4", "--json")
    found = json.loads(run("query", db, *how).stdout)["queries"]
    assert [one["target"] for one in found] == ["0", "1"]
    assert found[0]["matches"][0]["id"] != "r3"
    assert found[1]["matches"][0]["id"] == "r9"


def test_no_targets_are_no_queries(db: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n")
    assert run_json("query", db, "--targets", tmp_path / "t.txt") == {"queries": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a TARGET, --like TARGET, or --targets FILE"),
        (["--unlike", "r1"], "give a TARGET, --like TARGET, or --targets FILE"),
        (["r1", "--targets", "t.txt"], "--targets cannot be combined"),
        (["--like", "r1", "--targets", "t.txt"], "--targets cannot be combined"),
        (["--unlike", "r1", "--targets", "t.txt"], "--targets cannot be combined"),
        (["r1", "--metric", "l3"], "'l3' is not one of"),
        (["r1", "-k", "many"], "'many' is not a valid integer"),
        (["r1", "--radius", "wide"], "'wide' is not a valid float"),
        (["r1", "r2"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_two(db: str, arguments: list[str], message: str) -> None:
    result = run("query", db, *arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "neither an id nor a file: 'nobody'"),
        (["r1", "--like", "id:nobody"], "no id 'nobody'"),
        (["r1", "-k", "0"], "k 0 cannot be used"),
        (["r1", "--radius", "-1"], "radius -1.0 cannot be used"),
        (["r1", "--radius", "nan"], "radius nan cannot be used"),
        (["r1", "--where", "n >"], "n >"),
        (["r1", "--where", "year > 1"], "year"),
        (["--targets", "gone.txt"], "gone.txt does not exist"),
        (["--like", "r1", "--like", "r2", "--metric", "kl"], "needs z_log_var"),
    ],
)
def test_an_error_is_one_line(db: str, arguments: list[str], message: str) -> None:
    assert message in run_error("query", db, *arguments)


def test_query_options(store: Path, images: Path, tmp_path: Path) -> None:
    only = run_json("query", store, "id:disc/000.png", "--where", 'label == "square"', "-k", 3)
    assert {match["metadata"]["label"] for match in only["matches"]} == {"square"}
    run("query", store, images / "disc/000.png", "--sheet", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 700
    run("query", store, "--like", "disc/000.png", "--sheet", tmp_path / "like.png")
    assert run("query", store, "disc/000.png", "--where", 'label == "x"').stdout == "no matches\n"
    failed = run("query", store, "disc/000.png", "--sheet", tmp_path / "sheet.png", code=1)
    assert len(failed.stdout.splitlines()) == 10
    assert "sheet.png exists" in failed.stderr
    (tmp_path / "t.txt").write_text("disc/000.png\nsquare/000.png\n")
    many = ("query", store, "--targets", tmp_path / "t.txt", "--sheet", tmp_path / "many.png")
    assert run(*many).stdout.count("\n") == 22
    assert (tmp_path / "many.png").is_file()
    assert run(*many, code=1).stdout.count("\n") == 22  # it exists: the answers are printed


def test_a_damaged_index_is_warned_of_and_the_answer_is_exact(large_store: Path) -> None:
    assert run("optimize", large_store).exit_code == 0
    (file,) = (large_store / "index").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-m", "latentdb", "query", large_store, "r5", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["exact"]
    assert found["matches"][0]["id"] == "r5"
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Warning: {file} is damaged: its checksum is")
    assert line.endswith("every row is scanned instead, latentdb optimize rebuilds it")
