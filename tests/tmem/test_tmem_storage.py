"""Goal: same-content and compressed pages are stored once and small, and read as what was put.

Method: single rules by example; a hypothesis state machine of small contents that repeat, in a pool
with everything on, against a dict: a persistent page is there as it was last put, an ephemeral one
is that or gone. The pool validates after every step.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tmem_model import page_of

from tmem import Code, PoolFlag, Tmem, TmemError

EPHEMERAL, PERSISTENT = PoolFlag.VERSION, PoolFlag.VERSION | PoolFlag.PERSISTENT
OID = (1, 2, 3)
Handle = tuple[int, int, int]


@functools.cache
def text(number: int) -> bytes:
    """A page that compresses, the better the smaller ``number``; 0 is a page of zeroes."""
    if number == 0:
        return bytes(4096)
    random = np.random.default_rng(number).integers(0, 256, 4096, np.uint8).tobytes()
    return (random[: 16 * number % 4096 + 1] + b"%d, " % number * 2048)[:4096]


def pool_of(**options: int | bool | None) -> Tmem:
    tmem = Tmem(**{"pages": 1024, "reserve_pages": 0, "seed": 5, **options})
    for client in (0, 1):
        tmem.open_client(client)
        assert tmem.new_pool(client, EPHEMERAL) == 0
        assert tmem.new_pool(client, PERSISTENT) == 1
    return tmem


def put(tmem: Tmem, client: int, pool: int, index: int, data: bytes) -> int:
    code = tmem.put(client, pool, OID, index, data)
    tmem.validate()
    return code


def get(tmem: Tmem, client: int, pool: int, index: int) -> tuple[int, bytes]:
    page = bytearray(4096)
    code = tmem.get(client, pool, OID, index, page)
    tmem.validate()
    return code, bytes(page)


def used(tmem: Tmem) -> int:
    now = tmem.statistics()
    return now.held_pages - now.free_pages


def test_the_same_content_is_kept_once_for_each_client_and_kind() -> None:
    tmem = pool_of(dedup=True)
    for client in (0, 1):
        for pool in (0, 1):
            for index in range(5):
                assert put(tmem, client, pool, index, text(9)) == Code.DONE
    assert used(tmem) == 4
    assert (tmem.statistics().contents, tmem.statistics().deduped) == (4, 16)
    put(tmem, 0, 1, 2, text(8))
    assert [get(tmem, 0, 1, index)[1] for index in (1, 2)] == [text(9), text(8)]
    assert tmem.close_client(0) == 10
    tmem.validate()
    assert used(tmem) == 2


def test_across_clients_only_when_asked() -> None:
    tmem = pool_of(dedup_across_clients=True)
    for client in (0, 1):
        assert put(tmem, client, 1, 0, text(9)) == Code.DONE
    assert used(tmem) == 1
    assert get(tmem, 1, 1, 0) == (Code.DONE, text(9))


def test_a_pool_may_be_left_out() -> None:
    tmem = pool_of(dedup=True)
    assert tmem.set_dedup(0, 1, False) == 0
    for index in range(3):
        put(tmem, 0, 1, index, text(9))
    assert used(tmem) == 3
    assert tmem.set_dedup(0, 1, True) == 0
    for index in range(3, 6):
        put(tmem, 0, 1, index, text(9))
    assert used(tmem) == 4, "what was put before is not looked at"
    assert tmem.set_dedup(0, 7, True) == tmem.set_dedup(9, 0, True) == Code.ENODEV
    with pytest.raises(TmemError):
        pool_of().set_dedup(0, 1, True)


def test_eviction_spares_once_what_would_free_nothing() -> None:
    tmem = pool_of(pages=3, dedup=True)
    for index, content in enumerate((9, 9, 5, 6)):
        put(tmem, 0, 0, index, text(content))
    put(tmem, 0, 0, 4, text(7))
    assert [handle[3] for handle in tmem.eviction_order()] == [3, 0, 1, 4]
    put(tmem, 0, 0, 5, text(8))
    assert [handle[3] for handle in tmem.eviction_order()] == [0, 1, 4, 5]
    put(tmem, 0, 0, 6, text(10))
    assert [handle[3] for handle in tmem.eviction_order()] == [4, 5, 6]


def test_a_put_that_evicts_the_page_it_replaces_stores_a_new_one() -> None:
    tmem = pool_of(pages=2, dedup=True)
    for index, content in enumerate((9, 9, 5)):
        put(tmem, 0, 0, index, text(content))
    put(tmem, 0, 0, 0, text(7))
    put(tmem, 0, 0, 1, text(8))
    assert get(tmem, 0, 0, 1) == (Code.DONE, text(8))


def test_contents_with_one_hash_chain_are_not_confused() -> None:
    tmem = pool_of(pages=512, dedup=True)
    for number in range(400):
        assert tmem.put(0, 1, OID, number, page_of(number)) == Code.DONE
    for number in range(400):
        assert tmem.put(0, 1, (0, 0, 0), number, page_of(number)) == Code.DONE
    tmem.validate()
    assert used(tmem) == 400
    for number in range(400):
        page = page_of(0).copy()
        assert tmem.get(0, 1, (0, 0, 0), number, page) == Code.DONE
        assert np.array_equal(page, page_of(number))


@pytest.mark.parametrize("pool", [0, 1])
def test_the_coldest_pages_are_compressed_and_read_as_they_were(pool: int) -> None:
    tmem = pool_of(compression=True)
    for index in range(40):
        put(tmem, 0, pool, index, text(index + 1))
    assert tmem.compress_step(10) == 10
    assert [tmem.statistics().packed_pages, used(tmem)] == [
        10,
        30 + tmem.statistics().packed_frames,
    ]
    assert tmem.compress_step(100) == 30
    tmem.validate()
    now = tmem.statistics()
    assert now.packed_frames == used(tmem) < 20
    assert put(tmem, 0, pool, 3, text(99)) == Code.DONE
    assert tmem.statistics().packed_pages == 39, "a page written again is raw"
    for index in range(40):
        assert get(tmem, 0, pool, index) == (Code.DONE, text(99 if index == 3 else index + 1))


def test_what_does_not_compress_stays_raw() -> None:
    tmem = pool_of(compression=True)
    for index in range(4):
        put(tmem, 0, 1, index, text(255))
    assert tmem.compress_step(10) == 0
    assert tmem.statistics().poor == 4
    assert pool_of().compress_step(10) == 0, "and nothing is in a pool made without"


def test_a_shrink_moves_compressed_and_shared_pages() -> None:
    tmem = pool_of(pages=1024, dedup=True, compression=True)
    for index in range(600):
        assert tmem.put(0, 1, OID, index, text(index // 2 + 1)) == Code.DONE
        assert tmem.put(0, 1, (7, 7, 7), index, page_of(index)) == Code.DONE
    for index in range(0, 1200, 2):
        tmem.flush_page(0, 1, OID if index < 600 else (7, 7, 7), index % 600)
    tmem.compress_step(600)
    tmem.validate()
    assert tmem.shrink() >= 0
    tmem.validate()
    assert tmem.statistics().relocated > 0
    for index in range(1, 600, 2):
        page = bytearray(4096)
        assert tmem.get(0, 1, OID, index, page) == Code.DONE
        assert page == text(index // 2 + 1)
        assert tmem.get(0, 1, (7, 7, 7), index, page) == Code.DONE
        assert page == page_of(index).tobytes()


class Storage(RuleBasedStateMachine):
    """A pool with dedup and compression, and what its pages must be."""

    @initialize(areas=st.sampled_from([0, 1, 3]), pages=st.sampled_from([2, 5, 40]))
    def begin(self, areas: int, pages: int) -> None:
        self.grows = areas > 0
        size = {"pages": areas * 512, "max_areas": 3} if areas else {"pages": pages}
        self.tmem = pool_of(dedup=True, compression=True, **size)
        self.pages: dict[Handle, int] = {}

    @rule(
        client=st.sampled_from([0, 1]),
        pool=st.sampled_from([0, 1]),
        first=st.integers(0, 30),
        count=st.sampled_from([1, 1, 1, 20, 200]),
        content=st.integers(0, 300),
        step=st.sampled_from([0, 0, 1]),
    )
    def put(self, client: int, pool: int, first: int, count: int, content: int, step: int) -> None:
        for index in range(first, first + count):
            code = self.tmem.put(client, pool, (0, index // 4, 0), index, text(content))
            assert code in (Code.DONE, Code.ENOMEM, Code.ENOSPC)
            if code == Code.DONE:
                self.pages[client, pool, index] = content
            else:
                assert code == Code.ENOSPC or (client, pool, index) not in self.pages or pool == 0
                self.pages.pop((client, pool, index), None)
            content = (content + step) % 300

    @rule(client=st.sampled_from([0, 1]), pool=st.sampled_from([0, 1]), index=st.integers(0, 40))
    def get(self, client: int, pool: int, index: int) -> None:
        page = bytearray(b"?" * 4096)
        code = self.tmem.get(client, pool, (0, index // 4, 0), index, page)
        expected = self.pages.get((client, pool, index))
        if code == Code.DONE:
            assert page == text(expected)
        else:
            assert page == b"?" * 4096
            assert pool == 0 or expected is None
        if pool == 0:
            self.pages.pop((client, pool, index), None)

    @rule(client=st.sampled_from([0, 1]), pool=st.sampled_from([0, 1]), index=st.integers(0, 40))
    def flush(self, client: int, pool: int, index: int) -> None:
        assert self.tmem.flush_object(client, pool, (0, index // 4, 0)) == Code.DONE
        for at in range(index // 4 * 4, index // 4 * 4 + 4):
            self.pages.pop((client, pool, at), None)

    @rule(budget=st.sampled_from([1, 10, 1000]))
    def compress(self, budget: int) -> None:
        assert 0 <= self.tmem.compress_step(budget) <= budget

    @rule(client=st.sampled_from([0, 1]), pool=st.sampled_from([0, 1]), on=st.booleans())
    def switch(self, client: int, pool: int, on: bool) -> None:
        assert self.tmem.set_dedup(client, pool, on) == 0

    @rule(area=st.integers(0, 2))
    def resize(self, area: int) -> None:
        if self.grows:
            self.tmem.shrink()
            self.tmem.validate()
            self.tmem.grow(area)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "tmem"):
            self.tmem.validate()

    def teardown(self) -> None:
        """Every persistent page is there."""
        if hasattr(self, "tmem"):
            for client, pool, index in list(self.pages):
                self.get(client, pool, index)


TestStorage = Storage.TestCase
TestStorage.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
