"""A real Chromium for the pages, and what every page must not do.

Needs a Chromium of the distribution: its path, or CHROMIUM. With PICTURES, the directory for them,
the tests also make the pictures of the documentation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PICTURES = os.environ.get("PICTURES")
#: In a container there is neither a sandbox of the kernel's nor much of /dev/shm.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
WAIT_MS = 60_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


class Watched:
    """A page, and what it asked for and said meanwhile."""

    def __init__(self, context: Any) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def violations(self) -> list[tuple[str, str]]:
        """What axe finds."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe here")
        found = axe.Axe().run(self.page).response["violations"]
        return [(one["id"], one["nodes"][0]["html"]) for one in found]

    def outside(self, *own: str) -> list[str]:
        """What it asked for that does not begin like one of these."""
        return [url for url in self.asked if not url.startswith((*own, "data:"))]


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens a page in a context of its own; ``offline``: one that reaches nothing."""
    contexts: list[Any] = []

    def open_(url: str, *, offline: bool = False) -> Watched:
        contexts.append(
            browser.new_context(offline=offline, viewport={"width": 1250, "height": 950})
        )
        watched = Watched(contexts[-1])
        watched.page.goto(url)
        return watched

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def picture() -> Callable[..., None]:
    """Keeps a picture of a page for the documentation, where they are wanted."""

    def keep(page: Any, name: str, **how: Any) -> None:
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}.png", **how)

    return keep
