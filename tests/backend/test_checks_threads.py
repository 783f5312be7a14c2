"""Every check of supply, service, keepers and mech_direct fires when its fault is injected."""

from __future__ import annotations

import pytest
from check_lab import AREA, VM2, CheckLab, Fault, Faults, assert_seen, outcome_of

from backend._service import ffi, lib
from frontend._guest import lib as abi

FAULTS = Faults()
NO_ID = 99  # no state, phase or outcome has this number


def in_file(file: str):  # noqa: ANN201
    """``FAULTS.of`` for the functions of one file."""
    return lambda function, **options: FAULTS.of(file, function, **options)


supply, service, keeper = (in_file(f"{name}.c") for name in ("supply", "service", "keeper"))
direct = in_file("mech_direct.c")


def locked(lab: CheckLab) -> tuple:
    """VM1 open and the lock held; host and domain as C takes them."""
    lab.open()
    lab.lock()
    return lab.host, lab.pointer()


def give_by(lab: CheckLab, give) -> None:  # noqa: ANN001
    """VM1, above its target, gives to VM2 by ``give``."""
    lab.open(VM2)
    locked(lab)
    lab.domain().target_frames = 0
    lab.behave(give=give)
    lib.mc_supply_take_spare(lab.host, lab.pointer(VM2))


@supply("supply_give")
def a_donor_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    give_by(lab, lambda *_: lab.unlock() or 0)


@supply("supply_give")
def a_donor_that_gave_nothing(lab: CheckLab) -> None:
    def give(*_: object) -> int:
        lab.host.free_frames = 0
        return 1

    give_by(lab, give)


@supply("mc_supply_tmem_give")
def tmem_gives_an_area_beyond_its_slab(lab: CheckLab) -> None:
    lab.tmem(shrink=lambda _: NO_ID)
    lab.host.tmem_frames = AREA
    lab.lock()
    lib.mc_supply_tmem_give(lab.host)


@supply("mc_supply_tmem_give")
def tmem_gives_an_area_of_a_slab_that_is_not_there(lab: CheckLab) -> None:
    lab.tmem(shrink=lambda _: 0)
    lab.host.tmem_frames = AREA
    lab.lock()
    lib.mc_supply_tmem_give(lab.host)


def serve_one(lab: CheckLab, op: int, *args: int, tmem: bool = False) -> None:
    """Let the service thread find a request of VM1; the check ends the child."""
    lab.push(lab.guest(), op, *args, tmem=tmem)
    lab.serve()
    lab.wait(lambda: False)


@service("service_memory")
def a_request_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(request=lambda *_: lab.unlock() or 0)
    serve_one(lab, abi.MC_OP_GROW, 1)


@service("service_memory")
def an_outcome_that_is_none(lab: CheckLab) -> None:
    lab.open()
    lab.behave(request=lambda *_: NO_ID)
    serve_one(lab, abi.MC_OP_GROW, 1)


@service("service_note_asked")
def a_domain_whose_requests_cannot_be_timed(lab: CheckLab) -> None:
    lab.open().serves = ffi.NULL
    serve_one(lab, abi.MC_OP_GROW, 1)


@service("service_grow_tmem")
def tmem_with_part_of_an_area(lab: CheckLab) -> None:
    lab.open()
    lab.tmem(execute=lambda *_: lib.MC_NEED_SLAB)
    lab.host.tmem_frames = 1
    serve_one(lab, abi.MC_OP_FLUSH_PAGE, tmem=True)


@service("service_grow_tmem")
def a_slab_that_is_full_and_not_charged(lab: CheckLab) -> None:
    lab.open()
    lab.tmem(execute=lambda *_: lib.MC_NEED_SLAB)[0:4] = [1] * 4
    serve_one(lab, abi.MC_OP_FLUSH_PAGE, tmem=True)


@service("service_grow_tmem")
def tmem_grows_without_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.tmem(execute=lambda *_: lib.MC_NEED_SLAB, grow=lambda *_: lab.unlock() or -1)
    serve_one(lab, abi.MC_OP_FLUSH_PAGE, tmem=True)


@service("service_tmem")
def tmem_that_asks_when_it_may_not(lab: CheckLab) -> None:
    lab.open()
    lab.tmem(execute=lambda *_: lib.MC_NEED_SLAB)
    lab.host.tmem_areas_max = 0
    serve_one(lab, abi.MC_OP_FLUSH_PAGE, tmem=True)


@FAULTS.of("reach.c", "mc_guest_ring")
def a_relay_that_is_not_there(lab: CheckLab) -> None:
    lab.open().relayed = 1
    lab.host.relay_fd = -1
    serve_one(lab, abi.MC_OP_NOP)


@service("service_answers", detaches=True)
def more_answers_wait_than_there_are_slots(lab: CheckLab) -> None:
    lab.open().answer_count = abi.MC_RING_SLOTS + 1
    lab.serve()


@service("service_visit")
def a_visit_without_control(lab: CheckLab) -> None:
    lab.open().mechanism = ffi.NULL
    lab.serve()
    lab.wait(lambda: False)


@service("service_visit_all")
def a_visit_in_no_phase(lab: CheckLab) -> None:
    lab.open().phase = NO_ID
    lab.serve()
    lab.wait(lambda: False)


@service("mc_service_run")
def a_thread_that_cannot_sleep(lab: CheckLab) -> None:
    lab.host.epoll_fd = -1
    lib.mc_service_run(lab.host)


@service("mc_service_run")
def two_service_threads(lab: CheckLab) -> None:
    lab.serve()
    lib.mc_service_run(lab.host)


@keeper("keeper_run_jobs")
def a_job_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(jobs=[lambda *_: lab.unlock() or 0])
    lib.mc_worker_run(lab.host)


@keeper("keeper_run_timer")
def a_timer_that_the_mechanism_has_not(lab: CheckLab) -> None:
    lab.open().timer_ns = 1
    lib.mc_worker_run(lab.host)


@keeper("keeper_run_timer")
def a_timer_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open().timer_ns = 1
    lab.behave(timer=lambda *_: lab.unlock())
    lib.mc_worker_run(lab.host)


@direct("direct_reclaim")
def a_target_in_areas_beyond_maxmem(lab: CheckLab) -> None:
    lab.open().target_areas = NO_ID
    lib.mc_worker_run(lab.host)


@direct("direct_withdraw")
def a_ready_area_that_is_not_there(lab: CheckLab) -> None:
    lab.open().counts[lib.MC_A_READY] = 1
    lab.domain().target_areas = 0
    lib.mc_worker_run(lab.host)


@direct("direct_is_full")
def more_areas_installed_than_maxmem(lab: CheckLab) -> None:
    lab.open().counts[lib.MC_A_INSTALLED] = NO_ID
    serve_one(lab, abi.MC_OP_GROW, 1)


@direct("direct_serve_grow", detaches=True)
def a_request_granted_beyond_its_wish(lab: CheckLab) -> None:
    vm = lab.open()
    vm.unfinished[0] = lab.record(abi.MC_OP_GROW, 1, status=2)[0]
    vm.is_unfinished[0] = 1
    lab.serve()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_check_fires(fault: Fault) -> None:
    assert_seen(fault, outcome_of(fault))
