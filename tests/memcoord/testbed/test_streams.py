"""Goal: a stream is what the program refers to, and the same from the same seed.

Method: every kind once, its invariants and its laws against counts made another way.
"""

from __future__ import annotations

import lzma
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.public.errors import ConfigError
from memcoord.simulation.caches.trace import load
from memcoord.testbed.scenarios import schema
from memcoord.testbed.scenarios.programs import ProgramWorkload
from memcoord.testbed.scenarios.sizes import Size
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload
from memcoord.testbed.scenarios.workloads import (
    AnalyticsWorkload,
    BlockTraceWorkload,
    BurstsWorkload,
    DemandSeriesWorkload,
    GraphWorkload,
    JunkWorkload,
    LoopWorkload,
    PageTraceWorkload,
    QuietWorkload,
    UsememWorkload,
    Workload,
)
from memcoord.testbed.streams import domain_seed, stream_of
from memcoord.testbed.streams.demand import excerpt
from memcoord.testbed.streams.references import References, held, merged
from memcoord.testbed.streams.stream import anonymous

MIB = 1 << 20
R = Size(MIB)
SEEDED: dict[str, Workload] = {
    "graph-analytics": GraphWorkload(R, vertices=1 << 10, iterations=2),
    "in-memory-analytics": AnalyticsWorkload(R, users=512, items=256, ratings=4096),
    "junk": JunkWorkload(Size(2 * MIB), R),
    "bursts": BurstsWorkload(Size(MIB), Size(4 * MIB), R, references=50_000),
    "demand-series": DemandSeriesWorkload(1, Size(4 * MIB), R, references=50_000),
    "quiet": QuietWorkload(Size(MIB), R),
}
FIXED: dict[str, Workload] = {
    "usemem": UsememWorkload(Size(MIB), Size(3 * MIB), R),
    "loop": LoopWorkload(Size(MIB), R),
    "sqlite": PageTraceWorkload("sqlite", R, repeat=2),
}


def test_every_kind_of_workload_is_tried_here() -> None:
    tried = {type(work) for work in (SEEDED | FIXED).values()}
    elsewhere = {
        BlockTraceWorkload,  # whose file is made where needed
        ProgramWorkload,  # which has no stream
        MachineWorkload,  # nor has a guest
    }
    assert tried == {*get_args(Workload)} - elsewhere


@pytest.mark.parametrize("work", (SEEDED | FIXED).values(), ids=(SEEDED | FIXED).keys())
def test_the_same_seed_makes_the_same_stream(work: Workload) -> None:
    one, other = stream_of(work, 7), stream_of(work, 7)
    one.validate()
    assert np.array_equal(one.pages, other.pages)
    assert np.array_equal(one.writes, other.writes)
    assert one.pauses == other.pauses
    assert (one.pages.dtype, one.writes.dtype) == (np.int32, np.uint8)


@pytest.mark.parametrize("work", SEEDED.values(), ids=SEEDED.keys())
def test_another_seed_makes_another(work: Workload) -> None:
    assert not np.array_equal(stream_of(work, 7).pages, stream_of(work, 8).pages)


@pytest.mark.parametrize("name", schema.shipped())
def test_the_streams_of_a_shipped_scenario_are_of_laptop_scale(name: str) -> None:
    found = schema.load(name)
    for domain in found.domain:
        stream = stream_of(domain.workload, domain_seed(found.seed, domain.name))
        stream.validate()
        assert 10_000 <= len(stream) <= 3_000_000
        assert stream.page_count > domain.workload.resident.frames or "quiet" in domain.name


def test_domains_of_one_scenario_have_seeds_of_their_own() -> None:
    seeds = {domain_seed(seed, name) for seed in (1, 2) for name in ("vm1", "vm2")}
    assert len(seeds) == 4


def test_pagerank_reads_a_rank_per_edge_and_writes_one_per_vertex() -> None:
    # Records as large as pages: no two references fall together but those to the offsets.
    vertices, degree = 64, 4
    work = GraphWorkload(
        R, vertices=vertices, degree=degree, iterations=1, vertex_bytes=4096, edge_bytes=4096
    )
    stream = stream_of(work, 3)
    edges = vertices * degree
    offsets, first_rank = 1, 1 + edges
    load = offsets + edges + vertices
    count = Counter(stream.pages[load:].tolist())
    assert all(count[1 + edge] == 1 for edge in range(edges))
    ranks_read = sum(count[first_rank + vertex] for vertex in range(vertices))
    assert ranks_read == edges
    written = stream.pages[load:][stream.writes[load:] == 1]
    assert written.tolist() == [first_rank + vertices + vertex for vertex in range(vertices)]


