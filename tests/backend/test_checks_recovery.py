"""Every check of the books and their recovery fires when its fault is injected."""

from __future__ import annotations

from functools import partial

import pytest
from check_lab import AREA, CheckLab, Fault, Faults, assert_seen, outcome_of
from mechs_private import Private, fault

from backend._service import ffi, lib
from frontend._guest import lib as abi

FAULTS = Faults()
NO_STATE = 99
HUGE = 1 << 40
AT = ("host", "domain")

for _name, _call in (
    ("mc_recount_areas", lambda lab: lib.mc_recount_areas(lab.host, lab.pointer())),
    ("mc_recount_sums", lambda lab: lib.mc_recount_sums(lab.host)),
):
    FAULTS.unlocked("recount.c", _name, lambda lab, call=_call: (lab.open(), call(lab)))


vm = partial(fault, "direct")
FAULTS += [
    vm("between other domains", {}, "mc_books_map_file", "host", -1, AREA, 0),
    vm("more is used than there is", {"domain.slot_bytes": 0}, "mc_slot_close", *AT),
    vm("fds of another domain", {}, "recover_map", *AT, {"domid": 9}),
    vm("no mechanism", {"domain.mechanism_id": NO_STATE}, "recover_phase", "domain"),
    vm(
        "more answers than slots",
        {"domain.answer_count": abi.MC_RING_SLOTS + 1},
        *("recover_answers", *AT),
        detaches=True,
    ),
    vm("target", {"domain.target_frames": HUGE}, "recover_offer", *AT),
    vm("lies elsewhere", {"domain.domid": 9}, "recover_domains", "host", None, 0, {}),
    vm("kept and gone", {}, "recover_serve", "host", {"kept": 1, "gone": 1}),
    vm("slab", {"host.tmem.slab_areas": 2**32 - 1}, "recover_private", "host", -1),
    vm("more domains than domids", {}, "mc_host_recover", None, -1, None, 65, {}),
    vm("areas beyond the most", {"domain.areas": 2**31}, "mc_recount_areas", *AT),
    vm("half withdrawn", {"host.banks[0].withdrawn": 2}, "recount_bank", "host", "host.banks[0]"),
    fault(
        *("balloon", "no work waits", {"device.array_waits": 1}, "balloon_recover", *AT),
        detaches=True,
    ),
    fault(
        *("sections", "asked", {"device.asked": NO_STATE}, "sections_recover", *AT), detaches=True
    ),
    fault(
        *("sections", "no NEXT waits", {"device.next_waits": 1}, "sections_recover", *AT),
        detaches=True,
    ),
    vm("lock", {}, "recover_threads", *AT, locked=False),
    fault("cmm", "lock", {}, "mc_dom0_rejoin", *AT, locked=False, options={0: 0}),
]


def recover_by(lab: CheckLab, function: str, *arguments: object) -> None:
    """A step of the recovery of VM1, whose mechanism the case replaced."""
    lab.lock()
    Private(lab, "direct").call(function, *AT, *arguments)
    lab.unlock()


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


@FAULTS.of("recover.c", "recover_rings")
def a_recovery_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(recover=lambda *_: lab.unlock() or 0)
    recover_by(lab, "recover_rings", {})


@FAULTS.of("recover.c", "recover_rings", detaches=True)
def more_records_kept_than_there_are_slots(lab: CheckLab) -> None:
    lab.open()
    lab.behave(recover=lambda *_: NO_STATE)
    recover_by(lab, "recover_rings", {})


@FAULTS.of("recover.c", "recover_offer")
def an_old_target_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(target=lambda *_: lab.unlock())
    recover_by(lab, "recover_offer")


@FAULTS.of("recover.c", "mc_tmem_recover")
def a_tmem_that_recovers_too_late(lab: CheckLab) -> None:
    lab.serve()
    lib.mc_tmem_recover(lab.host, ffi.new("uint8_t[1]"))


@FAULTS.of("recover.c", "mc_tmem_recover")
def a_tmem_without_books(lab: CheckLab) -> None:
    lab.open()
    lib.mc_tmem_recover(lab.host, ffi.new("uint8_t[1]"))


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_the_check_fires(case: Fault) -> None:
    assert_seen(case, outcome_of(case))
