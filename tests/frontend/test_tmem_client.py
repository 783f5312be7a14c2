"""tmem from a domain: each operation, batches, and records that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

import frontend
from frontend._guest import lib
from frontend.domain import Domain
from hypervisor.public.errors import BadFrame, NoMemory

OID = (1 << 63, 2, 3)


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor()


@pytest.fixture
def domain(hypervisor: Any) -> Any:
    with frontend.attach(hypervisor.path) as attached:
        yield attached


def test_a_page_goes_and_comes_back(domain: Domain) -> None:
    tmem, source, target = domain.tmem, domain.alloc(), domain.alloc()
    domain.view(source)[:] = b"ab" * 2048
    pool = tmem.new_pool(persistent=True)
    assert tmem.get(pool, OID, 5, target) == 0
    assert tmem.put(pool, OID, 5, source) == 1
    assert tmem.get(pool, OID, 5, target) == 1
    assert domain.view(target) == domain.view(source)
    assert tmem.flush_page(pool, OID, 5) == 1
    assert tmem.get(pool, OID, 5, target) == 0


def test_names_are_kept_apart(domain: Domain) -> None:
    tmem, frame = domain.tmem, domain.alloc()
    pools = [tmem.new_pool(persistent=True), tmem.new_pool(persistent=False, uuid=(1, 2))]
    names = [
        (pool, oid, index)
        for pool in pools
        for oid in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        for index in (0, 1, 0xFFFFFFFF)
    ]
    for number, name in enumerate(names):
        domain.view(frame)[0] = number
        assert tmem.put(*name, frame) == 1
    for number, name in enumerate(names):
        assert tmem.get(*name, frame) == 1
        assert domain.view(frame)[0] == number
    tmem.flush_object(pools[0], (0, 0, 0))
    assert [tmem.get(pools[0], (0, 0, 0), index, frame) for index in (0, 1)] == [0, 0]
    assert tmem.destroy_pool(pools[1])
    assert tmem.get(*names[-1], frame) == 0


def test_a_refused_put_is_an_answer_and_no_error(domain: Domain, hypervisor: Any) -> None:
    hypervisor.tmem_capacity = 0
    assert domain.tmem.put(0, OID, 0, domain.alloc()) == -12


def test_a_batch_is_served_in_order_for_one_call(domain: Domain, hypervisor: Any) -> None:
    first, second = domain.alloc(), domain.alloc()
    domain.view(first)[:4] = b"one "
    batch = domain.tmem.batch()
    assert batch.put(0, OID, 0, first) == 0
    assert batch.get(0, OID, 0, second) == 1
    batch.flush_page(0, OID, 0)
    batch.get(0, OID, 0, first)
    batch.flush_object(0, OID)
    assert len(batch) == 5
    assert batch.submit() == [1, 1, 1, 0, 1]
    assert bytes(domain.view(second)[:4]) == b"one "
    assert batch.submit() == []
    assert domain.statistics().calls == 5


def test_a_full_batch(domain: Domain) -> None:
    frames = domain.alloc_many(64)
    batch = domain.tmem.batch()
    for round_number in range(3):
        for index, frame in enumerate(frames):
            domain.view(frame)[:2] = bytes((index, round_number))
            batch.put(0, OID, index, frame)
        with pytest.raises(ValueError, match="at most 64"):
            batch.put(0, OID, 64, frames[0])
        assert batch.submit() == [1] * 64
    spare = domain.alloc()
    for index in range(64):
        assert domain.tmem.get(0, OID, index, spare) == 1
        assert bytes(domain.view(spare)[:2]) == bytes((index, 2))


def test_values_that_fit_no_record(domain: Domain) -> None:
    tmem, batch = domain.tmem, domain.tmem.batch()
    for index, oid, frame in ((1 << 32, OID, 0), (-1, OID, 0), (0, (1 << 64, 0, 0), 0),
                              (0, (0, -1, 0), 0), (0, OID, -1)):  # fmt: skip
        with pytest.raises(ValueError, match="out of range"):
            tmem.put(0, oid, index, frame)
        with pytest.raises(ValueError, match="out of range"):
            batch.put(0, oid, index, frame)
    assert len(batch) == 0


def test_a_malformed_record_raises_what_was_wrong(domain: Domain, hypervisor: Any) -> None:
    with pytest.raises(BadFrame) as caught:
        domain.tmem.put(0, OID, 0, 1 << 40)
    assert caught.value.frame == 1 << 40
    batch = domain.tmem.batch()
    batch.put(0, OID, 0, 1 << 40)
    batch.flush_page(0, OID, 0)
    assert batch.submit() == [lib.MC_TMEM_BAD + lib.MC_EINDEX, 1]


def test_no_pool_left(domain: Domain, hypervisor: Any) -> None:
    hypervisor.pools = -12  # the next answer is -12
    with pytest.raises(NoMemory, match="-12"):
        domain.tmem.new_pool(persistent=True)


def test_many_pages_are_one_doorbell_for_a_ringful(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorbells: list[int] = []
    call = domain.call

    def counted(ring: int, records: Any, count: int) -> None:
        doorbells.append(count)
        call(ring, records, count)

    monkeypatch.setattr(domain, "call", counted)
    frames = domain.alloc_many(150)
    for number, frame in enumerate(frames):
        domain.view(frame)[0] = number
    assert domain.tmem.put_many(0, OID, range(150), frames) == [1] * 150
    assert doorbells == [64, 64, 22]
    back = domain.alloc_many(151)
    assert domain.tmem.get_many(0, OID, range(151), back) == [1] * 150 + [0]
    assert [domain.view(frame)[0] for frame in back[:150]] == list(range(150))
    assert domain.tmem.put_many(0, OID, [], []) == []


def test_many_pages_are_all_named_right_or_none_is_put(domain: Domain, hypervisor: Any) -> None:
    frame = domain.alloc()
    with pytest.raises(ValueError, match="out of range"):
        domain.tmem.put_many(0, OID, [*range(100), -1], [frame] * 101)
    with pytest.raises(ValueError, match="shorter"):
        domain.tmem.put_many(0, OID, [1, 2], [frame])
    assert not hypervisor.pages


def test_read_ahead_fetches_the_pages_that_follow(domain: Domain, hypervisor: Any) -> None:
    tmem, frames = domain.tmem, domain.alloc_many(4)
    for index in (7, 8, 10):
        domain.view(frames[0])[0] = index
        tmem.put(0, OID, index, frames[0])
    assert tmem.get_ahead(0, OID, 7, frames) == [1, 1, 0, 1]
    assert [domain.view(frames[at])[0] for at in (0, 1, 3)] == [7, 8, 10]
    assert tmem.get_ahead(0, OID, 0xFFFFFFFE, frames) == [0] * 4
    with pytest.raises(ValueError, match="at most 64"):
        tmem.get_ahead(0, OID, 0, range(65))


def test_a_shared_pool_is_asked_for_with_its_flag(domain: Domain, hypervisor: Any) -> None:
    domain.tmem.new_pool(persistent=False, uuid=(1, 2), shared=True)
    domain.tmem.new_pool(persistent=True)
    assert hypervisor.asked_flags == [1 << 24 | 2, 1 << 24 | 1]