def test_rmat_is_skewed() -> None:
    stream = stream_of(GraphWorkload(R, vertices=1 << 12, iterations=1), 1)
    count = np.sort(np.bincount(stream.pages))[::-1]
    assert count[: len(count) // 10].sum() > 0.4 * count.sum()


def test_als_runs_twice_with_a_pause_between() -> None:
    work = AnalyticsWorkload(R, users=512, items=256, ratings=4096, runs=2, pause_s=0.25)
    stream = stream_of(work, 1)
    half = len(stream) // 2
    assert stream.pauses == ((half, 0.25),)
    assert np.array_equal(stream.pages[:half], stream.pages[half:])


def test_usemem_sweeps_all_it_has_after_each_step() -> None:
    stream = stream_of(UsememWorkload(Size(4096 * 2), Size(4096 * 5), R, sweeps=1), 1)
    assert stream.pages.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert stream.writes.all()


def test_a_liar_never_reads_its_junk_again() -> None:
    work = JunkWorkload(Size(MIB), R, hot=Size(4096 * 4), every=3)
    stream = stream_of(work, 1)
    junk = stream.pages[stream.pages < 256]
    assert junk.tolist() == list(range(256))
    assert len(stream) == 256 * 4


def test_demand_follows_the_series() -> None:
    work = DemandSeriesWorkload(4, Size(4096 * 1000), R, references=288 * 500)
    stream = stream_of(work, 1)
    per_sample = stream.pages.reshape(288, 500)
    wanted = np.maximum((excerpt()[4] * 1000).astype(int), 1)
    assert (per_sample.max(axis=1) < wanted).all()
    assert np.corrcoef(per_sample.max(axis=1), wanted)[0, 1] > 0.99


def test_the_excerpt_is_normalised() -> None:
    assert (excerpt().max(axis=1) == 1).all()
    assert excerpt().shape == (DemandSeriesWorkload.VMS, DemandSeriesWorkload.SAMPLES)


def test_bursts_stay_within_their_bounds_and_are_rare() -> None:
    work = BurstsWorkload(Size(4096 * 100), Size(4096 * 1000), R, references=200_000)
    pages = stream_of(work, 1).pages
    assert len(pages) == 200_000
    assert 100 < pages.max() < 1000
    assert (pages < 100).mean() > 0.6


def test_a_quiet_tenant_pauses() -> None:
    stream = stream_of(QuietWorkload(Size(MIB), R, references=100, pauses=4, pause_s=0.5), 1)
    assert stream.pauses == ((20, 0.5), (40, 0.5), (60, 0.5), (80, 0.5))


def test_a_block_trace_is_numbered_by_first_use(tmp_path: Path) -> None:
    path = tmp_path / "blocks.csv"
    path.write_text("time,page\n1,900\n2,7\n3,900\n4,12345678901\n")
    stream = stream_of(BlockTraceWorkload(str(path), R, repeat=2), 1)
    assert stream.pages.tolist() == [0, 1, 0, 2] * 2
    assert stream.program.all()
    assert not stream.writes.any()
    assert len(stream_of(BlockTraceWorkload(str(path), R, references=2), 1)) == 2


@pytest.mark.parametrize("text", ["", "page\n", "block\n1\n", "page\nx\n", "page\n1.5\n"])
def test_a_bad_block_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.csv"):
        stream_of(BlockTraceWorkload(str(path), R), 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_merging_leaves_no_run_and_loses_no_write(references: list[tuple[int, bool]]) -> None:
    pages = np.array([page for page, _ in references], dtype=np.int32)
    writes = np.array([write for _, write in references], dtype=np.uint8)
    fewer, flags = merged(pages, writes)
    assert (fewer[1:] != fewer[:-1]).all()
    expected: list[list[int]] = []
    for page, write in references:
        if expected and expected[-1][0] == page:
            expected[-1][1] |= write
        else:
            expected.append([page, int(write)])
    assert [list(pair) for pair in zip(fewer.tolist(), flags.tolist(), strict=True)] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"references": held(np.array([0, 9]), np.zeros(2))},
        {"references": held(np.array([0, -1]), np.zeros(2))},
        {"references": held(np.array([0, 1]), np.zeros(1))},
        {"references": References(3, held(np.array([0, 1]), np.zeros(2)).parts)},
        {"program": np.zeros(3, dtype=np.bool_)},
        {"pauses": ((1, 0.1), (0, 0.1))},
        {"pauses": ((2, 0.1),)},
    ],
)
def test_a_stream_that_does_not_fit_together_is_found(change: dict[str, Any]) -> None:
    good = anonymous("test", held(np.array([0, 1]), np.array([0, 1])), 2)
    good.validate()
    with pytest.raises(ValueError, match="stream test"):
        replace(good, **change).validate()


