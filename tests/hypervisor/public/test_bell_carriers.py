"""Every ``Doorbell`` keeps one contract, whatever carries it; then a million records by ZeroMQ."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
import zmq

from hypervisor.public.doorbell import (
    DRAIN_MAX,
    Doorbell,
    EventfdBell,
    FutexBell,
    FutexWord,
    ZmqBell,
)

LIVENESS_S = 20.0
SHORT_S = 0.02
RECORDS = 1_000_000
SLOTS = 64
RING_BYTES = 8192
WAITS_MAX = round(LIVENESS_S / SHORT_S)

#: Opens end 0 or 1 of a pair, in whichever process calls it.
Opener = Callable[[int], Any]


@contextmanager
def futex_pair(loops: Any) -> Iterator[Opener]:
    fd = loops.lib.mc_memfd(b"bells", 4096)

    @contextmanager
    def open_end(side: int) -> Iterator[Doorbell]:
        address = loops.lib.mc_map(fd, 4096)
        words = [FutexWord(address + end * 64, address + end * 64 + 4) for end in (0, 1)]
        with closing(FutexBell(words[side], words[1 - side])) as bell:
            yield bell
        loops.lib.mc_unmap(address, 4096)

    yield open_end
    os.close(fd)


@contextmanager
def eventfd_pair(_: Any) -> Iterator[Opener]:
    fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
    yield lambda side: closing(EventfdBell(fds[side], fds[1 - side]))
    for fd in fds:
        os.close(fd)


@contextmanager
def zmq_pair(_: Any) -> Iterator[Opener]:
    with tempfile.TemporaryDirectory() as directory:
        endpoint = f"ipc://{directory}/bell"

        @contextmanager
        def open_end(side: int) -> Iterator[Doorbell]:
            # A context of its own: it must not be shared with a process forked before.
            with zmq.Context() as context:
                make = ZmqBell.bind if side == 0 else ZmqBell.connect
                with closing(make(context, endpoint)) as bell:
                    yield bell

        yield open_end


@pytest.fixture(params=[futex_pair, eventfd_pair, zmq_pair])
def open_end(request: pytest.FixtureRequest, loops: Any) -> Iterator[Opener]:
    with request.param(loops) as opener:
        yield opener


@pytest.fixture
def pair(open_end: Opener) -> Iterator[tuple[Doorbell, Doorbell]]:
    """Both ends in this process, connected and silent."""
    with ExitStack() as stack:
        ends = stack.enter_context(open_end(0)), stack.enter_context(open_end(1))
        for bell, other in (ends, ends[::-1]):
            other.notify()
            assert bell.wait(LIVENESS_S)
        for bell in ends:
            hush(bell)
        yield ends


@contextmanager
def memory_view(memory: mmap.mmap) -> Iterator[memoryview]:
    with memoryview(memory) as view, view.cast("Q") as words:
        yield words


def hush(bell: Doorbell) -> None:
    """Take what still arrives; spurious rings are allowed, but they end."""
    for _ in range(DRAIN_MAX):
        if not bell.wait(SHORT_S):
            return
    pytest.fail("rings for ever")


def test_a_silent_bell_times_out(pair: tuple[Doorbell, Doorbell]) -> None:
    for bell in pair:
        assert not bell.wait(0.0)
        assert not bell.wait(SHORT_S)
        assert not bell.wait(-1.0)


def test_a_ring_before_the_wait_is_remembered_and_heard_once(
    pair: tuple[Doorbell, Doorbell],
) -> None:
    for bell, other in (pair, pair[::-1]):
        other.notify()
        assert bell.wait(LIVENESS_S)
        assert not bell.wait(SHORT_S)
        assert not other.wait(0.0), "nobody hears itself"


def test_rings_nobody_hears_never_block_and_coalesce(pair: tuple[Doorbell, Doorbell]) -> None:
    bell, other = pair
    for _ in range(20_000):
        other.notify()
    assert bell.wait(LIVENESS_S)
    hush(bell)
    other.notify()
    assert bell.wait(LIVENESS_S), "it still works after the flood"


def test_a_ring_wakes_who_sleeps(pair: tuple[Doorbell, Doorbell]) -> None:
    bell, other = pair
    asleep, heard = threading.Event(), []

    def sleeper() -> None:
        asleep.set()
        heard.append(bell.wait(LIVENESS_S))

    thread = threading.Thread(target=sleeper)
    thread.start()
    asleep.wait(LIVENESS_S)
    other.notify()
    thread.join(LIVENESS_S * 2)
    assert heard == [True]


def test_an_end_may_be_closed_twice(open_end: Opener) -> None:
    with open_end(0) as bell:
        bell.close()


@pytest.mark.parametrize("first", [0, 1])
def test_a_ring_made_before_the_other_end_exists_is_heard(open_end: Opener, first: int) -> None:
    with open_end(first) as early:
        early.notify()
        with open_end(1 - first) as late:
            for _ in range(WAITS_MAX):
                if late.wait(SHORT_S):
                    return
                early.wait(0.0)  # whoever waits also sends what it owes
    pytest.fail("the ring was lost")


@pytest.mark.process
def test_two_processes_wake_each_other_without_a_loss(open_end: Opener, processes: Any) -> None:
    """Strictly in turns: one lost ring stops both, and the liveness bound tells."""
    turns = 3000
    go_read, go_write = os.pipe()

    def play(side: int) -> int:
        with open_end(side) as bell:
            (os.write(go_write, b"!") if side else os.read(go_read, 1))
            if side == 1:
                assert bell.wait(LIVENESS_S)
            for _ in range(turns):
                bell.notify()
                if not bell.wait(LIVENESS_S):
                    return 1
            bell.notify()
        return 0

    child = processes.start(lambda: play(1))
    try:
        assert play(0) == 0
    finally:
        os.close(go_read)
        os.close(go_write)
    processes.kill(child)


@pytest.mark.process
def test_a_ring_right_after_the_last_one_was_taken_is_heard(
    open_end: Opener, processes: Any
) -> None:
    """The answer comes by memory, so the ringing end never looks at its own carrier: a queue it
    believes full may be empty by then."""
    rings = 3000
    with mmap.mmap(-1, 4096) as memory, memory_view(memory) as words:

        def hear() -> int:
            with open_end(0) as bell:
                while words[1] < rings:
                    if words[0] == words[1] and not bell.wait(LIVENESS_S):
                        return 1
                    words[1] = words[0]
            return 0

        child = processes.start(hear)
        with open_end(1) as bell:
            for number in range(1, rings + 1):
                words[0] = number
                bell.notify()
                deadline_s = time.monotonic() + 2 * LIVENESS_S
                while words[1] != number and time.monotonic() < deadline_s:
                    os.sched_yield()
                assert words[1] == number, f"ring {number} was lost"
            assert processes.result(child) == 0


class End:
    """One end of a ring served from Python: batches, suppression, sleep by a ``Doorbell``."""

    def __init__(self, loops: Any, address: int, side: str, bell: Doorbell) -> None:
        self.lib, self.bell = loops.lib, bell
        ring = loops.ffi.cast("struct mc_ring *", address)
        self.end = loops.ffi.new(f"struct mc_{side} *")
        self.record = loops.ffi.new("struct mc_record *")
        getattr(self.lib, f"mc_{side}_bind")(self.end, ring)
        self.pop = getattr(self.lib, f"mc_{side}_pop")
        self.push = getattr(self.lib, f"mc_{side}_push")
        self._publish = getattr(self.lib, f"mc_{side}_publish")
        self._arm = getattr(self.lib, f"mc_{side}_arm")

    def publish(self) -> None:
        if self._publish(self.end):
            self.bell.notify()

    def sleep(self) -> None:
        """Until something arrived; a silence of LIVENESS_S is a lost wake-up."""
        if not self._arm(self.end):
            assert self.bell.wait(LIVENESS_S), "lost wake-up"


def drive_front(end: End, count: int) -> None:
    record, pop, push, pointer = end.record, end.pop, end.push, end.end
    sent = answered = 0
    while answered < count:
        batch = min(SLOTS - (sent - answered), count - sent)
        for ident in range(sent, sent + batch):
            record.id = ident
            assert push(pointer, record) == 0
        sent += batch
        end.publish()
        before = answered
        while pop(pointer, record) == 1:
            assert record.id == answered
            assert record.status == answered + 1
            answered += 1
        if answered == before:
            end.sleep()


def drive_back(end: End, count: int) -> None:
    record, pop, push, pointer = end.record, end.pop, end.push, end.end
    served = 0
    while served < count:
        before = served
        while pop(pointer, record) == 1:
            assert record.id == served
            served += 1
            record.status = served
            push(pointer, record)
        end.publish()
        if served == before:
            end.sleep()


@pytest.mark.slow
@pytest.mark.process
def test_a_million_records_by_zmq_bells(loops: Any, processes: Any) -> None:
    fd = loops.lib.mc_memfd(b"ring", RING_BYTES)
    address = loops.lib.mc_map(fd, RING_BYTES)
    loops.lib.mc_ring_format(loops.ffi.cast("struct mc_ring *", address))
    with zmq_pair(loops) as open_end:

        def serve() -> int:
            with open_end(0) as bell:
                drive_back(End(loops, address, "back", bell), RECORDS)
                bell.wait(LIVENESS_S)  # until the frontend has them all
            return 0

        child = processes.start(serve)
        with open_end(1) as bell:
            drive_front(End(loops, address, "front", bell), RECORDS)
            bell.notify()
            assert processes.result(child) == 0
    loops.lib.mc_unmap(address, RING_BYTES)
    os.close(fd)
