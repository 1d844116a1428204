"""The explorer as static files: what is in them, and what is left alone."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from latentdb.base.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from latentdb.cli.main import main
from latentdb.database import LatentDB
from latentdb.explorer.site import MARK, SITE_MODULES
from latentdb.explorer.tiles import cells_for, curve_order, draw_tile

RANDOM = np.random.default_rng(0)


@pytest.fixture
def vectors(tmp_path: Path) -> LatentDB:
    """A store without a model, whose site needs no runtime."""
    db = LatentDB.create(tmp_path / "v.ldb", dim=3)
    values = (RANDOM.normal(size=(300, 3)) * [1, 100, 0]).astype(np.float32)
    db.add([f"<b>{number}" for number in range(300)], values, metadata={"n": list(range(300))})
    return db


def packed(folder: Path, name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(gzip.decompress((folder / "data" / name).read_bytes()))
    return loaded


def test_a_site_holds_the_rows_in_the_order_of_the_points(
    vectors: LatentDB, tmp_path: Path
) -> None:
    made = vectors.export_site(tmp_path / "site")
    folder = tmp_path / "site"
    info = json.loads((folder / MARK).read_text())
    assert (info["rows"], info["has_decoder"], info["decoder"], info["tiles"]) == (
        300,
        False,
        None,
        None,
    )
    rows = np.frombuffer((folder / "data/points.bin").read_bytes(), "<u4", 300, 16)
    assert sorted(rows) == list(range(300))
    table = packed(folder, "rows.json.gz")
    assert table["ids"] == [f"<b>{row}" for row in rows]
    assert table["metadata"] == {"n": rows.tolist()}
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert made.files == len(found)
    assert made.bytes == sum(path.stat().st_size for path in found) == sum(made.parts.values())


def test_latents_are_kept_to_a_65535th_of_their_range(vectors: LatentDB, tmp_path: Path) -> None:
    vectors.export_site(tmp_path / "site")
    data = (tmp_path / "site/data/latents.bin").read_bytes()
    magic, version, n, d = struct.unpack_from("<4sIII", data)
    assert (magic, version, n, d) == (b"LDBZ", 1, 300, 3)
    low, step = np.frombuffer(data, "<f4", 2 * d, 16).reshape(2, d).astype(np.float64)
    values = low + step * np.frombuffer(data, "<u2", n * d, 16 + 8 * d).reshape(n, d)
    rows = np.frombuffer((tmp_path / "site/data/points.bin").read_bytes(), "<u4", n, 16)
    exact = vectors.vectors(vectors.ids())[rows].astype(np.float64)
    assert (np.abs(values - exact).max(axis=0) <= np.ptp(exact, axis=0) / 65535 * 0.51).all()


def test_where_selects_the_rows(vectors: LatentDB, tmp_path: Path) -> None:
    assert vectors.export_site(tmp_path / "site", where="n < 20").rows == 20
    assert len(packed(tmp_path / "site", "rows.json.gz")["ids"]) == 20  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no rows"):
        vectors.export_site(tmp_path / "none", where="n < 0")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_images_are_indexed_from_is_left_alone(store: Path, images: Path) -> None:
    with LatentDB.open(store) as db:
        for folder in (images / "site", images / "disc/site"):
            with pytest.raises(InvalidInputError, match=r"whose images are indexed: .* --force"):
                db.export_site(folder)
            assert not folder.exists()


def test_a_folder_with_other_files_is_left_alone(vectors: LatentDB, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(AlreadyExistsError, match="remove it first"):
            vectors.export_site(tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(AlreadyExistsError, match="lies in the store"):
        vectors.export_site(tmp_path / "v.ldb/site")


def test_a_site_is_replaced_and_what_lies_beside_it_stays(
    vectors: LatentDB, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    vectors.export_site(folder)
    (folder / ".git").mkdir()
    (folder / "CNAME").touch()
    (folder / "data/old.jpg").touch()
    with pytest.raises(AlreadyExistsError, match="--force"):
        vectors.export_site(folder)
    vectors.export_site(folder, where="n < 20", overwrite=True)
    assert json.loads((folder / MARK).read_text())["rows"] == 20
    assert (folder / ".git").exists()
    assert (folder / "CNAME").exists()
    assert not (folder / "data/old.jpg").exists()


def test_the_page_is_confined_and_loads_only_its_own_files(
    vectors: LatentDB, tmp_path: Path
) -> None:
    vectors.export_site(tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text()
    policy = re.search(r'http-equiv="content-security-policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert "&#x27;unsafe-eval" not in policy[1]
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    for script in (tmp_path / "site").glob("*.js"):
        named += re.findall(r'from "./([^"]+)"', script.read_text())
    modules = {path.name for path in (tmp_path / "site").glob("*.js")}
    assert modules - {"engine.js"} <= set(named)
    assert set(SITE_MODULES) <= modules
    for name in named:
        assert (tmp_path / "site" / name).is_file()


def test_the_command(store: Path, tmp_path: Path, ort: Path | None) -> None:
    pytest.importorskip("onnxruntime")
    words = ["export", str(store), "--site", str(tmp_path / "site")]
    words += [] if ort is None else ["--ort", str(ort)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "80 rows" in result.output
    assert "http.server" in result.output
    result = CliRunner().invoke(main, [*words, "--json", "--force"])
    assert json.loads(result.stdout)["rows"] == 80


def test_wrong_usage(store: Path) -> None:
    for words in ([], ["a.csv", "--site", "b"], ["a.csv", "--ort", "b"]):
        assert CliRunner().invoke(main, ["export", str(store), *words]).exit_code == 2


def test_points_near_to_each_other_share_a_tile() -> None:
    points = RANDOM.random((4096, 2)).astype(np.float32)
    ordered = points[curve_order(points)]
    spread = np.ptp(ordered.reshape(-1, 256, 2), axis=1).max(axis=1)
    assert spread.max() < 0.5
    assert curve_order(np.zeros((3, 2), np.float32)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("shape", "size"), [((28, 28, 1), 28), ((96, 48, 3), 64)])
def test_a_tile_keeps_its_thumbnails_apart(shape: tuple[int, int, int], size: int) -> None:
    levels = np.arange(20) * 12
    images = np.broadcast_to(levels[:, None, None, None], (20, *shape)).astype(np.uint8)
    cells = cells_for(*shape[:2])
    assert cells.height == size
    tile = np.asarray(Image.open(io.BytesIO(draw_tile(images, cells))).convert("L"), np.int64)
    for number, level in enumerate(levels):
        top, left = number // 16 * cells.down, number % 16 * cells.across
        cell = tile[top : top + cells.height, left : left + cells.width]
        assert np.abs(cell - level).max() <= 3
