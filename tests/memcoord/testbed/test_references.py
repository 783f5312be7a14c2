"""Goal: a stream may have any length, and how it is cut into parts says nothing.

Method: every kind of workload with parts of a few references against the same in large ones; a
stream of 10^9 references, of which the beginning is read.
"""

from __future__ import annotations

import lzma
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_streams import FIXED, SEEDED

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.workloads import (
    BlockTraceWorkload,
    BurstsWorkload,
    GraphWorkload,
    LoopWorkload,
    PageTraceWorkload,
    QuietWorkload,
    Size,
    UsememWorkload,
    Workload,
)
from memcoord.testbed.streams import references as made
from memcoord.testbed.streams import stream_of
from memcoord.testbed.streams.references import (
    Cursor,
    Part,
    chained,
    counted,
    cyclic,
    held,
    merged,
    merged_parts,
)
from memcoord.testbed.traces import table, unpacked

MIB = 1 << 20
R = Size(MIB)
PAGE = 4096
BILLION = 10**9
HELD_BYTES_MAX = 128 * MIB  # of which unpacking takes 64
SMALL: dict[str, Workload] = {
    "steps of a page": UsememWorkload(Size(PAGE), Size(5 * PAGE), R, sweeps=3),
    "one page": UsememWorkload(Size(PAGE), Size(PAGE), R, sweeps=3),
    "phase": LoopWorkload(Size(40 * PAGE), R, repeat=3, phase=0.3),
    "rows": GraphWorkload(R, vertices=64, degree=4, vertex_bytes=64, edge_bytes=8),
}
LONG: dict[str, Workload] = {
    "bursts": BurstsWorkload(Size(MIB), Size(4 * MIB), R, references=BILLION),
    "quiet": QuietWorkload(Size(MIB), R, references=BILLION, pauses=3),
    "loop": LoopWorkload(Size(512 * MIB), R, repeat=8000),
    "usemem": UsememWorkload(Size(MIB), Size(512 * MIB), R, sweeps=40),
    "sqlite": PageTraceWorkload("sqlite", R, repeat=10_000),
    "graph": GraphWorkload(R, vertices=1 << 12, iterations=10_000),
}


def read(cursor: Cursor, count: int, at_once: int) -> Part:
    """The next ``count`` references, taken ``at_once`` at a time."""
    parts = []
    while count > 0:
        parts.append(cursor.take(min(count, at_once)))
        count -= len(parts[-1][0])
    return made.joined(parts)


@pytest.mark.parametrize("work", (SEEDED | FIXED | SMALL).values(), ids=(SEEDED | FIXED | SMALL))
def test_parts_of_any_size_make_the_same_stream(
    monkeypatch: pytest.MonkeyPatch, work: Workload
) -> None:
    whole = stream_of(work, 7)
    monkeypatch.setattr(made, "PART_REFERENCES", 997)
    monkeypatch.setattr(made, "HELD_REFERENCES", 50)
    cut = stream_of(work, 7)
    cut.validate()
    assert len([*cut.references.parts()]) > 1 or len(cut) < 997
    assert np.array_equal(cut.pages, whole.pages)
    assert np.array_equal(cut.writes, whole.writes)
    assert (cut.pauses, cut.page_count) == (whole.pauses, whole.page_count)


@pytest.mark.parametrize("work", LONG.values(), ids=LONG)
def test_a_stream_of_any_length_is_read_in_bounded_memory(work: Workload) -> None:
    tracemalloc.start()
    try:
        stream = stream_of(work, 1)
        assert len(stream) > made.WHOLE_MAX
        cursor = Cursor(stream.references)
        for _ in range(20):
            read(cursor, made.PART_REFERENCES, made.PART_REFERENCES)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < HELD_BYTES_MAX
    with pytest.raises(ConfigError, match="too many"):
        _ = stream.pages


part = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=8)


def as_part(pairs: list[tuple[int, int]]) -> Part:
    return np.array([p for p, _ in pairs], np.int32), np.array([w for _, w in pairs], np.uint8)


