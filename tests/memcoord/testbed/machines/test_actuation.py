"""Orders for the devices of one machine, and what is booked for it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.machines.accounting import TOLERANCE_BYTES, balance
from memcoord.testbed.machines.actuation import (
    REPEAT_S,
    SHRINK_BYTES_S,
    STALL_S,
    Actuator,
    Balloon,
    Plug,
)
from memcoord.testbed.machines.observation import Guest, Observation

MIB = 1 << 20
BASE = 512 * MIB


def at(now_s: float, kept: float = BASE, *plugged: float, **values: Any) -> Observation:
    sizes = {"current_bytes": kept + sum(plugged), "kept_bytes": kept, "plugged_bytes": plugged}
    return Observation(now_s, values.pop("guest", Guest.RUNNING), **sizes | values)


def balloon(**options: Any) -> Actuator:
    return Actuator("balloon", base_bytes=BASE, floor_bytes=128 * MIB, **options)


def settled(actuator: Actuator, target: int, seen: Observation) -> list[Any]:
    """The orders once the rate has let the target be asked for."""
    orders: list[Any] = []
    for second in range(10):
        orders = actuator.orders(second, target, seen) or orders
    return orders


def test_a_target_is_clamped_and_rounded_down_to_areas() -> None:
    actuator = balloon()
    assert actuator.reachable(1) == 128 * MIB
    assert actuator.reachable(1 << 50) == BASE
    assert actuator.reachable(300 * MIB + 1) == 300 * MIB
    assert settled(actuator, 300 * MIB + 5, at(0)) == [Balloon(300 * MIB)]


def test_a_machine_shrinks_slowly_and_grows_at_once() -> None:
    actuator = Actuator("balloon", base_bytes=4096 * MIB, floor_bytes=128 * MIB)
    first = actuator.orders(0.0, 128 * MIB, at(0, 4096 * MIB))[0]
    second = actuator.orders(0.5, 128 * MIB, at(0.5, 4096 * MIB))[0]
    assert isinstance(first, Balloon)
    assert isinstance(second, Balloon)
    assert first.kept_bytes - second.kept_bytes <= SHRINK_BYTES_S // 2
    assert actuator.orders(0.6, 4096 * MIB, at(0.6, second.kept_bytes)) == [Balloon(4096 * MIB)]


def test_the_same_target_is_ordered_again_only_while_it_is_not_there() -> None:
    actuator = balloon()
    seen = at(0, 256 * MIB)
    assert settled(actuator, 256 * MIB, seen) == [Balloon(256 * MIB)]
    assert actuator.orders(100.0, 256 * MIB, seen) == []
    short = at(200, 300 * MIB)
    assert actuator.orders(200.0, 256 * MIB, short) == [Balloon(256 * MIB)]
    assert actuator.orders(200.0 + REPEAT_S / 2, 256 * MIB, short) == []
    assert actuator.orders(200.0 + REPEAT_S, 256 * MIB, short) == [Balloon(256 * MIB)]
    actuator.forget()
    assert actuator.orders(203.0, 256 * MIB, seen) == [Balloon(256 * MIB)]


def test_a_machine_that_does_not_run_is_left_alone() -> None:
    for guest in (Guest.PAUSED, Guest.CRASHED, Guest.MOVED, Guest.SILENT, Guest.ENDED):
        assert balloon().orders(0.0, 256 * MIB, at(0, guest=guest)) == []
        assert balloon().standing(0.0, 256 * MIB, at(0, guest=guest)).why == str(guest)


@pytest.mark.parametrize("strategy", ["fixed", "reporting"])
def test_a_fixed_machine_is_never_ordered_and_is_always_there(strategy: Any) -> None:
    actuator = Actuator(strategy, base_bytes=BASE, floor_bytes=BASE)
    assert settled(actuator, 128 * MIB, at(0)) == []
    assert actuator.standing(99.0, 128 * MIB, at(99)).state == "reached"


def test_virtio_mem_splits_what_is_above_the_base_over_its_nodes() -> None:
    most = (256 * MIB, 128 * MIB)
    actuator = Actuator("virtio-mem", base_bytes=BASE, floor_bytes=0, plugged_max=most)
    assert actuator.floor_bytes == BASE
    assert actuator.most_bytes == BASE + 384 * MIB
    nothing = at(0, BASE, 0, 0)
    assert settled(actuator, BASE, nothing) == [Plug(0, 0), Plug(1, 0)]
    assert actuator.orders(20.0, BASE + 100 * MIB, nothing) == [
        Plug(0, 50 * MIB),
        Plug(1, 50 * MIB),
    ]
    for extra in range(2, 386, 2):
        actuator.forget()
        orders = actuator.orders(21.0 + extra, BASE + extra * MIB, nothing)
        assert sum(one.size_bytes for one in orders if isinstance(one, Plug)) == extra * MIB
        assert all(one.size_bytes % AREA_BYTES == 0 for one in orders if isinstance(one, Plug))


def test_a_device_that_stops_short_is_a_state_with_a_reason() -> None:
    actuator = balloon()
    stuck = at(0, 400 * MIB)
    assert actuator.standing(0.0, 256 * MIB, stuck).state == "moving"
    assert actuator.standing(STALL_S - 1, 256 * MIB, at(4, 390 * MIB)).state == "moving"
    late = actuator.standing(2 * STALL_S, 256 * MIB, at(10, 390 * MIB))
    assert late.state == "partial"
    assert "does not let go" in late.why
    assert actuator.standing(2 * STALL_S, BASE, at(10, 390 * MIB)).why.startswith(
        "its guest does not take"
    )
    assert actuator.standing(99.0, 390 * MIB, at(99, 390 * MIB)).state == "reached"


# What is booked.


def test_frames_go_back_only_when_size_and_memory_both_say_so() -> None:
    booked, target = 512 * MIB, 256 * MIB
    device_only = at(0, 256 * MIB, resident_bytes=400.0 * MIB)
    assert balance(booked, target, device_only).release_bytes == 112 * MIB
    memory_only = at(0, 480 * MIB, resident_bytes=100.0 * MIB)
    assert balance(booked, target, memory_only).release_bytes == 32 * MIB
    both = at(0, 256 * MIB, resident_bytes=200.0 * MIB)
    assert balance(booked, target, both).release_bytes == 256 * MIB


def test_what_cannot_be_seen_is_taken_for_used() -> None:
    unknown = at(0, math.nan, resident_bytes=100.0 * MIB)
    assert balance(512 * MIB, 256 * MIB, unknown).release_bytes == 0
    no_memory = at(0, 100 * MIB, resident_bytes=math.nan)
    assert balance(512 * MIB, 256 * MIB, no_memory).release_bytes == 0


def test_a_machine_is_led_up_only_as_far_as_is_booked() -> None:
    books = balance(256 * MIB, 512 * MIB, at(0, 256 * MIB, resident_bytes=200.0 * MIB))
    assert (books.request_bytes, books.goal_bytes) == (256 * MIB, 256 * MIB)
    assert books.release_bytes == 0


def test_parts_of_an_area_are_kept() -> None:
    seen = at(0, 256 * MIB + 1, resident_bytes=0.0)
    assert balance(512 * MIB, 128 * MIB, seen).release_bytes == 254 * MIB


def test_a_guest_that_takes_back_by_itself_is_found() -> None:
    deflated = at(0, 400 * MIB, resident_bytes=256.0 * MIB + TOLERANCE_BYTES)
    assert balance(256 * MIB, 256 * MIB, deflated).excess_bytes == 0
    used = at(0, 400 * MIB, resident_bytes=300.0 * MIB)
    assert balance(256 * MIB, 256 * MIB, used).excess_bytes == 44 * MIB
