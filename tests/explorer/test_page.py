"""The page in a real browser: no error, and no request that leaves the machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentdb.explorer.serving import serve
from latentdb.reader import Reader

pytest.importorskip("uvicorn", reason="needs the extra web")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def url(_filled: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = shutil.copytree(_filled, tmp_path_factory.mktemp("page") / "shapes.ldb")
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


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    errors: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready=yes]")
        page.errors = errors
        yield page
        browser.close()
    home = url.split("?")[0]
    assert asked
    assert [address for address in asked if not address.startswith((home, f"blob:{home}"))] == []


def test_look_select_blend_and_reload(page: Any) -> None:
    assert "80 rows, 4 dimensions" in page.text_content("#facts")
    assert page.locator("#legend button").count() == 2
    page.focus("#map")
    for _ in range(4):
        page.keyboard.press("+")
    page.keyboard.press("0")
    with page.expect_response("**/api/v1/thumb/**"):
        page.locator("#map").click(position=nearest_point(page))
    page.wait_for_selector("#selected .grid button")
    assert page.locator("#selected .grid button").count() == 12
    page.click("#add")
    page.locator("#selected .grid button").first.click()
    page.wait_for_selector("#blend[src^=blob]")
    before = page.get_attribute("#blend", "src")
    page.locator("#parts input").first.fill("1.5")
    playwright.expect(page.locator("#blend")).not_to_have_attribute("src", before)
    page.wait_for_selector("#near button")
    page.wait_for_url(lambda url: "1.5" in url)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector("#near button")
    assert page.input_value("#parts input") == "1.5"
    assert page.errors == []


def test_filter_and_its_error(page: Any) -> None:
    page.fill("#filter", 'label == "disc"')
    playwright.expect(page.locator("#filter-note")).to_have_text("40 rows")
    assert page.errors == []
    page.fill("#filter", "label ==")
    page.wait_for_selector("#filter-note.bad")
    # The browser itself reports a status of 400 in the console.
    assert all("status of 400" in error for error in page.errors)


def nearest_point(page: Any) -> dict[str, float]:
    """Where a point is on the canvas, from the map that the server sent."""
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
    return {"x": x, "y": y}
