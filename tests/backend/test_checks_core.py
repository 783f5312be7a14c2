"""Every check of host, domains, boot and reach fires when its fault is injected."""

from __future__ import annotations

import pytest
from check_lab import AREA, VM1, CheckLab, Fault, Faults, assert_seen, outcome_of

from backend._service import ffi, lib
from frontend._guest import lib as abi

FAULTS = Faults()
NO_ID = 99  # no mechanism, state, phase or outcome has this number
NO_DOMID = 63
MAXMEM_AREAS = 8
HUGE = 1 << 40
LEFT_BEHIND = 1  # of anything that must be gone


def in_file(file: str):  # noqa: ANN201
    """``FAULTS.of`` for the functions of one file."""
    return lambda function, **options: FAULTS.of(file, function, **options)


host, domain, reach, boot, reap = (
    in_file(f"{name}.c") for name in ("host", "domain", "reach", "boot", "reap")
)

for _file, _name, _call in (
    ("host.c", "mc_host_unlock", lambda at: lib.mc_host_unlock(at[0])),
    ("host.c", "host_wait", lambda at: lib.mc_wait_done(at[0], 1)),
    ("host.c", "mc_tell_done", lambda at: lib.mc_tell_done(at[0])),
    ("host.c", "mc_domain_hold", lambda at: lib.mc_domain_hold(*at)),
    (
        "mech_direct.c",
        "direct_reach",
        lambda at: at[1].mechanism.reach(*at, ffi.new("enum mc_why *")),
    ),
    ("reach.c", "mc_answer", lambda at: lib.mc_answer(*at, ffi.new("struct mc_record *"))),
    ("reach.c", "mc_reach_note", lambda at: lib.mc_reach_note(*at)),
    ("boot.c", "boot_areas", lambda at: lib.mc_boot_populated(*at)),
    ("boot.c", "mc_install", lambda at: lib.mc_install(*at, NO_ID)),
    ("punch.c", "mc_punch_own", lambda at: lib.mc_punch_own(*at)),
    ("supply.c", "mc_supply_take_spare", lambda at: lib.mc_supply_take_spare(*at)),
    ("supply.c", "mc_supply_tmem_give", lambda at: lib.mc_supply_tmem_give(at[0])),
    ("supply.c", "mc_supply_find", lambda at: lib.mc_supply_find(*at, ffi.new("int *"))),
    (
        "supply.c",
        "mc_supply_find_now",
        lambda at: lib.mc_supply_find_now(*at, ffi.new("int *")),
    ),
    (
        "balloon_areas.c",
        "mc_balloon_punch_areas",
        lambda at: lib.mc_balloon_punch_areas(*at, ffi.NULL, 0),
    ),
    (
        "balloon_areas.c",
        "mc_balloon_choose_bank",
        lambda at: lib.mc_balloon_choose_bank(*at, 0, 1),
    ),
    (
        "balloon_areas.c",
        "mc_balloon_make_areas",
        lambda at: lib.mc_balloon_make_areas(*at, ffi.NULL, 0),
    ),
    (
        "balloon_areas.c",
        "mc_balloon_fill_areas",
        lambda at: lib.mc_balloon_fill_areas(*at, ffi.NULL, 0),
    ),
):
    FAULTS.unlocked(
        _file, _name, lambda lab, call=_call: (lab.open(), call((lab.host, lab.pointer())))
    )


def locked(lab: CheckLab) -> tuple:
    """VM1 open and the lock held; host and domain as C takes them."""
    lab.open()
    lab.lock()
    return lab.host, lab.pointer()


@host("mc_host_close")
def closed_under_the_service_thread(lab: CheckLab) -> None:
    lab.serve()
    lib.mc_host_close(lab.host)


@host("mc_host_close")
def closed_with_a_domain(lab: CheckLab) -> None:
    lab.open()
    lib.mc_host_close(lab.host)


@host("mc_host_close")
def closed_under_its_lock(lab: CheckLab) -> None:
    lab.lock()
    lib.mc_host_close(lab.host)


@host("mc_host_lock")
def the_lock_taken_twice(lab: CheckLab) -> None:
    lab.lock()
    lab.lock()


@host("mc_domain_at")
def a_domain_that_lies_elsewhere(lab: CheckLab) -> None:
    lab.open().domid = NO_DOMID
    lib.mc_domain_size(lab.host, VM1)


@host("mc_domain_at")
def an_open_domain_without_control(lab: CheckLab) -> None:
    lab.open().control = ffi.NULL
    lib.mc_domain_close(lab.host, VM1, 0)


@host("mc_domain_at")
def a_domain_asked_for_under_the_lock(lab: CheckLab) -> None:
    locked(lab)
    lib.mc_domain_size(lab.host, VM1)


@host("mc_phase_set")
def a_phase_that_is_none(lab: CheckLab) -> None:
    lab.open().phase = NO_ID
    lib.mc_domain_close(lab.host, VM1, 0)


