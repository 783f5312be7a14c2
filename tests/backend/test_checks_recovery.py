"""Every check of the books and their recovery fires when its fault is injected."""

from __future__ import annotations

import pytest
from check_lab import CheckLab, Fault, Faults, assert_seen, outcome_of

from backend._service import ffi, lib

FAULTS = Faults()
NO_STATE = 99
HUGE = 1 << 40

for _name, _call in (
    ("mc_recount_areas", lambda lab: lib.mc_recount_areas(lab.host, lab.pointer())),
    ("mc_recount_sums", lambda lab: lib.mc_recount_sums(lab.host)),
):
    FAULTS.unlocked("recount.c", _name, lambda lab, call=_call: (lab.open(), call(lab)))


def locked(lab: CheckLab) -> CheckLab:
    """VM1 open and the lock held."""
    lab.open()
    lab.lock()
    return lab


@FAULTS.of("books.h", "mc_step_begin")
def an_area_on_its_way_while_another_is(lab: CheckLab) -> None:
    locked(lab).host.step.domain = 1
    lib.mc_plug(lab.host, lab.pointer(), 7)


@FAULTS.of("books.c", "mc_slot_open")
def a_domain_with_two_slots(lab: CheckLab) -> None:
    lab.open()
    lib.mc_slot_open(lab.host, lab.pointer(), 64)


@FAULTS.of("books.c", "mc_slot_take")
def more_taken_than_the_slot_has(lab: CheckLab) -> None:
    lab.open()
    lib.mc_slot_take(lab.pointer(), HUGE)


@FAULTS.of("recount.c", "recount_finish_step")
def an_area_on_its_way_to_no_state(lab: CheckLab) -> None:
    locked(lab).host.step.next = NO_STATE
    lib.mc_recount_areas(lab.host, lab.pointer())


@FAULTS.of("recount.c", "recount_domain")
def more_holes_than_frames(lab: CheckLab) -> None:
    locked(lab).domain().hole_counts[0] = 513
    lib.mc_recount_sums(lab.host)


@FAULTS.of("recount.c", "recount_tmem")
def a_slab_area_of_no_bank(lab: CheckLab) -> None:
    lab.tmem()[0] = NO_STATE
    locked(lab)
    lib.mc_recount_sums(lab.host)


@FAULTS.of("recount.c", "mc_recount_sums")
def a_host_of_no_banks_is_counted(lab: CheckLab) -> None:
    locked(lab).host.bank_count = 0
    lib.mc_recount_sums(lab.host)


@FAULTS.of("recover.c", "mc_tmem_recover")
def a_tmem_without_books(lab: CheckLab) -> None:
    lab.open()
    lib.mc_tmem_recover(lab.host, ffi.new("uint8_t[1]"))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_check_fires(fault: Fault) -> None:
    assert_seen(fault, outcome_of(fault))
