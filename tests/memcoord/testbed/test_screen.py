"""A look drawn at every width: no line too long, no digit lost, the words that matter are there."""

from __future__ import annotations

import re

import pytest
from rich.text import Text
from watched import BUSY, MIB, Run

from memcoord.testbed.report.progress import Progress
from memcoord.testbed.watch.frame import Frame, frame_of
from memcoord.testbed.watch.screen import encodable, screen, short

WIDTHS = (40, 59, 60, 80, 100, 132)
#: A digit, or a number's comma or point, before a mark of something left out.
CUT = re.compile(r"[\d,.](\u2026|\.\.\.)|\d~|~\d+\s")


def starved(count: int) -> Run:
    """So many domains; every third one is starved, and all decide."""
    rates = {
        f"vm{n}": BUSY
        | ({"guest_stall_ns": 89 * 10**7, "guest_swap_ins": 215} if n % 3 == 0 else {})
        for n in range(1, count + 1)
    }
    run = Run(**rates)
    for n, name in enumerate(rates):
        run.shown[name] = {"current_frames": 123_456 * 256, "tmem_used_pages": n * MIB}
    run.go()
    for name in rates:
        run.decide(name, 5 * MIB, 6 * MIB)
        run.decide(name, 6 * MIB, 5 * MIB, "keep", "raised to minimum 1280")
    return run


def look(run: Run, opened: str = "") -> Frame:
    frame = frame_of(run.history, run.now_ns, opened=opened)
    assert frame is not None
    return frame


def plain(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


@pytest.mark.parametrize("count", [1, 3, 16, 64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [10, 24, 50])
def test_no_line_is_too_long_and_no_number_is_cut(count: int, width: int, height: int) -> None:
    frame = look(starved(count))
    for lines in (screen(frame, width, height), screen(look(starved(count), "vm1"), width, height)):
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width
        assert not CUT.search(plain(lines)), plain(lines)
    below = short(frame, width)
    assert max(line.cell_len for line in below) <= width
    assert width < 60 or len(below) <= 14


@pytest.mark.parametrize("width", WIDTHS)
def test_what_must_be_seen_at_once_is_there(width: int) -> None:
    text = plain(screen(look(starved(3)), width, 24))
    assert "starved: vm3 waits 89 %" in " ".join(text.split())
    assert re.search(r"vm3 +STARVED", text)
    assert re.search(r"vm1 +ok", text)
    assert "RAM 8.0" in text
    assert "of 24.0 MiB" in text
    assert ("refused" in text) == (width >= 100)
    assert ("held" in text) == (width >= 80)


def test_what_the_policy_did_and_what_grants_cost_are_told() -> None:
    run = starved(2)
    run.count(ring_guest=1, ring_host=2)
    run.go(10)
    run.count(ring_guest=300, ring_host=200)
    run.decide("vm1", 5 * MIB, 6 * MIB)
    text = plain(screen(look(run), 100, 40))
    assert re.search(r"vm1 +tmem 5.00 -> 6.00 MiB more +grow x2, keep x1", text)
    assert re.search(r"ring +waited 9.2 us, p99 9.2 us \(299\)", text)
    assert "host 9.2 us, p99 9.2 us (198)" in text


def test_more_domains_than_lines_leave_the_starved_and_a_sum() -> None:
    text = plain(screen(look(starved(64)), 80, 24))
    names = re.findall(r"^(vm\d+) +STARVED", text, re.MULTILINE)
    assert len(names) >= 3
    assert re.search(r"and \d+ more \(.* or better\): RAM", text)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    run = starved(3)
    run.shown["vm1"]["mrc_permille"] = [1000, 500, 0]
    run.go(20)
    for opened in ("", "vm1"):
        lines = [encodable(line, "ascii") for line in screen(look(run, opened), 100, 40)]
        assert plain(lines).isascii()
    line = Text("█")
    assert encodable(line, "utf-8") is line


def test_old_news_and_ends_are_said() -> None:
    run = starved(1)
    late = frame_of(run.history, run.now_ns + 7 * 10**9)
    assert late is not None
    assert "NO DATA for 7 s" in screen(late, 80, 24)[0].plain
    assert "NO DATA" not in screen(late, 80, 24, "finished")[0].plain
    assert "finished" in screen(late, 80, 24, "finished")[0].plain


def test_a_long_name_keeps_its_end() -> None:
    run = Run(**{f"a_very_long_name_of_a_domain_{n}": BUSY for n in (1, 2)})
    run.go()
    text = plain(screen(look(run), 80, 24))
    assert "a_very_~domain_1" in text
    assert "a_very_~domain_2" in text


def test_in_a_pipe_a_run_says_who_is_starved_once(capsys: pytest.CaptureFixture[str]) -> None:
    frame = look(starved(3))
    with Progress() as progress:
        progress.begin("greedy", 10)
        progress.watch(frame)
        progress.watch(frame)
        progress.watch(look(starved(1)))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "greedy: starved: vm3 waits 89 % of its time for memory",
        "greedy: nobody is starved",
    ]
