"""The feed: what is sent can be read, whatever its size, and nothing else is read as one."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.public.feed import (
    FEED_VERSION,
    TEXT_CHARACTERS_MAX,
    TOPICS,
    DecisionRow,
    DomainLimits,
    Event,
    FeedMessage,
    Hello,
    Latencies,
    LatencyRow,
    Tick,
    Why,
    decode,
    encode,
    short,
    unit_of,
)
from hypervisor.public.latency import (
    BUCKETS,
    LOW_NS,
    bucket_low_ns,
    quantile_ns,
    samples_needed,
)
from hypervisor.public.messages import MESSAGE_BYTES_MAX, BadMessage

LIMITS = DomainLimits("vm1", 0, "direct", 512, 4096, 512, 4096, 0, -1)
HELLO = Hello(
    *(FEED_VERSION, 1, 2, "1-greedy", "main", "greedy", 100, 4096, 0),
    *(["free_frames"], ["name", "puts"], ["count", "count"], [LIMITS]),
)
SAMPLES: list[FeedMessage] = [
    HELLO,
    Tick(FEED_VERSION, 1, 7, 0, 1, [5], [["vm1", 3]]),
    Why(FEED_VERSION, 1, 7, [DecisionRow("vm1", "tmem", -1, 5, None, "grow", "")]),
    Latencies(FEED_VERSION, 1, [LatencyRow("vm1", "ring", "guest", {3: 1})]),
    Event(FEED_VERSION, 1, "attached", {"domain": "vm1", "pid": 4}),
]


@pytest.mark.parametrize("message", SAMPLES, ids=TOPICS.values())
def test_a_message_survives_the_wire(message: FeedMessage) -> None:
    (data,) = encode(message)
    assert decode(data) == message


@pytest.mark.parametrize("message", SAMPLES, ids=TOPICS.values())
def test_every_truncation_and_another_version_are_refused(message: FeedMessage) -> None:
    (data,) = encode(message)
    for length in range(len(data)):
        with pytest.raises(BadMessage):
            decode(data[:length])
    (other,) = encode(msgspec.structs.replace(message, version=FEED_VERSION + 1))
    with pytest.raises(BadMessage, match=f"version {FEED_VERSION + 1}"):
        decode(other)


@given(st.binary(max_size=300))
def test_garbage_is_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


@given(st.sampled_from(SAMPLES), st.data())
def test_damage_is_a_bad_message_or_another_message(
    message: FeedMessage, data: st.DataObject
) -> None:
    damaged = bytearray(*encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(damaged))
    except BadMessage:
        return
    assert type(read) in TOPICS


def test_nested_beyond_any_depth_is_a_bad_message() -> None:
    with pytest.raises(BadMessage):
        decode(b"\x94\xa5event\x02\x01" + b"\x91" * 50_000)
    with pytest.raises(BadMessage, match=str(MESSAGE_BYTES_MAX)):
        decode(b"x" * (MESSAGE_BYTES_MAX + 1))


def long_rows(count: int) -> list[list[Any]]:
    """Of as many domains, the longest rows there can be."""
    return [[f"vm{n:030}", *[1 << 62] * 60, [1000] * 65] for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 500])
def test_a_tick_that_is_too_long_is_sent_in_parts_and_none_is_lost(count: int) -> None:
    rows = long_rows(count)
    parts = [decode(data) for data in encode(Tick(FEED_VERSION, 1, 9, 0, 1, [5], rows))]
    assert all(isinstance(part, Tick) for part in parts)
    assert [row for part in parts for row in part.rows] == rows  # type: ignore[union-attr]
    assert [(part.part, part.parts) for part in parts] == [  # type: ignore[union-attr]
        (number, len(parts)) for number in range(len(parts))
    ]
    assert len(parts) > 1 or count < 100


def test_decisions_and_latencies_are_divided_as_well() -> None:
    rule = "\u2192" * TEXT_CHARACTERS_MAX
    rows = [DecisionRow(f"vm{n}", "tmem", n, n, n, rule, rule) for n in range(64)]
    parts = [decode(data) for data in encode(Why(FEED_VERSION, 1, 9, rows))]
    assert len(parts) > 1
    assert [row for part in parts for row in part.rows] == rows  # type: ignore[union-attr]
    full = dict.fromkeys(range(BUCKETS), (1 << 32) - 1)
    many = [LatencyRow(f"vm{n}", "ring", "host", full) for n in range(256)]
    parts = [decode(data) for data in encode(Latencies(FEED_VERSION, 1, many))]
    assert len(parts) > 1
    assert [row for part in parts for row in part.rows] == many  # type: ignore[union-attr]


def test_one_row_longer_than_any_message_is_no_message() -> None:
    row = ["vm1", "x" * MESSAGE_BYTES_MAX]
    with pytest.raises(BadMessage, match="cannot be divided"):
        list(encode(Tick(FEED_VERSION, 1, 9, 0, 1, [], [row])))


def test_a_text_is_one_short_line_of_unicode() -> None:
    assert short("a\n b\t c") == "a b c"
    assert short("x" * 1000) == "x" * TEXT_CHARACTERS_MAX
    assert short("\ud800") == "?"


@pytest.mark.parametrize(
    ("column", "unit"),
    [("free_frames", "frames"), ("mm_pages", "pages"), ("set_ns", "ns"), ("puts", "count"),
     ("guest_idle_permille", "permille")],
)  # fmt: skip
def test_a_unit_is_the_end_of_a_name(column: str, unit: str) -> None:
    assert unit_of(column) == unit


def test_buckets_grow_by_a_quarter_of_a_power_of_two() -> None:
    lows = [bucket_low_ns(bucket) for bucket in range(BUCKETS + 1)]
    assert lows[:6] == [LOW_NS, LOW_NS * 5 // 4, LOW_NS * 3 // 2, LOW_NS * 7 // 4, 512, 640]
    assert lows[-1] == 1 << 36
    assert all(1.1 < high / low <= 1.25 for low, high in itertools.pairwise(lows))


def test_a_quantile_needs_as_many_samples_as_it_speaks_of() -> None:
    assert [samples_needed(q) for q in (0.5, 0.99, 0.999)] == [2, 100, 1000]
    assert quantile_ns({}, 0.5) is None
    assert quantile_ns({0: 99}, 0.99) is None
    counts = {0: 99, 8: 1}
    assert quantile_ns(counts, 0.5) == (bucket_low_ns(0) + bucket_low_ns(1)) / 2
    assert quantile_ns({0: 98, 8: 2}, 0.99) == (bucket_low_ns(8) + bucket_low_ns(9)) / 2
