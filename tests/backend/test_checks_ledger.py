"""Every check of the ledger, its single frames and its banks fires when its fault is injected."""

from __future__ import annotations

import pytest
from check_lab import AREA, VM1, CheckLab, Fault, Faults, assert_seen, outcome_of

from backend._service import ffi, lib

FAULTS = Faults()
ledger, holes, banks = (
    lambda function, file=file: FAULTS.of(file, function)
    for file in ("ledger.c", "holes.c", "banks.c")
)
#: Of an area that is the guest's to one that is the host's.
GONE = (lib.MC_A_PUNCH_HARD, lib.MC_A_PUNCHING_HARD, lib.MC_A_HARD)
MISSING = 200  # no area, bank or slab area has this number
HUGE = 1 << 40


def opened(lab: CheckLab) -> tuple:
    """VM1 with areas 0 and 1 installed, the host's lock held: host, domain, what C calls take."""
    lab.open()
    lab.lock()
    return lab.host, lab.domain(), (lab.host, lab.pointer())


for _name, _call in {
    "mc_area_set": lambda at: lib.mc_area_set(*at, 7, lib.MC_A_SOFT),
    "mc_pull": lambda at: lib.mc_pull(*at, 0, lib.MC_PULL_HARD),
    "mc_populate": lambda at: lib.mc_populate(*at, 7, lib.MC_A_READY),
    "mc_grant": lambda at: lib.mc_grant(*at, 7),
    "mc_condemn_all": lambda at: lib.mc_condemn_all(*at, 0),
    "mc_pull_areas": lambda at: lib.mc_pull_areas(*at, 1, lib.MC_PULL_HARD, 0),
    "mc_plug_found": lambda at: lib.mc_plug_found(*at, 7),
    "mc_plug": lambda at: lib.mc_plug(*at, 7),
    "mc_plug_hollow": lambda at: lib.mc_plug_hollow(*at, 7),
    "mc_return_areas": lambda at: lib.mc_return_areas(*at, 1),
    "mc_redeem": lambda at: lib.mc_redeem(*at, 1),
    "mc_tmem_charge": lambda at: lib.mc_tmem_charge(at[0], 0),
    "mc_tmem_discharge": lambda at: lib.mc_tmem_discharge(at[0], 0),
}.items():
    FAULTS.unlocked(
        "ledger.c", _name, lambda lab, call=_call: (lab.open(), call((lab.host, lab.pointer())))
    )
for _name, _call in {
    "mc_holes_make": lib.mc_holes_make,
    "mc_holes_fill": lambda host, vm, frames, n, bad: lib.mc_holes_fill(
        host, vm, frames, n, 1, bad
    ),
}.items():
    FAULTS.unlocked(
        "holes.c",
        _name,
        lambda lab, call=_call: (
            lab.open(),
            call(lab.host, lab.pointer(), ffi.new("uint32_t[1]"), 1, ffi.new("uint32_t *")),
        ),
    )
FAULTS.unlocked("banks.c", "mc_banks_drain", lambda lab: lib.mc_banks_drain(lab.host))


@ledger("mc_bank_choose")
def no_bank_at_all(lab: CheckLab) -> None:
    lab.host.bank_count = 0
    lib.mc_bank_choose(lab.host, 1, 0)


@ledger("mc_bank_choose")
def a_bank_with_more_free_than_its_total(lab: CheckLab) -> None:
    lab.host.banks[0].free_frames += 1
    lib.mc_bank_choose(lab.host, 1, 0)


@ledger("mc_has_free")
def more_free_than_there_is(lab: CheckLab) -> None:
    lab.host.free_frames += 1
    lib.mc_has_free(lab.host, 1)


@ledger("ledger_charge")
def no_bank_has_an_area(lab: CheckLab) -> None:
    host, _, _ = opened(lab)
    host.banks[0].free_frames = AREA - 1
    lab.set(7, lib.MC_A_INSTALLED)


