"""Goal: no record, whatever a guest wrote into it, does more than answer a code.

Method: the compiled entries are called by address, as the C service does.
"""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_calls import (
    DESTROY_POOL,
    FLUSH_OBJECT,
    FLUSH_PAGE,
    GET,
    NEED_SLAB,
    NEW_POOL,
    PUT,
    ServiceCalls,
)
from tmem_model import page_of

from tmem import Code, PoolFlag, Tmem, serve

OID = (1, 2, 3)
WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 15, 16, 1 << 24, 1 << 31, 1 << 32, 2**32 - 1, 1 << 63, 2**64 - 1]),
)


def service_of(tmem: Tmem) -> ServiceCalls:
    service = ServiceCalls(tmem)
    assert service.open_client(0) == 0
    assert service.new_pool(0, 1 << 24) == 0
    assert service.new_pool(0, 1 | 1 << 24) == 1
    return service


@settings(max_examples=300, deadline=None)
@given(
    records=st.lists(
        st.tuples(
            st.one_of(st.integers(15, 22), st.integers(0, 0xFFFF)),
            st.one_of(st.sampled_from([0, 1]), st.integers(-(2**63), 2**63 - 1)),
            st.lists(WORDS, min_size=5, max_size=5),
        ),
        max_size=20,
    )
)
def test_any_record_gets_a_code(records: list[tuple[int, int, list[int]]]) -> None:
    tmem = Tmem(reserve_pages=0, pages=3)
    service = service_of(tmem)
    page = page_of(1)
    for op, client, args in records:
        code = service.record(op, client, tuple(args), page)
        assert code in set(Code) | set(range(16))
        assert op in range(16, 22) or code in (Code.ENODEV, Code.ENOSYS)
    tmem.validate()
    assert tmem.statistics().operations == 2 + len(records)


def test_a_pool_is_made_once_by_a_record_that_is_executed_again() -> None:
    tmem = Tmem(reserve_pages=0, pages=3)
    service, flags = service_of(tmem), (PoolFlag.VERSION | PoolFlag.PERSISTENT,)
    before = tmem.get_pools(0)[0]

    def new_pool(seq: int, again: bool) -> int:
        return service.record(NEW_POOL, 0, flags, None, serve.AGAIN if again else 0, seq)

    slot = new_pool(7, again=False)
    assert new_pool(7, again=True) == slot
    assert new_pool(8, again=True) == slot + 1, "the process was killed before it made one"
    assert new_pool(8, again=False) == slot + 2, "another record, 2^32 later"
    assert service.destroy_pool(0, slot) == Code.DONE
    assert new_pool(7, again=True) == slot, "made anew"
    assert tmem.get_pools(0)[0] == before + 3
    assert service.record(NEW_POOL, 63, flags, None, serve.AGAIN, 7) == Code.ENODEV
    tmem.validate()


def test_a_full_pool_asks_for_memory_before_it_evicts() -> None:
    tmem = Tmem(reserve_pages=0, pages=512, max_areas=2)
    service = service_of(tmem)
    for index in range(512):
        assert service.put(0, 0, OID, index, page_of(index), may_ask=1) == Code.DONE
    before = tmem.statistics()
    assert service.put(0, 0, OID, 600, page_of(600), may_ask=1) == NEED_SLAB
    assert tmem.statistics() == before, "asking changes nothing, counters included"
    assert service.grow(1) == 0
    assert service.put(0, 0, OID, 600, page_of(600), may_ask=1) == Code.DONE
    assert tmem.statistics().evicted == 0


def test_a_put_that_may_not_ask_evicts_or_fails() -> None:
    tmem = Tmem(reserve_pages=0, pages=2)
    service = service_of(tmem)
    for index in range(2):
        service.put(0, 0, OID, index, page_of(index))
    for index in range(2):
        assert service.put(0, 1, OID, index, page_of(index), may_ask=1) == NEED_SLAB
        assert service.put(0, 1, OID, index, page_of(index), may_ask=0) == Code.DONE
    assert tmem.statistics().evicted == 2
    assert service.put(0, 1, OID, 2, page_of(2), may_ask=0) == Code.ENOMEM


def test_a_refused_put_does_not_ask_for_memory() -> None:
    tmem = Tmem(reserve_pages=0, pages=0, max_areas=1)
    service = service_of(tmem)
    tmem.clients["mm_target"][0] = 0
    assert service.put(0, 1, OID, 0, page_of(0), may_ask=1) == Code.TARGET


def test_a_record_without_a_page_is_a_fault() -> None:
    tmem = Tmem(reserve_pages=0, pages=2)
    service = service_of(tmem)
    assert service.put(0, 1, OID, 1, page_of(1)) == Code.DONE
    for op in (PUT, GET):
        assert service.record(op, 0, (9, *OID)) == Code.ENODEV
    assert service.record(PUT, 0, (1, *OID)) == service.record(GET, 0, (1 | 1 << 32, *OID)) == -14
    assert service.record(GET, 0, (1, *OID)) == Code.ABSENT
    assert service.record(GET, 0, (0, *OID)) == Code.EEMPTY
    assert tmem.statistics().clients[0].errors == 5
    tmem.validate()


@pytest.mark.parametrize("pool", [2, 16, 2**31, 2**32 - 1])
def test_a_pool_that_is_not_there(pool: int) -> None:
    service = service_of(Tmem(reserve_pages=0, pages=1))
    for op in (PUT, GET, FLUSH_PAGE, FLUSH_OBJECT, 99, 0):
        assert service.record(op, 0, (pool, *OID), page_of(0)) == Code.ENODEV
    assert service.record(DESTROY_POOL, 0, (pool,)) == Code.ABSENT


def test_operations_without_an_index_take_the_whole_word_as_the_pool() -> None:
    service = service_of(Tmem(reserve_pages=0, pages=1))
    assert service.record(FLUSH_OBJECT, 0, (1 | 1 << 32, *OID)) == Code.ENODEV
    assert service.record(DESTROY_POOL, 0, (1 | 1 << 32,)) == Code.ABSENT
    assert service.record(FLUSH_PAGE, 0, (1 | 1 << 32, *OID)) == Code.DONE


def test_unknown_operations_and_clients() -> None:
    service = service_of(Tmem(reserve_pages=0, pages=1))
    assert service.record(99, 0, (1,)) == service.record(0, 0, (1,)) == Code.ENOSYS
    for client in (-(2**63), -1, 1, 64, 2**62):
        assert service.record(NEW_POOL, client, (1 << 24,)) == Code.ENODEV
        assert service.record(PUT, client, (0, *OID), page_of(0)) == Code.ENODEV
        assert service.close_client(client) == Code.ENODEV
    assert [service.open_client(c) for c in (-1, 64, 2**62, 0, 63)] == [-1, -1, -1, -17, 0]
    assert [service.grow(area) for area in (-1, 0, 1, 2**62)] == [-1] * 4


def test_a_target_set_by_another_thread_takes_effect() -> None:
    """The service thread holds no GIL; ``mm_target`` is written without its lock."""
    tmem = Tmem(reserve_pages=0, pages=64)
    service = service_of(tmem)
    refused = threading.Event()

    def serve() -> None:
        for number in range(10_000_000):
            if service.put(0, 1, OID, number % 64, page_of(number)) == Code.TARGET:
                refused.set()
                return
            service.flush_page(0, 1, OID, number % 64)

    thread = threading.Thread(target=serve)
    thread.start()
    tmem.clients["mm_target"][0] = 0
    thread.join(timeout=60)
    assert refused.is_set()
    tmem.validate()
