"""query and optimize on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from latentdb.ann import plan
from latentdb.cli.main import main
from latentdb.cli.query import _Memory
from latentdb.database import LatentDB

DIM = 4
ROWS = 1_500
Run = Callable[..., Result]


def latents(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((count, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store without an index; not to be changed."""
    path = tmp_path_factory.mktemp("asking") / "s.ldb"
    with LatentDB.create(path, dim=DIM) as made:
        made.add(
            [f"r{number}" for number in range(ROWS)],
            latents(ROWS),
            z_log_var=latents(ROWS, 1),
            metadata={"n": list(range(ROWS))},
        )
    return str(path)


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def told(result: Result) -> str:
    """The one line of an error, and that it is one."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


# --- query ----------------------------------------------------------------------


def test_a_query_is_json_of_a_fixed_shape(db: str, run: Run) -> None:
    found = json.loads(run("query", db, "r5", "-k", 3, "--json").stdout)
    assert list(found) == ["metric", "exact", "scanned", "matches"]
    assert (found["metric"], found["exact"], found["scanned"]) == ("l2", True, ROWS)
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3]
    first = found["matches"][0]
    assert first == {"rank": 1, "id": "r5", "distance": 0.0, "path": None, "metadata": {"n": 5}}


def test_matches_are_printed_a_line_each(db: str, run: Run) -> None:
    lines = run("query", db, "r5", "-k", 3).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["1", "0.0000", "r5", "n=5"]
    assert run("query", db, "r5", "--where", "n < 0").stdout == "no matches\n"


@pytest.mark.parametrize("metric", ["l2", "cosine", "wasserstein", "kl"])
def test_metrics_are_those_of_the_api(db: str, run: Run, metric: str) -> None:
    found = json.loads(run("query", db, "r5", "--metric", metric, "--json").stdout)
    with LatentDB.open(db) as opened:
        own = opened.query("r5", metric=metric)
    assert found["metric"] == metric
    assert [match["id"] for match in found["matches"]] == [match.id for match in own]


def test_a_radius_gives_all_within_it(db: str, run: Run) -> None:
    within = json.loads(run("query", db, "r5", "--radius", 0.3, "--json").stdout)["matches"]
    with LatentDB.open(db) as opened:
        vectors = opened.vectors(opened.ids())
        distances = np.linalg.norm(vectors.astype(np.float64) - vectors[5], axis=1)
    assert len(within) == (distances <= 0.3).sum() > 10
    two = json.loads(run("query", db, "r5", "--radius", 0.3, "-k", 2, "--json").stdout)
    assert two["matches"] == within[:2]


def test_every_row_is_compared_if_that_is_asked_for(own: Path, run: Run) -> None:
    run("optimize", own, "--recall", 0.9)
    rough, exact = (
        json.loads(run("query", own, "r5", *how, "--json").stdout) for how in ((), ("--exact",))
    )
    assert (rough["exact"], exact["exact"]) == (False, True)
    assert exact["scanned"] == ROWS


def test_the_target_and_examples_are_left_out(db: str, run: Run) -> None:
    how = ("--like", "r6", "--like", "r7", "--unlike", "r8")
    found = run("query", db, "r5", *how, "--exclude-self", "-k", ROWS, "--json")
    ids = {match["id"] for match in json.loads(found.stdout)["matches"]}
    assert ids == {f"r{number}" for number in range(ROWS)} - {"r5", "r6", "r7", "r8"}


def test_examples_alone_are_a_query(db: str, run: Run) -> None:
    found = json.loads(run("query", db, "--like", "r6", "--like", "r7", "-k", 4, "--json").stdout)
    with LatentDB.open(db) as opened:
        own = opened.query(opened.vectors(["r6", "r7"]).mean(axis=0), k=4)
    assert [match["id"] for match in found["matches"]] == [match.id for match in own]


def test_many_targets_are_asked_at_once(db: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("r5\nid:r6\n")
    found = json.loads(run("query", db, "--targets", tmp_path / "t.txt", "-k", 2, "--json").stdout)
    assert list(found) == ["queries"]
    assert [one["target"] for one in found["queries"]] == ["r5", "id:r6"]
    assert list(found["queries"][0]) == ["target", "metric", "exact", "scanned", "matches"]
    for own, name in zip(found["queries"], ("r5", "r6"), strict=True):
        alone = json.loads(run("query", db, name, "-k", 2, "--json").stdout)
        assert {key: value for key, value in own.items() if key != "target"} == alone
    lines = run("query", db, "--targets", tmp_path / "t.txt", "-k", 2).stdout.splitlines()
    assert len(lines) == 6
    assert [lines[0], lines[3]] == ["r5:", "id:r6:"]


def test_a_npy_of_targets_is_asked_at_once(db: str, run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", latents(ROWS)[[3, 9]])
    how = ("--targets", tmp_path / "t.npy", "-k", 1, "--where", "n > 4", "--json")
    found = json.loads(run("query", db, *how).stdout)["queries"]
    assert [one["target"] for one in found] == ["0", "1"]
    assert found[0]["matches"][0]["id"] != "r3"
    assert found[1]["matches"][0]["id"] == "r9"


def test_no_targets_are_no_queries(db: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n")
    assert json.loads(run("query", db, "--targets", tmp_path / "t.txt", "--json").stdout) == {
        "queries": []
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a TARGET, --like TARGET, or --targets FILE"),
        (["--unlike", "r1"], "give a TARGET, --like TARGET, or --targets FILE"),
        (["r1", "--targets", "t.txt"], "--targets stands alone"),
        (["--like", "r1", "--targets", "t.txt"], "--targets stands alone"),
        (["--unlike", "r1", "--targets", "t.txt"], "--targets stands alone"),
        (["--sheet", "a.png", "--targets", "t.txt"], "--targets stands alone"),
        (["--like", "r1", "--sheet", "a.png"], "--sheet draws TARGET: give one"),
        (["r1", "--metric", "l3"], "'l3' is not one of"),
        (["r1", "-k", "many"], "'many' is not a valid integer"),
        (["r1", "--radius", "wide"], "'wide' is not a valid float"),
        (["r1", "r2"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_two(db: str, run: Run, arguments: list[str], message: str) -> None:
    result = run("query", db, *arguments)
    assert result.exit_code == 2
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
def test_an_error_is_one_line(db: str, run: Run, arguments: list[str], message: str) -> None:
    assert message in told(run("query", db, *arguments))


# --- optimize -------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that outgrows a scan, of whose index nothing is made yet."""
    with LatentDB.create(tmp_path / "s", dim=DIM, recall=0.9) as made:
        made.add([f"r{number}" for number in range(ROWS)], latents(ROWS))
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_200)
    return tmp_path / "s"