@ledger("ledger_credit")
def an_area_of_a_bank_that_is_none(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    lab.set(0, *GONE[:2])
    domain.banks[0] = MISSING
    lab.set(0, *GONE[2:])


@ledger("ledger_credit")
def a_bank_with_more_free_than_it_has(lab: CheckLab) -> None:
    host, _, _ = opened(lab)
    host.banks[0].total_frames = host.banks[0].free_frames
    lab.set(0, *GONE)


@ledger("ledger_move")
def less_free_than_an_area(lab: CheckLab) -> None:
    host, _, _ = opened(lab)
    host.free_frames = AREA - 1
    lab.set(7, lib.MC_A_INSTALLED)


@ledger("ledger_set_sums")
def more_holes_than_frames(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    domain.hole_counts[0] = AREA + 1
    lab.set(0, lib.MC_A_PUNCH_HARD)


@ledger("ledger_set")
def a_state_that_is_counted_nowhere(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    domain.counts[lib.MC_A_INSTALLED] = 0
    lab.set(0, lib.MC_A_PUNCH_HARD)


@ledger("ledger_set_sums")
def a_domain_with_less_than_an_area(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    domain.installed_frames = AREA - 1
    lab.set(0, lib.MC_A_PUNCH_HARD)


@ledger("mc_area_set")
def an_area_beyond_maxmem(lab: CheckLab) -> None:
    opened(lab)
    lab.set(MISSING, lib.MC_A_SOFT)


@ledger("ledger_change")
def a_hard_area_becomes_ready_without_pages(lab: CheckLab) -> None:
    opened(lab)
    lab.set(7, lib.MC_A_READY)


@ledger("ledger_change")
def a_state_that_is_none(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    domain.states[7] = lib.MC_A_STATES
    lab.set(7, lib.MC_A_SOFT)


@ledger("mc_domain_held")
def a_domain_that_holds_more_than_maxmem(lab: CheckLab) -> None:
    _, domain, at = opened(lab)
    domain.counts[lib.MC_A_READY] = 7
    lib.mc_domain_held(at[1])


@ledger("mc_in_transit")
def more_in_transit_than_maxmem(lab: CheckLab) -> None:
    _, domain, at = opened(lab)
    domain.counts[lib.MC_A_PUNCH_SOFT] = 9
    lib.mc_in_transit(at[1])


@ledger("mc_find_state")
def an_area_that_is_counted_and_not_there(lab: CheckLab) -> None:
    _, domain, at = opened(lab)
    domain.counts[lib.MC_A_READY] = 1
    lib.mc_find_state(at[1], lib.MC_A_READY)


@ledger("ledger_pull")
def pins_in_an_area_that_is_not_the_guests(lab: CheckLab) -> None:
    _, domain, at = opened(lab)
    domain.pin_counts[7] = 1
    lib.mc_pull(*at, 7, lib.MC_PULL_HARD)


@ledger("mc_populate")
def a_hard_area_populated_to_be_installed(lab: CheckLab) -> None:
    _, _, at = opened(lab)
    lib.mc_populate(*at, 7, lib.MC_A_INSTALLED)


@ledger("mc_plug_hollow")
def a_hard_area_with_holes(lab: CheckLab) -> None:
    _, domain, at = opened(lab)
    domain.hole_counts[7] = 1
    lib.mc_plug_hollow(*at, 7)


for _name, _call in {
    "mc_pull": lambda at: lib.mc_pull(*at, MISSING, lib.MC_PULL_HARD),
    "mc_grant": lambda at: lib.mc_grant(*at, MISSING),
    "mc_plug_found": lambda at: lib.mc_plug_found(*at, MISSING),
    "mc_redeem": lambda at: lib.mc_redeem(*at, MISSING),
}.items():
    FAULTS.append(
        Fault(
            f"{_name} of an area beyond maxmem",
            "ledger.c",
            _name,
            lambda lab, call=_call: call(opened(lab)[2]),
        )
    )


@ledger("mc_redeem")
def a_domain_boots_while_it_is_served(lab: CheckLab) -> None:
    lib.mc_redeem(*opened(lab)[2], 1)


@ledger("mc_tmem_charge")
def a_slab_area_charged_twice(lab: CheckLab) -> None:
    lab.tmem()[2] = 1
    lab.lock()
    lib.mc_tmem_charge(lab.host, 2)


@ledger("mc_tmem_charge")
def tmem_with_more_than_its_slab(lab: CheckLab) -> None:
    lab.tmem()
    lab.lock()
    lab.host.tmem_frames = 4 * AREA
    lib.mc_tmem_charge(lab.host, 2)


@ledger("mc_tmem_discharge")
def a_slab_area_discharged_twice(lab: CheckLab) -> None:
    lab.tmem()
    lab.lock()
    lib.mc_tmem_discharge(lab.host, 2)


@ledger("mc_condemn_all")
def an_area_released_while_it_is_populated(lab: CheckLab) -> None:
    lab.open().states[0] = lib.MC_A_POPULATING
    lib.mc_domain_close(lab.host, VM1, 0)


@ledger("mc_condemn_all")
def frames_that_are_in_no_area(lab: CheckLab) -> None:
    lab.open().installed_frames += 5
    lib.mc_domain_close(lab.host, VM1, 0)


@ledger("mc_condemn_all")
def a_domain_released_under_a_user(lab: CheckLab) -> None:
    lab.open().users = 1
    lab.lock()
    lib.mc_condemn_all(lab.host, lab.pointer(), 0)


def hole_in(lab: CheckLab, frame: int = 0, count: int = 1) -> int:
    """Make frames of VM1 holes."""
    frames, bad = ffi.new("uint32_t[]", [frame] * count), ffi.new("uint32_t *")
    return int(lib.mc_holes_make(lab.host, lab.pointer(), frames, count, bad))


def fill_in(lab: CheckLab, frame: int = 0) -> None:
    """Make a hole of VM1 a frame again."""
    bad = ffi.new("uint32_t *")
    lib.mc_holes_fill(lab.host, lab.pointer(), ffi.new("uint32_t *", frame), 1, 1, bad)


@holes("mc_is_hole")
def a_frame_beyond_maxmem(lab: CheckLab) -> None:
    lib.mc_is_hole(opened(lab)[2][1], HUGE)


@holes("holes_open")
def a_hole_in_a_domain_without_frames(lab: CheckLab) -> None:
    opened(lab)[1].installed_frames = 0
    hole_in(lab)


@holes("mc_holes_make")
def more_frames_than_an_area_at_once(lab: CheckLab) -> None:
    opened(lab)
    hole_in(lab, count=AREA + 1)


@holes("mc_holes_make")
def a_hole_of_a_bank_that_is_none(lab: CheckLab) -> None:
    opened(lab)[1].banks[0] = MISSING
    hole_in(lab)


@holes("mc_holes_fill")
def more_frames_than_an_area_wanted_at_once(lab: CheckLab) -> None:
    _, _, at = opened(lab)
    frames, bad = ffi.new("uint32_t[]", AREA + 1), ffi.new("uint32_t *")
    lib.mc_holes_fill(*at, frames, AREA + 1, 1, bad)


@holes("mc_holes_fill")
def a_frame_of_a_bank_that_is_none(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    assert hole_in(lab) == 1
    domain.banks[0] = MISSING
    fill_in(lab)


@holes("holes_close")
def a_hole_that_is_not_counted(lab: CheckLab) -> None:
    _, domain, _ = opened(lab)
    assert hole_in(lab) == 1
    domain.hole_counts[0] = 0
    fill_in(lab)


@holes("holes_land")
def more_frames_land_than_were_in_flight(lab: CheckLab) -> None:
    opened(lab)[1].flight_frames = (1 << 64) - 1
    hole_in(lab)


@holes("holes_land")
def a_bank_that_gets_more_than_it_has(lab: CheckLab) -> None:
    host, _, _ = opened(lab)
    host.banks[0].total_frames = host.banks[0].free_frames
    hole_in(lab)


@holes("holes_set_pins")
def a_pin_that_is_not_counted(lab: CheckLab) -> None:
    domain = lab.open()
    assert lib.mc_domain_pin(lab.host, VM1, 3, 1, 1) == 0
    domain.pin_counts[0] = 0
    lib.mc_domain_pin(lab.host, VM1, 3, 1, 0)


@holes("holes_set_pins")
def more_pins_than_frames(lab: CheckLab) -> None:
    lab.open().pinned_frames = 2 * AREA
    lib.mc_domain_pin(lab.host, VM1, 3, 1, 1)


@banks("banks_shrink")
def a_bank_smaller_than_its_free_frames(lab: CheckLab) -> None:
    lab.host.banks[0].total_frames = 1
    lib.mc_bank_set_withdrawn(lab.host, 0, 1)


@banks("mc_bank_set_withdrawn")
def a_bank_neither_withdrawn_nor_not(lab: CheckLab) -> None:
    lab.host.banks[0].withdrawn = 2
    lib.mc_bank_set_withdrawn(lab.host, 0, 1)


@banks("banks_ask_sections")
def sections_that_let_go_of_the_lock(lab: CheckLab) -> None:
    lab.open(mechanism="sections", boot=0)
    lab.behave(target=lambda *_: lab.unlock())
    lib.mc_bank_set_withdrawn(lab.host, 0, 1)


def usage_of(lab: CheckLab) -> None:
    """Ask who uses the one bank."""
    lib.mc_bank_usage(lab.host, 0, ffi.new("struct mc_bank_usage *"))


@banks("banks_charged")
def an_area_with_more_holes_than_frames(lab: CheckLab) -> None:
    lab.open().hole_counts[0] = AREA + 1
    usage_of(lab)


@banks("mc_bank_usage")
def a_bank_used_beyond_its_total(lab: CheckLab) -> None:
    lab.open()
    lab.host.banks[0].total_frames -= 1
    usage_of(lab)


@banks("mc_bank_usage")
def a_slab_area_of_a_bank_that_is_none(lab: CheckLab) -> None:
    lab.tmem()[0] = MISSING
    usage_of(lab)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_check_fires(fault: Fault) -> None:
    assert_seen(fault, outcome_of(fault))
