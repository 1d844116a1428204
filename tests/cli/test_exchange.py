"""export and import."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from latentdb.database import LatentDB
from tests.cli.running import run, run_error, run_json
from tests.cli.vectors import latents


def test_export_writes_rows(store: Path, tmp_path: Path) -> None:
    assert run_json("export", store, tmp_path / "all.h5")["rows"] == 80
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["z_mean"].shape == (80, 4)
        assert file["id"].asstr()[0] == "disc/000.png"
    run("export", store, tmp_path / "some.npy", "--where", 'label == "disc"')
    assert np.load(tmp_path / "some.npy").shape == (40, 4)


def test_export_to_stdout_is_the_csv_file(store: Path, tmp_path: Path) -> None:
    run("export", store, tmp_path / "a.csv", "--where", 'label == "disc"')
    said = run("export", store, "-", "--where", 'label == "disc"').stdout
    assert said == (tmp_path / "a.csv").read_text()
    assert "--json cannot be combined with -" in run("export", store, "-", "--json", code=2).stderr


def test_export_for_a_spreadsheet(tmp_path: Path) -> None:
    LatentDB.create(tmp_path / "s.ldb", dim=1).add(["=1"], np.zeros((1, 1)))
    run("export", tmp_path / "s.ldb", tmp_path / "o.csv", "--excel-safe")
    assert (tmp_path / "o.csv").read_text().splitlines()[1] == "'=1,,0"


def test_import_of_another_programs_file(store: Path, model: Path, tmp_path: Path) -> None:
    vectors = LatentDB.open(store).vectors(["disc/000.png", "disc/001.png"])
    np.savez(tmp_path / "v.npz", code=["a", "b"], mu=vectors, images=np.zeros((2, 3, 3)))
    names = ("--id-column", "code", "--vector-column", "mu", "--model", model)
    done = run("import", tmp_path / "s.ldb", tmp_path / "v.npz", *names)
    assert done.stderr.splitlines()[-1] == "note: left out, as a store cannot hold it: images"
    run("decode", tmp_path / "s.ldb", "a", "--out", tmp_path / "a.png")
    assert "no array 'kode'" in run_error(
        "import", tmp_path / "t.ldb", tmp_path / "v.npz", *names[2:], "--id-column", "kode"
    )


def test_import_makes_a_store_and_takes_ids_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", latents(2))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    import_ = ("import", tmp_path / "s.ldb", tmp_path / "v.npy", "--ids", tmp_path / "ids.txt")
    assert run(*import_).stdout.startswith("2 added, 0 replaced, 0 skipped; 2 rows, ")
    assert run_json(*import_, "--on-conflict", "skip")["skipped"] == 2
    assert "'a' (2 in all) is in the store" in run_error(*import_)
