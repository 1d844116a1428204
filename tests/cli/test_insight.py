"""diagnose, traverse, sample, cluster, map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentdb.database import LatentDB
from tests.cli.running import run, run_json


def test_diagnose(store: Path, tmp_path: Path) -> None:
    lines = run("diagnose", store, "--out", tmp_path / "d.png").stdout.splitlines()
    assert "collapse" in lines[0]
    assert lines[1].startswith("active units: ")
    assert lines[-1] == str(tmp_path / "d.png")
    found = run_json("diagnose", store, "--where", 'label == "disc"')
    assert found["rows"] == 40
    assert len(found["dimensions"]) == 4
    assert set(found["active"]) == {"0.001", "0.01", "0.1"}


def test_traverse_and_sample(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.png"
    line = run("traverse", store, "disc/000.png", "--dims", "1,0", "--out", out).stdout
    assert line == f"{out}: 2 dimensions: 1, 0\n"
    found = run_json("traverse", store, "--range", "-1..2", "--steps", 4, "--out", out, "--force")
    assert found["offsets"] == [-1, 0, 1, 2]
    assert "of the prior, N(0, 1)" in run("sample", store, "-n", 3, "--out", out, "--force").stdout
    found = run_json("sample", store, "-n", 3, "--from", "aggregate", "--out", tmp_path / "s.npy")
    assert np.allclose(found["latents"], np.load(tmp_path / "s.npy"))
    assert "fitted to 80 rows" in found["source"]


def test_wrong_usage(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.png"
    assert "give LOW..HIGH" in run("traverse", store, "--range", "3", "--out", out, code=2).stderr
    assert "give top:N" in run("traverse", store, "--dims", "x", "--out", out, code=1).stderr
    assert "give 1 to 80" in run("cluster", store, "-n", 81, code=1).stderr
    assert "has label" in run("map", store, "--color", "hue", "--out", out, code=1).stderr
    assert not out.exists()


def test_cluster(store: Path, tmp_path: Path) -> None:
    lines = run("cluster", store, "-n", 2, "--out", tmp_path / "c.png").stdout.splitlines()
    assert len(lines) == 5
    assert lines[3].startswith("purity: ")
    found = run_json("cluster", store, "-n", 2)
    assert sum(cluster["size"] for cluster in found["clusters"]) == 80


def test_map(store: Path, tmp_path: Path) -> None:
    line = run("map", store, "--out", tmp_path / "m.png").stdout
    assert "80 rows, 80 of them laid out; the map keeps" in line
    found = run_json("map", store, "--out", tmp_path / "n.png", "--where", 'label == "disc"')
    with LatentDB.open(store) as db:
        assert [point["id"] for point in found["points"]] == db.ids(where='label == "disc"')
    assert 0 < found["neighbours_kept"] <= 1


def test_eval(store: Path, tmp_path: Path) -> None:
    lines = run("eval", store, "-k", 5, "--out", tmp_path / "e.png").stdout.splitlines()
    assert lines[0].startswith("use ")
    assert lines[1] == "80 queries among 80 rows; exact scan by l2: recall@5 1.0000"
    assert lines[-1] == str(tmp_path / "e.png")
    found = run_json("eval", store, "--metric", "l2", "--queries", 20)
    assert [space["name"] for space in found["spaces"]] == ["l2", "pixels", "pca"]
    assert found["spaces"][0]["agreement"]["accuracy"]["queries"] == 20
    assert "no metadata column" in run("eval", store, "--label", "hue", code=1).stderr


def test_duplicates(store: Path, tmp_path: Path) -> None:
    text = run("duplicates", store, "--threshold", 0, "--sheet", tmp_path / "d.png").stdout
    assert text.splitlines()[0] == "threshold 0 by l2"
    found = run_json("duplicates", store, "--threshold", 1e6)
    assert len(found["groups"]) == 1
    assert len(found["groups"][0]["members"]) == 80
    error = run("duplicates", store, "--threshold", 1e6, "--delete", code=2).stderr
    assert "--delete and --yes go together" in error
    with LatentDB.open(store) as db:
        assert len(db) == 80
    found = run_json("duplicates", store, "--threshold", 1e6, "--delete", "--yes")
    assert found["deleted"] == 79
    with LatentDB.open(store) as db:
        assert db.ids() == [found["groups"][0]["keep"]]
    assert "calibrate" in run("duplicates", store, code=1).stderr


def test_outliers(store: Path, tmp_path: Path) -> None:
    lines = run("outliers", store, "-n", 3, "--sheet", tmp_path / "o.png").stdout.splitlines()
    assert lines[0].startswith("by error, of 80 rows")
    assert len(lines) == 6
    assert lines[-1] == str(tmp_path / "o.png")
    found = run_json("outliers", store, "--by", "kl", "--where", 'label == "disc"')
    assert (found["by"], found["rows"], len(found["outliers"])) == ("kl", 40, 20)
    assert [row["kl_rank"] for row in found["outliers"]] == list(range(1, 21))


def test_directions(store: Path, tmp_path: Path) -> None:
    lines = run("directions", store, "-n", 3, "--out", tmp_path / "a.png").stdout.splitlines()
    assert lines[0].split() == ["direction", "variance", "effect/255"]
    assert len(lines) == 5
    sides = ("--from", 'label == "disc"', "--to", 'label == "square"')
    lines = run(
        "direction", store, *sides, "--save", "square", "--out", tmp_path / "d.png"
    ).stdout.splitlines()
    assert lines[0].startswith("difference: held-out AUC ")
    assert lines[1].startswith("made of 80 rows, |v| ")
    assert lines[2:] == ["saved as @square", str(tmp_path / "d.png")]
    found = run_json("direction", store, *sides, "--method", "logistic")
    assert set(found["auc"]) == {"difference", "whitened", "logistic"}
    assert "held-out AUC" in run("recipes", store).stdout
    assert len(run("query", store, "recipe:id:disc/000.png + @square").stdout.splitlines()) == 10
    wrong = run("direction", store, "--from", "labl == 3", "--to", 'label == "disc"', code=1)
    assert "not a column" in wrong.stderr


def test_compare(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ldb"
    with LatentDB.open(store) as db:
        db.backup(copy)
    lines = run("compare", store, copy, "-k", 5, "--out", tmp_path / "c.png").stdout.splitlines()
    assert lines[0].startswith(
        "100.0% of the 5 nearest by l2 are the same in both (6.3% by chance)"
    )
    assert lines[-1] == str(tmp_path / "c.png")
    found = run_json("compare", store, copy, "--where", 'label == "disc"', "--metric", "cosine")
    assert (found["common"], found["only_b"], found["overlap"]) == (40, 40, 1.0)
    assert "does not exist" in run("compare", store, tmp_path / "x.ldb", code=1).stderr
