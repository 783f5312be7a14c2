"""Goal: pages as a reader sees them. Method: a real Chromium without a network, and axe.

Run by ``tox -e web``. Needs a Chromium of the distribution: its path, or CHROMIUM.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memcoord
from memcoord.testbed.archive import bench_page, run_page, two_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
#: In a container there is neither a sandbox of the kernel's nor much of /dev/shm.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A browser's context that reaches nothing."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_context(offline=True)
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    where = tmp_path_factory.mktemp("web")
    policies = ["greedy", "smart-alloc", "fallow"]
    run = memcoord.simulate("main", policies, scale=0.2, seeds=2, run_dir=where / "run")
    row = {"unit": "ns", "count": 9, "p50": 5.0, "p90": 9.0, "p99": None, "p999": None, "max": 20.0}
    bench = {"bench": "grant", "machine": {}, "rows": {"ours": row, "rival": row}}
    bench["ratios"] = {"ours/rival": 1.0}
    grid = {"sweep": {"policies": policies, "scenarios": ["usemem"], "seeds": 1}}
    sweep = memcoord.sweep(grid | {"set": {"scale": [0.1]}}, where / "sweep", workers=1)
    texts = {
        "run": run_page.document(run),
        "two": two_page.document(run, run),
        "bench": bench_page.document(bench),
        "sweep": sweep.document(),
    }
    for name, text in texts.items():
        (where / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: where / f"{name}.html" for name in texts}


@pytest.mark.parametrize("name", ["run", "two", "bench", "sweep"])
def test_a_page_asks_for_nothing_and_can_be_read_by_all(
    context: Any, pages: dict[str, Path], name: str
) -> None:
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(pages[name].as_uri())
    outside = [url for url in asked if not url.startswith((pages[name].as_uri(), "data:"))]
    assert (outside, said) == ([], [])
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert page.locator(".verdict p").first.is_visible()
    assert page.locator("svg").first.bounding_box()["width"] > 200
    page.close()
