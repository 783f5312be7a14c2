"""What a reader makes of the feed: ticks, rates, states, folded decisions, one look."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched import BUSY, HOST, MIB, VM, Run, hello

from hypervisor.public.feed import (
    FEED_VERSION,
    DecisionRow,
    Event,
    Latencies,
    LatencyRow,
    Tick,
    Why,
)
from hypervisor.public.messages import BadMessage
from memcoord.testbed.report import series as series_module
from memcoord.testbed.report.series import Series
from memcoord.testbed.watch import kept
from memcoord.testbed.watch.cells import mib, number, span
from memcoord.testbed.watch.ended import history_of
from memcoord.testbed.watch.folding import Decided, fold
from memcoord.testbed.watch.frame import frame_of
from memcoord.testbed.watch.latencies import added, since
from memcoord.testbed.watch.publications import Assembly
from memcoord.testbed.watch.states import sentence, state_of


def tick(number: int, part: int, parts: int, *names: str) -> Tick:
    rows = [[{"name": name}.get(key, value) for key, value in VM.items()] for name in names]
    return Tick(FEED_VERSION, number, number, part, parts, [0] * len(HOST), rows)


def test_parts_make_a_tick_and_a_lost_part_loses_only_that_tick() -> None:
    assembly = Assembly()
    assert assembly.add(tick(1, 0, 1, "vm1")) is None, "without a schema nothing can be said"
    assembly.schema(hello())
    assert assembly.add(tick(2, 0, 2, "vm1")) is None
    whole = assembly.add(tick(2, 1, 2, "vm2"))
    assert whole is not None
    assert [row["name"] for row in whole.domains] == ["vm1", "vm2"]
    assert assembly.add(tick(3, 1, 2, "vm2")) is None
    assert assembly.add(tick(4, 0, 2, "vm1")) is None
    assert assembly.add(tick(5, 1, 2, "vm2")) is None
    found = assembly.add(tick(6, 0, 1, "vm1"))
    assert found is not None
    assert (found.tick, len(found.domains)) == (6, 1)


@pytest.mark.parametrize(
    "wrong",
    [tick(1, 1, 1, "vm1"), tick(1, 0, 65), tick(1, -1, 1),
     Tick(FEED_VERSION, 1, 1, 0, 1, [0], []),
     Tick(FEED_VERSION, 1, 1, 0, 1, [0] * len(HOST), [["vm1"]])],
)  # fmt: skip
def test_a_tick_that_fits_no_schema_is_a_bad_message(wrong: Tick) -> None:
    assembly = Assembly()
    assembly.schema(hello())
    with pytest.raises(BadMessage):
        assembly.add(wrong)


def test_rates_are_over_two_seconds_and_a_share_of_time_is_one_at_most() -> None:
    run = Run(vm1={"guest_stall_ns": 3 * 10**9, "guest_swap_ins": 215})
    (vm,) = run.go(50).domains()
    assert vm.span_s == pytest.approx(2.0)
    assert vm.rate("guest_swap_ins") == pytest.approx(215, rel=0.01)
    assert vm.waits == 1.0
    assert Run().go(1).domains()[0].rate("puts_failed") is None, "one tick has no rate"


def test_a_newcomer_is_judged_by_its_own_time() -> None:
    run = Run(vm1=BUSY)
    run.go(50)
    run.rates["vm2"] = {"guest_swap_ins": 100}
    run.shown["vm2"] = {}
    assert run.go(2).domains()[1].rate("guest_swap_ins") is None, "too short to say"
    assert run.go(7).domains()[1].rate("guest_swap_ins") == pytest.approx(100)


def test_what_a_guest_did_not_report_is_unknown_and_not_zero() -> None:
    run = Run()
    run.shown["vm1"] = {"guest_stall_ns": -1}
    (vm,) = run.go().domains()
    assert vm.waits is None
    assert state_of(vm).word == "ok"


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40))
def test_no_rate_is_ever_negative(values: list[int]) -> None:
    """A domain that came anew under its name counts from nothing again."""
    run = Run()
    for value in values:
        run.shown["vm1"] = {"puts_failed": value}
        run.go(1)
        for vm in run.history.domains():
            rate = vm.rate("puts_failed")
            assert rate is None or rate >= 0


def test_another_hypervisor_is_another_story() -> None:
    run = Run()
    run.go()
    run.decide("vm1", 1, 2)
    run.history.hear(hello("2-fallow"))
    assert run.history.last is None
    assert run.history.decisions() == []
    run.number = 0
    run.go(3)
    assert run.history.last is not None
    assert run.history.last.tick == 3


@pytest.mark.parametrize(
    ("rates", "shown", "word", "why"),
    [
        (BUSY, {}, "ok", ""),
        ({}, {}, "idle", ""),
        (BUSY | {"guest_stall_ns": 500_000_000}, {}, "STARVED", "waits 50 % of its time"),
        (BUSY | {"refused": 5}, {}, "STARVED", "is refused RAM 5 times a second"),
        (BUSY | {"guest_stall_ns": 10**8, "guest_swap_ins": 99}, {}, "squeezed", "from disk"),
        (BUSY | {"guest_stall_ns": 10**8}, {}, "ok", ""),
        (BUSY | {"puts_failed": 246}, {}, "squeezed", "tmem refuses 246 pages a second"),
        (BUSY, {"broken": True}, "BROKEN", "serves it no more"),
    ],
)
def test_a_state_is_one_word_and_its_reason(
    rates: dict[str, int], shown: dict[str, Any], word: str, why: str
) -> None:
    run = Run(vm1=rates)
    run.shown["vm1"] = shown
    state = state_of(run.go().domains()[0])
    assert state.word == word
    assert why in state.why
    assert (sentence([("vm1", state)]) == "nobody is starved") == (word in ("ok", "idle"))


def test_the_sentence_names_the_starved_the_worst_first() -> None:
    run = Run(
        a=BUSY, b=BUSY | {"guest_stall_ns": 6 * 10**8}, c=BUSY | {"guest_stall_ns": 9 * 10**8}
    )
    frame = frame_of(run.go(), run.now_ns)
    assert frame is not None
    assert frame.sentence.startswith("starved: c waits 90 % of its time for memory; b waits 60 %")
    assert [line.name for line in frame.lines] == ["c", "b", "a"]
    assert sentence([]) == "no domain is attached"


def decided(*steps: tuple[int, int], rule: str = "grow") -> list[Decided]:
    return [
        Decided(n / 10, n, "vm1", "tmem", old, new, rule, "") for n, (old, new) in enumerate(steps)
    ]


def test_decisions_of_a_kind_are_one_line_that_says_where_the_target_went() -> None:
    steps = [(256 * n, 256 * (n + 1)) for n in range(14)]
    (one,) = fold([*decided(*steps), *decided((14 * 256, 13 * 256), rule="keep")], 20.0)
    assert (one.moved, one.way, one.count) == ("0.00 -> 13.0 MiB", "more", 15)
    assert one.told == "grow x14, keep x1"
    assert not one.swings


def test_a_target_that_swings_is_said_to_swing() -> None:
    steps = [(5, 7) if n % 2 else (7, 5) for n in range(10)]
    (one,) = fold(decided(*steps), 20.0)
    assert (one.turns, one.way) == (9, "as is")
    assert "swings, 9 turns in 10 moves" in one.line


def test_news_are_lines_of_their_own() -> None:
    news = [
        Decided(1, 1, "vm1", "policy", 5, 5, "policy answers", ""),
        Decided(1, 1, "vm1", "policy", 5, 5, "it stalled", ""),
        Decided(1, 2, "vm2", "tmem", -1, 5, "share", "cut"),
        Decided(1, 3, "vm1", "ram", 5, 5, "memory target 5 not reached", ""),
    ]
    lines = [one.line for one in fold(news, 9.0)]
    assert lines[:2] == ["tick 1: policy; policy answers", "tick 1: policy; it stalled"]
    assert lines[2] == "tick 2: tmem no limit -> 0.02 MiB (less); share; cut"
    assert "not reached" in lines[3]


@given(st.lists(st.tuples(st.integers(-1, 99), st.integers(-1, 99)), max_size=40), st.floats(0, 5))
def test_folding_loses_no_decision(steps: list[tuple[int, int]], span_s: float) -> None:
    found = fold(decided(*steps), span_s)
    assert sum(one.count for one in found) == len(steps)
    assert sum(one.moves for one in found) == sum(old != new for old, new in steps)
    assert all(a.last.tick < b.first.tick for a, b in pairwise(found))


def test_latencies_that_came_in_parts_are_of_one_instant() -> None:
    run = Run()
    for count in (3, 10):
        run.go(ticks=5)
        run.count(ring_guest=count)  # two parts of one message
        run.count(credit_guest=count)
    assert run.history.latencies() == {("ring", "guest"): {20: 7}, ("credit", "guest"): {20: 7}}


def test_latencies_are_of_the_last_seconds_and_add_up() -> None:
    run = Run()
    for second in range(30):
        run.go(10)
        run.count(ring_guest=100 * (second + 1), ring_host=7)
    found = run.history.latencies()
    assert sum(found["ring", "guest"].values()) == 1000
    assert sum(found["ring", "host"].values()) == 0
    assert since({3: 5}, {3: 9}) == {3: 5}, "it began anew"
    assert added([{1: 2}, {1: 3, 4: 1}]) == {1: 5, 4: 1}


def test_a_look_says_what_is_wrong_and_how_old_it_is() -> None:
    run = Run()
    run.go()
    run.history.hear(Event(FEED_VERSION, 1, "violation", {"why": "used more", "domid": 1}))
    run.host["policy_faults"] = 3
    run.go(1)
    frame = frame_of(run.history, run.now_ns + 10**9, busy="machine busy")
    assert frame is not None
    assert frame.notices[0].startswith("the policy fails")
    assert frame.notices[1:] == ["violation: used more", "machine busy"]
    assert (frame.age_s, frame.is_stale) == (pytest.approx(1.0), False)
    late = frame_of(run.history, run.now_ns + 10**10)
    assert late is not None
    assert late.is_stale
    json.dumps(late.plain())


def test_an_opened_domain_tells_its_counters_and_what_is_in_the_way() -> None:
    run = Run()
    run.shown["vm1"] = {"reach": "partial", "reach_why": "in use", "target_frames": MIB}
    run.go()
    run.decide("vm1", 4, 5)
    frame = frame_of(run.history, run.now_ns, opened="vm1")
    assert frame is not None
    assert frame.detail is not None
    assert "the guest uses what would have to go" in frame.detail.unreached
    assert frame.detail.counts["puts_failed"] == 0
    assert [one.first.domain for one in frame.detail.folds] == ["vm1"]
    json.dumps(frame.plain())
    other = frame_of(run.history, run.now_ns, opened="nobody")
    assert other is not None
    assert other.detail is None


def test_an_opened_domain_tells_its_last_minute_and_its_curve() -> None:
    run = Run(vm1={"guest_stall_ns": 10**9})
    run.go(700)
    run.shown["vm1"] = {"mrc_permille": [1000, 500, 20], "current_frames": 7}
    run.go(11)
    run.shown["vm1"] = {"mrc_permille": None}
    run.go(1)
    frame = frame_of(run.history, run.now_ns, opened="vm1")
    assert frame is not None
    assert frame.detail is not None
    assert len(frame.detail.trail) == 60
    assert (frame.detail.trail[-1].waits, frame.detail.trail[-1].ram_frames) == (1.0, 7)
    assert frame.detail.curve == [1000, 500, 20]
    json.dumps(frame.plain())


def test_what_a_run_keeps_is_read_back(tmp_path: Path) -> None:
    row = DecisionRow("vm1", "tmem", -1, 5, 6, "grow", "cut")
    with kept.Kept(tmp_path) as files:
        files.decided("greedy", 0, 2.0, Why(FEED_VERSION, 3 * 10**9, 7, [row]))
        for count in (2, 2, 5):
            told = Latencies(
                FEED_VERSION, 4 * 10**9, [LatencyRow("vm1", "ring", "host", {9: count})]
            )
            files.took("greedy", 1, 2.0, told)
    with (tmp_path / kept.DECISIONS).open("a") as file:
        simulated = {"policy": "fallow", "round": 0, "time_s": 0.04, "tick": 2, "domain": "vm1"}
        simulated |= {"kind": "ram", "old": 512, "new": 256, "rule": "its need"}
        file.write(json.dumps(simulated) + '\n{"policy": "greedy", "ro')  # the process was killed
    decision, other = kept.decisions(tmp_path)
    assert (other.rule, other.asked, other.clamp) == ("its need", None, "")
    assert msgspec.to_builtins(decision) == {
        **{"policy": "greedy", "round": 0, "tick": 7, "time_s": 1.0, "domain": "vm1"},
        **{"kind": "tmem", "old": -1, "new": 5, "asked": 6, "rule": "grow", "clamp": "cut"},
    }
    found = list(kept.latencies(tmp_path))
    assert [one.counts for one in found] == [{9: 2}, {9: 3}]
    assert [one.time_s for one in found] == [2.0, 2.0]
    assert list(kept.decisions(tmp_path / "elsewhere")) == []


def test_a_file_of_decisions_ends_at_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FILE_BYTES_MAX", 2000)
    rows = [DecisionRow("vm1", "tmem", n, n + 1, n, "grow", "") for n in range(3)]
    with kept.Kept(tmp_path) as files:
        for tick_ in range(100):
            files.decided("greedy", 0, 0.0, Why(FEED_VERSION, 0, tick_, rows))
    assert (tmp_path / kept.DECISIONS).stat().st_size < 2100
    assert (tmp_path / kept.DECISIONS).read_text().endswith('"more":true}\n')
    assert 3 <= len(list(kept.decisions(tmp_path))) < 300


def test_a_long_run_is_written_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_module, "WHOLE_TICKS", 20)
    run = Run()
    with Series(tmp_path) as series:
        for _ in range(100):
            made = run.tick()
            series.add("greedy", made, made.monotonic_ns / 1e9)
            series.add("greedy", made, -1.0)
        series.add("fallow", made, 1.0)
    rows = (tmp_path / "series.csv").read_text().splitlines()[1:]
    ticks = [int(row.split(",")[2]) for row in rows]
    assert ticks == [*range(1, 21), *range(30, 101, 10), 100]


def test_the_end_of_a_run_can_be_looked_at(tmp_path: Path) -> None:
    run = Run(vm1=BUSY | {"guest_stall_ns": 8 * 10**8}, vm2=BUSY)
    with Series(tmp_path) as series, kept.Kept(tmp_path) as files:
        for policy in ("greedy", "fallow"):
            for _ in range(60):
                made = run.tick()
                series.add(policy, made, made.monotonic_ns / 1e9)
        row = DecisionRow("vm1", "tmem", 5, 7, 7, "share", "")
        files.decided("fallow", 0, 0.0, Why(FEED_VERSION, run.now_ns, run.number, [row]))
        files.took("fallow", 0, 0.0, Latencies(2, 1, [LatencyRow("vm1", "ring", "host", {9: 4})]))
    history = history_of(tmp_path)
    assert history is not None
    assert history.last is not None
    frame = frame_of(history, history.last.monotonic_ns)
    assert frame is not None
    assert (frame.policy, frame.tick) == ("fallow", 120)
    assert frame.sentence.startswith("starved: vm1 waits 80 %")
    assert [one.told for one in frame.folds] == ["share"]
    assert [cost.count for cost in frame.costs] == [4]
    assert history_of(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("value", [0, 0.04, 1, 9.96, 99.99, 999.5, 12_345, 999_999, 1e7, 3e12])
def test_a_number_fits_its_cell_and_loses_no_digit(value: float) -> None:
    for width in (5, 6, 7):
        for places in (0, 1):
            text = number(value, width, places)
            assert len(text) <= width, text
            assert "\u2026" not in text
    assert number(None) == "-"
    assert (mib(-1), mib(256), mib(1280 * 256)) == ("none", "1.0", "1,280.0")


@pytest.mark.parametrize(
    ("ns", "text"),
    [(288, "290 ns"), (5800, "5.8 us"), (42_000, "42 us"), (507_000, "510 us"),
     (1_360_000, "1.4 ms"), (2.5e9, "2.5 s"), (None, "-"), (999_999, "1.0 ms")],
)  # fmt: skip
def test_a_time_has_two_digits_and_its_unit(ns: float | None, text: str) -> None:
    assert span(ns) == text
