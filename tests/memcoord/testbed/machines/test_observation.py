"""What a guest may have said, what it cannot have, and how old it is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memcoord.testbed.machines.observation import UNKNOWN_WORD, Guest, Observer, guest_of

MIB = 1 << 20
BASE, MOST = 512 * MIB, 1024 * MIB
WALL = 1_000_000
PLAIN = {
    "stat-total-memory": 400 * MIB,
    "stat-free-memory": 100 * MIB,
    "stat-available-memory": 150 * MIB,
    "stat-disk-caches": 0,
    "stat-swap-in": 0,
    "stat-swap-out": 4096,
    "stat-major-faults": 7,
}


def seen(values: dict[str, int], **sizes: Any) -> Any:
    observer = Observer(BASE, MOST)
    observer.note_statistics(10.0, WALL, WALL, values)
    return observer.observe(10.0, Guest.RUNNING, **sizes)


def test_what_a_guest_reports_becomes_numbers_and_0_is_a_count() -> None:
    now = seen(PLAIN, kept_bytes=300.0 * MIB, plugged_bytes=(64.0 * MIB, 0.0))
    assert (now.total_bytes, now.available_bytes) == (400 * MIB, 150 * MIB)
    assert (now.swapped_in_bytes, now.swapped_out_bytes, now.major_faults) == (0, 4096, 7)
    assert now.current_bytes == 364 * MIB
    assert now.used_bytes == 214 * MIB
    assert now.is_fresh


@pytest.mark.parametrize("total", [0, UNKNOWN_WORD, MOST + 1])
def test_a_total_that_cannot_be_is_no_data_at_all(total: int) -> None:
    now = seen(PLAIN | {"stat-total-memory": total})
    assert math.isnan(now.total_bytes)
    assert math.isnan(now.major_faults)
    assert math.isnan(now.available_bytes)


@pytest.mark.parametrize(
    ("word", "value", "field"),
    [
        ("stat-available-memory", 401 * MIB, "available_bytes"),
        ("stat-free-memory", UNKNOWN_WORD, "free_bytes"),
        ("stat-swap-in", UNKNOWN_WORD, "swapped_in_bytes"),
        ("stat-major-faults", 1 << 60, "major_faults"),
    ],
)
def test_one_value_that_cannot_be_costs_no_other(word: str, value: int, field: str) -> None:
    now = seen(PLAIN | {word: value})
    assert math.isnan(getattr(now, field))
    assert now.total_bytes == 400 * MIB


def test_a_word_that_is_missing_is_unknown() -> None:
    now = seen({"stat-total-memory": 400 * MIB})
    assert math.isnan(now.available_bytes)
    assert math.isnan(now.used_bytes)


def test_statistics_grow_old_and_are_then_stale() -> None:
    observer = Observer(BASE, MOST)
    assert not observer.observe(0.0, Guest.RUNNING).is_fresh
    assert math.isinf(observer.observe(0.0, Guest.RUNNING).age_s)
    observer.note_statistics(10.0, WALL, WALL, PLAIN)
    assert observer.observe(11.9, Guest.RUNNING).is_fresh
    observer.note_statistics(12.1, WALL + 2, WALL, PLAIN)  # read again, and still the same ones
    late = observer.observe(12.1, Guest.RUNNING)
    assert (late.is_fresh, round(late.age_s, 1)) == (False, 2.1)
    observer.note_statistics(13.0, WALL + 3, WALL + 3, PLAIN)
    assert observer.observe(13.0, Guest.RUNNING).is_fresh
    assert not observer.observe(13.0, Guest.PAUSED).is_fresh


def test_statistics_that_were_old_at_first_sight_are_stale_at_once() -> None:
    observer = Observer(BASE, MOST)
    observer.note_statistics(10.0, WALL + 60, WALL, PLAIN)
    assert not observer.observe(10.0, Guest.RUNNING).is_fresh


def test_a_counter_that_falls_is_another_boot() -> None:
    observer = Observer(BASE, MOST)
    observer.note_statistics(1.0, WALL, WALL, PLAIN)
    observer.note_statistics(2.0, WALL, WALL + 1, PLAIN | {"stat-major-faults": 9})
    assert observer.observe(2.0, Guest.RUNNING).reboots == 0
    observer.note_statistics(3.0, WALL, WALL + 2, PLAIN | {"stat-major-faults": 1})
    assert observer.observe(3.0, Guest.RUNNING).reboots == 1
    observer.note_reset()
    reset = observer.observe(3.0, Guest.RUNNING)
    assert reset.reboots == 2
    assert math.isnan(reset.major_faults)


def test_a_size_that_the_machine_cannot_have_is_not_known() -> None:
    assert math.isnan(seen(PLAIN, kept_bytes=float(BASE + 1)).current_bytes)
    assert math.isnan(seen(PLAIN).current_bytes)


def test_states_are_told_apart() -> None:
    words = ("running", "paused", "guest-panicked", "postmigrate", "shutdown", "what?")
    wanted = (
        *(Guest.RUNNING, Guest.PAUSED, Guest.CRASHED, Guest.MOVED, Guest.ENDED, Guest.PAUSED),
    )
    assert tuple(map(guest_of, words)) == wanted