@given(st.lists(part, max_size=6))
def test_merging_part_by_part_is_merging_at_once(pieces: list[list[tuple[int, int]]]) -> None:
    parts = [as_part(piece) for piece in pieces]
    pages, writes = merged(*made.joined(parts))
    found = made.joined([*merged_parts(parts)])
    assert (found[0].tolist(), found[1].tolist()) == (pages.tolist(), writes.tolist())


@given(part.filter(bool), st.integers(0, 40), st.integers(0, 7), st.integers(1, 9))
def test_a_cycle_goes_round_from_where_it_starts(
    pairs: list[tuple[int, int]], length: int, start: int, at_once: int
) -> None:
    start %= len(pairs)
    pages, writes = read(Cursor(cyclic(held(*as_part(pairs)), length, start)), length, at_once)
    expected = [pairs[(start + at) % len(pairs)] for at in range(length)]
    assert list(zip(pages.tolist(), writes.tolist(), strict=True)) == expected


def test_references_that_are_counted_are_held_where_they_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = 0

    def parts() -> Iterator[Part]:
        nonlocal times
        times += 1
        yield from [as_part([(1, 0), (2, 1)]), as_part([(3, 0)])]

    few = counted(parts)
    assert [few.whole()[0].tolist(), chained([few, few]).whole()[0].tolist()] == [
        [1, 2, 3],
        [1, 2, 3, 1, 2, 3],
    ]
    assert times == 1
    monkeypatch.setattr(made, "HELD_REFERENCES", 2)
    many = counted(parts)
    assert (len(many), many.whole()[0].tolist(), times) == (3, [1, 2, 3], 3)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in blocks of a few rows, and nothing is held."""
    monkeypatch.setattr(unpacked, "BLOCK_BYTES", 5)
    monkeypatch.setattr(made, "HELD_REFERENCES", 3)
    monkeypatch.setattr(made, "PART_REFERENCES", 4)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_that_is_too_long_to_hold_is_read_again(tmp_path: Path, packed: bool) -> None:
    text = "dt,page,flags\n" + "".join(f"1,{n * 37 % 101},{n % 4}\n" for n in range(300))
    file = tmp_path / "mine.csv"
    file.write_bytes(lzma.compress(text.encode()) if packed else text.encode())
    stream = stream_of(PageTraceWorkload(str(file), R, repeat=2, phase=0.5, program_file=True), 1)
    order = [*range(150, 300), *range(150)] * 2
    assert stream.pages.tolist() == [n * 37 % 101 for n in order]
    assert stream.writes.tolist() == [n & 1 for n in order]
    flags = [0] * 101
    for n in range(300):
        flags[n * 37 % 101] |= n % 4
    assert np.flatnonzero(stream.program).tolist() == [p for p in range(101) if flags[p] == 2]
    blocks = stream_of(BlockTraceWorkload(str(file), R, repeat=2), 1)
    assert blocks.pages.tolist() == [n % 101 for n in range(300)] * 2


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("change", ["page,dt,flags\n1,1,1\n", "page,dt,flags\n" + "9,1,1\n" * 9])
def test_a_trace_that_is_changed_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("page,dt,flags\n" + "".join(f"{n},1,1\n" for n in range(9)))
    streams = [
        stream_of(PageTraceWorkload(str(file), R), 1),
        stream_of(BlockTraceWorkload(str(file), R), 1),
    ]
    file.write_text(change)
    for stream in streams:
        with pytest.raises(ConfigError, match=r"mine\.csv|changed"):
            read(Cursor(stream.references), 9, 2)


@pytest.mark.usefixtures("tiny")
def test_a_wrong_row_is_named_by_its_line_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("page\n" + "12\n" * 40 + "x\n" + "12\n")
    with pytest.raises(ConfigError, match=r"mine\.csv: line 42: 'x'"):
        stream_of(BlockTraceWorkload(str(file), R), 1)


@pytest.mark.usefixtures("tiny")
def test_a_row_that_never_ends_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ROW_BYTES_MAX", 50)
    file = tmp_path / "mine.csv"
    file.write_text("page\n1\n2\n" + '"' + "1\n" * 100)
    with pytest.raises(ConfigError, match="line 4: a row of more than 50 bytes"):
        stream_of(BlockTraceWorkload(str(file), R), 1)
