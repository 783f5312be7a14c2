"""Every check of balloon, cmm and hyperalloc fires when the fault it looks for is injected."""

from __future__ import annotations

from functools import partial

import pytest
from check_lab import AREA, VM1, VM2, CheckLab, Fault, assert_seen, outcome_of
from mechs_private import Private, fault, load

from frontend._guest import lib as abi

MOST = 2**64 - 1
HOST_DOMAIN = ("host", "domain")
HOST_DOMAIN_DEVICE = ("host", "domain", "device")
ONE_FRAME = {"device.request.arg[0]": 1, "device.pfns[0]": 0}
HOLLOW = 7  # an area that is wholly in the balloon

balloon = partial(fault, "balloon")
BALLOON = [
    balloon("no device", {"domain.device": None}, "balloon_of", "domain"),
    balloon(
        "holes miscounted",
        {f"domain.holes[{HOLLOW * 8}]": MOST - 1},
        *("balloon_fill_area", "host", "domain", HOLLOW),
    ),
    balloon("boots with too much", {"domain.boot_areas": 9}, "balloon_boot", *HOST_DOMAIN),
    balloon(
        "target above maxmem",
        {"domain.target_frames": 9 * AREA},
        "balloon_tell_target",
        *HOST_DOMAIN,
    ),
    balloon("two sweeps", {"device.sweeping": 1}, "balloon_watch", *HOST_DOMAIN, 0, detaches=True),
    balloon("long array", {"device.request.arg[0]": 257}, "balloon_array_count", "device"),
    balloon("refusal above 0", ONE_FRAME, "balloon_answer", "domain", "device", 1, 1),
    balloon(
        "refusals go down",
        {**ONE_FRAME, "domain.counters.refused_dma": MOST},
        *("balloon_inflate", *HOST_DOMAIN_DEVICE),
        first=("mc_domain_pin", "host", VM1, 0, 1, 1),
    ),
    balloon(
        "holes in an area that is not installed",
        {**ONE_FRAME, "device.pfns[0]": HOLLOW * AREA, f"domain.states[{HOLLOW}]": 0},
        *("balloon_choose_banks", *HOST_DOMAIN_DEVICE),
        detaches=True,
    ),
    balloon("more than the array", ONE_FRAME, "balloon_fill_array", *HOST_DOMAIN_DEVICE, 2),
    balloon("not installed", {"domain.states[0]": 0}, "balloon_punch_area", *HOST_DOMAIN, 0),
    balloon("long report", {"device.request.arg[0]": 33}, "balloon_report", *HOST_DOMAIN_DEVICE),
    balloon(
        "unknown work",
        {"device.request.op": 1},
        "balloon_work_on_array",
        *HOST_DOMAIN,
        detaches=True,
    ),
    balloon("sweep beyond the end", {}, "balloon_sweep", *HOST_DOMAIN, 8),
    balloon(
        "sweep of an area that is not installed",
        {f"domain.states[{HOLLOW}]": 0},
        *("balloon_sweep", *HOST_DOMAIN, HOLLOW),
        detaches=True,
    ),
]

