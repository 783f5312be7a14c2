"""Replay: every reference is checked, and memory that loses or mixes up pages is caught."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks._loops import ffi, lib
from memcoord.testbed.guests.replay import CHUNK_REFERENCES, NAP_S, Replay, WrongContent, chunks
from memcoord.testbed.scenarios.workloads import SHIPPED_TRACES
from memcoord.testbed.streams.page_trace import load_trace, parse_trace
from memcoord.testbed.streams.stream import Stream, anonymous
from memcoord.testbed.streams.table import Table

PAGE_BYTES = 4096
FRAMES = 3


class FakeMemory:
    """FRAMES frames, FIFO; evicted pages go to a dict, and so does every chance to go wrong."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.buffer = buffer
        self.resident: dict[int, int] = {}
        self.swap: dict[int, bytes] = {}
        self.written: set[int] = set()
        self.balanced = self.accesses = 0
        self.on_swap_in: Callable[[int, bytes], bytes] = lambda page, data: data

    def balance(self) -> None:
        self.balanced += 1

    def access(self, page: int, write: bool) -> int:
        self.accesses += 1
        if write:
            self.written.add(page)
        if page in self.resident:
            return self.resident[page]
        frame = len(self.resident)
        if frame == FRAMES:
            victim = next(iter(self.resident))
            frame = self.resident.pop(victim)
            if victim in self.written:
                self.swap[victim] = self.buffer[frame * PAGE_BYTES : (frame + 1) * PAGE_BYTES]
                self.written.discard(victim)
        self.resident[page] = frame
        data = self.swap.get(page, b"\xdb" * PAGE_BYTES)
        self.buffer[frame * PAGE_BYTES : (frame + 1) * PAGE_BYTES] = self.on_swap_in(page, data)
        return frame


@pytest.fixture
def memory() -> Iterator[FakeMemory]:
    buffer = mmap.mmap(-1, FRAMES * PAGE_BYTES)
    yield FakeMemory(buffer)
    buffer.close()


@pytest.fixture
def replay(memory: FakeMemory) -> Iterator[Callable[[Stream], Replay]]:
    view = ffi.from_buffer(memory.buffer)
    base = int(ffi.cast("uintptr_t", view))
    yield lambda trace: Replay(trace, memory, lib, name="vm7", number=7, base_address=base)
    ffi.release(view)


def trace_of(*references: tuple[int, int]) -> Stream:
    pages = [page for page, _ in references]
    writes = [flag for _, flag in references]
    return anonymous("test", np.array(pages), np.array(writes), max(pages) + 1)


def repeated(stream: Stream, times: int) -> Stream:
    pages, writes = np.tile(stream.pages, times), np.tile(stream.writes, times)
    return replace(stream, pages=pages, writes=writes)


SWEEP = trace_of(*((page, page & 1) for page in range(8)))


def test_every_reference_but_the_first_of_a_page_is_verified(
    replay: Callable[[Stream], Replay],
) -> None:
    work = replay(SWEEP)
    for _ in range(5):
        work.run()
    assert work.pages_verified == 5 * 8 - 8


def test_first_touch_counts_as_a_write_even_when_it_reads(
    memory: FakeMemory, replay: Callable[[Stream], Replay]
) -> None:
    replay(trace_of((0, 0), (1, 0), (0, 0))).run()
    assert memory.written == {0, 1}


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
    trace = replace(SWEEP, program=np.arange(8) == 2)
    with pytest.raises(WrongContent) as caught:
        replay(trace).run()  # this memory has no program file
    assert (caught.value.page, caught.value.version) == (2, 1)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "first line"),
        (["page,flags", "1,2"], "no column 'dt'"),
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
    view = ffi.from_buffer(memory.buffer)
    work = Replay(
        replace(SWEEP, pauses=((0, 0.01), (5, NAP_S * 2.5))),
        memory,
        lib,
        name="vm7",
        number=7,
        base_address=int(ffi.cast("uintptr_t", view)),
        sleep=lambda seconds: slept.append((seconds, memory.accesses)),
    )
    work.run()
    ffi.release(view)
    assert sum(seconds for seconds, _ in slept) == pytest.approx(0.01 + NAP_S * 2.5)
    assert [done for seconds, done in slept if seconds] == [0, 5, 5, 5]
    assert memory.balanced == 2


def test_a_long_stream_is_replayed_whole(memory: FakeMemory) -> None:
    count = 2 * CHUNK_REFERENCES + 3
    stream = anonymous("long", np.arange(count) % 2, np.zeros(count), 2, ((7, 0.0),))
    pieces = list(chunks(stream))
    assert [begin for begin, _, _ in pieces[1:]] == [end for _, end, _ in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][1]) == (0, count)
    assert max(end - begin for begin, end, _ in pieces) <= CHUNK_REFERENCES