@host("mc_domain_hold")
def users_that_were_never_let_go(lab: CheckLab) -> None:
    at = locked(lab)
    for _ in range(NO_ID):
        lib.mc_domain_hold(*at)
        lab.lock()


@host("mc_keep", detaches=True)
def more_records_kept_than_a_ring_has_slots(lab: CheckLab) -> None:
    lab.open().kept_end = abi.MC_RING_SLOTS
    lab.push(lab.guest(), abi.MC_OP_GROW, 1)
    lab.serve()


@host("mc_domain_let_go")
def a_user_let_go_twice(lab: CheckLab) -> None:
    lab.open()
    lib.mc_domain_let_go(lab.host, lab.pointer())


@host("mc_domain_break")
def a_domain_broken_that_is_not_open(lab: CheckLab) -> None:
    lib.mc_domain_break(lab.host, lab.pointer(NO_DOMID), abi.MC_EPERM)


def set_banks(lab: CheckLab, **fields: int) -> None:
    """One bank that is all of the host."""
    bank = {"node": -1, "total_frames": lab.host.total_frames, **fields}
    lib.mc_host_set_banks(lab.host, ffi.new("struct mc_bank[]", [bank]), 1)


@host("mc_host_set_banks")
def banks_under_a_domain(lab: CheckLab) -> None:
    lab.open(boot=0)
    set_banks(lab)


@host("mc_host_set_banks")
def a_new_bank_that_is_withdrawn(lab: CheckLab) -> None:
    set_banks(lab, withdrawn=1)


def spoils(field: str, value: int):  # noqa: ANN201
    """A ``close`` of a mechanism that leaves ``field`` of the domain as ``value``."""

    def close(_: object, vm: object) -> None:
        setattr(vm, field, value)

    return close


@reap("reap_take")
def unmapped_under_a_user(lab: CheckLab) -> None:
    lab.open()
    lab.behave(close=spoils("users", LEFT_BEHIND))
    lib.mc_domain_close(lab.host, VM1, 0)


@reap("reap_take")
def unmapped_with_frames(lab: CheckLab) -> None:
    lab.open()
    lab.behave(close=spoils("installed_frames", LEFT_BEHIND))
    lib.mc_domain_close(lab.host, VM1, 0)


@reap("reap_take")
def unmapped_with_areas(lab: CheckLab) -> None:
    lab.open()
    lab.behave(close=spoils("areas", MAXMEM_AREAS + LEFT_BEHIND))
    lib.mc_domain_close(lab.host, VM1, 0)


@domain("domain_in_granules")
def a_granule_of_no_frames(lab: CheckLab) -> None:
    lab.open().granule_frames = 0
    lib.mc_domain_set_target(lab.host, VM1, AREA)


@domain("domain_boot")
def areas_that_are_counted_twice(lab: CheckLab) -> None:
    lab.open().counts[lib.MC_A_SOFT] += 1
    lib.mc_domain_reboot(lab.host, VM1)


@domain("domain_check_options")
def an_option_beyond_its_bounds(lab: CheckLab) -> None:
    lab.open(mechanism="cmm", options={0: NO_ID})


@domain("domain_check_options")
def an_option_that_the_mechanism_has_not(lab: CheckLab) -> None:
    lab.open(options={7: 1})


@domain("domain_prepare")
def opened_over_the_domain_before(lab: CheckLab) -> None:
    lab.domain().users = LEFT_BEHIND
    lab.open()


@domain("domain_prepare")
def opened_under_the_lock(lab: CheckLab) -> None:
    lab.lock()
    lab.open()


@domain("domain_activate")
def attached_before_it_is_open(lab: CheckLab) -> None:
    lab.host.attached = 1 << VM1
    lab.open()


@reap("mc_domain_detach")
def a_tmem_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.tmem(close_client=lambda *_: lab.unlock() or 0)
    lib.mc_domain_close(lab.host, VM1, 0)


@reap("mc_domain_detach")
def detached_before_it_is_closed(lab: CheckLab) -> None:
    lab.open()
    lab.host.attached = 0
    lib.mc_domain_close(lab.host, VM1, 0)


@domain("mc_domain_open")
def a_tmem_that_cannot_shrink(lab: CheckLab) -> None:
    lab.tmem(execute=lambda *_: 0, grow=lambda *_: 0)
    lab.open()


@domain("domain_format_meta")
def a_meta_that_shrank(lab: CheckLab) -> None:
    lab.open().meta_bytes = AREA
    lib.mc_domain_reboot(lab.host, VM1)


@domain("domain_boot")
def a_boot_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(boot=lambda *_: lab.unlock() or 0)
    lib.mc_domain_reboot(lab.host, VM1)


@domain("domain_activate")
def an_offer_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(offer=lambda *_: lab.unlock())
    lib.mc_domain_reboot(lab.host, VM1)


@domain("mc_domain_set_target")
def a_target_that_lets_go_of_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(target=lambda *_: lab.unlock())
    lib.mc_domain_set_target(lab.host, VM1, AREA)


