"""Goal: the page of real runs. Method: a real Chromium beside ``memcoord run``, and beside a
hypervisor that is killed. The pictures of the documentation are made here, where they are wanted.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hypervisor_host
import pytest
from rich.console import Console, Group
from web_server import COMMAND, WebServer

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs import control_client, rundir
from memcoord.testbed.watch import ended
from memcoord.testbed.watch.frame import Frame, frame_of
from memcoord.testbed.watch.history import History
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.screen import screen

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
WAIT_S = 300.0
WAIT_MS = WAIT_S * 1000
expect.set_options(timeout=60_000)
COLUMNS, LINES = 100, 24
#: It moves targets all the time.
POLICY = "smart-alloc:P=2"
#: The pictures are of the whole demonstration, which takes a minute or two.
PICTURES = "PICTURES" in os.environ
pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Python, ended with the block."""
    process = subprocess.Popen([sys.executable, "-P", "-c", *words], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def answers(place: Path) -> bool:
    with suppress(MemcoordError):
        return bool(control_client.call(place, "ping", timeout_ms=500))
    return False


def most_waited_s(history: dict[str, Any]) -> float:
    """Of the moments at which most domains were there, that of the most waiting."""
    waits = zip(*(own["waits"] for own in history["domains"].values()), strict=True)
    known = [[one for one in at if one is not None] for at in waits]
    at = max(range(len(known)), key=lambda number: (len(known[number]), sum(known[number])))
    return float(history["times"][at])


def frame_at(place: Path, part: ended.Part, at_s: float) -> Frame:
    """What ``memcoord top`` would have shown then."""
    history = History()
    for message in ended.messages(place, part):
        if isinstance(message, Publication) and message.monotonic_ns > at_s * 1e9:
            break
        history.hear(message)
    found = frame_of(history, round(at_s * 1e9), title=place.name)
    assert found is not None
    return found


def drawn(frame: Frame) -> str:
    """``memcoord top`` as a page, for its picture."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Group(*screen(frame, COLUMNS, LINES)))
        return console.export_html(inline_styles=True)


def test_a_run_is_seen_from_its_domains_to_its_report(
    short_path: Path, opened: Callable[..., Any], picture: Callable[..., None]
) -> None:
    place = short_path / "main"
    short = ("--policy", "greedy", "--policy", POLICY, "--no-alone", "--repeat", "1")
    words = ("run", "main", *(() if PICTURES else short), "--run-dir", str(place))
    with started(COMMAND, *words) as run:
        wait_for(lambda: (place / rundir.MANIFEST).exists())
        with WebServer(place) as server:
            shown = opened(server.url)
            page, state = shown.page, shown.page.locator("#state")
            expect(state).to_have_text("live", timeout=WAIT_MS)
            expect(page.locator("#domains tbody tr").first).to_be_visible()
            expect(page.locator("#curves canvas").first).to_be_visible()
            expect(state).to_have_text("the run is over: finished", timeout=WAIT_MS)
            assert run.wait(WAIT_S) == 0
            expect(page.locator("#part option").last).to_have_text("as it was watched")
            expect(page.locator("#verdict")).to_contain_text(POLICY)
            page.select_option("#part", label=POLICY)
            expect(page.locator("#run")).to_contain_text(POLICY)
            past = server.get(f"history?part={server.get('about')['parts'].index(POLICY)}")
            at_s = most_waited_s(past)
            page.evaluate(
                """at => { const slider = document.getElementById("slider");
                  slider.value = at; slider.dispatchEvent(new Event("input")); }""",
                past["times"].index(at_s),
            )
            expect(state).to_have_text("a look back")
            page.locator("#domains tbody button").first.click()
            expect(page.locator("#h-chosen")).to_contain_text("vm")
            expect(page.locator("#sentence")).to_contain_text("starved")
            picture(page, "web", full_page=True)
            assert shown.violations() == []
            page.click("#report")
            expect(page.locator(".verdict p").first).to_be_visible()
            picture(page, "report", full_page=True)
            assert shown.outside(f"http://127.0.0.1:{server.port}/") == []
            assert shown.said == []
    terminal = opened("about:blank", offline=True).page
    terminal.set_content(drawn(frame_at(place, (POLICY, 0), at_s)))
    expect(terminal.locator("pre")).to_contain_text("starved")
    terminal.evaluate("() => { document.querySelector('pre').style.display = 'inline-block'; }")
    picture(terminal.locator("pre"), "top")


def test_a_hypervisor_and_a_domain_are_killed(short_path: Path, opened: Callable[..., Any]) -> None:
    place = short_path / "host"
    with started(COMMAND, "hypervisor", "--run-dir", str(place)):
        wait_for(lambda: answers(place))
        with (
            WebServer(place) as server,
            started(hypervisor_host.BUSY, str(place), "vm1") as guest,
        ):
            shown = opened(server.url)
            row = shown.page.locator('#domains tbody tr[data-name="vm1"]')
            expect(row).to_be_visible(timeout=WAIT_MS)
            os.kill(int(control_client.call(place, "ping")["pid"]), signal.SIGKILL)
            notices = shown.page.locator("#notices")
            expect(notices).to_contain_text("started again 1 times", timeout=WAIT_MS)
            expect(shown.page.locator("#state")).to_have_text("live")
            guest.kill()
            expect(row.locator("td").first).to_have_text("gone", timeout=WAIT_MS)
            expect(shown.page.locator("#when")).to_have_text(re.compile("tick"))
            assert shown.violations() == []
            assert shown.said == []
