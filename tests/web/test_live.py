"""Goal: the live page as its reader sees it. Method: a real Chromium, a real server of the page,
and a feed whose ticks the test makes up; nothing may leave the machine, and axe finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from published_feed import STARVED, PublishedFeed
from watched import BUSY
from web_server import WebServer

import memcoord
from memcoord.testbed.runs import rundir

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
WAIT_MS = 20_000
expect.set_options(timeout=WAIT_MS)


class Live:
    """A run, its feed, the server of its page, and the page in a browser."""

    def __init__(
        self,
        place: Path,
        opened: Callable[..., Any],
        rates: Mapping[str, Any] | None,
        is_silent: bool,
    ) -> None:
        self._stack = ExitStack()
        self.run = rundir.create("main", base=place)
        self._is_over = False
        self._stack.callback(self.end_run)
        self.feed = self._stack.enter_context(
            PublishedFeed(self.run.path, rates, is_silent=is_silent)
        )
        self.server = self._stack.enter_context(WebServer(self.run.path))
        self._watched = opened(self.server.url)
        self.page = self._watched.page
        self.violations = self._watched.violations

    def close(self) -> None:
        self._stack.close()

    def end_run(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.run.finish("finished")

    def row(self, name: str) -> Any:
        return self.page.locator(f'#domains tbody tr[data-name="{name}"]')

    def sees(self, what: str, text: str) -> None:
        expect(self.page.locator(what)).to_contain_text(re.compile(text))

    def ticks(self) -> int:
        found = re.search(r"tick ([\d,]+)", self.page.text_content("#when") or "")
        return int(found[1].replace(",", "")) if found else 0

    def ticks_go_on(self) -> None:
        before = self.ticks()
        self.page.wait_for_function(
            "n => Number(/tick ([0-9,]+)/.exec(document.getElementById('when').textContent)?.[1]"
            ".replaceAll(',', '') ?? 0) > n",
            arg=before,
        )

    def is_well(self) -> None:
        """It asked nobody but its server, said nothing, and everybody can read it."""
        assert self._watched.outside(f"http://127.0.0.1:{self.server.port}/") == []
        assert self._watched.said == []
        assert self.violations() == []


@pytest.fixture
def live(short_path: Path, opened: Callable[..., Any]) -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(rates: Mapping[str, Any] | None = None, is_silent: bool = False) -> Live:
        made.append(Live(short_path, opened, rates, is_silent))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_domains_appear_and_a_starved_one_is_marked(live: Callable[..., Live]) -> None:
    shown = live()
    expect(shown.row("vm1").locator("td").first).to_have_text("ok")
    expect(shown.row("vm2").locator("td").first).to_have_class("STARVED")
    shown.sees("#sentence", "starved: vm2 waits 100 % of its time for memory")
    shown.sees("#news", "vm2 is STARVED")
    shown.sees("#state", "^live$")
    shown.sees("#uses", "RAM 8.0 .*tmem 12.0 .*free 4.0 .*of 24.0 MiB")
    first = shown.page.locator("#domains tbody tr").first
    expect(first).to_have_attribute("data-name", "vm2")  # the starved first
    shown.ticks_go_on()
    assert "token" not in shown.page.url
    shown.is_well()


def test_a_domain_is_opened_and_its_decisions_and_costs_are_told(
    live: Callable[..., Live],
) -> None:
    shown = live()
    shown.row("vm1").locator("button").click()
    shown.sees("#h-chosen", "vm1")
    shown.sees("#decided", r"tmem 0.02 -> 0.03 MiB \(more\); grow x\d+")
    shown.sees("#costs", "ring.*the guest's.*µs|ring.*the guest's.*ms")
    expect(shown.row("vm1").locator("button")).to_have_attribute("aria-pressed", "true")
    shown.ticks_go_on()
    shown.is_well()


def test_a_killed_domain_is_shown(live: Callable[..., Live]) -> None:
    shown = live()
    expect(shown.row("vm2").locator("td").first).to_have_text("STARVED")
    shown.run.event("main", "killed", process="vm2", how="killed by SIGKILL")
    shown.feed.lose("vm2")
    expect(shown.row("vm2").locator("td").first).to_have_text("killed")
    shown.sees("#notices", "vm2 killed: killed by SIGKILL")
    shown.sees("#news", "vm2 is killed")
    shown.sees("#sentence", "nobody is starved")
    shown.is_well()


def test_a_restart_of_the_hypervisor_is_survived(live: Callable[..., Live]) -> None:
    shown = live()
    shown.ticks_go_on()
    shown.feed.restart()
    shown.sees("#notices", "the hypervisor was started again 1 times")
    shown.ticks_go_on()
    shown.sees("#state", "^live$")
    shown.is_well()


def test_a_page_that_is_opened_before_the_first_tick_waits(live: Callable[..., Live]) -> None:
    shown = live(is_silent=True)
    shown.sees("#state", "waiting for the first tick")
    shown.feed.begin()
    expect(shown.page.locator("#domains tbody tr")).to_have_count(2)
    shown.sees("#state", "^live$")
    shown.is_well()


def test_stale_data_is_said_to_be_stale(live: Callable[..., Live]) -> None:
    shown = live()
    shown.ticks_go_on()
    shown.feed.fall_silent()
    shown.sees("#state", "no data; what you see is the last there was")
    shown.sees("#when", r"for \d+ s")
    expect(shown.page.locator("#domains tbody tr")).to_have_count(2)
    shown.is_well()


def test_a_reader_that_is_gone_is_said_to_be_gone(live: Callable[..., Live]) -> None:
    shown = live()
    shown.ticks_go_on()
    shown.server.end()
    shown.sees("#state", "the reader is gone")


def test_a_run_that_ends_is_said_to_be_over(live: Callable[..., Live]) -> None:
    shown = live()
    shown.ticks_go_on()
    shown.feed.fall_silent()
    shown.sees("#state", "no data")
    shown.end_run()
    shown.sees("#state", "the run is over: finished")
    expect(shown.page.locator("#domains tbody tr")).to_have_count(2)


def test_the_keyboard_is_enough(live: Callable[..., Live]) -> None:
    shown = live()
    expect(shown.page.locator("#domains tbody tr")).to_have_count(2)
    keys = shown.page.keyboard

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(40):
            keys.press(key)
            if shown.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"the Tab key does not reach {selector}")

    tab_to('#domains tbody tr[data-name="vm1"] button')
    keys.press("Enter")
    shown.sees("#h-chosen", "vm1")
    shown.ticks_go_on()  # the focus stays where it was while everything is drawn anew
    keys.press("Enter")
    shown.sees("#h-chosen", "last 2 s")
    tab_to('#domains thead button[data-key="name"]', "Shift+Tab")
    keys.press("Enter")
    first = shown.page.locator("#domains tbody tr").first
    expect(first).to_have_attribute("data-name", "vm1")
    keys.press("Enter")
    expect(first).to_have_attribute("data-name", "vm2")
    tab_to("#slider", "Shift+Tab")
    keys.press("Home")
    shown.sees("#state", "a look back")
    tab_to("#live")
    keys.press("Enter")
    shown.sees("#state", "^live$")
    shown.is_well()


def test_one_can_go_back_in_time_and_a_reload_knows_the_past(live: Callable[..., Live]) -> None:
    shown = live()
    shown.page.wait_for_function("() => Number(document.getElementById('slider').max) >= 8")
    shown.page.locator("#slider").press("Home")
    shown.sees("#state", "a look back")
    first = shown.ticks()
    shown.page.wait_for_function("() => Number(document.getElementById('slider').max) >= 12")
    assert shown.ticks() == first, "what goes on does not change what was"
    assert shown.violations() == []
    shown.page.reload()
    shown.page.wait_for_function("() => Number(document.getElementById('slider').max) >= 12")
    shown.page.locator("#slider").press("Home")
    shown.sees("#state", "a look back")
    shown.sees("#when", f"tick {first:,}$")
    shown.is_well()


def test_names_and_words_are_text(live: Callable[..., Live]) -> None:
    name = "<img src=x onerror=document.title='hit'>"
    shown = live({"vm1": BUSY, name: STARVED})
    expect(shown.page.locator("#domains tbody tr")).to_have_count(2)
    shown.sees("#sentence", "onerror")
    shown.page.locator("#domains tbody button").first.click()
    shown.sees("#h-chosen", "onerror")
    assert shown.page.locator("img").count() == 0
    assert shown.page.title() == "memcoord web"
    shown.is_well()


def test_what_the_page_may_not_reach_is_stopped_by_the_browser(live: Callable[..., Live]) -> None:
    shown = live()
    shown.ticks_go_on()
    told = shown.page.evaluate(
        """() => new Promise(done => {
          const found = [];
          document.addEventListener("securitypolicyviolation", event => {
            found.push(event.effectiveDirective);
            if (found.length === 3) done(found.sort());
          });
          fetch("http://localhost:1/").catch(() => 0);
          document.body.append(Object.assign(new Image(), {src: "http://localhost:1/x.png"}));
          document.body.append(Object.assign(document.createElement("iframe"), {src: "/"}));
        })"""
    )
    assert told == ["connect-src", "frame-src", "img-src"]


def test_many_domains_are_maps(live: Callable[..., Live]) -> None:
    shown = live({f"vm{number:02}": BUSY if number else STARVED for number in range(20)})
    expect(shown.page.locator("#domains tbody tr")).to_have_count(20)
    expect(shown.page.locator("#curves canvas").first).to_be_visible()
    assert shown.page.locator("#curves .map").count() >= 3
    shown.ticks_go_on()
    shown.is_well()


def test_a_finished_run_is_shown_by_policy(short_path: Path, opened: Callable[..., Any]) -> None:
    place = short_path / "r"
    memcoord.simulate("main", ["greedy", "fallow"], scale=0.2, run_dir=place)
    with WebServer(place) as server:
        shown = opened(server.url)
        page = shown.page
        expect(page.locator("#state")).to_have_text("the run is over: finished")
        expect(page.locator("#verdict")).to_contain_text("fallow")
        expect(page.locator("#part option")).to_have_text(["greedy", "fallow"])
        expect(page.locator("#run")).to_contain_text("policy fallow")
        page.select_option("#part", label="greedy")
        expect(page.locator("#run")).to_contain_text("policy greedy")
        slider = page.locator("#slider")
        slider.press("Home")
        for _ in range(3):
            slider.press("PageUp")
        expect(page.locator("#state")).to_have_text("a look back")
        expect(page.locator("#domains tbody tr").first).to_be_visible()
        assert shown.violations() == []
        page.click("#report")
        expect(page.locator(".verdict p").first).to_be_visible()
        assert shown.violations() == []
        assert shown.said == []
        assert shown.outside(f"http://127.0.0.1:{server.port}/") == []
