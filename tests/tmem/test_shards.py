"""Goal: the curve a running pool tells is the one its stream has. Method: Mattson's stack by hand,
and exact curves of the same streams.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tmem import Code, PoolFlag, Tmem, TmemError, curves

CLIENT = 3
PAGE = bytes(4096)
EPHEMERAL = PoolFlag.VERSION
PERSISTENT = PoolFlag.VERSION | PoolFlag.PERSISTENT
ERROR_MAX = 0.02
PUT, GET, FLUSH, FLUSH_OBJECT = range(4)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from([PUT, PUT, GET, GET, FLUSH, FLUSH_OBJECT]), st.integers(0, 60)),
    max_size=300,
)


def pool_of(flags: int, *, pages: int = 1024, target: int = -1, seed: int = 1) -> tuple[Tmem, int]:
    tmem = Tmem(pages=pages, reserve_pages=0, mrc=True, seed=seed)
    assert tmem.open_client(CLIENT) == 0
    slot = tmem.new_pool(CLIENT, flags)
    tmem.clients["mm_target"][CLIENT] = target
    return tmem, slot


def estimator(tmem: Tmem) -> np.void:
    assert tmem._estimators is not None
    row: np.void = tmem._estimators[CLIENT]
    curves.validate(row)
    return row


def put(tmem: Tmem, slot: int, page: int) -> bool:
    return tmem.put(CLIENT, slot, (page % 4, 0, 0), page, PAGE) == Code.DONE


def get(tmem: Tmem, slot: int, page: int) -> bool:
    return tmem.get(CLIENT, slot, (page % 4, 0, 0), page, bytearray(4096)) == Code.DONE


class Stack:
    """The convention, literally: keys by last put, distances of references."""

    def __init__(self, takes: bool) -> None:
        self.takes = takes
        self.keys: OrderedDict[int, bool] = OrderedDict()  # refused, the last put at the end
        self.distances: list[int | None] = []

    def above(self, page: int) -> int:
        return len(self.keys) - 1 - list(self.keys).index(page)

    def put(self, page: int, done: bool) -> None:
        if self.keys.get(page):
            self.distances.append(self.above(page))
        self.keys.pop(page, None)
        self.keys[page] = not done

    def get(self, page: int) -> None:
        known = page in self.keys
        self.distances.append(self.above(page) if known else None)
        if known and self.takes:
            del self.keys[page]

    def miss_ratios(self, sizes: list[int]) -> list[float]:
        hits = [sum(d is not None and d < size for d in self.distances) for size in sizes]
        return [1 - count / max(len(self.distances), 1) for count in hits]


@settings(max_examples=60)
@given(OPERATIONS, st.sampled_from([EPHEMERAL, PERSISTENT]), st.sampled_from([-1, 0, 7]))
def test_a_small_stream_gives_its_exact_curve(
    operations: list[tuple[int, int]], flags: int, target: int
) -> None:
    tmem, slot = pool_of(flags, target=target)
    stack = Stack(takes=flags == EPHEMERAL)
    for operation, page in operations:
        if operation == PUT:
            stack.put(page, put(tmem, slot, page))
        elif operation == GET:
            get(tmem, slot, page)
            stack.get(page)
        elif operation == FLUSH:
            tmem.flush_page(CLIENT, slot, (page % 4, 0, 0), page)
            stack.keys.pop(page, None)
        else:
            tmem.flush_object(CLIENT, slot, (page % 4, 0, 0))
            for key in [key for key in stack.keys if key % 4 == page % 4]:
                del stack.keys[key]
    sizes = list(range(64))
    assert tmem.miss_ratios(CLIENT, sizes) == pytest.approx(stack.miss_ratios(sizes))
    assert estimator(tmem)["count"] == len(stack.keys)


def test_refused_puts_tell_what_more_memory_would_have_caught() -> None:
    tmem, slot = pool_of(PERSISTENT, target=0)
    for _ in range(5):
        for page in range(10):
            assert not put(tmem, slot, page)
    assert tmem.miss_ratios(CLIENT, [0, 9, 10, 20]).tolist() == [1, 1, 0, 0]


def test_pages_put_and_never_read_are_no_reason_for_memory() -> None:
    tmem, slot = pool_of(PERSISTENT, pages=4096)
    for page in range(20_000):
        put(tmem, slot, page)
    assert tmem.miss_ratios(CLIENT, [0, 100, 4096]).tolist() == [1, 1, 1]
    assert 0 < estimator(tmem)["count"] <= curves.KEYS


def zipf(references: int, page_count: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    share = np.arange(1, page_count + 1) ** -0.8
    ranks = np.searchsorted(np.cumsum(share / share.sum()), random.random(references))
    return random.permutation(page_count)[np.minimum(ranks, page_count - 1)]


@pytest.mark.parametrize("seed", range(3))
def test_a_sampled_curve_is_near_the_exact_one(seed: int) -> None:
    reuse = pytest.importorskip("memcoord.simulation.caches.reuse")
    page_count, pool_pages = 20_000, 16_384
    pages = zipf(60_000, page_count, seed)
    tmem, slot = pool_of(EPHEMERAL, pages=pool_pages, target=0, seed=seed)
    for page in pages.tolist():  # as cleancache: wanted, then evicted again at once
        get(tmem, slot, page)
        put(tmem, slot, page)
    assert estimator(tmem)["shift"] > 0
    misses = reuse.curve(reuse.histogram(pages.astype(np.int32), page_count)) / len(pages)
    sizes = np.linspace(0, pool_pages, 65).astype(int)
    error = np.abs(tmem.miss_ratios(CLIENT, sizes) - misses[sizes]).mean()
    assert error < ERROR_MAX


def test_the_curve_forgets() -> None:
    tmem, slot = pool_of(EPHEMERAL)
    for page in range(curves.WINDOW * 3):
        get(tmem, slot, page)
    before = tmem.miss_ratios(CLIENT, [1024])[0]
    for _ in range(curves.WINDOW * 2):
        put(tmem, slot, 1)
        get(tmem, slot, 1)
    assert (before, tmem.miss_ratios(CLIENT, [1024])[0] < 0.3) == (1, True)


def test_a_pool_destroyed_and_a_client_reopened_begin_anew() -> None:
    tmem, slot = pool_of(PERSISTENT)
    other = tmem.new_pool(CLIENT, PERSISTENT)
    for page in range(20):
        put(tmem, slot, page)
        put(tmem, other, page)
    assert tmem.destroy_pool(CLIENT, other) == Code.DONE
    assert estimator(tmem)["count"] == 20
    get(tmem, slot, 0)
    assert tmem.miss_ratios(CLIENT, [19, 20]).tolist() == [1, 0]
    tmem.close_client(CLIENT)
    tmem.open_client(CLIENT)
    assert estimator(tmem)["count"] == 0
    assert tmem.miss_ratios(CLIENT, [19, 20]).tolist() == [1, 1]


@given(st.lists(st.integers(0, 5_000), max_size=50), st.integers(0, 3))
@settings(max_examples=20)
def test_the_table_is_sound_at_any_load(jumps: list[int], seed: int) -> None:
    tmem, slot = pool_of(PERSISTENT, pages=2048, seed=seed)
    page = 0
    for jump in jumps:
        for page in range(page, page + jump):  # noqa: B020
            put(tmem, slot, page)
        tmem.flush_object(CLIENT, slot, (jump % 4, 0, 0))
        get(tmem, slot, jump)
        estimator(tmem)


def test_a_pool_that_was_not_asked_says_so() -> None:
    with pytest.raises(TmemError, match="mrc"):
        Tmem(pages=512).miss_ratios(0, [1])
