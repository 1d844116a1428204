"""A browser, and ONNX Runtime for it; what a machine lacks is skipped with the reason."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from latentdb.base.errors import LatentDBError
from latentdb.explorer import ort_web

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox"]  # root has none


@pytest.fixture(scope="session")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where `ort_web.load` finds its files: None for its cache, which npm fills once."""
    try:
        ort_web.load(ort_web.cache_folder())
    except LatentDBError:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("needs npm, to download onnxruntime-web")
        folder = tmp_path_factory.mktemp("npm")
        name = f"onnxruntime-web@{ort_web.VERSION}"
        got = subprocess.run([npm, "pack", name], cwd=folder, capture_output=True, check=False)
        if got.returncode:
            pytest.skip("npm cannot download onnxruntime-web")
        ort_web.keep(ort_web.load(folder / ort_web.ARCHIVE))
    return None


@pytest.fixture
def browse() -> Callable[..., Any]:
    """Open an address in a browser; at the end, nothing was asked of another one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")

    @contextmanager
    def opened(url: str, *flags: str, **options: Any) -> Iterator[Any]:
        errors: list[str] = []
        asked: list[str] = []
        with playwright.sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
            page = browser.new_page(**options)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on(
                "console", lambda said: errors.append(said.text) if said.type == "error" else None
            )
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            page.wait_for_selector("body[data-ready=yes]")
            page.errors = errors
            page.wait_for_painted = lambda after: page.wait_for_function(
                "after => Number(document.querySelector('#blend').dataset.painted) > after",
                arg=after,
            )
            yield page
            browser.close()
        home = url.split("?")[0]
        assert asked
        assert [
            address for address in asked if not address.startswith((home, f"blob:{home}"))
        ] == []

    return opened
