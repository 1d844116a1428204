"""The explorer's server: what the page is given, and what every other request is refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from latentdb.ann import plan
from latentdb.base.errors import NotFoundError
from latentdb.cli.main import main
from latentdb.database import LatentDB
from latentdb.explorer import patience, views
from latentdb.explorer.app import make_app
from latentdb.explorer.guard import MAX_BODY, MAX_UPLOAD, Guard
from latentdb.explorer.views import Views
from latentdb.reader import Reader
from tests.conftest import draw_shape

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

TOKEN, BASE, API = "secret-of-the-test", "http://127.0.0.1:8417", "/api/v1"


@pytest.fixture(scope="module")
def db(_filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    path = shutil.copytree(_filled, tmp_path_factory.mktemp("explorer") / "shapes.ldb")
    with Reader.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def guard(db: Reader) -> Guard:
    return Guard(make_app(Views(db)), token=TOKEN, port=8417)


@pytest.fixture
def stranger(guard: Guard) -> TestClient:
    return TestClient(guard, base_url=BASE, follow_redirects=False)


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    stranger.headers["authorization"] = f"Bearer {TOKEN}"
    return stranger


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_points_are_the_map(client: TestClient, db: Reader) -> None:
    data = client.get(f"{API}/points").content
    magic, version, n, _ = struct.unpack_from("<4sIII", data)
    assert (magic, version, n, len(data)) == (b"LDBP", 1, len(db), 16 + 12 * n)
    rows = np.frombuffer(data, "<u4", n, 16)
    points = np.frombuffer(data, "<f4", offset=16 + 4 * n).reshape(n, 2)
    assert sorted(rows) == list(range(n))
    assert np.array_equal(points, db.map().points[rows])


def test_a_tile_shows_the_rows_in_the_order_of_the_points(client: TestClient, db: Reader) -> None:
    tiles = client.get(f"{API}/info").json()["tiles"]
    rows = np.frombuffer(client.get(f"{API}/points").content, "<u4", len(db), 16)
    tile = pixels(client.get(f"{API}/tiles/0").content).astype(np.int64)
    for place in (0, 17, 79):
        down, across = place // tiles["columns"] * tiles["down"], place % tiles["columns"]
        cell = tile[down : down + 16, across * tiles["across"] :][:, :16]
        image = pixels(client.get(f"{API}/thumb/{rows[place]}").content).astype(np.int64)
        assert np.abs(cell - image).mean() < 12


def test_columns_and_filter_agree(client: TestClient, db: Reader) -> None:
    assert client.get(f"{API}/info").json()["columns"] == ["label"]
    column = client.get(f"{API}/columns/label").json()
    assert [category["name"] for category in column["categories"]] == ["disc", "square"]
    found = client.get(f"{API}/filter", params={"where": 'label == "square"'}).json()["points"]
    assert found == [place for place, code in enumerate(column["codes"]) if code == 1]


def test_numbers_that_json_or_javascript_cannot_hold_are_texts(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "v.ldb", dim=3) as db:
        db.add(["a", "b"], np.eye(2, 3), metadata={"n": [2**60 + 1, 1], "x": [np.inf, 1.5]})
        found = Views(db).neighbours(1, k=1, metric="l2", exact=False)["matches"][0]["metadata"]
    assert found == {"n": str(2**60 + 1), "x": "inf"}


def test_neighbours_are_by_the_metric_of_the_store_unless_one_is_named(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "v.ldb", dim=2) as db:
        db.add(["a", "b", "c"], np.array([[1, 0], [9, 1], [0, 1]]))
        views = Views(db)
        assert views.info()["metric"] == "l2"
        assert views.info()["metrics"] == ["l2", "cosine"]
        db.optimize(metric="centered_cosine")
        views = Views(db)
        assert views.info()["metric"] == "centered_cosine"
        assert views.info()["metrics"] == ["l2", "cosine", "centered_cosine"]
        db.optimize(metric="cosine")
        client = TestClient(Guard(make_app(Views(db)), token=TOKEN, port=8417), base_url=BASE)
        client.headers["authorization"] = f"Bearer {TOKEN}"
        found = client.get(f"{API}/neighbors/0").json()
        assert (found["metric"], found["matches"][0]["id"]) == ("cosine", "b")
        found = client.post(f"{API}/query", json={"parts": [{"row": 0}]}).json()
        assert (found["metric"], found["matches"][1]["id"]) == ("cosine", "b")
        found = client.get(f"{API}/neighbors/0?metric=l2").json()
        assert (found["metric"], found["matches"][0]["id"]) == ("l2", "c")


def test_an_answer_says_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 4))
    with LatentDB.create(tmp_path / "v.ldb", dim=4, recall=0.95) as db:
        db.add([str(number) for number in range(3000)], vectors)
        views = Views(db)
        found = views.neighbours(0, k=5, metric=None, exact=False)
        assert (found["exact"], found["recall"], found["scanned"]) == (True, 1.0, 3000)
        assert views.info()["index"] is None
        monkeypatch.setattr(plan, "EXACT_ROWS", 1_500)  # for speed; the real one is 50,000
        db.optimize()
        views = Views(db)
        assert views.info()["index"] == {"metric": "l2", "recall": 0.95}
        found = views.neighbours(0, k=5, metric=None, exact=False)
        assert (found["exact"], found["recall"]) == (False, 0.95)
        assert found["scanned"] < 3000
        found = views.neighbours(0, k=5, metric=None, exact=True)
        assert (found["exact"], found["recall"], found["scanned"]) == (True, 1.0, 3000)


def test_rows_added_later_are_placed_where_a_new_page_has_them(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(90, 3))
    with LatentDB.create(tmp_path / "v.ldb", dim=3) as db:
        db.add([f"old/{number}" for number in range(60)], vectors[:60])
        views = Views(db)
        client = TestClient(Guard(make_app(views), token=TOKEN, port=8417), base_url=BASE)
        client.headers["authorization"] = f"Bearer {TOKEN}"
        before = client.get(f"{API}/added").json()
        assert (before["count"], before["rows"], before["points"]) == (0, [], [])
        points = client.get(f"{API}/points").content
        db.add([f"new/{number}" for number in range(29)], vectors[60:89])
        db.add(["old/0"], vectors[89:], on_conflict="replace")
        db.delete(["new/28"])
        db.compact()
        found = client.get(f"{API}/added", params={"known": before["version"]}).json()
        assert (found["count"], len(found["rows"]), len(found["points"])) == (29, 29, 29)
        known = {"known": found["version"]}
        assert client.get(f"{API}/added", params=known).json()["rows"] is None
        assert client.get(f"{API}/points").content == points
        later = Views(db).map
        place = dict(zip(later.rows.tolist(), later.points.tolist(), strict=True))
        assert [place[row] for row in found["rows"]] == found["points"]
        names = [client.get(f"{API}/rows/{row}").json()["id"] for row in found["rows"]]
        assert names == [*(f"new/{number}" for number in range(28)), "old/0"]
        nearest = client.get(f"{API}/neighbors/{found['rows'][0]}?k=88").json()["matches"]
        assert sorted(match["row"] for match in nearest)[-28:] == found["rows"][1:]
        part = {"parts": [{"row": found["rows"][0]}]}
        (point,) = client.post(f"{API}/place", json=part).json()["points"]
        assert point == found["points"][0]
        assert client.get(f"{API}/rows/{found['rows'][-1] + 1}").status_code == 404


def test_a_blend_is_placed_between_the_rows_that_it_resembles(
    client: TestClient, db: Reader
) -> None:
    data = client.get(f"{API}/points").content
    rows = np.frombuffer(data, "<u4", len(db), 16)
    points = np.frombuffer(data, "<f4", offset=16 + 4 * len(db)).reshape(-1, 2)[rows.argsort()]
    blends = [{"parts": [{"row": row}]} for row in (3, 50)]
    found = client.post(f"{API}/place", json={"blends": blends}).json()["points"]
    assert np.array_equal(np.array(found, np.float32), points[[3, 50]])
    middle = {"parts": [{"row": 3}, {"row": 50}]}
    (found,) = client.post(f"{API}/place", json=middle).json()["points"]
    nearest = client.post(f"{API}/query?k=5&metric=l2", json=middle).json()["matches"]
    around = points[[match["row"] for match in nearest]]
    assert (around.min(axis=0) <= found).all()
    assert (found <= around.max(axis=0)).all()


def test_many_numbers_are_cut_into_ranges(tmp_path: Path) -> None:
    with LatentDB.create(tmp_path / "v.ldb", dim=3) as db:
        vectors = np.random.default_rng(0).normal(size=(60, 3))
        names = [str(number) for number in range(60)]
        db.add(names, vectors, metadata={"year": list(range(1950, 2010))})
        views = Views(db)
        column = views.column("year")
    assert sum(category["count"] for category in column["categories"]) == 60
    assert len(column["categories"]) == 8
    codes = np.array(column["codes"])[np.argsort(views.map.rows)]
    assert codes.tolist() == sorted(codes)


def test_a_row_its_picture_and_its_neighbours(client: TestClient, db: Reader) -> None:
    row = client.get(f"{API}/rows/3").json()
    assert row["id"] == db.ids()[3]
    assert pixels(client.get(f"{API}/thumb/3").content).shape == (16, 16, 3)
    found = client.get(f"{API}/neighbors/3", params={"k": 5}).json()["matches"]
    expected = db.query(f"id:{row['id']}", k=5, exclude_self=True)
    assert [match["id"] for match in found] == [match.id for match in expected]
    assert [db.ids()[match["row"]] for match in found] == [match.id for match in expected]


def test_a_blend_is_decoded_and_searched(client: TestClient, db: Reader) -> None:
    recipe = {"parts": [{"row": 0, "weight": 3}, {"row": 5, "weight": 1}]}
    latent = db.blend([db.ids()[0], db.ids()[5]], weights=[3, 1])
    shown = pixels(client.post(f"{API}/decode", json=recipe).content)
    assert np.array_equal(shown, db.decode(latent)[0])
    found = client.post(f"{API}/query?k=3", json=recipe).json()["matches"]
    assert [match["id"] for match in found] == [match.id for match in db.query(latent, k=3)]


def decoded(client: TestClient, *parts: dict[str, object], **rest: object) -> np.ndarray:
    answer = client.post(f"{API}/decode", json={"parts": parts, **rest})
    assert answer.status_code == 200, answer.text
    return pixels(answer.content)


def test_averages_of_a_filter_a_category_and_a_polygon(client: TestClient, db: Reader) -> None:
    where = 'label == "square"'
    expected = db.decode(db.average(where=where).vector)[0]
    for part in ({"where": where}, {"category": ["label", 1]}):
        assert np.array_equal(decoded(client, part), expected)
        assert client.post(f"{API}/average", json=part).json()["rows"] == 40
    data = client.get(f"{API}/points").content
    points = np.frombuffer(data, "<f4", offset=16 + 4 * len(db)).reshape(-1, 2)
    (left, low), (right, high) = points.min(axis=0) - 1, points.max(axis=0) + 1
    middle = float(np.median(points[:, 0]))
    corners = np.array([[left, low], [middle, low], [middle, high], [left, high]]).tolist()
    found = client.post(f"{API}/average", json={"polygon": corners}).json()
    assert found["rows"] == (points[:, 0] < middle).sum()
    both = client.post(f"{API}/average", json={"polygon": corners, "where": where}).json()
    assert both["rows"] < found["rows"]
    empty = client.post(f"{API}/average", json={"polygon": [[90, 90], [91, 90], [90, 91]]})
    assert (empty.status_code, "no row is selected" in empty.text) == (404, True)
    assert right > middle


def test_a_shift_moves_by_deviations_and_a_direction_by_itself(
    client: TestClient, db: Reader
) -> None:
    walk = db.traverse(db.ids()[0], dims="2", low=-1.5, high=1.5, steps=3)
    shown = decoded(client, {"row": 0}, shifts={"2": 1.5})
    assert np.array_equal(shown, db.decode(walk.latents[0])[2])
    with LatentDB.open(db._open_store().path) as writer:
        direction = writer.save_recipe("far", f"id:{db.ids()[1]}").vector
    assert client.get(f"{API}/directions").json()["directions"][0]["name"] == "far"
    shown = decoded(client, {"row": 0}, directions={"far": 0.5})
    latent = db.vectors([db.ids()[0]])[0].astype(np.float64) + 0.5 * direction
    assert np.array_equal(shown, db.decode(latent.astype(np.float32))[0])


def test_a_path_its_ends_and_its_animation(client: TestClient, db: Reader) -> None:
    ends = {"from": {"parts": [{"row": 0}]}, "to": {"parts": [{"row": 5}]}}
    strip = pixels(client.post(f"{API}/interpolate", json={**ends, "steps": 5}).content)
    expected = db.decode(db.interpolate(db.ids()[0], db.ids()[5], steps=5))
    assert np.array_equal(strip, np.concatenate(list(expected), axis=1))
    answer = client.post(f"{API}/interpolate", json={**ends, "steps": 5, "format": "gif"})
    assert answer.headers["content-type"] == "image/gif"
    assert Image.open(io.BytesIO(answer.content)).n_frames == 8


def test_walks_and_samples(client: TestClient, db: Reader) -> None:
    found = client.get(f"{API}/dimensions").json()["dimensions"]
    assert [one["number"] for one in found] == [one.number for one in db.diagnose().dimensions]
    body = {"parts": [{"row": 0}], "dims": "top:2", "steps": 3}
    walk = db.traverse(db.ids()[0], dims="top:2", steps=3)
    rows = [np.concatenate(list(db.decode(one)), axis=1) for one in walk.latents]
    shown = pixels(client.post(f"{API}/traverse", json=body).content)
    assert np.array_equal(shown, np.concatenate(rows))
    for source in ("prior", "aggregate"):
        sheet = pixels(client.get(f"{API}/sample", params={"n": 3, "source": source}).content)
        drawn = db.decode(db.sample(64, source=source).latents)[:3]
        assert np.array_equal(sheet, np.concatenate(list(drawn), axis=1))
        one = decoded(client, {"sample": [0, 2], "source": source})
        assert np.array_equal(one, drawn[2])


def test_clusters_and_their_means(client: TestClient, db: Reader) -> None:
    found = client.get(f"{API}/clusters", params={"n": 3}).json()["clusters"]
    expected = db.cluster(3)
    assert [one["size"] for one in found] == [one.size for one in expected.clusters]
    assert db.ids()[found[0]["medoid"]] == expected.clusters[0].medoid
    shown = decoded(client, {"cluster": [3, 1]})
    assert np.array_equal(shown, db.decode(expected.means[1])[0])


def test_lists_to_go_through(client: TestClient, db: Reader) -> None:
    found = client.get(f"{API}/outliers", params={"by": "distance"}).json()
    expected = db.outliers(200, by="distance").top
    assert [db.ids()[one["row"]] for one in found["rows"]] == [one.id for one in expected]
    groups = client.get(f"{API}/duplicates").json()["groups"]
    names = [[db.ids()[one["row"]] for one in group["rows"]] for group in groups]
    assert names == [[one.id for one in group.members] for group in db.duplicates().groups]


def test_an_upload_is_a_part_and_is_shown_as_the_model_sees_it(
    client: TestClient, db: Reader
) -> None:
    buffer = io.BytesIO()
    draw_shape("disc", 12345).resize((40, 40)).save(buffer, "PNG")
    headers = {"content-type": "image/png"}
    made = client.post(f"{API}/images", content=buffer.getvalue(), headers=headers).json()
    assert pixels(client.get(f"{API}/images/{made['image']}").content).shape == (16, 16, 3)
    found = client.post(f"{API}/query?k=3", json={"parts": [{"image": made["image"]}]}).json()
    expected = db.query(Image.open(buffer), k=3, exact=True)
    assert [match["id"] for match in found["matches"]] == [match.id for match in expected]


def test_an_upload_is_limited_in_kind_bytes_and_pixels(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(content: bytes, kind: str = "image/png") -> str:
        headers = {"content-type": kind}
        answer = client.post(f"{API}/images", content=content, headers=headers)
        assert 400 <= answer.status_code < 500
        return str(answer.json()["error"])

    buffer = io.BytesIO()
    Image.new("L", (300, 200)).save(buffer, "PNG")
    assert "content type" in refusal(buffer.getvalue(), "text/plain")
    assert "no image" in refusal(b"text")
    assert "no image" in refusal(b"")
    assert refusal(buffer.getvalue()[:60])
    assert "over" in refusal(b"x" * (MAX_UPLOAD + 1))
    tiff = io.BytesIO()
    Image.new("L", (3, 2)).save(tiff, "TIFF")
    assert "no image" in refusal(tiff.getvalue())
    monkeypatch.setattr(views, "MAX_UPLOAD_PIXELS", 59_999)
    assert "300 x 200 pixels are too many" in refusal(buffer.getvalue())


def test_the_token_is_exchanged_for_a_strict_cookie(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
    page = stranger.get("/")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert stranger.get(f"/{name}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.js", f"{API}/info", f"{API}/thumb/0", "/nothing"])
def test_nothing_is_answered_without_the_token(stranger: TestClient, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"cookie": "latentdb-8417=x"}):
        assert stranger.get(path, headers=headers).status_code == 401
    assert stranger.get("/?token=x").status_code == 401


def test_a_browser_without_the_token_shows_what_to_open(stranger: TestClient) -> None:
    answer = stranger.get("/")
    assert answer.headers["content-type"] == "text/html"
    assert "open the URL that `latentdb serve` printed" in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/page.js", f"{API}/info", f"{API}/thumb/0", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8417"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1:80"},
        {"host": "127.0.0.1:8417.evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8418"},
        {"origin": "https://127.0.0.1:8417"},
    ],
    ids=str,
)
def test_foreign_hosts_and_origins_are_refused(
    client: TestClient, path: str, headers: dict[str, str]
) -> None:
    assert client.get(path, headers=headers).status_code == 403


HOSTILE = [
    ("GET", "/../../etc/passwd", None),
    ("GET", "/page.js/../../views.py", None),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", None),
    ("GET", "/views.py", None),
    ("GET", f"{API}/thumb/-1", None),
    ("GET", f"{API}/thumb/80", None),
    ("GET", f"{API}/thumb/{10**30}", None),
    ("GET", f"{API}/thumb/..%2f..%2fetc%2fpasswd", None),
    ("GET", f"{API}/rows/file:x", None),
    ("GET", f"{API}/tiles/1", None),
    ("GET", f"{API}/tiles/{10**30}", None),
    ("GET", f"{API}/tiles/-1", None),
    ("GET", f"{API}/neighbors/0?k=0", None),
    ("GET", f"{API}/neighbors/0?k=101", None),
    ("GET", f"{API}/neighbors/0?k=-1", None),
    ("GET", f"{API}/neighbors/0?k={10**40}", None),
    ("GET", f"{API}/neighbors/0?metric=hamming", None),
    ("GET", f"{API}/neighbors/0?exact=yes", None),
    ("GET", f"{API}/added?known=-1", None),
    ("POST", f"{API}/place", b'{"parts": [{"row": 80}]}'),
    ("GET", f"{API}/filter?where=", None),
    ("GET", f"{API}/filter?where=label+==", None),
    ("GET", f"{API}/filter?where=__import__('os')", None),
    ("GET", f"{API}/filter?where=" + "(" * 1500, None),
    ("GET", f"{API}/filter?where=" + "x" * 5000, None),
    ("GET", f"{API}/columns/none", None),
    ("GET", f"{API}/columns/a%0d%0ab", None),
    ("PUT", f"{API}/info", None),
    ("DELETE", f"{API}/rows/0", None),
    ("OPTIONS", f"{API}/decode", None),
    ("GET", f"{API}/decode", None),
    ("POST", f"{API}/decode", b""),
    ("POST", f"{API}/decode", b"\xff\xfe"),
    ("POST", f"{API}/decode", b"[" * 50_000),
    ("POST", f"{API}/decode", b"x" * (MAX_BODY + 1)),
    ("POST", f"{API}/decode", b"[]"),
    ("POST", f"{API}/decode", b'{"parts": []}'),
    ("POST", f"{API}/decode", b'{"parts": ["file:/etc/passwd"]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": "0"}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": true}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 99999999999999999999999}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0, "weight": NaN}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0, "weight": 1e999}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0, "weight": 0}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "method": "cubic"}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "method": []}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0, "where": "label == 1"}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"image": "../../etc/passwd"}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"image": 3}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"sample": [0, -1]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"sample": [0, 1], "source": "file:x"}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"cluster": [100000, 0]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"cluster": [2, 2]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"polygon": [[0, 0], [1, 1]]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"polygon": [[0, 0], [1, 1], [NaN, 1]]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"category": ["none", 0]}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"where": "file:/etc/passwd"}]}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "shifts": {"4": 1}}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "shifts": {"-1": 1}}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "shifts": {"1": 1e300}}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "directions": {"../x": 1}}'),
    ("POST", f"{API}/decode", b'{"parts": [{"row": 0}], "directions": {"none": 1}}'),
    ("POST", f"{API}/decode", b'{"blends": []}'),
    ("POST", f"{API}/interpolate", b'{"from": {"parts": [{"row": 0}]}}'),
    (
        "POST",
        f"{API}/interpolate",
        b'{"from": {"parts": [{"row": 0}]}, "to": {"parts": [{"row": 1}]}, "steps": 100000}',
    ),
    (
        "POST",
        f"{API}/interpolate",
        b'{"from": {"parts": [{"row": 0}]}, "to": {"parts": [{"row": 1}]}, "format": "../x"}',
    ),
    ("POST", f"{API}/traverse", b'{"parts": [{"row": 0}], "dims": "top:0"}'),
    ("POST", f"{API}/traverse", b'{"parts": [{"row": 0}], "steps": 1000}'),
    ("POST", f"{API}/traverse", b'{"parts": [{"row": 0}], "reach": 1e9}'),
    ("POST", f"{API}/average", b"[]"),
    ("GET", f"{API}/sample?n=0", None),
    ("GET", f"{API}/sample?n=1000000", None),
    ("GET", f"{API}/sample?source=file:x", None),
    ("GET", f"{API}/clusters?n=0", None),
    ("GET", f"{API}/clusters?n=999999", None),
    ("GET", f"{API}/outliers?by=file", None),
    ("GET", f"{API}/images/..%2f..%2fetc%2fpasswd", None),
    ("POST", f"{API}/images", b"{}"),
    ("POST", f"{API}/query?k=x", b'{"parts": [{"row": 0}]}'),
]


@pytest.mark.parametrize(("method", "path", "body"), HOSTILE, ids=lambda value: str(value)[:50])
def test_hostile_requests_are_refused_in_one_line(
    client: TestClient, method: str, path: str, body: bytes | None
) -> None:
    headers = {"content-type": "application/json"}
    answer = client.request(method, path, content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]
    assert len(answer.text.splitlines()) == 1


def test_a_form_cannot_post(client: TestClient) -> None:
    answer = client.post(f"{API}/decode", content=b'{"parts": [{"row": 0}]}')
    assert "application/json" in answer.json()["error"]


def test_a_body_without_a_length_is_limited(client: TestClient) -> None:
    chunks = (b"x" * 10_000 for _ in range(10))
    headers = {"content-type": "application/json"}
    assert client.post(f"{API}/decode", content=chunks, headers=headers).status_code == 413


def test_a_notebook_may_show_the_page_and_nobody_else(db: Reader) -> None:
    for frames, allowed in ((False, "frame-ancestors 'none'"), (True, "http://localhost:*")):
        guard = Guard(make_app(Views(db)), token=TOKEN, port=8417, frames=frames)
        client = TestClient(guard, base_url=BASE, headers={"authorization": f"Bearer {TOKEN}"})
        headers = client.get("/").headers
        assert allowed in headers["content-security-policy"]
        assert headers.get("x-frame-options") == (None if frames else "DENY")


def test_an_exploration_serves_until_it_is_closed(db: Reader) -> None:
    pytest.importorskip("uvicorn")
    with db.explore(height=300) as shown:
        assert shown.url in shown._repr_html_()
        home, token = shown.url.split("?token=")
        asked = urllib.request.Request(
            f"{home}api/v1/info", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert b'"rows":80' in answer.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(asked, timeout=60)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST /api/v1/decode HTTP/1.1\r\nContent-"])
def test_a_client_that_sends_nothing_is_not_waited_for(
    db: Reader, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(patience.make_protocol, "__defaults__", (0.3,))
    with db.explore() as shown:
        port = int(shown.url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(sent)
            assert slow.recv(100) == b""


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with (
        LatentDB.create(tmp_path / "v.ldb", dim=3) as db,
        pytest.raises(NotFoundError, match="index images"),
    ):
        Views(db)


def test_a_port_that_cannot_be_used(store: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(store), "--port", "70000", "--no-browser"])
    assert result.exit_code == 1
    assert "give 0 to 65535" in result.output


def test_the_command_serves_until_ctrl_c(store: Path) -> None:
    pytest.importorskip("uvicorn")
    words = [sys.executable, "-m", "latentdb", "serve", str(store), "--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [*words, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        home, token = url.split("?token=")
        asked = urllib.request.Request(
            f"{home}api/v1/info", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert b'"rows":80' in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        assert server.stderr is not None
        assert server.stderr.read() == ""
    finally:
        server.kill()
        server.communicate()
