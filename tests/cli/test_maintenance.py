"""info, delete, compact, history, backup, restore, verify, optimize."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json
from tests.cli.vectors import ROWS, latents


def test_info_says_what_a_store_holds(store: Path) -> None:
    info = run_json("info", store)
    assert (info["rows"], info["columns"], info["index"]) == (80, {"label": "str"}, None)
    assert "exact scan (recall 1; target 0.99)" in run("info", store).stdout
    assert run_json("optimize", store, "--recall", 0.9)["recall_target"] == 0.9


def test_info_counts_deleted_rows(store: Path) -> None:
    assert "rows      80\n" in run("info", store).stdout
    assert run("delete", store, "disc/000.png").stdout == "1 row deleted\n"
    assert "rows      79 (1 deleted or replaced row still on disk)\n" in run("info", store).stdout
    assert run("delete", store, "--where", 'label == "disc"').stdout == "39 rows deleted\n"


def test_a_deleted_image_is_left_out_until_it_is_restored(store: Path, images: Path) -> None:
    assert run("delete", store, "id:disc/000.png", "disc/001.png").stdout == "2 rows deleted\n"
    assert f"root      {images}\n" in run("info", store).stdout
    assert "deleted   2 images that index leaves out\n" in run("info", store).stdout
    said = run("index", store, images).stdout
    assert "2 images left out, deleted from the store before: --restore takes them in" in said
    assert "2 added" in run("index", store, images, "--restore").stdout


def test_compact_says_what_it_merged(store: Path) -> None:
    run("delete", store, "disc/000.png")
    assert "removed 1 deleted row from disk" in run("compact", store).stdout
    assert run("compact", store).stdout == "nothing to merge\n1 segment now\n"


def test_verify_counts_problems(store: Path) -> None:
    assert "80 rows: 0 problems\n" in run("verify", store).stdout
    next((store / "segments").iterdir()).write_bytes(b"")
    result = run("verify", store, code=1)
    assert "80 rows: 1 problem\n" in result.stdout
    assert "-> damage; latentdb verify --repair: moved to quarantine; 80 rows lost" in result.stdout


def test_a_repair_exits_with_0_only_if_nothing_was_lost(store: Path) -> None:
    next((store / "model").glob("encoder.onnx")).write_bytes(b"damaged")
    run("verify", store, code=1)
    assert "dropped, and compiled again" in run("verify", store, "--repair").stdout
    (store / "model/decoder.keras").write_bytes(b"damaged")
    assert "copy it from the model folder" in run("verify", store, "--repair", code=1).stdout
    next((store / "segments").iterdir()).write_bytes(b"")
    assert "2 problems, 80 rows lost" in run("verify", store, "--repair", code=1).stdout


def test_history_lists_versions_and_a_copy_of_one_is_put_back(store: Path, tmp_path: Path) -> None:
    run("delete", store, "disc/000.png")
    listed = run_json("history", store)
    assert [(item["rows"], item["current"]) for item in listed[:2]] == [(79, True), (80, False)]
    lines = run("history", store).stdout.splitlines()
    assert lines[0].split() == ["version", "committed", "rows", "segments", "indexed"]
    assert [line.split()[0] for line in lines[1:3]] == [str(item["version"]) for item in listed[:2]]
    run("backup", store, tmp_path / "copy", "--version", listed[1]["version"])
    assert "is a store, at version" in run_error("restore", tmp_path / "copy", store)
    done = run("restore", tmp_path / "copy", store, "--overwrite").stdout
    assert (
        done
        == f"{store} is as in {tmp_path / 'copy'}: 80 rows, version {listed[0]['version'] + 1}\n"
    )
    assert "these are" in run_error("backup", store, tmp_path / "other", "--version", 99)


def test_verify_says_to_which_version_it_goes_back(store: Path) -> None:
    run("delete", store, "disc/000.png")
    (store / "MANIFEST.json").write_bytes(b"")
    assert "latentdb verify --repair goes back" in run_error("info", store)
    assert (
        "MANIFEST.previous, was put in its place" in run("verify", store, "--repair", code=1).stdout
    )
    assert run_json("info", store)["rows"] == 80


def test_optimize_reports_what_it_built(large_store: Path) -> None:
    found = json.loads(
        run("optimize", large_store, "--recall", "0.8", "--metric", "cosine", "--json").stdout
    )
    index = found["index"]
    assert (index["kind"], index["metric"], index["rows"]) == ("ivf-sq4", "cosine", ROWS)
    assert index["recall_measured"] >= index["recall_target"] == found["recall_target"] == 0.8
    assert (found["covered_rows"], found["why"]) == (ROWS, "")
    printed = run("info", large_store).stdout
    assert (
        "ivf-sq4 index by cosine over 1,500 rows, newer rows are scanned; recall@10 0." in printed
    )
    assert "measured on 375 rows, target 0.8" in printed


def test_an_index_that_does_not_fit_the_memory_is_not_built(large_store: Path) -> None:
    result = run("optimize", large_store, "--memory", "10k")
    assert result.exit_code == 0
    assert "exact scan" in result.stdout
    assert "note      ivf-sq4 would take " in result.stdout
    assert "at most 10,000 are allowed" in result.stdout
    with LatentDB.open(large_store) as opened:
        version = opened.info().version
        opened.add(["one more"], latents(1, 2))
        assert opened.info().version == version + 1  # no try, where nothing can come of it
    result = run("optimize", large_store, "--memory", 0, "--json")
    assert json.loads(result.stdout)["index"]["rows"] == ROWS + 1


def test_a_preference_is_kept_and_reported(large_store: Path) -> None:
    found = run_json("optimize", large_store, "--prefer", "latency")
    assert found["index"]["kind"] in ("ivf-sq4", "hnsw-sq8")
    if found["index"]["kind"] == "ivf-sq4":
        assert found["why"] == "ivf-sq4 was measured to be as fast as hnsw-sq8"
    manifest = json.loads((large_store / "MANIFEST.json").read_text())["manifest"]
    assert manifest["settings"]["prefer"] == "latency"
    run("optimize", large_store)
    manifest = json.loads((large_store / "MANIFEST.json").read_text())["manifest"]
    assert manifest["settings"]["prefer"] == "latency"


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
def test_wrong_usage_of_optimize_is_two(large_store: Path, arguments: list[str]) -> None:
    result = run("optimize", large_store, *arguments, code=2)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recall", "1.5"],
            "recall 1.5 cannot be used: give a share above 0 and up to 1, such as 0.99",
        ),
        (["--recall", "nan"], "recall nan cannot be used"),
        (["--memory", "99999999T"], "memory 99999999000000000000 cannot be used"),
        (
            ["--metric", "wasserstein"],
            "this store has no z_log_var: use l2, cosine or centered_cosine",
        ),
    ],
)
def test_an_error_of_optimize_is_one_line(
    large_store: Path, arguments: list[str], message: str
) -> None:
    before = (large_store / "MANIFEST.json").read_bytes()
    assert message in run_error("optimize", large_store, *arguments)
    assert (large_store / "MANIFEST.json").read_bytes() == before
