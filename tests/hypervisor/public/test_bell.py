"""Bells: a ring is remembered, a wait is bounded, a peer's garbage is harmless."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MS = 1_000_000
LONG_NS = 20_000 * MS


class Bell:
    """A futex bell in memory of this process."""

    def __init__(self, loops: Any) -> None:
        self.ffi, self.lib = loops
        self.word = self.ffi.new("uint32_t *")
        self.waiters = self.ffi.new("uint32_t *")

    def ring(self) -> None:
        self.lib.mc_bell_ring(self.word, self.waiters)

    def wait(self, seen: int, timeout_ns: int) -> int:
        return int(self.lib.mc_bell_wait(self.word, self.waiters, seen, timeout_ns))


@pytest.fixture
def bell(loops: Any) -> Bell:
    return Bell(loops)


@contextmanager
def waiting(bell: Bell, count: int = 1) -> Iterator[list[int]]:
    """``count`` threads asleep on the bell at entry; their statuses are there at exit."""
    statuses: list[int] = []
    seen = bell.word[0]
    threads = [
        threading.Thread(target=lambda: statuses.append(bell.wait(seen, LONG_NS)))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    while bell.waiters[0] < count:
        time.sleep(0.0005)
    yield statuses
    for thread in threads:
        thread.join(LONG_NS / 2e9)
        assert not thread.is_alive()


def test_a_word_that_has_changed_is_no_reason_to_sleep(bell: Bell) -> None:
    seen = bell.word[0]
    bell.ring()
    assert bell.wait(seen, LONG_NS) == 0
    assert bell.wait(seen, 0) == 0, "the ring is remembered until it was seen"


def test_a_silent_bell_times_out_and_leaves_no_waiter(bell: Bell) -> None:
    assert bell.wait(0, 0) == bell.lib.MC_ETIMEOUT
    start_ns = bell.lib.mc_clock_ns()
    assert bell.wait(0, 20 * MS) == bell.lib.MC_ETIMEOUT
    assert bell.lib.mc_clock_ns() - start_ns >= 20 * MS
    assert bell.waiters[0] == 0


def test_a_ring_wakes_every_waiter(bell: Bell) -> None:
    with waiting(bell, count=4) as statuses:
        bell.ring()
    assert statuses == [0, 0, 0, 0]
    assert bell.waiters[0] == 0


def test_rings_wrap_with_the_word(bell: Bell) -> None:
    bell.word[0] = 2**32 - 1
    with waiting(bell) as statuses:
        bell.ring()
    assert (statuses, bell.word[0]) == ([0], 0)


def test_a_count_of_waiters_that_lies_costs_only_a_system_call(bell: Bell) -> None:
    """The guest writes that word; one killed in its sleep leaves it too high for ever."""
    bell.waiters[0] = 2**32 - 1
    bell.ring()
    assert bell.wait(0, LONG_NS) == 0
    assert bell.wait(1, 0) == bell.lib.MC_ETIMEOUT
    assert bell.waiters[0] == 2**32 - 1


def test_a_timeout_beyond_all_clocks_still_wakes(bell: Bell) -> None:
    bell.ring()
    assert bell.wait(0, 2**64 - 1) == 0


def test_a_word_the_kernel_refuses_is_a_kernel_error(loops: Any) -> None:
    memory = loops.ffi.new("uint8_t[16]")
    crooked = loops.ffi.cast("uint32_t *", memory + 1)
    waiters = loops.ffi.cast("uint32_t *", memory + 8)
    assert loops.lib.mc_bell_wait(crooked, waiters, 0, LONG_NS) == loops.lib.MC_EKERNEL
    assert waiters[0] == 0


@pytest.mark.process
def test_signals_do_not_shorten_a_sleep(bell: Bell, processes: Any) -> None:
    ready_read, ready_write = os.pipe()

    def child() -> int:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        start_ns = bell.lib.mc_clock_ns()
        os.write(ready_write, b"!")
        status = bell.wait(0, 100 * MS)
        slept_ns = bell.lib.mc_clock_ns() - start_ns
        return int(status != bell.lib.MC_ETIMEOUT or slept_ns < 100 * MS)

    pid = processes.start(child)
    os.read(ready_read, 1)
    os.close(ready_read)
    os.close(ready_write)
    for _ in range(20):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.002)
    assert processes.result(pid) == 0


def test_an_eventfd_counts_its_rings(loops: Any) -> None:
    fd = loops.lib.mc_eventfd(1)
    try:
        for _ in range(3):
            assert loops.lib.mc_eventfd_ring(fd) == 0
        assert os.eventfd_read(fd) == 3
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_full_eventfd_rings_already(loops: Any) -> None:
    fd = loops.lib.mc_eventfd(1)
    try:
        os.eventfd_write(fd, 2**64 - 2)
        assert loops.lib.mc_eventfd_ring(fd) == 0
        assert os.eventfd_read(fd) == 2**64 - 2
    finally:
        os.close(fd)


def test_what_is_no_eventfd_is_a_kernel_error(loops: Any) -> None:
    assert loops.lib.mc_eventfd_ring(-1) == loops.lib.MC_EKERNEL


def test_calibration_stays_within_its_bounds(loops: Any) -> None:
    assert 0 <= loops.lib.mc_spin_calibrate_ns() <= loops.lib.MC_SPIN_MAX_NS


@pytest.mark.process
def test_with_one_cpu_there_is_nothing_to_spin_for(loops: Any, processes: Any) -> None:
    def child() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return int(loops.lib.mc_spin_calibrate_ns() != 0)

    assert processes.result(processes.start(child)) == 0


def test_the_clock_never_goes_back(loops: Any) -> None:
    times_ns = [loops.lib.mc_clock_ns() for _ in range(100)]
    assert times_ns == sorted(times_ns)
    assert loops.lib.mc_cpu_now() < 4096
    loops.lib.mc_cpu_relax()
