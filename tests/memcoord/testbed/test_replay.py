"""Replay: every reference is checked, and memory that loses or mixes up pages is caught."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frontend._guest import lib as guest
from hypervisor.public.errors import ConfigError
from memcoord.testbed.guests._content import ffi, lib
from memcoord.testbed.guests.replay import NAP_S, Replay, WrongContent, pieces
from memcoord.testbed.scenarios.trace_files import SHIPPED_TRACES
from memcoord.testbed.streams.page_trace import load_trace, parse_trace
from memcoord.testbed.streams.references import cyclic, held
from memcoord.testbed.streams.stream import Stream, anonymous
from memcoord.testbed.traces.table import Table

PAGE_BYTES = 4096
FRAMES = 3


class FakeMemory:
    """FRAMES frames, FIFO; evicted pages go to a dict, and so does every chance to go wrong."""

    def __init__(self, buffer: mmap.mmap, base: int) -> None:
        self.buffer, self.base = buffer, base
        self.resident: dict[int, int] = {}
        self.swap: dict[int, bytes] = {}
        self.versions: dict[int, Any] = {}
        self.balanced = self.references = 0
        self.on_swap_in: Callable[[int, bytes], bytes] = lambda page, data: data

    def balance(self) -> None:
        self.balanced += 1

    def run(
        self, pages: Any, writes: Any, use: int, context: int, *, more: bool
    ) -> tuple[int, int]:
        self.goes_on = more
        call = ffi.cast("int64_t (*)(void *, uint64_t, uint64_t *, uint32_t, uint32_t)", use)
        for done, (page, write) in enumerate(zip(pages.tolist(), writes.tolist(), strict=True)):
            how = guest.MC_USE_WRITE * write | self._bring(page)
            self.references += 1
            address = self.base + self.resident[page] * PAGE_BYTES
            version = self.versions.setdefault(page, ffi.new("uint64_t *"))
            answer = call(ffi.cast("void *", context), address, version, page, how)
            if answer:
                return done + 1, answer
        return len(pages), 0

    def _bring(self, page: int) -> int:
        if page in self.resident:
            return 0
        frame = len(self.resident)
        if frame == FRAMES:
            victim = next(iter(self.resident))
            frame = self.resident.pop(victim)
            self.swap[victim] = self.buffer[frame * PAGE_BYTES : (frame + 1) * PAGE_BYTES]
        self.resident[page] = frame
        data = self.swap.get(page, b"\xdb" * PAGE_BYTES)
        self.buffer[frame * PAGE_BYTES : (frame + 1) * PAGE_BYTES] = self.on_swap_in(page, data)
        is_new = page not in self.swap and page not in self.of_program
        return int(guest.MC_USE_CAME | guest.MC_USE_FIRST * is_new)

    of_program: frozenset[int] = frozenset()


@pytest.fixture
def memory() -> Iterator[FakeMemory]:
    buffer = mmap.mmap(-1, FRAMES * PAGE_BYTES)
    view = ffi.from_buffer(buffer)
    yield FakeMemory(buffer, int(ffi.cast("uintptr_t", view)))
    ffi.release(view)
    buffer.close()


@pytest.fixture
def replay(memory: FakeMemory) -> Callable[[Stream], Replay]:
    return lambda trace: Replay(trace, memory, name="vm7", number=7)


def trace_of(*references: tuple[int, int]) -> Stream:
    pages = [page for page, _ in references]
    writes = [flag for _, flag in references]
    return anonymous("test", held(np.array(pages), np.array(writes)), max(pages) + 1)


def repeated(stream: Stream, times: int) -> Stream:
    return replace(stream, references=cyclic(stream.references, times * len(stream)))


SWEEP = trace_of(*((page, page & 1) for page in range(8)))


def test_every_reference_but_the_first_of_a_page_is_verified(
    replay: Callable[[Stream], Replay],
) -> None:
    work = replay(SWEEP)
    for _ in range(5):
        work.run()
    assert work.pages_verified == 5 * 8 - 8


def test_a_page_that_is_read_first_has_content_from_then_on(
    memory: FakeMemory, replay: Callable[[Stream], Replay]
) -> None:
    work = replay(trace_of((0, 0), (1, 0), (2, 1), (0, 0), (3, 0), (0, 0), (1, 0)))
    work.run()
    assert work.pages_verified == 3
    assert [memory.versions[page][0] for page in range(4)] == [1, 1, 1, 1]


def test_how_a_page_came_has_the_same_numbers_on_both_sides() -> None:
    assert (guest.MC_USE_WRITE, guest.MC_USE_CAME, guest.MC_USE_FIRST) == (1, 2, 4)


def test_the_program_works_between_references(replay: Callable[[Stream], Replay]) -> None:
    steps = lib.mc_program_steps(1000)
    assert 10 <= steps <= 100_000
    assert lib.mc_program_steps(0) == 0


@pytest.mark.parametrize("writes", [0, 1], ids=["before a read", "before a write"])
def test_one_flipped_bit_is_caught_and_named(
    memory: FakeMemory, replay: Callable[[Stream], Replay], writes: int
) -> None:
    def flip(page: int, data: bytes) -> bytes:
        return data[:1000] + bytes([data[1000] ^ 4]) + data[1001:] if page == 5 else data

    work = replay(trace_of(*((page, 1) for page in range(8)), (5, writes)))
    work.run()  # page 5 is in memory: nothing was read back yet
    memory.on_swap_in = flip
    with pytest.raises(WrongContent) as caught:
        work.run()
    assert (caught.value.domain, caught.value.page, caught.value.word) == ("vm7", 5, 125)
    assert caught.value.version == (2 if writes else 1)
    assert "domain vm7, page 5" in str(caught.value)


def test_an_older_version_of_the_same_page_is_caught(
    memory: FakeMemory, replay: Callable[[Stream], Replay]
) -> None:
    old: dict[int, bytes] = {}
    memory.on_swap_in = lambda page, data: (
        old.setdefault(page, data) if page in memory.swap else data
    )
    work = replay(repeated(trace_of(*((page, 1) for page in range(8))), 4))
    with pytest.raises(WrongContent):
        work.run()


def test_another_page_in_its_place_is_caught(
    memory: FakeMemory, replay: Callable[[Stream], Replay]
) -> None:
    memory.on_swap_in = lambda page, data: memory.swap.get(page ^ 1, data)
    with pytest.raises(WrongContent):
        replay(repeated(SWEEP, 2)).run()


def test_a_lost_page_is_caught(memory: FakeMemory, replay: Callable[[Stream], Replay]) -> None:
    memory.on_swap_in = lambda page, data: bytes(PAGE_BYTES)
    with pytest.raises(WrongContent):
        replay(repeated(SWEEP, 2)).run()


@pytest.mark.parametrize(
    ("name", "references", "pages"),
    [("sort", 305_275, 1_844), ("cc1", 470_101, 3_439), ("sqlite", 8_395, 1_049)],
)
def test_shipped_traces_are_whole(name: str, references: int, pages: int) -> None:
    trace = load_trace(name)
    assert (len(trace), trace.page_count) == (references, pages)
    assert set(trace.pages.tolist()) == set(range(pages))
    assert set(trace.writes.tolist()) == {0, 1}
    assert name in SHIPPED_TRACES


def test_a_trace_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("page,dt,flags\n3,1,1\n0,9,2\n")
    trace = load_trace(str(path))
    assert (trace.pages.tolist(), trace.writes.tolist(), trace.page_count) == ([3, 0], [1, 0], 4)
    assert np.flatnonzero(trace.program).tolist() == [0]


def test_a_program_is_what_is_executed_and_never_written() -> None:
    rows = ["page,dt,flags", "0,1,2", "1,1,2", "2,1,0", "3,1,1", "1,1,1", "0,1,0", "4,1,3"]
    assert np.flatnonzero(
        parse_trace("test", Table("test", "\n".join(rows).encode(), "workload")).program
    ).tolist() == [0]


def test_pages_of_the_program_are_verified_from_the_start(
    memory: FakeMemory, replay: Callable[[Stream], Replay]
) -> None:
    memory.of_program = frozenset({2})
    trace = replace(SWEEP, program=np.arange(8) == 2)
    with pytest.raises(WrongContent) as caught:
        replay(trace).run()  # this memory has no program file
    assert (caught.value.page, caught.value.version) == (2, 1)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "first line"),
        (["page,dt,flags"], "no rows"),
        (["page,dt,flags", "1,2"], "line 2"),
        (["page,dt,flags", "1,1,0", "x,1,0"], "line 3"),
        (["page,dt,flags", "-1,1,0"], "line 2: .* has no page"),
        (["page,dt,flags", f"{1 << 24},1,0"], "no page of 0 to 16777215"),
    ],
)
def test_a_bad_trace_names_the_line(lines: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_trace("bad", Table("bad", "\n".join(lines).encode(), "workload"))


@pytest.mark.parametrize("name", ["sorted", "missing.csv", "trace.txt"])
def test_an_unknown_workload_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        load_trace(name)


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.csv.xz"
    path.write_bytes(b"not xz")
    with pytest.raises(ConfigError, match="broken"):
        load_trace(str(path))


def test_a_pause_is_slept_in_naps_that_follow_the_target(memory: FakeMemory) -> None:
    slept: list[tuple[float, int]] = []
    work = Replay(
        replace(SWEEP, pauses=((0, 0.01), (5, NAP_S * 2.5))),
        memory,
        name="vm7",
        number=7,
        sleep=lambda seconds: slept.append((seconds, memory.references)),
    )
    work.run()
    assert sum(seconds for seconds, _ in slept) == pytest.approx(0.01 + NAP_S * 2.5)
    assert [done for seconds, done in slept if seconds] == [0, 5, 5, 5]
    assert memory.balanced == 2


def test_a_program_is_held_after_so_many_references(memory: FakeMemory) -> None:
    held: list[tuple[int, int]] = []
    work = Replay(
        replace(SWEEP, pauses=((5, 0.0),)),
        memory,
        name="vm7",
        number=7,
        holds=(0, 3, 5),
        hold=lambda done: held.append((done, memory.references)),
        clock=iter(range(100)).__next__,
    )
    work.run()
    assert held == [(0, 0), (3, 3), (5, 5)]
    assert (memory.references, work.held_s) == (len(SWEEP), 3)


def test_a_stream_is_replayed_whole(memory: FakeMemory) -> None:
    pauses = ((7, 0.0), (50, 1.0))
    stream = anonymous("long", held(np.arange(100) % 2, np.zeros(100)), 2, pauses)
    found = [
        (begin, pause_s, len(pages), more)
        for begin, pause_s, pages, _, more in pieces(stream, (7, 60, 100), 40)
    ]
    assert found == [(0, 0.0, 7, False), (7, 0.0, 40, True), (47, 0.0, 3, False),
                     (50, 1.0, 10, False), (60, 0.0, 40, False)]  # fmt: skip
    work = Replay(stream, memory, name="vm7", number=7, sleep=lambda seconds: None)
    work.run()
    assert (memory.references, memory.goes_on) == (100, False)
