"""Two processes, one ring: nothing lost, reordered or changed, and no sleep without an end.

Method: compiled loops (``ring_loops.c``) on both sides; the frontend numbers its records and checks
that every answer is the one it waits for. Both ends bound each sleep, so that a lost wake-up shows
as MC_ETIMEOUT.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.process]

RECORDS = 1_000_000
RING_BYTES = 8192
LIVENESS_NS = 20_000_000_000
SILENCE_NS = 2_000_000_000  # more than a loaded machine keeps a process from running
WORDS_OFFSET = 6144  # behind the ring: two bells, each on a line of its own


class Channel:
    """A ring and both kinds of bell, in a memfd each process maps for itself."""

    def __init__(self, loops: Any) -> None:
        self.ffi, self.lib = loops
        self.fd = self.lib.mc_memfd(b"ring", RING_BYTES)
        assert self.fd >= 0
        self.eventfds = [self.lib.mc_eventfd(1), self.lib.mc_eventfd(1)]
        self.mappings: list[int] = []
        self.ring = self.ring_at(self.map())
        self.lib.mc_ring_format(self.ring)

    def map(self) -> int:
        address = self.lib.mc_map(self.fd, RING_BYTES)
        assert address > 0
        self.mappings.append(address)
        return int(address)

    def ring_at(self, address: int) -> Any:
        return self.ffi.cast("struct mc_ring *", address)

    def loop(self, side: int, **options: int) -> Any:
        """A ``struct loop`` for this process: side 0 is the frontend, 1 the backend."""
        address = self.map()

        def word(of_side: int, index: int) -> Any:
            return self.ffi.cast("uint32_t *", address + WORDS_OFFSET + of_side * 64 + index * 4)

        loop = self.ffi.new("struct loop *")
        loop.ring = self.ring_at(address)
        loop.hear_word, loop.hear_waiters = word(side, 0), word(side, 1)
        loop.ring_word, loop.ring_waiters = word(1 - side, 0), word(1 - side, 1)
        loop.hear_fd, loop.ring_fd = self.eventfds[side], self.eventfds[1 - side]
        loop.seed = 0x9E3779B97F4A7C15 + side
        loop.liveness_ns = LIVENESS_NS
        for name, value in options.items():
            setattr(loop, name, value)
        return loop

    def close(self) -> None:
        for address in self.mappings:
            assert self.lib.mc_unmap(address, RING_BYTES) == 0
        for fd in [self.fd, *self.eventfds]:
            os.close(fd)


@pytest.fixture
def channel(loops: Any) -> Iterator[Channel]:
    made = Channel(loops)
    yield made
    made.close()


MODES = ["LOOP_SPIN", "LOOP_FUTEX", "LOOP_EVENTFD"]


@pytest.mark.parametrize("mode", MODES)
def test_a_million_records_come_back_once_and_in_order(
    channel: Channel, processes: Any, mode: str
) -> None:
    options = {"mode": getattr(channel.lib, mode), "count": RECORDS, "batch_max": 64}
    child = processes.start(lambda: channel.lib.loop_back(channel.loop(1, **options)))
    front = channel.loop(0, **options)

    assert channel.lib.loop_front(front) == 0
    assert processes.result(child) == 0
    if mode != "LOOP_SPIN":
        assert front.sleeps > 0
        assert front.bells < RECORDS, "suppression must save bells"


@pytest.mark.parametrize("pause_max", [1, 20, 200])
@pytest.mark.parametrize("mode", ["LOOP_FUTEX", "LOOP_EVENTFD"])
def test_no_wake_up_is_lost_when_both_ends_sleep_all_the_time(
    channel: Channel, processes: Any, mode: str, pause_max: int
) -> None:
    """Tiny batches and random pauses: each step races a sleeper with the one who wakes it."""
    options = {
        "mode": getattr(channel.lib, mode),
        "count": 60_000,
        "batch_max": 2,
        "pause_max": pause_max,
    }
    child = processes.start(lambda: channel.lib.loop_back(channel.loop(1, **options)))
    front = channel.loop(0, **options)

    assert channel.lib.loop_front(front) == 0
    assert processes.result(child) == 0
    assert front.sleeps >= 1000, "the faster the other end, the fewer; far more on any machine"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("survivor", [0, 1])
def test_the_death_of_one_end_is_a_timeout_for_the_other(
    channel: Channel, processes: Any, mode: str, survivor: int
) -> None:
    options = {"mode": getattr(channel.lib, mode), "count": 1 << 60, "batch_max": 8}
    ends = [channel.lib.loop_front, channel.lib.loop_back]
    victim_side = 1 - survivor
    victim = processes.start(
        lambda: ends[victim_side](channel.loop(victim_side, pause_max=50, **options))
    )
    other = processes.start(
        lambda: ends[survivor](channel.loop(survivor, **options | {"liveness_ns": SILENCE_NS}))
    )
    shared = channel.ring
    deadline_s = time.monotonic() + LIVENESS_NS / 1e9
    while shared.rsp_prod < 1000 and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert shared.rsp_prod >= 1000, "the two never got going"

    processes.kill(victim)

    assert processes.result(other) == channel.lib.MC_ETIMEOUT & 255
