"""Every check of virtio-mem and sections fires when the fault it looks for is injected.

The domain has 8 areas. With virtio-mem they are one device of 4 blocks, the first block is plugged;
with sections they are 4 sections, the first section is online.
"""

from __future__ import annotations

from functools import partial

import pytest
from check_lab import AREA, Fault, assert_seen, outcome_of
from mechs_private import fault

HOST_DOMAIN = ("host", "domain")
REGION = "device.regions[0]"
NO_RECORD: dict[str, int] = {}
NO_BANK = NO_SECTION = 2**32 - 1

vmem = partial(fault, "virtio-mem")
VIRTIO_MEM = [
    vmem("no device", {"domain.device": None}, "vmem_of", "domain"),
    vmem("block beyond the last", {}, "mc_vmem_is_plugged", "device", 4),
    vmem("blocks of no areas", {"device.block_areas": 0}, "vmem_wanted_frames", "domain"),
    vmem("no device to share", {"device.region_count": 0}, "vmem_share_target", "device", 1),
    vmem("target beyond the devices", {}, "vmem_share_target", "device", 5),
    vmem("17 banks", {"host.bank_count": 17}, "vmem_divide_blocks", *HOST_DOMAIN, "device"),
    vmem("option of no areas", {"domain.options[0]": 0}, "vmem_open", *HOST_DOMAIN),
    vmem("boot block of no region", {}, "vmem_boot_block", *HOST_DOMAIN, REGION, 4),
    vmem(
        "boots with more than a region",
        {f"{REGION}.requested": 5},
        *("vmem_boot_region", *HOST_DOMAIN, REGION),
    ),
    vmem("boots with too much", {"domain.boot_areas": 9}, "vmem_boot", *HOST_DOMAIN),
    vmem("blocks beyond the last", {}, "vmem_areas_of", "domain", (3, 2)),
    vmem("usable beyond all", {f"{REGION}.usable": 5}, "vmem_check_region", REGION),
    vmem("requested beyond all", {f"{REGION}.requested": 5}, "vmem_check_region", REGION),
    vmem("plugged beyond usable", {f"{REGION}.plugged": 5}, "vmem_check_region", REGION),
    vmem("note of no region", {}, "mc_vmem_note_blocks", "domain", REGION, (3, 2)),
    vmem(
        "plugged below 0",
        {f"{REGION}.plugged": 0, "domain.states[0]": 0, "domain.states[1]": 0},
        *("mc_vmem_note_blocks", "domain", REGION, (0, 1)),
    ),
    vmem(
        "region beyond the blocks",
        {f"{REGION}.all.count": 5},
        *("mc_vmem_size_usable", "device", REGION, 0),
    ),
    vmem("17 devices", {"device.region_count": 17}, "vmem_region_of", "device", NO_RECORD),
    vmem("busy for nothing", {}, "vmem_answer_busy", "domain", NO_RECORD, 0),
    vmem("unknown bank", {f"{REGION}.bank": 9}, "vmem_may_charge", "host", REGION, (0, 1)),
    vmem("plug beyond maxmem", {}, "mc_vmem_plug_areas", *HOST_DOMAIN, REGION, (0, 9)),
    vmem(
        "plug beyond the request",
        {f"{REGION}.requested": 1},
        *("vmem_plug", *HOST_DOMAIN, {"arg": [2, 1]}, REGION),
    ),
    vmem(
        "65 deferred",
        {"device.deferred_end": 65},
        *("vmem_defer_plug", *HOST_DOMAIN, NO_RECORD),
        detaches=True,
    ),
    vmem(
        "deferred, but no plug",
        {"device.deferred_end": 1},
        *("mc_vmem_serve_deferred", *HOST_DOMAIN),
        detaches=True,
    ),
    vmem("look beyond maxmem", {"device.watch_area": 8}, "vmem_next_unplugged", "domain", "device"),
    vmem("nothing to clean", {}, "vmem_clean_areas", *HOST_DOMAIN, (3, 3)),
    vmem(
        "cleaned by two",
        {"device.cleaned.end": 1},
        *("vmem_clean_areas", *HOST_DOMAIN, (6, 7)),
        detaches=True,
    ),
    vmem("plugged areas cleaned", {}, "vmem_clean_areas", *HOST_DOMAIN, (0, 1), detaches=True),
    vmem("data beyond maxmem", {}, "vmem_still_unplugged", "domain", (3, 9), None),
    vmem("look at too much", {}, "vmem_look_at_run", *HOST_DOMAIN, (0, 9), 0),
    vmem("no areas", {}, "mc_area_run_of", "domain", 8, 1),
    vmem("ends before it begins", {}, "mc_area_run_frames", (2, 1)),
]

