"""What a hypervisor sends of itself, and when: within the bound of a message, whatever there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_world import PLAIN
from coordinator_world import domain as plain_domain

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.coordination.decisions import Decision
from hypervisor.coordination.feed import CURVE_COLUMN, Feed, statistics_of
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.feed import (
    EVENT_FIELDS_MAX,
    TOPICS,
    DecisionRow,
    Event,
    FeedMessage,
    Hello,
    Latencies,
    LatencyRow,
    Tick,
    Why,
    decode,
)
from hypervisor.public.messages import MESSAGE_BYTES_MAX, VERSION, Reply, encode
from hypervisor.public.messages import decode as decode_message
from hypervisor.public.settings import NAME_CHARACTERS_MAX
from hypervisor.public.units import AREA_FRAMES, DomId
from policies.base import MRC_POINTS

SECOND = 10**9
CONFIG = HypervisorConfig(total_frames=64 * AREA_FRAMES, policy="smart-alloc:P=2", interval_ms=100)
VM = DomainConfig("vm", 4 * AREA_FRAMES, AREA_FRAMES, 2 * AREA_FRAMES)


def domain(domid: int, **values: Any) -> DomainSnapshot:
    words = {"mechanism": "direct", "reach": "reached", "reach_why": "", "broken": False}
    return plain_domain(domid, **words | values)


class Ear:
    """A feed on a clock of its own, and what was heard of it."""

    def __init__(self) -> None:
        self.now_ns = SECOND
        self.heard: list[FeedMessage] = []
        self.feed = Feed(
            CONFIG, Path("/runs/1-x"), self.hear, clock_ns=lambda: self.now_ns, wall_ns=lambda: 77
        )

    def hear(self, topic: str, data: bytes) -> None:
        assert len(data) <= MESSAGE_BYTES_MAX
        message = decode(data)
        assert TOPICS[type(message)] == topic
        self.heard.append(message)

    def tick(self, number: int, *domains: DomainSnapshot) -> list[FeedMessage]:
        """Send a tick; what was heard of it."""
        host = HostSnapshot(9, 0, 1, 2, 3, 4, 5, 6, domains)
        del self.heard[:]
        self.feed.tick(number, host, 8, {now.domid: VM for now in domains})
        return list(self.heard)

    def only(self, kind: type[Any]) -> Any:
        """The one message of a kind."""
        (found,) = (one for one in self.heard if isinstance(one, kind))
        return found


@pytest.fixture
def ear() -> Ear:
    return Ear()


def test_a_tick_is_rows_under_columns_that_were_sent_before(ear: Ear) -> None:
    hello, tick = ear.tick(3, domain(1, puts=12, mechanism="balloon"))
    assert isinstance(hello, Hello)
    assert isinstance(tick, Tick)
    row = dict(zip(hello.domain_columns, tick.rows[0], strict=True))
    assert (row["name"], row["puts"]) == ("vm1", 12)
    assert dict(zip(hello.host_columns, tick.host, strict=True))["policy_faults"] == 8
    assert (hello.policy, hello.run, hello.interval_ms) == ("smart-alloc:P=2", "1-x", 100)
    assert (hello.monotonic_ns, hello.time_ns, tick.monotonic_ns) == (SECOND, 77, SECOND)
    (limits,) = hello.rows
    assert (limits.mechanism, limits.ram_min_frames) == ("balloon", AREA_FRAMES)
    assert len(hello.units) == len(hello.domain_columns)


def test_a_hello_comes_again_every_two_seconds_and_when_domains_change(ear: Ear) -> None:
    heard = []
    for number in range(30):
        heard.append([type(one) for one in ear.tick(number, domain(1))])
        ear.now_ns += SECOND // 10
    assert [n for n, kinds in enumerate(heard) if Hello in kinds] == [0, 20]
    assert [type(one) for one in ear.tick(31, domain(1), domain(2))] == [Hello, Tick]
    assert [type(one) for one in ear.tick(32, domain(2))] == [Hello, Tick]
    assert [type(one) for one in ear.tick(33, domain(2))] == [Tick]


def test_curves_come_once_a_second_and_as_permille(ear: Ear) -> None:
    curves = []
    for number in range(21):
        ear.tick(number, domain(1, mrc=(1.0, 0.25)))
        curves.append(ear.only(Tick).rows[0][-1])
        ear.now_ns += SECOND // 10
    assert [n for n, curve in enumerate(curves) if curve] == [0, 10, 20]
    assert curves[0] == [1000, 250]


def test_decisions_are_pushed_with_what_was_asked_for(ear: Ear) -> None:
    ear.feed.decided(4, 9, [])
    assert ear.heard == []
    ear.feed.decided(4, 9, [Decision(4, 9, "vm1", "tmem", 5, 7, "grow\nnow", "cut", asked=8)])
    why = ear.only(Why)
    assert (why.tick, why.monotonic_ns) == (4, 9)
    assert why.rows == [DecisionRow("vm1", "tmem", 5, 7, 8, "grow now", "cut")]


def test_latencies_are_read_once_a_second(ear: Ear) -> None:
    asked = []

    def take() -> list[LatencyRow]:
        asked.append(ear.now_ns)
        return [LatencyRow("vm1", "ring", "host", {4: 2})]

    for _ in range(25):
        ear.feed.latencies(take)
        ear.now_ns += SECOND // 10
    assert asked == [SECOND, 2 * SECOND, 3 * SECOND]
    assert [type(one) for one in ear.heard] == [Latencies] * 3


def test_events_are_told_beside_the_log_and_bounded(ear: Ear) -> None:
    logged: list[str] = []
    tell = ear.feed.beside(lambda event, _: logged.append(event))
    tell("violation", {"why": "x" * 100_000, "domid": 3, **{f"k{n}": n for n in range(100)}})
    event = ear.only(Event)
    assert logged == ["violation"] == [event.event]
    assert (event.fields["domid"], len(event.fields)) == (3, EVENT_FIELDS_MAX)


def crowd(value: int) -> HostSnapshot:
    """As many domains as a host has, under a policy that needs curves, all numbers so large."""
    curve = tuple(1 - n / 3 / MRC_POINTS for n in range(MRC_POINTS))
    numbers = {name: value for name, was in PLAIN.items() if was == 0}
    words = {"mechanism": "virtio-mem", "reach": "partial", "reach_why": "no memory"}
    domains = tuple(
        DomainSnapshot(
            **numbers
            | words
            | {"domid": DomId(n), "name": f"v{n:0{NAME_CHARACTERS_MAX - 1}}", "mrc": curve}
        )
        for n in range(64)
    )
    return HostSnapshot(*[value] * 8, domains)


@pytest.mark.parametrize("value", [1000, 1 << 40, (1 << 63) - 1])
def test_a_full_host_under_a_policy_with_curves_can_be_read(ear: Ear, value: int) -> None:
    """Every message is within the bound, and has all of the domains."""
    host = crowd(value)
    ear.feed.tick(1, host, value, {now.domid: VM for now in host.domains})
    rows = [row for one in ear.heard if isinstance(one, Tick) for row in one.rows]
    hello = next(one for one in ear.heard if isinstance(one, Hello))
    assert [row[hello.domain_columns.index("name")] for row in rows] == [
        now.name for now in host.domains
    ]
    assert all(len(row[hello.domain_columns.index(CURVE_COLUMN)]) == MRC_POINTS for row in rows)
    assert ear.feed.dropped == 0
    answer = encode(Reply(VERSION, 1, "", statistics_of(host)))
    assert len(answer) <= MESSAGE_BYTES_MAX
    assert len(decode_message(answer).result["domains"]) == 64  # type: ignore[union-attr]


def test_what_cannot_be_sent_is_dropped_and_counted(ear: Ear) -> None:
    ear.tick(1, domain(1, name="x" * MESSAGE_BYTES_MAX))
    assert ear.feed.dropped == 2  # the hello and the tick
    ear.tick(2, domain(1))
    assert ear.only(Tick).tick == 2