cmm = partial(fault, "cmm", options={0: 0})
DOM0 = "device.dom0"
CMM = [
    cmm("no device", {"domain.device": None}, "cmm_of", "domain"),
    cmm("third design", {"domain.options[0]": 2}, "cmm_is_second_design", "domain"),
    cmm("dom0 in the second design", {"domain.options[0]": 1}, "cmm_boot", *HOST_DOMAIN),
    fault(
        *("cmm", "credit", {"domain.credit_areas": 1}, "cmm_make_ready", *HOST_DOMAIN),
        options={0: 1},
        detaches=True,
    ),
    cmm("word 12 of the driver", {}, "mc_cmm_driver_word", "domain", 12),
    cmm("long offer", {}, "cmm_take_offered", *HOST_DOMAIN, 33),
    cmm("no time to wait", {}, "mc_cmm_wait", DOM0, 0),
    cmm("asks without dom0", {DOM0: None}, "dom0_choose_donor", *HOST_DOMAIN),
    cmm("failures below 0", {"device.failures": -1}, "dom0_note_given", "device", 0),
    cmm("nothing is asked", {}, "dom0_smaller_size", "domain", 0),
    cmm("its own donor", {}, "dom0_ask_donor", DOM0, "domain", "domain"),
    cmm("five donors", {"device.ask.donors": 5}, "dom0_take_from_donors", DOM0, "domain"),
    cmm("a wish that is none", {"device.wish": 7}, "dom0_prepare", DOM0, "domain"),
    cmm("nothing is missing", {}, "dom0_grant", DOM0, "domain"),
    cmm("wish without the lock", {}, "mc_dom0_make_ready", *HOST_DOMAIN, locked=False),
    cmm("answer of 65 areas", {}, "dom0_answer_ask", "domain", 1, 65, 0),
    cmm("answered twice", {}, "dom0_answer_ask", "domain", 0, 1, 0),
    cmm(
        "let go without a hold",
        {"domain.users": 2**32 - 1, "domain.control.driver[0]": 1 << 32},
        *("dom0_serve", DOM0, "domain"),
    ),
    cmm("joins twice", {}, "mc_dom0_join", *HOST_DOMAIN),
    cmm("leaves without dom0", {DOM0: None}, "mc_dom0_leave", *HOST_DOMAIN),
    cmm("leaves an empty dom0", {"device.dom0.domains": 0}, "mc_dom0_leave", *HOST_DOMAIN),
    cmm("leaves while active", {}, "mc_dom0_leave", *HOST_DOMAIN),
    cmm("boots without dom0", {DOM0: None}, "mc_dom0_reset", *HOST_DOMAIN),
    cmm("boots without the lock", {}, "mc_dom0_reset", *HOST_DOMAIN, locked=False),
    cmm("boots while active", {}, "mc_dom0_reset", *HOST_DOMAIN),
]

hyperalloc = partial(fault, "hyperalloc")
HYPERALLOC = [
    hyperalloc("no device", {"domain.device": None}, "hyperalloc_of", "domain"),
    hyperalloc("an answer nobody asked for", {"device.unanswered": 1}, "hyperalloc_of", "domain"),
    hyperalloc("limit above maxmem", {"domain.counts[1]": 9}, "hyperalloc_limit_areas", "domain"),
    hyperalloc("target above maxmem", {"domain.target_areas": 9}, "hyperalloc_grow", *HOST_DOMAIN),
    hyperalloc("asked twice", {"device.asked": 1}, "hyperalloc_ask_to_drop", "domain"),
    hyperalloc("a ready area", {"domain.counts[3]": 1}, "hyperalloc_set_target", *HOST_DOMAIN),
]


def donor_gives_less_than_nothing(lab: CheckLab) -> None:
    """A donor offers an area, and the sum of what it gave starts again at 0."""
    for domid in (VM1, VM2):
        lab.open(domid, "cmm", options={0: 0}, target=2)
    private = Private(lab, "cmm")
    private.call("mc_host_lock", "host")
    donor = private.host.domains[VM2]
    private.ffi.cast("struct mc_cmm *", donor.device).given_areas = MOST
    donor.frames.areas[0] = abi.MC_AREA_HUGE
    donor.control.driver[0 + 1], donor.control.driver[2] = 1 << 32 | 1, 0
    private.device.ask.missing = 1
    private.call("dom0_ask_donor", DOM0, "domain", "host.domains[1]")


UNLOCKED = [
    balloon("lock", {}, "balloon_request", *HOST_DOMAIN, {}, locked=False),
    balloon("lock", {}, "balloon_serve_array", *HOST_DOMAIN, locked=False),
    balloon("lock", {}, "balloon_watch", *HOST_DOMAIN, 0, locked=False),
    balloon("lock", {}, "balloon_sweep", *HOST_DOMAIN, 0, locked=False),
    cmm("lock", {}, "cmm_set_target", *HOST_DOMAIN, locked=False),
    cmm("lock", {}, "mc_cmm_collect", "host", locked=False),
    cmm("lock", {}, "dom0_serve", DOM0, "domain", locked=False),
    hyperalloc("lock", {}, "hyperalloc_serve", *HOST_DOMAIN, {}, locked=False),
    hyperalloc("lock", {}, "hyperalloc_set_target", *HOST_DOMAIN, locked=False),
]

GIVES = ("cmm: gives less than nothing", "cmm_dom0.c", "dom0_ask_donor")
FAULTS = [*BALLOON, *CMM, *HYPERALLOC, *UNLOCKED]
FAULTS.append(Fault(*GIVES, donor_gives_less_than_nothing, prepare=load))


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_the_check_fires(case: Fault) -> None:
    assert_seen(case, outcome_of(case))