NUMBERS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
PLAIN = "page\n" + "".join(f"{number}\n" for number in NUMBERS)
FORMS = {
    "plain": PLAIN.encode(),
    "crlf": PLAIN.replace("\n", "\r\n").encode(),
    "bom": b"\xef\xbb\xbf" + PLAIN.encode(),
    "comment": ("what,page\n" + "".join(f"\u00e9t\u00e9,{n}\n" for n in NUMBERS)).encode(),
    "quoted page": ("page\n" + "".join(f'"{n}"\n' for n in NUMBERS)).encode(),
    "quoted comma": ("what,page\n" + "".join(f'"a,{n % 3},b",{n}\n' for n in NUMBERS)).encode(),
    "spaces": ("t, page\n" + "".join(f"1, {n}\n" for n in NUMBERS)).encode(),
    "2**64 - 1": PLAIN.replace("4", str(2**64 - 1)).encode(),
    "0x": PLAIN.replace("4", "0xFf").encode(),
    "packed": lzma.compress(PLAIN.encode()),
    "negative": PLAIN.replace("4", "-4").encode(),
    "2**64": PLAIN.replace("4", str(2**64)).encode(),
    "2**64 + 4": PLAIN.replace("4", str(2**64 + 4)).encode(),
    "fraction": PLAIN.replace("4", "4.0").encode(),
    "not utf-8": b"\xff\xfe\n" + PLAIN.encode(),
    "damaged": lzma.compress(PLAIN.encode())[:-9],
    "empty": b"",
}


@pytest.mark.parametrize("suffix", ["", ".csv", ".csv.xz"])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_means_the_same_to_whoever_reads_it(tmp_path: Path, form: str, suffix: str) -> None:
    """Goal: a workload and ``memcoord sim --trace`` read one format in one way, errors included."""
    file = tmp_path / f"trace{suffix}"
    file.write_bytes(FORMS[form])

    def told(read: Callable[[], list[int]]) -> list[int] | str:
        try:
            return read()
        except ConfigError as error:
            return error.why

    by_workload = told(lambda: stream_of(BlockTraceWorkload(str(file), R), 1).pages.tolist())
    by_trace = told(lambda: load(str(file)).pages.tolist())
    assert by_workload == by_trace
    assert not isinstance(by_trace, str) or by_trace.startswith(f"{file.name}: ")
    if form in ("negative", "2**64", "2**64 + 4", "fraction"):
        assert "line 4: " in str(by_trace)
    elif form in ("not utf-8", "damaged", "empty"):
        assert isinstance(by_trace, str)
    else:
        assert by_trace == [0, 1, 2, 1, 3, 4, 5, 6, 3, 0, 3]


@pytest.mark.parametrize("form", ["bom", "crlf", "quoted", "packed", "other order"])
def test_a_page_trace_is_read_like_any_other(tmp_path: Path, form: str) -> None:
    text = "page,dt,flags\n3,1,1\n0,9,2\n"
    data = {
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "quoted": text.replace("9", '"9"').encode(),
        "packed": lzma.compress(text.encode()),
        "other order": b"note,flags,page,dt\n,1,3,1\nb,2,0,9\n",
    }[form]
    file = tmp_path / "mine.csv"
    file.write_bytes(data)
    stream = stream_of(PageTraceWorkload(str(file), R, program_file=True), 1)
    assert (stream.pages.tolist(), stream.writes.tolist()) == ([3, 0], [1, 0])
    assert np.flatnonzero(stream.program).tolist() == [0]