@reap("mc_domain_dismantle")
def a_close_that_keeps_the_lock(lab: CheckLab) -> None:
    lab.open()
    lab.behave(close=lambda *_: lab.lock())
    lib.mc_domain_close(lab.host, VM1, 0)


@domain("domain_restore_pinned")
def pins_that_keep_an_area_which_is_not_installed(lab: CheckLab) -> None:
    vm = lab.open()
    lab.lock()
    lab.set(7, lib.MC_A_SOFT)
    lab.unlock()
    vm.pin_counts[7] = 1
    lib.mc_domain_reboot(lab.host, VM1)


@domain("mc_host_promise")
def a_promise_of_half_an_area(lab: CheckLab) -> None:
    lib.mc_host_promise(lab.host, AREA // 2)


@FAULTS.of("reach.c", "mc_config_write")
def a_word_beyond_the_configuration(lab: CheckLab) -> None:
    lib.mc_config_write(locked(lab)[1], 5, 0)


@FAULTS.of("reach.c", "mc_timer_set")
def a_period_of_virtio_mem_beyond_the_most(lab: CheckLab) -> None:
    lab.open(mechanism="virtio-mem").options[2] = 60001
    lib.mc_timer_set(lab.pointer(), 2, 0)


@FAULTS.of("reach.c", "mc_timer_set")
def a_period_of_hyperalloc_beyond_the_most(lab: CheckLab) -> None:
    lab.open(mechanism="hyperalloc").options[0] = 3600001
    lib.mc_timer_set(lab.pointer(), 0, 0)


@FAULTS.of("ledger.c", "mc_backed_frames")
def more_areas_without_backing_than_maxmem(lab: CheckLab) -> None:
    lab.open().counts[lib.MC_A_HARD] = NO_ID
    lib.mc_excess_run(lab.host)


@FAULTS.of("excess.c", "excess_look")
def a_file_that_is_not_there(lab: CheckLab) -> None:
    lab.open().ram_fd = -1
    lib.mc_excess_run(lab.host)


@FAULTS.of("punch.c", "punch_first")
def an_area_that_is_due_and_not_there(lab: CheckLab) -> None:
    at = locked(lab)
    lab.domain().counts[lib.MC_A_PUNCH_HARD] = 1
    lib.mc_punch_own(*at)


@reach("mc_config_ask")
def a_driver_asked_for_more_than_maxmem(lab: CheckLab) -> None:
    lib.mc_config_ask(locked(lab)[1], HUGE)


@reach("mc_config_settled")
def a_driver_of_a_domain_without_control(lab: CheckLab) -> None:
    at = locked(lab)
    lab.domain().control = ffi.NULL
    lib.mc_config_settled(at[1], ffi.new("int32_t *"))


@reach("mc_answer")
def an_answer_to_no_operation(lab: CheckLab) -> None:
    lib.mc_answer(*locked(lab), lab.record(abi.MC_OP_NOP))


@reach("mc_answer", detaches=True)
def more_answers_than_a_ring_has_slots(lab: CheckLab) -> None:
    at = locked(lab)
    lab.domain().answer_count = abi.MC_RING_SLOTS
    lib.mc_answer(*at, lab.record(abi.MC_OP_GROW))
    lab.domain().answer_count = 0
    lab.unlock()


@reach("mc_size")
def a_size_beyond_maxmem(lab: CheckLab) -> None:
    lab.open()
    lab.behave(size=lambda _: HUGE)
    lib.mc_domain_size(lab.host, VM1)


@reach("mc_reach_note")
def a_target_beyond_maxmem(lab: CheckLab) -> None:
    at = locked(lab)
    lab.domain().target_frames = HUGE
    lib.mc_reach_note(*at)


@reach("mc_reach_note")
def a_reach_that_is_none(lab: CheckLab) -> None:
    at = locked(lab)
    lab.behave(reach=lambda *_: NO_ID)
    lib.mc_reach_note(*at)


@boot("boot_areas")
def a_domain_that_boots_with_more_than_maxmem(lab: CheckLab) -> None:
    at = locked(lab)
    lab.domain().boot_areas = NO_ID
    lib.mc_boot_plugged(*at)


@boot("boot_areas")
def a_boot_that_skips_an_area(lab: CheckLab) -> None:
    at = locked(lab)
    lab.set(2, lib.MC_A_SOFT)
    lab.domain().boot_areas, lab.domain().phase = 3, lib.MC_EMPTY
    lib.mc_boot_plugged(*at)


@boot("boot_install_at_once")
def a_target_of_more_areas_than_maxmem(lab: CheckLab) -> None:
    at = locked(lab)
    lab.set(2, lib.MC_A_SOFT)
    lab.domain().target_areas = NO_ID
    lib.mc_install(*at, 2)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_check_fires(fault: Fault) -> None:
    assert_seen(fault, outcome_of(fault))