def test_what_was_built_is_told(own: Path, run: Run) -> None:
    found = json.loads(
        run("optimize", own, "--recall", "0.8", "--metric", "cosine", "--json").stdout
    )
    index = found["index"]
    assert (index["kind"], index["metric"], index["rows"]) == ("ivf-sq4", "cosine", ROWS)
    assert index["recall_measured"] >= index["recall_target"] == found["recall_target"] == 0.8
    assert (found["covered_rows"], found["why"]) == (ROWS, "")
    printed = run("info", own).stdout
    assert "ivf-sq4 of cosine over 1500 rows, the rest scanned; recall@10 0." in printed
    assert "measured on 375 rows, target 0.8" in printed


def test_an_index_that_does_not_fit_the_memory_is_not_built(own: Path, run: Run) -> None:
    result = run("optimize", own, "--memory", "10k")
    assert result.exit_code == 0
    assert "exact scan" in result.stdout
    assert "note      ivf-sq4 would take " in result.stdout
    assert "of the 10000 allowed" in result.stdout
    with LatentDB.open(own) as opened:
        version = opened.info().version
        opened.add(["one more"], latents(1, 2))
        assert opened.info().version == version + 1  # no try, where nothing can come of it
    result = run("optimize", own, "--memory", 0, "--json")
    assert json.loads(result.stdout)["index"]["rows"] == ROWS + 1


def test_a_preference_is_kept_and_told(own: Path, run: Run) -> None:
    found = json.loads(run("optimize", own, "--prefer", "latency", "--json").stdout)
    assert found["index"]["kind"] in ("ivf-sq4", "hnsw-sq8")
    if found["index"]["kind"] == "ivf-sq4":
        assert found["why"] == "ivf-sq4 was measured to be as fast as hnsw-sq8"
    manifest = json.loads((own / "MANIFEST.json").read_text())["manifest"]
    assert manifest["settings"]["prefer"] == "latency"
    run("optimize", own)
    manifest = json.loads((own / "MANIFEST.json").read_text())["manifest"]
    assert manifest["settings"]["prefer"] == "latency"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("12", 12),
        ("4G", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("4GB", 4 * 10**9),
        ("4GiB", 4 << 30),
        ("4Gi", 4 << 30),
        (" 1.5 M ", 1_500_000),
        ("500k", 500_000),
        ("2T", 2 * 10**12),
        ("7b", 7),
    ],
)
def test_a_size_is_bytes(text: str, count: int) -> None:
    assert _Memory().convert(text, None, None) == count


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["--memory", size]
            for size in ("", "G", "-1", "4X", "4 G G", "1e9", "4i", "٤G", "9" * 400)
        ),
        ["--metric", "kl"],
        ["--metric", "l3"],
        ["--prefer", "speed"],
        ["--recall", "all"],
    ],
)
def test_wrong_usage_of_optimize_is_two(own: Path, run: Run, arguments: list[str]) -> None:
    result = run("optimize", own, *arguments)
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recall", "1.5"], "recall 1.5 cannot be used: give a share, such as 0.99"),
        (["--recall", "nan"], "recall nan cannot be used"),
        (["--memory", "99999999T"], "memory 99999999000000000000 cannot be used"),
        (["--metric", "wasserstein"], "this store has no z_log_var: use l2 or cosine"),
    ],
)
def test_an_error_of_optimize_is_one_line(
    own: Path, run: Run, arguments: list[str], message: str
) -> None:
    before = (own / "MANIFEST.json").read_bytes()
    assert message in told(run("optimize", own, *arguments))
    assert (own / "MANIFEST.json").read_bytes() == before


def test_a_damaged_index_is_warned_of_and_the_answer_is_exact(own: Path, run: Run) -> None:
    assert run("optimize", own).exit_code == 0
    (file,) = (own / "index").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-m", "latentdb.cli.main", "query", own, "r5", "--json"],
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
