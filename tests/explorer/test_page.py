"""The page in a real browser, from a server and from files: no error, nothing asked elsewhere."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentdb.ann import plan
from latentdb.database import LatentDB
from latentdb.explorer.serving import serve
from latentdb.explorer.site import write_site
from latentdb.reader import Reader

pytest.importorskip("uvicorn", reason="needs the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")


@pytest.fixture(scope="module")
def path(_filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose default metric is not that of the layout."""
    path = Path(shutil.copytree(_filled, tmp_path_factory.mktemp("page") / "shapes.ldb"))
    with LatentDB.open(path) as db:
        db.optimize(metric="centered_cosine")
    return path


@pytest.fixture(scope="module")
def served(path: Path) -> str:
    announced: list[str] = []
    known = threading.Event()

    def announce(url: str) -> None:
        announced.append(url)
        known.set()

    def run() -> None:
        with Reader.open(path) as db:
            serve(db, host="127.0.0.1", port=0, browser=False, announce=announce)

    threading.Thread(target=run, daemon=True).start()
    assert known.wait(timeout=120)
    return announced[0]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site(path: Path, ort: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("site") / "site"
    with Reader.open(path) as db:
        write_site(db, folder, ort=ort)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(params=["served", "site"])
def page(request: pytest.FixtureRequest, browse: Callable[..., Any]) -> Iterator[Any]:
    with browse(request.getfixturevalue(request.param)) as page:
        yield page


def test_look_select_blend_and_reload(page: Any) -> None:
    assert "80 rows, 4 dimensions" in page.text_content("#facts")
    assert page.locator("#legend button").count() == 2
    select_one(page)
    assert page.locator("#selected .grid button").count() == 12
    assert page.input_value("#metric") == "centered_cosine"
    page.click("#add")
    page.wait_for_painted(0)
    page.locator("#parts input").first.fill("1.5")
    page.wait_for_painted(1)
    page.wait_for_selector("#near button")
    page.wait_for_url(lambda url: "1.5" in url)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector("#near button")
    assert page.input_value("#parts input") == "1.5"
    assert page.errors == []


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_blend_shows_the_pixels_that_the_library_decodes(
    page: Any, path: Path, method: str
) -> None:
    select_one(page)
    names = [page.text_content("#selected h2 >> nth=0")]
    page.click("#add")
    for place in (2, 7):
        page.click("[data-panel=selected]")
        before = page.text_content("#selected h2 >> nth=0")
        page.locator("#selected .grid button").nth(place).click()
        page.wait_for_function(
            "before => document.querySelector('#selected h2').textContent !== before", arg=before
        )
        names.append(page.text_content("#selected h2 >> nth=0"))
        page.click("#add")
    page.select_option("#method", method)
    page.locator("#parts input").first.fill("0.5")
    page.wait_for_selector("#blend-note:has-text('decoded in')")
    page.wait_for_function(SETTLED)
    shown = np.array(page.evaluate(PIXELS), np.int64).reshape(16, 16, 4)[..., :3]
    with Reader.open(path) as db:
        latent = db.blend(names, weights=[0.5, 1, 1], method=method)
        expected = db.decode(latent)[0].astype(np.int64)
        nearest = [match.id for match in db.query(latent, k=3)]
    assert np.abs(shown - expected).max() <= 1
    page.wait_for_selector("#near button")
    titles = [page.locator("#near button").nth(place).get_attribute("title") for place in range(3)]
    assert [title.split(", distance")[0] for title in titles] == nearest
    assert page.text_content("#near-title") == "Nearest to the blend by centered cosine"
    assert page.errors == []


# No other picture within half a second.
# Functions: the page forbids eval, which an expression that is asked again would need.
SETTLED = """async () => {
    const canvas = document.querySelector("#blend"), before = canvas.dataset.painted;
    await new Promise((resolve) => setTimeout(resolve, 500));
    return canvas.dataset.painted === before;
}"""
PIXELS = """() => {
    const canvas = document.querySelector("#blend");
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def test_a_path_samples_and_clusters(page: Any) -> None:
    select_one(page)
    page.click("#add")
    page.click("[data-panel=selected]")
    page.locator("#selected .grid button").nth(3).click()
    page.wait_for_function(
        "() => document.querySelectorAll('#selected .grid button').length === 12"
    )
    page.click("#selected #add")
    page.click("[data-panel=path]")
    page.wait_for_selector("#path .strip")
    assert page.locator("#path .strip button").count() == 9
    with page.expect_download() as saved:
        page.click("#save-png")
    assert saved.value.suggested_filename == "path.png"
    page.click("[data-panel=samples]")
    page.wait_for_selector("#samples .grid button")
    page.select_option("#sample-source", "aggregate")
    page.wait_for_function("() => document.querySelector('#sample-source')?.value === 'aggregate'")
    page.locator("#samples .grid button").nth(4).click()
    playwright.expect(page.locator("#selected h2 >> nth=0")).to_have_text("sample 5")
    page.click("[data-panel=clusters]")
    page.wait_for_selector("#clusters .mean")
    page.locator("#clusters .mean").first.click()
    playwright.expect(page.locator("#selected h2 >> nth=0")).to_have_text("mean of cluster 1")
    page.wait_for_selector("#selected .grid button")
    assert page.errors == []


def test_close_up_pictures_stand_for_points(page: Any) -> None:
    colours = """() => {
        const map = document.querySelector("#map"), { width, height } = map;
        const shown = map.getContext("2d").getImageData(0, 0, width, height).data;
        return new Set(new Uint32Array(shown.buffer)).size;
    }"""
    page.focus("#map")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#selected .grid button")
    page.click("text=show on map")
    page.focus("#map")
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_function(f"() => ({colours})() > 300")  # a picture has many colours, points a few
    assert page.errors == []


def test_a_slider_never_shows_an_older_value_after_a_newer(
    served: str, browse: Callable[..., Any]
) -> None:
    with browse(served) as page:
        select_one(page)
        page.click("#add")
        page.click("[data-panel=selected]")
        page.locator("#selected .grid button").nth(5).click()
        page.wait_for_function(SETTLED)
        page.click("#add")
        page.wait_for_function(SETTLED)
        asked: list[float] = []

        def slowly(route: Any) -> None:
            asked.append(route.request.post_data_json["blends"][0]["parts"][0]["weight"])
            page.wait_for_timeout(150 / len(asked))  # the first answer is the slowest
            route.continue_()

        page.route("**/api/v1/decode", slowly)
        before = int(page.get_attribute("#blend", "data-painted"))
        values = [round(0.1 * step, 1) for step in range(1, 19)]
        page.evaluate(
            """async (values) => {
                const input = document.querySelector("#parts input");
                for (const value of values) {
                    input.value = value;
                    input.dispatchEvent(new Event("input", { bubbles: true }));
                    await new Promise((resolve) => setTimeout(resolve, 10));
                }
            }""",
            values,
        )
        page.wait_for_function(SETTLED)
        assert asked == sorted(asked)
        assert asked[-1] == values[-1]
        assert len(asked) < len(values)
        assert int(page.get_attribute("#blend", "data-painted")) - before == len(asked)
        assert page.errors == []


def test_dimensions_move_the_blend(page: Any) -> None:
    select_one(page)
    page.click("#add")
    page.wait_for_painted(0)
    before = page.evaluate(PIXELS)
    page.click("#moves summary")
    page.wait_for_selector("#sliders input")
    painted = int(page.get_attribute("#blend", "data-painted"))
    page.locator("#sliders input").first.fill("3")
    page.wait_for_painted(painted)
    assert page.evaluate(PIXELS) != before
    page.wait_for_selector("#norm:has-text('nine of ten rows')")
    assert page.errors == []


# Whether the map has the colour of marks at the place of the blend: it is decoded, and so framed.
MARKED = """() => {
    const map = document.querySelector("#map"), { width, height } = map;
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = getComputedStyle(map).caretColor;
    probe.fillRect(0, 0, 1, 1);
    const wanted = probe.getImageData(0, 0, 1, 1).data;
    const shown = map.getContext("2d").getImageData(0, 0, width, height).data;
    let [sum, across, down] = [0, 0, 0];
    for (let i = 0; i < shown.length; i += 4) {
        if ([0, 1, 2].some((channel) => shown[i + channel] !== wanted[channel])) continue;
        sum += 1;
        across += (i / 4) % width;
        down += Math.floor(i / 4 / width);
    }
    return sum ? [sum, across / sum, down / sum] : [0, 0, 0];
}"""


def test_the_blend_is_a_mark_that_moves_with_its_weights(page: Any, path: Path) -> None:
    select_one(page)
    page.click("#add")
    page.click("[data-panel=selected]")
    page.locator("#selected .grid button").nth(11).click()
    page.wait_for_function(
        "() => document.querySelectorAll('#selected .grid button').length === 12"
    )
    page.click("#add")
    page.wait_for_selector("#map[data-marks='1']")
    page.click("[data-panel=selected]")
    page.focus("#map")
    page.keyboard.press("Escape")  # no rings over the mark
    places = []
    for weights in ((1, 0), (0.01, 1)):  # never with a sum of zero
        page.click("[data-panel=tray]")
        for number, weight in enumerate(weights):
            page.locator("#parts input").nth(number).fill(str(weight))
        page.wait_for_function(SETTLED)
        area, *place = page.evaluate(MARKED)
        assert area > 100
        places.append(place)
    assert np.hypot(*np.subtract(*places)) > 5
    page.click("#clear")
    page.wait_for_function(f"() => ({MARKED})()[0] === 0")  # the map is drawn in its own time
    assert page.errors == []


def test_a_site_places_a_blend_where_the_server_does(
    served: str, site: str, browse: Callable[..., Any]
) -> None:
    code = """async (body) => {
        const { source } = await import("./source.js");
        if (!source.can.watch) { await source.open(); await source.points(); }
        return Promise.all(body.map((blend) => source.place(blend)));
    }"""
    rows = [(3, 3), (3, 50), (10, 70)]
    blends = [
        {"parts": [{"row": a, "weight": 1}, {"row": b, "weight": 0.5}], "method": "linear"}
        for a, b in rows
    ]
    found = []
    for address in (served, site):
        with browse(address) as page:
            found.append(page.evaluate(code, blends))
    assert np.allclose(found[0], found[1], atol=2e-3)


def test_rows_that_are_added_become_marks_and_no_point_moves(
    path: Path, images: Path, tmp_path: Path, browse: Callable[..., Any]
) -> None:
    shutil.copytree(path, tmp_path / "shapes.ldb")
    points = """async () => {
        return [...new Uint8Array(await (await fetch("api/v1/points")).arrayBuffer())];
    }"""
    with (
        Reader.open(tmp_path / "shapes.ldb") as db,
        db.explore() as shown,
        browse(shown.url) as page,
    ):
        before = page.evaluate(points)
        assert not page.is_visible("#news")
        with LatentDB.open(tmp_path / "shapes.ldb") as writer:
            latents = writer.vectors()[:2] + np.float32(0.1)
            log_vars = writer.log_vars(writer.ids()[:2])
            labels = {"label": ["disc", "disc"]}
            writer.add(["new/a", "new/b"], latents, z_log_var=log_vars, metadata=labels)
        playwright.expect(page.locator("#news")).to_have_text("2 new rows", timeout=20_000)
        page.wait_for_selector("#map[data-marks='2']")
        page.wait_for_function(f"() => ({MARKED})()[0] > 50")
        assert page.evaluate(points) == before
        page.click("#news")
        page.locator("#selected .grid button[title='new/a']").click()
        title = page.locator("#selected h2 >> nth=0")
        playwright.expect(title).to_have_text("new/a")
        page.wait_for_selector("#selected .grid button")
        page.wait_for_url(lambda url: "%22row%22%3A80" in url)
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        playwright.expect(title).to_have_text("new/a")
        assert page.errors == []


def test_a_lasso_and_its_average(page: Any) -> None:
    page.focus("#map")
    page.keyboard.press("0")
    box = page.locator("#map").bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98)]
    spots = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.click("#lasso")
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()
    playwright.expect(page.locator("#filter-note")).to_have_text("80 rows")
    page.locator("#legend button").first.click()
    playwright.expect(page.locator("#filter-note")).to_have_text("40 rows")
    page.click("#average")
    title = page.locator("#selected h2 >> nth=0")
    playwright.expect(title).to_have_text("average of disc, lasso (40)")
    page.wait_for_url(lambda url: "average" in url)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    playwright.expect(page.locator("#filter-note")).to_have_text("40 rows")
    playwright.expect(title).to_have_text("average of disc, lasso (40)")
    assert page.errors == []


def test_a_card_shows_the_point_under_the_pointer(page: Any) -> None:
    page.focus("#map")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#selected .grid button")
    page.click("text=show on map")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#card:not([hidden])")
    assert page.text_content("#card b") == page.text_content("#selected h2 >> nth=0")
    page.mouse.move(box["x"] - 5, box["y"] - 5)
    page.wait_for_selector("#card", state="hidden")
    assert page.errors == []


def test_an_image_of_the_visitor_and_lists_to_review(
    served: str, images: Path, browse: Callable[..., Any]
) -> None:
    with browse(served) as page:
        page.set_input_files("#file", images / "disc/003.png")
        title = page.locator("#selected h2 >> nth=0")
        playwright.expect(title).to_have_text("003.png")
        nearest = page.locator("#selected .grid button").first.get_attribute("title")
        assert nearest.startswith("disc/003.png")
        assert page.get_attribute("#map", "data-marks") == "1"
        assert page.text_content("#promise") == "Exact: 80 rows compared."
        assert not page.is_visible("#recall")
        page.click("[data-panel=review]")
        page.click("#by-distance")
        page.wait_for_selector("#list .grid button")
        page.click("#by-copies")
        page.wait_for_selector("#list .hint:has-text('of each other by l2')")
        page.select_option("#review select", "cosine")
        page.wait_for_selector("#list .hint:has-text('of each other by cosine')")
        assert page.errors == []


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--disable-gpu", "--disable-3d-apis"], {"color_scheme": "dark"}),
        (["--use-angle=swiftshader"], {"viewport": {"width": 390, "height": 844}}),
    ],
    ids=["no-gpu-no-webgl-dark", "phone"],
)
def test_every_browser_draws_the_map(
    served: str, browse: Callable[..., Any], flags: list[str], options: dict[str, Any]
) -> None:
    with browse(served, *flags, **options) as page:
        page.wait_for_function(  # a pixel for each point
            """() => {
                const { width, height } = document.querySelector("#map");
                const pen = document.querySelector("#map").getContext("2d");
                const shown = pen.getImageData(0, 0, width, height).data;
                return shown.filter((value, place) => place % 4 === 3 && value).length > 80;
            }"""
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        select_one(page)
        assert page.errors == []


def test_lines_lead_to_the_true_neighbours_and_recall_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browse: Callable[..., Any]
) -> None:
    monkeypatch.setattr(plan, "EXACT_ROWS", 1_000)  # for speed; the real one is 50,000
    with LatentDB.create(tmp_path / "v.ldb", dim=3, recall=0.95) as db:
        db.add([str(n) for n in range(2_000)], np.random.default_rng(0).normal(size=(2_000, 3)))
        db.optimize()
    drawn = """() => {
        const canvas = document.querySelector("#map");
        window.ends = [];
        const draw = CanvasRenderingContext2D.prototype.lineTo;
        CanvasRenderingContext2D.prototype.lineTo = function (x, y) {
            if (this.canvas === canvas) window.ends.push([x, y]);
            draw.call(this, x, y);
        };
    }"""
    with Reader.open(tmp_path / "v.ldb") as db, db.explore() as shown, browse(shown.url) as page:
        select_one(page)
        assert page.text_content("#promise").startswith("95 % of the true nearest are promised")
        page.evaluate(drawn)
        page.select_option("#recall", "exact")
        page.wait_for_selector("#promise:has-text('Exact: 2,000 rows compared.')")
        page.wait_for_url(lambda url: "%22exact%22%3Atrue" in url)
        page.reload()
        page.wait_for_selector("#promise:has-text('Exact: 2,000 rows compared.')")
        assert page.input_value("#recall") == "exact"
        page.wait_for_selector("body[data-ready=yes]")
        page.evaluate(drawn)
        page.click("text=show on map")
        page.wait_for_function("() => window.ends.length >= 12")
        camera, ends = page.evaluate(
            """async () => {
                const state = () => location.hash + window.ends.length;
                for (let before = ""; before !== state(); ) {  // the address follows a move later
                    before = state();
                    await new Promise((resolve) => setTimeout(resolve, 500));
                }
                return [location.hash, window.ends.slice(-12)];
            }"""
        )
        x, y, scale = map(float, re.search(r"camera=([^&]+)", camera)[1].split("%2C"))  # type: ignore[index]
        name = page.text_content("#selected h2 >> nth=0")
        near = [match.id for match in db.query(f"id:{name}", k=12, exact=True, exclude_self=True)]
        made = db.map()
        points = dict(zip(db.ids(made.rows), made.points.astype(float), strict=True))
        box = page.locator("#map").bounding_box()
        expected = [
            (
                (points[one][0] - x) * scale + box["width"] / 2,
                box["height"] / 2 - (points[one][1] - y) * scale,
            )
            for one in near
        ]
        assert np.allclose(sorted(ends), sorted(expected), atol=0.5)
        assert page.errors == []


def test_filter_and_its_error(served: str, browse: Callable[..., Any]) -> None:
    with browse(served) as page:
        page.fill("#filter", 'label == "disc"')
        playwright.expect(page.locator("#filter-note")).to_have_text("40 rows")
        page.click("#average")
        title = page.locator("#selected h2 >> nth=0")
        playwright.expect(title).to_have_text('average of label == "disc" (40)')
        page.focus("#map")
        page.keyboard.press("+")
        page.wait_for_url(lambda url: "camera=" in url and "average" in url)
        page.wait_for_timeout(300)  # the address is written 200 ms after a move
        camera = page.url.split("camera=")[1]
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        playwright.expect(page.locator("#filter-note")).to_have_text("40 rows")
        assert page.input_value("#filter") == 'label == "disc"'
        page.wait_for_timeout(300)
        assert page.url.split("camera=")[1] == camera
        assert page.errors == []
        page.fill("#filter", "label ==")
        page.wait_for_selector("#filter-note.bad")
        # The browser itself reports a status of 400 in the console.
        assert all("status of 400" in error for error in page.errors)


def test_a_site_has_nothing_that_it_could_not_do(site: str, browse: Callable[..., Any]) -> None:
    with browse(site) as page:
        for absent in ("#filter", "#upload", "[data-panel=review]"):
            assert not page.is_visible(absent)


def select_one(page: Any) -> None:
    """Select the row nearest to the middle of the map, and wait for its neighbours."""
    page.focus("#map")
    page.keyboard.press("0")
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    page.wait_for_selector("#selected .grid button")


def test_a_click_selects_the_point_under_it(served: str, browse: Callable[..., Any]) -> None:
    with browse(served) as page:
        x, y = page.evaluate(
            """async () => {
                const data = await (await fetch("api/v1/points")).arrayBuffer();
                const n = new DataView(data).getUint32(8, true);
                const points = Array.from(new Float32Array(data, 16 + 4 * n, 2 * n));
                const along = (axis) => points.filter((_, place) => place % 2 === axis);
                const [xs, ys] = [along(0), along(1)], canvas = document.querySelector("#map");
                const middle = (list) => (Math.min(...list) + Math.max(...list)) / 2;
                const extent = (list) => Math.max(...list) - Math.min(...list);
                const [w, h] = [canvas.clientWidth, canvas.clientHeight];
                const scale = 0.92 * Math.min(w / extent(xs), h / extent(ys));
                return [(xs[0] - middle(xs)) * scale + w / 2, h / 2 - (ys[0] - middle(ys)) * scale];
            }"""
        )
        page.locator("#map").click(position={"x": x, "y": y})
        page.wait_for_selector("#selected .grid button")
        assert page.errors == []
