"""Frontswap: where a swapped page is, whatever tmem refuses, and Linux' rules about slots."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import frontend
from frontend._guest import lib
from frontend.domain import Domain
from frontend.paging.frontswap import SELFSHRINK_INERTIA, Frontswap, SelfShrink, name_of
from hypervisor.public.errors import BadFrame, ConfigError, InternalError

SLOTS = 200


@pytest.fixture
def hypervisor(make_hypervisor: Any) -> Any:
    return make_hypervisor()


@pytest.fixture
def domain(hypervisor: Any) -> Any:
    with frontend.attach(hypervisor.path) as attached:
        yield attached


@pytest.fixture(params=[False, True], ids=["kept", "exclusive"])
def swap(domain: Domain, request: pytest.FixtureRequest) -> Frontswap:
    made = Frontswap(domain.tmem, exclusive_gets=request.param)
    made.swapon(0, SLOTS)
    return made


def fill(domain: Domain, frame: int, number: int) -> int:
    domain.view(frame)[:] = number.to_bytes(2, "little") * 2048
    return frame


def number_in(domain: Domain, frame: int) -> int:
    return int.from_bytes(domain.view(frame)[-2:], "little")


@pytest.mark.parametrize(
    ("device", "offset", "name"),
    [
        (0, 0, ((0, 0, 0), 0)),
        (0, 17, ((1, 0, 0), 1)),
        (3, 0x12345, ((0x35, 0, 0), 0x1234)),
        (31, (1 << 36) - 1, ((0x1FF, 0, 0), 0xFFFFFFFF)),
    ],
)
def test_slots_are_named_as_linux_names_them(device: int, offset: int, name: Any) -> None:
    assert name_of(device, offset) == name


def test_slots_against_a_model_while_tmem_refuses_now_and_then(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    random, frame, model = Random(3), domain.alloc(), {}
    swap.swapon(1, SLOTS)
    for number in range(3000):
        slot = random.randrange(2), random.randrange(SLOTS)
        hypervisor.tmem_capacity = random.choice((0, 50, 1000))
        match random.randrange(3):
            case 0:
                if swap.store(*slot, fill(domain, frame, number)):
                    model[slot] = number
                else:
                    model.pop(slot, None)  # the caller writes it to disk
            case 1:
                assert swap.load(*slot, frame) == (slot in model)
                if slot in model:
                    assert number_in(domain, frame) == model[slot]
                    if swap.exclusive_gets:
                        del model[slot]
            case 2:
                swap.invalidate_page(*slot)
                model.pop(slot, None)
        if number % 500 == 499:
            swap.invalidate_area(1)
            model = {slot: value for slot, value in model.items() if slot[0] != 1}
        assert swap.stored_pages == len(model) == len(hypervisor.pages)
    assert swap.failed_stores > 0
    for device in (0, 1):
        held = sorted(offset for number, offset in model if number == device)
        assert swap.offsets(device) == held
        assert [offset for offset in range(SLOTS) if swap.holds(device, offset)] == held


def test_a_refused_duplicate_store_forgets_the_old_page(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame = domain.alloc()
    assert swap.store(0, 5, frame)
    hypervisor.tmem_capacity = 0
    assert not swap.store(0, 5, frame)
    assert not swap.holds(0, 5)
    asked = len(hypervisor.requests)
    assert not swap.load(0, 5, frame)
    swap.invalidate_page(0, 5)
    assert len(hypervisor.requests) == asked, "tmem was asked for what it does not have"


def test_one_persistent_pool_for_every_device(domain: Domain, hypervisor: Any) -> None:
    swap = Frontswap(domain.tmem)
    assert hypervisor.asked_flags == []
    for device in (4, 0):
        swap.swapon(device, 10)
    assert hypervisor.asked_flags == [1 << 24 | 1]
    frame = domain.alloc()
    for device in (0, 4):
        swap.store(device, 9, fill(domain, frame, device + 100))
    for device in (0, 4):
        swap.load(device, 9, frame)
        assert number_in(domain, frame) == device + 100


def test_swapoff_is_sixteen_objects_for_one_doorbell(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame = domain.alloc()
    swap.swapon(1, SLOTS)
    for offset in range(40):
        swap.store(0, offset, frame)
        swap.store(1, offset, frame)
    before = len(hypervisor.requests)
    swap.swapoff(0)
    ops = [op for op, _ in hypervisor.requests[before:]]
    assert ops == [lib.MC_OP_FLUSH_OBJECT] * 16
    assert (swap.stored_pages, len(hypervisor.pages)) == (40, 40)
    with pytest.raises(ConfigError, match="not on"):
        swap.load(0, 0, frame)
    swap.swapon(0, SLOTS)
    assert not swap.load(0, 0, frame)
    swap.close()
    assert not hypervisor.pages


def test_shrink_pulls_back_from_the_first_device_with_room(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame, pulled = domain.alloc(), []
    swap.swapon(1, SLOTS)
    for offset in range(30):
        swap.store(0, 2 * offset, frame)
        swap.store(1, offset, frame)

    def unuse(device: int, offset: int) -> bool:
        pulled.append((device, offset))
        return swap.load(device, offset, frame)

    assert swap.shrink(50, unuse) == 10
    assert pulled == [(0, 2 * offset) for offset in range(10)]
    assert swap.stored_pages == len(hypervisor.pages) == 50
    assert swap.shrink(50, unuse) == 0
    assert swap.shrink(25, unuse, lambda pages: False) == 0
    assert swap.shrink(0, unuse) == 20, "one device at a time"
    assert swap.shrink(0, lambda device, offset: offset < 3 and unuse(device, offset)) == 3
    assert swap.offsets(1) == list(range(3, 30))


def test_a_lost_page_is_an_error_and_never_a_miss(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame = domain.alloc()
    swap.store(0, 3, frame)
    hypervisor.pages.clear()
    for _ in range(2):
        with pytest.raises(InternalError, match="lost page 3 of swap device 0"):
            swap.load(0, 3, frame)


def test_wrong_use(domain: Domain, swap: Frontswap) -> None:
    for device, slots in ((0, 5), (-1, 5), (32, 5), (1, 0), (1, (1 << 36) + 1)):
        with pytest.raises(ConfigError):
            swap.swapon(device, slots)
    with pytest.raises(ConfigError, match="not on"):
        swap.swapoff(1)
    for offset in (-1, SLOTS):
        with pytest.raises(IndexError):
            swap.store(0, offset, domain.alloc())
    with pytest.raises(BadFrame):
        swap.store(0, 0, 1 << 40)
    assert not swap.holds(0, 0)


def test_a_page_stored_in_the_slot_that_is_pulled_back_stays(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame, other = domain.alloc(), fill(domain, domain.alloc(), 7)
    assert swap.store(0, 3, frame)

    def unuse(device: int, offset: int) -> bool:
        assert swap.load(device, offset, frame)
        swap.invalidate_page(device, offset)
        return swap.store(device, offset, other)  # evicted to make room for the page that came

    assert swap.shrink(0, unuse) == 1
    assert swap.load(0, 3, frame)
    assert number_in(domain, frame) == 7


def test_slots_that_go_while_others_are_pulled_back_are_left_alone(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame, asked = domain.alloc(), list[int]()
    for offset in (3, 4, 5):
        assert swap.store(0, offset, frame)

    def unuse(device: int, offset: int) -> bool:
        asked.append(offset)
        swap.invalidate_page(device, 4)  # the process that had both pages ends
        return swap.load(device, offset, frame)

    assert swap.shrink(0, unuse) == 2
    assert asked == [3, 5]


def test_a_device_may_be_swapped_off_while_it_is_pulled_back(
    domain: Domain, hypervisor: Any, swap: Frontswap
) -> None:
    frame = domain.alloc()
    for offset in (3, 4):
        assert swap.store(0, offset, frame)

    def unuse(device: int, offset: int) -> bool:
        swap.swapoff(device)
        swap.swapon(device, SLOTS)
        return swap.store(device, 4, frame)

    assert swap.shrink(0, unuse) == 1
    assert swap.holds(0, 4)


def test_self_shrink_waits_and_then_gives_a_twentieth_back() -> None:
    shrink = SelfShrink()
    assert [shrink.look(pages) for pages in (0, 400)] == [None, None]
    assert [shrink.look(400) for _ in range(SELFSHRINK_INERTIA)] == [None, None, 380]
    assert [shrink.look(pages) for pages in (380, 361)] == [361, 343]
    assert shrink.look(362) is None, "it grew"
    assert [shrink.look(20) for _ in range(SELFSHRINK_INERTIA)] == [None, None, 0]
    assert shrink.look(0) is None
