"""Goal: pages as a reader sees them. Method: a real Chromium without a network, and axe.

Run by ``tox -e web``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memcoord
from memcoord.testbed.archive import bench_page, run_page, two_page


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
    opened: Callable[..., Any], pages: dict[str, Path], name: str
) -> None:
    shown = opened(pages[name].as_uri(), offline=True)
    assert (shown.outside(pages[name].as_uri()), shown.said) == ([], [])
    assert shown.violations() == []
    assert shown.page.locator(".verdict p").first.is_visible()
    assert shown.page.locator("svg").first.bounding_box()["width"] > 200
