"""The statistics feed, version 2: what a hypervisor tells everybody who subscribed.

Owns: its messages, which are rows under a schema sent beforehand, their bound, and their topics.
``hypervisor/coordination/feed.py`` makes them; every view reads them (``memcoord/testbed/watch``).

Over ZeroMQ XPUB ``stats.ipc``: two frames, a topic and one msgpack array ``[tag, version, ...]`` of
at most MESSAGE_BYTES_MAX bytes. A topic is the operator's token, a dot and one of TOPICS: who
subscribes to the token gets all of them.

    hello  every HELLO_S, and when a domain came or went: the names of the columns, the run, both
           clocks. Who subscribes gets the last one at once.
    tick   at every tick: the host, and a row per domain
    why    at a tick that decided something: a row per decision
    lat    each LATENCY_S: how long grants took, counted since the domain came
    event  as it happens

Times are CLOCK_MONOTONIC; ``Hello`` has the wall clock of the same instant. A message that would be
too long is sent in parts, never as a whole: each part has some of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hypervisor.public.latency import BUCKETS
from hypervisor.public.messages import MESSAGE_BYTES_MAX, BadMessage

FEED_VERSION = 2
HELLO_S, LATENCY_S, CURVES_S = 2.0, 1.0, 1.0
#: Characters of a text that is no name: a rule, a clamp, a word of an event.
TEXT_CHARACTERS_MAX = 300
EVENT_FIELDS_MAX = 16

_SHAPE: dict[str, Any] = {"array_like": True, "frozen": True, "forbid_unknown_fields": True}


Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Bucket = Annotated[int, Meta(ge=0, lt=BUCKETS)]


class _FeedMessage(msgspec.Struct, **_SHAPE):
    version: int  # of the feed
    monotonic_ns: Count  # when it was so; CLOCK_MONOTONIC


class DomainLimits(msgspec.Struct, **_SHAPE):
    """What of a domain does not change while it is attached. -1: no limit."""

    name: str  # its name
    domid: int  # its number
    mechanism: str  # how it is resized
    granule_frames: int  # the smallest step of its target
    maxmem_frames: int  # the most RAM it may ever have
    ram_min_frames: int  # least target of RAM
    ram_max_frames: int  # most
    tmem_min_pages: int  # least target of tmem
    tmem_max_pages: int  # most


class Hello(_FeedMessage, tag="hello"):
    """The schema of what follows, and the run it is of. ``policy`` is as given, with parameters.

    ``units`` are those of ``domain_columns``. ``restarts``: deaths of the hypervisor so far.
    """

    time_ns: int  # the wall clock at ``monotonic_ns``
    run: str  # its name
    scenario: str  # its name
    policy: str
    interval_ms: Count  # from one tick to the next
    page_bytes: Count  # bytes in a page, and in a frame
    restarts: Count
    host_columns: list[str]  # of ``Tick.host``
    domain_columns: list[str]
    units: list[str]
    rows: list[DomainLimits]  # what does not change of each domain


class Tick(_FeedMessage, tag="tick"):
    """One tick, or part ``part`` of ``parts``: values under the columns of ``Hello``."""

    tick: Count  # its number
    part: Count
    parts: Count
    host: list[int]  # values of the host
    rows: list[list[Any]]  # values of each domain


class DecisionRow(msgspec.Struct, **_SHAPE):
    """One decision. ``asked``: what the plan wanted; None where nothing was wanted."""

    domain: str  # whose target
    kind: str  # tmem, ram, policy or operator
    old: int  # the target before
    new: int  # the target after
    asked: int | None
    rule: str  # why, in the policy's words
    clamp: str  # what the coordinator made of it


class Why(_FeedMessage, tag="why"):
    """What one tick decided."""

    tick: Count  # its number
    rows: list[DecisionRow]  # its decisions


class LatencyRow(msgspec.Struct, **_SHAPE):
    """How long grants to a domain took so far, in buckets of ``hypervisor/public/latency.py``.

    ``path``: ring or transfer. ``word``: the guest's, how long an allocation of it waited, or the
    host's, from a request to its answer. ``counts``: the buckets that are not empty, by number.
    """

    domain: str  # who waited
    path: str
    word: str
    counts: dict[Bucket, Count]


class Latencies(_FeedMessage, tag="lat"):
    """All grants so far."""

    rows: list[LatencyRow]  # by domain, path and word


class Event(_FeedMessage, tag="event"):
    """Something that happened to the run: its name in ``events.jsonl``, and its fields."""

    event: str  # what happened
    fields: dict[str, Any]  # of it


FeedMessage = Hello | Tick | Why | Latencies | Event

#: Topic of each message.
TOPICS: dict[type[FeedMessage], str] = {
    Hello: "hello",
    Tick: "tick",
    Why: "why",
    Latencies: "lat",
    Event: "event",
}
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)


def unit_of(column: str) -> str:
    """The unit of a column, which its name ends in: frames, pages, ns, permille, or count."""
    last = column.rpartition("_")[2]
    return last if last in ("frames", "pages", "ns", "permille") else "count"


def short(text: str) -> str:
    """``text`` in one line that a message can carry."""
    line = " ".join(text.split())[:TEXT_CHARACTERS_MAX]
    return line.encode("utf-8", "replace").decode()


def encode(message: FeedMessage) -> Iterator[bytes]:
    """The bytes of ``message``, in as many parts as it needs to be within MESSAGE_BYTES_MAX.

    BadMessage when one row alone is longer than that.
    """
    parts = list(_halved(message))
    for number, (part, data) in enumerate(parts):
        if isinstance(part, Tick) and len(parts) > 1:
            yield _encoder.encode(msgspec.structs.replace(part, part=number, parts=len(parts)))
        else:
            yield data


def _halved(message: FeedMessage) -> Iterator[tuple[FeedMessage, bytes]]:
    data = _encoder.encode(message)
    # Numbers of parts are written later, and take a byte more each from 128 on.
    if len(data) + 8 <= MESSAGE_BYTES_MAX:
        yield message, data
        return
    if isinstance(message, Event) or len(message.rows) < 2:
        raise BadMessage(f"a {TOPICS[type(message)]} of {len(data)} bytes cannot be divided")
    middle = len(message.rows) // 2
    for rows in (message.rows[:middle], message.rows[middle:]):
        yield from _halved(msgspec.structs.replace(message, rows=rows))


def decode(data: bytes) -> FeedMessage:
    """The message in ``data``; BadMessage says what is wrong with it."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise BadMessage(f"{len(data)} bytes, more than {MESSAGE_BYTES_MAX}")
    try:
        message = _decoder.decode(data)
    except Exception as error:  # UNREADABLE of ``documents``, and whatever else garbage raises
        raise BadMessage(str(error) or type(error).__name__) from None
    if message.version != FEED_VERSION:
        raise BadMessage(f"version {message.version}, this side speaks {FEED_VERSION}")
    return message