sections = partial(fault, "sections", options={0: 2})
SECTIONS = [
    sections("no device", {"domain.device": None}, "sections_of", "domain"),
    sections("section beyond the last", {}, "mc_section_areas", "domain", 4),
    sections("too large a domain", {"domain.areas": 1 << 16}, "sections_open", *HOST_DOMAIN),
    sections("no sections", {"device.count": 0}, "sections_forget_answers", "device"),
    sections("sections of no areas", {"device.areas": 0}, "sections_boot", *HOST_DOMAIN),
    sections("boots with too much", {"domain.boot_areas": 10}, "sections_boot", *HOST_DOMAIN),
    sections("stays unasked", {}, "sections_note_stays", *HOST_DOMAIN, 1, 1),
    sections(
        "stays already",
        {"device.asked": 0, "device.stays[0]": 2},
        *("sections_note_stays", *HOST_DOMAIN, 0, 1),
        detaches=True,
    ),
    sections(
        "unknown request waits",
        {"device.next_waits": 1},
        *("sections_serve_waiting", *HOST_DOMAIN),
        detaches=True,
    ),
    sections(
        "starved of more than a section",
        {"device.starved_frames": 3 * AREA},
        *("sections_offer_chunk", *HOST_DOMAIN),
        detaches=True,
    ),
    sections("unknown reason", {"device.why": 7}, "sections_reach", *HOST_DOMAIN, 0),
    sections("one section, two banks", {"domain.banks[1]": 1}, "mc_section_look", "domain", 0),
    sections("unknown bank", {}, "sections_is_withdrawn", "host", {"installed": 1, "bank": 9}),
    sections("chunk of no bank", {}, "mc_section_has_chunk", *HOST_DOMAIN, AREA, 9, 0),
    sections("large chunk", {}, "sections_find_chunk", *HOST_DOMAIN, 3 * AREA, NO_BANK, 0),
    sections("soft area", {"domain.states[2]": 1}, "mc_section_plug", *HOST_DOMAIN, 1),
    sections(
        "chunk that is none",
        {"host.slack_frames": 2**64 - 2 * AREA},
        "mc_section_plug",
        *HOST_DOMAIN,
        1,
    ),
    sections("unknown answer", {}, "sections_answer", NO_RECORD, 4),
    sections("todo for no section", {}, "sections_answer_todo", "domain", NO_RECORD, 2, 3),
    sections("no failure", {}, "sections_answer_failure", NO_RECORD, 0),
    sections("nothing plugged", {}, "sections_plug_and_answer", *HOST_DOMAIN, 0, NO_RECORD),
    sections(
        "at its target", {"domain.target_frames": 0}, "sections_grow", *HOST_DOMAIN, NO_RECORD
    ),
    sections("empty section ranked", {}, "sections_rank", *HOST_DOMAIN, {"installed": 0}),
    sections(
        "stays for no reason",
        {"device.stays[0]": 3},
        *("sections_may_go", *HOST_DOMAIN, 0, 0, NO_RECORD),
    ),
    sections("asked twice", {"device.asked": 1}, "sections_ask_to_go", "domain", 0, NO_RECORD),
    sections("bank not withdrawn", {}, "sections_move", *HOST_DOMAIN, 0, NO_RECORD),
    sections("below its target", {}, "sections_conclude", *HOST_DOMAIN, NO_RECORD),
]

UNLOCKED = [
    vmem("lock", {}, "mc_vmem_request", *HOST_DOMAIN, NO_RECORD, locked=False),
    vmem("lock", {}, "mc_vmem_serve_deferred", *HOST_DOMAIN, locked=False),
    vmem("lock", {}, "mc_vmem_plug_areas", *HOST_DOMAIN, REGION, (2, 3), locked=False),
    vmem("lock", {}, "mc_vmem_watch", *HOST_DOMAIN, locked=False),
    sections("lock", {}, "sections_ring_target", *HOST_DOMAIN, locked=False),
    sections("lock", {}, "mc_sections_serve_next", *HOST_DOMAIN, NO_RECORD, locked=False),
    sections("lock", {}, "mc_section_plug", *HOST_DOMAIN, 1, locked=False),
]

FAULTS = [*VIRTIO_MEM, *SECTIONS, *UNLOCKED]


@pytest.mark.parametrize("case", FAULTS, ids=str)
def test_the_check_fires(case: Fault) -> None:
    assert_seen(case, outcome_of(case))
