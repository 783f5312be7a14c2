"""Every check of keepers, of their supervisor, and of what is left to them fires when its fault is
injected."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from check_lab import AREA, VM1, CheckLab, Fault, Faults, assert_seen, outcome_of
from mechs_private import fault

from backend._service import ffi, lib
from frontend._guest import lib as abi

FAULTS = Faults()
HUGE = 1 << 40
AT = ("host", "domain")
VM5 = "host.domains[5]"
TOO_MUCH = {"areas": 8, "boot_areas": 9, "mechanism": abi.MC_BALLOON}
RUN = "int(struct mc_host *, struct mc_domain *)"


def in_file(file: str):  # noqa: ANN201
    """``FAULTS.of`` for the functions of one file."""
    return lambda function, **options: FAULTS.of(file, function, **options)


holes, host, keeper, supply = (
    in_file(f"{name}.c") for name in ("holes", "host", "keeper", "supply")
)


def install(lab: CheckLab) -> object:
    """A request for area 0."""
    return lab.record(abi.MC_OP_INSTALL, 0)


for _file, _name, _call in (
    ("boot.c", "boot_install_or_later", lambda lab, at: lib.mc_served_install(*at, install(lab))),
    ("host.c", "mc_work_hungry", lambda _, at: lib.mc_work_hungry(at[0])),
    ("host.c", "mc_keep", lambda lab, at: lib.mc_keep(*at, install(lab))),
    ("host.c", "mc_errand", lambda _, at: lib.mc_errand(*at, ffi.NULL, 1)),
    ("keeper.c", "mc_keeper_start", lambda _, at: lib.mc_keeper_start(*at)),
    ("reap.c", "mc_reap_step", lambda _, at: lib.mc_reap_step(*at)),
    ("keeper.c", "mc_keeper_sleeps", lambda _, at: lib.mc_keeper_sleeps(*at)),
    (
        "mech_direct.c",
        "direct_later",
        lambda lab, at: at[1].mechanism.later(*at, install(lab)),
    ),
    ("supply.c", "mc_supply_gather", lambda _, at: lib.mc_supply_gather(*at, AREA, 0)),
):
    FAULTS.unlocked(
        _file, _name, lambda lab, call=_call: (lab.open(), call(lab, (lab.host, lab.pointer())))
    )


def locked(lab: CheckLab, mechanism: str = "direct", **options: dict[int, int]) -> tuple:
    """VM1 open and the lock held; host and domain as C takes them."""
    lab.open(mechanism=mechanism, **options)
    lab.lock()
    return lab.host, lab.pointer()


@holes("mc_holes_punch")
def more_frames_than_an_area_has(lab: CheckLab) -> None:
    lib.mc_holes_punch(*locked(lab), ffi.new("uint32_t[]", AREA + 1), AREA + 1)


@holes("holes_populate")
def an_errand_for_no_frames(lab: CheckLab) -> None:
    vm = lab.open()
    vm.is_kept = 1  # nobody takes up the errand that the pin leaves
    pin = threading.Thread(target=lib.mc_domain_pin, args=(lab.host, VM1, 0, 1, 1), daemon=True)
    pin.start()
    lab.wait(lambda: vm.errand)
    lab.lock()
    vm.errand_args[1] = 0
    vm.errand(lab.host, lab.pointer())


@host("mc_host_close")
def closed_under_a_keeper(lab: CheckLab) -> None:
    vm = lab.open()
    lab.work()
    lab.wait(lambda: vm.is_kept)
    lab.host.attached = 0
    lib.mc_host_close(lab.host)


@keeper("keeper_run_errand")
def an_errand_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    errand = ffi.callback(RUN, lambda *_: lab.unlock() or 0)
    lab.open().errand = errand
    lib.mc_worker_run(lab.host)


@keeper("keeper_serve_kept")
def a_record_kept_for_a_mechanism_that_serves_none_later(lab: CheckLab) -> None:
    lab.open(mechanism="balloon").kept_end = 1
    lib.mc_worker_run(lab.host)


@keeper("keeper_serve_kept")
def a_kept_record_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open().kept_end = 1
    lab.behave(later=lambda *_: lab.unlock() or 0)
    lib.mc_worker_run(lab.host)


@keeper("keeper_serve_kept")
def a_kept_record_that_is_not_finished(lab: CheckLab) -> None:
    lab.open().kept_end = 1
    lab.behave(later=lambda *_: lib.MC_UNFINISHED)
    lib.mc_worker_run(lab.host)


@keeper("keeper_run")
def a_keeper_that_is_not_noted(lab: CheckLab) -> None:
    def forget(_: object, vm: object) -> int:
        vm.is_kept, lab.host.stop = 0, 1
        return 0

    lab.open()
    lab.behave(jobs=[forget])
    lib.mc_worker_run(lab.host)


@keeper("mc_keeper_start")
def a_keeper_of_nothing(lab: CheckLab) -> None:
    at = locked(lab)
    lab.host.worker_running, lab.domain().control = 1, ffi.NULL
    lib.mc_keeper_start(*at)


@keeper("keeper_round")
def a_job_that_lets_go_of_its_keeper(lab: CheckLab) -> None:
    lab.open()
    lab.behave(jobs=[lambda _, vm: setattr(vm, "users", 0) or 0])
    lib.mc_worker_run(lab.host)


@FAULTS.of("mech_cmm.c", "cmm_later")
def a_record_kept_for_dom0(lab: CheckLab) -> None:
    at = locked(lab, "cmm", options={0: 0})
    at[1].mechanism.later(*at, install(lab))


@FAULTS.of("mech_hyperalloc.c", "hyperalloc_later")
def a_record_of_hyperalloc_that_is_no_install(lab: CheckLab) -> None:
    at = locked(lab, "hyperalloc")
    at[1].mechanism.later(*at, lab.record(abi.MC_OP_GROW, 1))


@FAULTS.of("reap.c", "mc_reap_step")
def a_domain_reaped_that_stays(lab: CheckLab) -> None:
    lib.mc_reap_step(*locked(lab))


@supply("mc_supply_gather")
def gathering_more_than_maxmem(lab: CheckLab) -> None:
    lib.mc_supply_gather(*locked(lab), HUGE, 0)


@FAULTS.of("worker.c", "mc_worker_run")
def two_supervisors(lab: CheckLab) -> None:
    lab.work()
    lab.wait(lambda: lab.host.worker_running)
    lib.mc_worker_run(lab.host)


vm = partial(fault, "direct")
FAULTS += [
    vm("installed", {}, "punch_after", lib.MC_A_INSTALLED, 0),
    vm("while attached", {}, "mc_domain_dismantle", *AT, locked=False),
    vm("lock", {}, "mc_domain_quiesce", *AT, 1, locked=False),
    vm("empty", {"domain.phase": 0}, "worker_look_at", *AT),
    vm("lock", {}, "worker_end_keepers", "host", locked=False),
    vm("lock", {}, "domain_boot_again", *AT, locked=False),
    vm("lock", {}, "domain_restart", *AT, locked=False),
    vm("boots with too much", {}, "domain_prepare", "host", VM5, TOO_MUCH, locked=False),
    vm("spins for too long", {}, "service_next_budget", "host", 5, 9, 1),
]


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_the_check_fires(case: Fault) -> None:
    assert_seen(case, outcome_of(case))
