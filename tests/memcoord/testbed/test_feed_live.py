"""The feed of a real hypervisor: what it has for its readers, and that they can read it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypervisor_host import AREA, WAIT_S, Host

import frontend
from hypervisor.config import DomainConfig
from hypervisor.public.feed import Event, FeedMessage, Hello, Latencies, Why
from memcoord.testbed.watch.publications import Publication
from memcoord.testbed.watch.reader import FeedReader

pytestmark = pytest.mark.process
#: As many idle domains under ``utility`` once had a publication that nobody could read.
MANY = 56
Heard = list[Publication | FeedMessage]


def hear(reader: FeedReader, done: Callable[[Heard], Any]) -> Heard:
    """Read until there is enough."""
    heard: Heard = []
    until = time.monotonic() + WAIT_S
    while not done(heard):
        assert time.monotonic() < until, heard[-5:]
        heard += reader.read(100)
    return heard


def of(heard: Heard, kind: type[Any]) -> list[Any]:
    return [one for one in heard if isinstance(one, kind)]


def test_a_reader_gets_all_topics_and_both_words_on_grants(start: Callable[..., Host]) -> None:
    host = start(policy="static-alloc", scenario="mine")
    with FeedReader(host.run_dir) as reader:
        assert reader.subscribe_now(30_000)
        hear(reader, lambda heard: of(heard, Publication))
        with frontend.attach(host.run_dir, name="vm1", maxmem_frames=4 * AREA) as dom:
            dom.alloc_many(3 * AREA)
            heard = hear(
                reader,
                lambda heard: of(heard, Latencies) and of(heard, Why) and of(heard, Event),
            )
            words = {row.word for row in of(heard, Latencies)[-1].rows}
            while words != {"guest", "host"}:
                heard = hear(reader, lambda heard: of(heard, Latencies))
                words |= {row.word for row in of(heard, Latencies)[-1].rows}
    assert reader.hello is not None
    assert (reader.hello.policy, reader.hello.scenario) == ("static-alloc", "mine")
    assert [row.name for row in reader.hello.rows] == ["vm1"]


def test_a_reader_is_told_that_nobody_took_it(short_path: Path) -> None:
    with FeedReader(short_path) as reader:
        assert not reader.subscribe_now(10)


def test_a_crowd_under_a_policy_with_curves_can_be_read(start: Callable[..., Host]) -> None:
    names = [f"a_domain_with_a_long_name_{number}" for number in range(MANY)]
    domains = [DomainConfig(name, AREA, 0, AREA) for name in names]
    host = start(policy="utility", total_frames=(MANY + 8) * AREA, domains=domains)
    with contextlib.ExitStack() as stack, FeedReader(host.run_dir) as reader:
        reader.subscribe()
        for name in names:
            stack.enter_context(frontend.attach(host.run_dir, name))
        heard = hear(reader, lambda heard: heard and len(getattr(heard[-1], "domains", ())) == MANY)
        assert of(heard, Hello)
        found = host.ask("statistics")["domains"]
        assert len(found) == MANY
        assert found[0]["mrc_permille"][0] == 1000
