"""Goal: the counts of every kernel are exact. Method: the obvious algorithm, and libCacheSim."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memcoord.benchmarks.policies.replay_speed import (
    libcachesim_misses,
    measure_speed,
    write_requests,
)
from memcoord.simulation.caches import fifo, lru, second_chance
from memcoord.simulation.caches.reuse import curve, histogram, sample, sampled_curve
from memcoord.simulation.caches.trace import load, number

Stream = NDArray[np.int32]
streams = st.lists(st.integers(0, 40), max_size=400).map(lambda pages: np.array(pages, np.int32))
PAGES = 41
ERROR_MAX = 0.02  # of SHARDS, mean over the curve
LIBCACHESIM_SHARES = (0.01, 0.2, 0.7)
#: What libCacheSim calls a replacement -> our replay.
REPLAYS = {"LRU": lru.replay, "FIFO": fifo.replay, "Clock": second_chance.replay}


def plain_lru(pages: Stream, cache_pages: int) -> int:
    cache: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for page in pages.tolist():
        if page in cache:
            cache.move_to_end(page)
            continue
        misses += 1
        cache[page] = None
        if len(cache) > cache_pages:
            cache.popitem(last=False)
    return misses


def plain_second_chance(pages: Stream, cache_pages: int) -> int:
    queue: deque[int] = deque()
    referenced: set[int] = set()
    misses = 0
    for page in pages.tolist():
        if page in queue:
            referenced.add(page)
            continue
        misses += 1
        while len(queue) >= cache_pages > 0:
            oldest = queue.popleft()
            if oldest not in referenced:
                break
            referenced.remove(oldest)
            queue.append(oldest)
        if cache_pages:
            queue.append(page)
    return misses


def plain_fifo(pages: Stream, cache_pages: int) -> int:
    queue: deque[int] = deque()
    misses = 0
    for page in pages.tolist():
        if page not in queue:
            misses += 1
            queue.append(page)
            if len(queue) > cache_pages:
                queue.popleft()
    return misses


def zipf(references: int, page_count: int, exponent: float, seed: int) -> Stream:
    """Pages drawn by popularity rank ** -exponent, popular ones spread over the numbers."""
    random = np.random.default_rng(seed)
    share = np.arange(1, page_count + 1) ** -exponent
    ranks = np.searchsorted(np.cumsum(share / share.sum()), random.random(references))
    pages: Stream = random.permutation(page_count)[np.minimum(ranks, page_count - 1)]
    return pages.astype(np.int32)


@given(streams, st.integers(0, 45))
def test_lru_misses_are_those_of_a_list(pages: Stream, cache_pages: int) -> None:
    assert lru.replay(pages, PAGES, cache_pages) == plain_lru(pages, cache_pages)


@given(streams, st.integers(0, 45))
def test_second_chance_misses_are_those_of_a_queue(pages: Stream, cache_pages: int) -> None:
    expected = plain_second_chance(pages, cache_pages)
    assert second_chance.replay(pages, PAGES, cache_pages) == expected


@given(streams, st.integers(0, 45))
def test_fifo_misses_are_those_of_a_queue(pages: Stream, cache_pages: int) -> None:
    assert fifo.replay(pages, PAGES, cache_pages) == plain_fifo(pages, cache_pages)


@given(streams)
def test_the_curve_has_the_misses_of_every_size(pages: Stream) -> None:
    expected = [lru.replay(pages, PAGES, size) for size in range(PAGES + 1)]
    assert curve(histogram(pages, PAGES)).tolist() == expected


def test_the_curve_is_exact_over_many_renumberings() -> None:
    pages = zipf(60_000, 700, 0.7, seed=3)
    misses = curve(histogram(pages, 700))
    for size in (0, 1, 63, 64, 65, 300, 699, 700):
        assert misses[size] == lru.replay(pages, 700, size)


def test_a_loop_is_lrus_worst_case() -> None:
    pages = np.tile(np.arange(100, dtype=np.int32), 10)
    assert lru.replay(pages, 100, 99) == 1000
    assert lru.replay(pages, 100, 100) == 100


def test_a_stream_nobody_may_write_is_fine() -> None:
    pages = np.zeros(3, np.int32)
    pages.setflags(write=False)
    assert lru.replay(pages, 1, 1) == second_chance.replay(pages, 1, 1) == 1
    assert histogram(pages, 1).tolist() == [2, 1]


@pytest.mark.parametrize(("pages", "cache_pages"), [([0, 3], 1), ([-1], 1), ([0], -1)])
def test_what_cannot_be_is_refused(pages: list[int], cache_pages: int) -> None:
    for replay in (lru.replay, fifo.replay, second_chance.replay):
        with pytest.raises(ValueError, match=r"cannot be|is not in 0\.\.2"):
            replay(np.array(pages, np.int32), 3, cache_pages)


@given(st.lists(st.integers(0, 2**63) | st.integers(0, 30), max_size=300))
def test_pages_are_numbered_in_order_of_first_reference(names: list[int]) -> None:
    order = {name: at for at, name in enumerate(dict.fromkeys(names))}
    pages, count = number(np.array(names, np.uint64))
    assert (pages.tolist(), count) == ([order[name] for name in names], len(order))


@pytest.mark.parametrize("stride", [1, 8, 4096, 1 << 40, (1 << 63) // 50_000])
def test_many_names_with_any_stride_are_numbered(stride: int) -> None:
    names = np.arange(50_000, dtype=np.uint64) * np.uint64(stride)
    pages, count = number(np.concatenate([names, names[::-1]]))
    assert count == 50_000
    assert np.array_equal(pages[:50_000], np.arange(50_000))
    assert np.array_equal(pages[50_000:], np.arange(50_000)[::-1])


def test_shards_at_rate_one_is_exact() -> None:
    pages = zipf(20_000, 900, 0.8, seed=5)
    assert sampled_curve(pages, 900, 1.0).tolist() == curve(histogram(pages, 900)).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_shards_at_one_percent_is_near(seed: int) -> None:
    pages = zipf(400_000, 50_000, 0.7, seed=6)
    exact = curve(histogram(pages, 50_000))
    estimate = sampled_curve(pages, 50_000, 0.01, seed)
    assert np.abs(estimate - exact).mean() / len(pages) < ERROR_MAX
    assert np.all(np.diff(estimate) <= 0)


def test_samples_have_their_share_and_grow_with_the_rate() -> None:
    tenth = sample(100_000, 0.1, seed=1)
    assert abs(tenth.mean() - 0.1) < 0.01
    assert np.all(sample(100_000, 0.3, seed=1)[tenth])
    assert not np.array_equal(tenth, sample(100_000, 0.1, seed=2))


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        sampled_curve(np.zeros(1, np.int32), 1, rate)


@pytest.mark.parametrize("name", ["cc1", "sort", "sqlite"])
def test_misses_are_libcachesims(name: str, tmp_path: Path) -> None:
    pytest.importorskip("libcachesim")
    trace = load(name)
    path = tmp_path / "trace"
    write_requests(trace.ids, path)
    for share, (kind, ours) in itertools.product(LIBCACHESIM_SHARES, REPLAYS.items()):
        size = max(int(share * trace.page_count), 2)
        theirs = libcachesim_misses(path, len(trace), size, kind)[0]
        assert theirs == ours(trace.pages, trace.page_count, size)


def test_speed_is_measured_on_the_same_misses() -> None:
    speed = measure_speed(("sqlite",), rounds=1)
    (one,) = speed.traces
    trace = load("sqlite")
    assert one.misses == lru.replay(trace.pages, trace.page_count, one.cache_pages)
    assert speed.sim_refs_per_s == one.refs_per_s > 0
    if one.libcachesim_refs_per_s is not None:
        assert speed.ratio == one.refs_per_s / one.libcachesim_refs_per_s


@pytest.mark.slow
def test_real_traces_against_libcachesim_and_shards(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("libcachesim")
    files = sorted((data_dir / "block").glob("*.csv.xz"))
    assert files
    for file in files:
        trace = load(str(file))
        path = tmp_path / file.name
        write_requests(trace.ids, path)
        for share, (kind, ours) in itertools.product((0.05, 0.5), REPLAYS.items()):
            size = max(int(share * trace.page_count), 1)
            theirs = libcachesim_misses(path, len(trace), size, kind)[0]
            assert theirs == ours(trace.pages, trace.page_count, size), (file.name, kind, size)
    trace = load(str(data_dir / "block" / "arc_oltp.csv.xz"))
    exact = curve(histogram(trace.pages, trace.page_count))
    error = np.abs(sampled_curve(trace.pages, trace.page_count, 0.01) - exact).mean() / len(trace)
    assert error < ERROR_MAX
