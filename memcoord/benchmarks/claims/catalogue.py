"""Every claim of the five works this project builds on, as its authors state it, one by one.

Owns: the claims, the figures they are judged by, and the values that were expected before anything
was measured. None is left out because it fails. Of SmarTmem and of the dissertation only abstracts
were open to us; claims that are known from these alone say so. Key names are those of the benches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.claims.claim import (
    Claim,
    Figure,
    Read,
    Results,
    Value,
    entry,
    of_rows,
    ratio,
)

ANY = math.inf
MOHAPATRA = "Mohapatra, Coordinated Memory Management, 2015"
SMARTMEM = "Garrido, Nishtala, Carpenter, SmarTmem, IPDPSW 2019"
VIRTIO_MEM = "Hildenbrand, Schulz, virtio-mem, VEE 2021"
HYPERALLOC = "Wrenger et al., HyperAlloc, EuroSys 2025"
SECTIONS = "paravirtualised memory hotplug in sections (Bielski et al.)"
PART_OF_CLAIM = "bench interference, p99 with 4 neighbours"


def _gain(situation: str, what: str) -> Read:
    """The largest gain under smart-alloc there, of a ``domain`` or of the ``mean``, in percent."""

    def read(found: Mapping[str, Any]) -> Value:
        rows = [
            row
            for row in found["rows"].values()
            if row["policy"].startswith("smart-alloc") and situation in ("", row["situation"])
        ]
        figures = [
            figure
            for row in rows
            for figure in (row["domains"].values() if what == "domain" else [row["mean"]])
            if figure["value"] is not None
        ]
        best = max(figures, key=lambda figure: figure["value"])
        low, high = (math.nan if best[end] is None else best[end] for end in ("low", "high"))
        return float(best["value"]), float(low), float(high)

    return read


def _situation(number: str, name: str, what: str, *, theirs: bool = True) -> Claim:
    figures = (
        Figure(
            f"largest gain of a domain over greedy, {name}", "smartmem", _gain(name, "domain"),
            "at least 5 %", (5, ANY), (0.5, 5), "%",
        ),
        Figure(
            f"largest mean gain of all domains, {name}", "smartmem", _gain(name, "mean"),
            "not below 0", (0, ANY), None, "%",
        ),
    )  # fmt: skip
    but = "streams of references, not CloudSuite; sizes are this project's"
    return Claim(
        number, SMARTMEM, what, figures, f"memcoord bench smartmem --scenario {name}",
        but if theirs else "not one of the paper's situations",
    )  # fmt: skip


_MOHAPATRA = (
    Claim(
        "M1", MOHAPATRA,
        "Applications need memory in bursts, and existing mechanisms are too slow for them.",
        (
            Figure("balloon's p99 over that of direct, bursts of media", "bursts",
                   ratio("balloon/direct credit 1 media p99"), "at least 2", (2, ANY), (1.1, 2)),
            Figure("virtio-mem's p99 over that of direct, the same", "bursts",
                   ratio("virtio-mem/direct credit 1 media p99"), "at least 2", (2, ANY), (1.1, 2)),
        ),
        "memcoord bench bursts",
        "the bursts are drawn from laws and from one trace of demand; no application was analysed",
    ),
    Claim(
        "M2", MOHAPATRA, "Memory can be coordinated between VMs by split drivers (CMM).",
        (
            Figure("checks of the kit that cmm fails", "kit", entry("count", "cmm"), "0", (0, 0)),
        ),
        "memcoord claims M2", "made from the abstract; dom0 is a thread, and domains are processes",
    ),
    Claim(
        "M3", MOHAPATRA,
        "Compared with ballooning and transcendent memory, CMM moves memory faster.",
        (
            Figure("balloon's transfer over cmm's, 4 KiB pages", "mechanisms",
                   of_rows("balloon transfer 4k", "cmm hypervisor transfer 4k"),
                   "above 1.1", (1.1, ANY), (0.9, 1.1)),
            Figure("virtio-mem's transfer over cmm's, 4 KiB pages", "mechanisms",
                   of_rows("virtio-mem transfer 4k", "cmm hypervisor transfer 4k"),
                   "above 1.1", (1.1, ANY), (0.9, 1.1)),
        ),
        "memcoord bench mechanisms", "all mechanisms are of this project, in one address space",
    ),
    Claim(
        "M4", MOHAPATRA,
        "The scheduler interferes with coordination, and constructs can reduce that.",
        (
            Figure("cmm without over with all protections", "interference",
                   ratio("cmm hypervisor without/with together p99 4 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
            Figure("transfer without over with all protections", "interference",
                   ratio("transfer without/with together p99 4 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
        ),
        "memcoord bench interference",
        "Linux schedules processes here, no hypervisor schedules virtual CPUs",
    ),
    Claim(
        "M5", MOHAPATRA, "A revised design, in which the hypervisor does more, is faster.",
        (
            Figure(f"dom0's design over the revised one, {PART_OF_CLAIM}", "interference",
                   ratio("cmm dom0/cmm hypervisor transfer p99 4 neighbours"),
                   "at least 2", (2, ANY), (1.05, 2)),
            Figure("the same at the median, without neighbours", "mechanisms",
                   of_rows("cmm dom0 transfer 4k", "cmm hypervisor transfer 4k"),
                   "at least 2", (2, ANY), (1.05, 2)),
        ),
        "memcoord bench interference; memcoord bench mechanisms",
    ),
    Claim(
        "M6", MOHAPATRA, "Memory of another VM comes at a latency comparable to malloc in a VM.",
        (
            Figure("2 MiB of a donor back to back over fresh malloc, 4 KiB pages", "grant",
                   ratio("transfer_2m_back_to_back/malloc_fresh_2m 4k"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("the same on pages of 2 MiB, malloc with THP", "grant",
                   ratio("transfer_2m_back_to_back/malloc_fresh_2m 2m"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("4 KiB of credit over a pre-faulted malloc", "grant",
                   ratio("grant_credit_4k/malloc_prefaulted_4k"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("4 KiB held over the quickest allocator found", "grant",
                   ratio("grant_local_4k/malloc_best_4k"), "1, within 40 %", (0, 1.4), (1.4, 3)),
        ),
        "memcoord bench grant",
    ),
)  # fmt: skip

_SMARTMEM = (
    Claim(
        "T1", SMARTMEM,
        "A user-space policy sets targets now and then; the hypervisor enforces them at each put.",
        (
            Figure("domains whose puts were refused by their target", "refusals",
                   entry("domains_refused"), "all 3", (3, 3), (1, 2)),
        ),
        "memcoord claims T1",
    ),
    _situation("T2", "S1", "Three VMs of in-memory analytics run faster than with greedy tmem."),
    _situation("T3", "S2", "Graph analytics with a VM that comes late runs faster."),
    _situation("T4", "S3", "Graph analytics, with analytics that come late, run faster."),
    _situation("T5", "usemem", "Three VMs that allocate and sweep memory (usemem) run faster."),
    Claim(
        "T6", SMARTMEM, "The running time of an application improves by up to 35 %.",
        (
            Figure("largest gain of a domain in any situation", "smartmem", _gain("", "domain"),
                   "35 %, at least 28 %", (28, ANY), (3, 28), "%"),
        ),
        "memcoord bench smartmem",
        "for one domain, at the cost of others; an equal share (static-alloc) does as much",
    ),
)  # fmt: skip


def _one_node(results: Results) -> str:
    nodes = results.get("host", {}).get("nodes", 1)
    if nodes < 2:
        return "this machine has one NUMA node"
    return f"this machine has {nodes} NUMA nodes, and no bench of ours uses them yet"


_VIRTIO_MEM = (
    Claim(
        "V1", VIRTIO_MEM, "Memory can be resized in steps of 4 MiB, and finer.",
        (
            Figure("the default block", "kit", entry("granule_mib", "virtio-mem 4 MiB"),
                   "at most 4 MiB", (0, 4), None, "MiB"),
            Figure("the finest block", "kit", entry("granule_mib", "virtio-mem 2 MiB"),
                   "below 4 MiB", (0, 3.99), None, "MiB"),
        ),
        "memcoord claims V1",
    ),
    Claim(
        "V2", VIRTIO_MEM, "Resizing knows NUMA: each of two nodes of a VM is resized by itself.",
        (), "memcoord claims V2", "", _one_node, ("host",),
    ),
    Claim(
        "V3", VIRTIO_MEM, "A VM can be rebooted at any size, and has then what it should have.",
        (
            Figure("the kit's check of a reboot", "kit", entry("passed", "virtio-mem", "reboot"),
                   "passes (1)", (1, 1)),
        ),
        "memcoord claims V3", "a process that starts anew, not a guest kernel",
    ),
    Claim(
        "V4", VIRTIO_MEM,
        "Of a fragmented VM more memory can be unplugged than by hotplug of DIMMs.",
        (
            Figure("unplugged of what was asked back", "unplug",
                   entry("percent", "virtio-mem 4 MiB"), "at least 90 %", (90, ANY), (25, 90), "%"),
            Figure("more than by sections of 16 MiB", "unplug", entry("over hotplug"),
                   "at least 5 points", (5, ANY), (0.5, 5), "points"),
            Figure("more than by a balloon", "unplug", entry("over balloon"),
                   "not below -5 points", (-5, ANY), None, "points"),
        ),
        "memcoord claims V4", "our guest's allocator migrates pages for all of them alike",
    ),
    Claim(
        "V5", VIRTIO_MEM,
        "A VM that uses memory it was not given is detected reliably, within a bounded time.",
        (
            Figure("tries that were not noticed", "detection", entry("unnoticed"), "0", (0, 0)),
            Figure("the longest time until it was noticed", "detection", entry("longest_ms"),
                   "at most 100 ms, five ticks", (0, 100), (100, 1000), "ms"),
        ),
        "memcoord claims V5", "noticed, not prevented: what it writes until then is written",
    ),
)  # fmt: skip

_HYPERALLOC = (
    Claim(
        "H1", HYPERALLOC, "Touched memory is reclaimed 362 times faster than by virtio-balloon.",
        (
            Figure("balloon over hyperalloc, shrink touched, 2 MiB pages", "mechanisms",
                   of_rows("balloon shrink touched 2m", "hyperalloc shrink touched 2m"),
                   "362, less 25 %", (271, ANY), (5, 271)),
            Figure("balloon over direct, the same", "mechanisms",
                   of_rows("balloon shrink touched 2m", "direct shrink touched 2m"),
                   "362, less 25 %", (271, ANY), (5, 271)),
            Figure("a balloon of 2 MiB over hyperalloc, the same", "mechanisms",
                   of_rows("balloon 2 MiB shrink touched 2m", "hyperalloc shrink touched 2m"),
                   "2.5, less 25 %", (1.9, ANY), (1.05, 1.9)),
        ),
        "memcoord bench mechanisms",
        "2 MiB at once against 4 KiB, as in the paper; its balloon of 2 MiB is 2.5 times slower",
    ),
    Claim(
        "H2", HYPERALLOC, "Touched memory is reclaimed 10 times faster than by virtio-mem.",
        (
            Figure("virtio-mem over hyperalloc, shrink touched, 2 MiB pages", "mechanisms",
                   of_rows("virtio-mem shrink touched 2m", "hyperalloc shrink touched 2m"),
                   "10, less 25 %", (7.5, ANY), (1.5, 7.5)),
        ),
        "memcoord bench mechanisms", "there is no exit of a VM, no EPT and no guest kernel here",
    ),
    Claim(
        "H3", HYPERALLOC, "Automatic reclaim lowers the footprint of a build by 17 %.",
        (
            Figure("below the balloon's reporting of free pages, GiB x s", "footprint",
                   entry("percent_below_balloon"), "17 %, at least 12.5 %", (12.5, ANY),
                   (3, 12.5), "%"),
        ),
        "memcoord claims H3", "a job whose memory goes up and down, not a build of clang",
    ),
    Claim(
        "H4", HYPERALLOC, "It is safe with devices that write to memory (DMA).",
        (
            Figure("the kit's check of pinned memory", "kit",
                   entry("passed", "hyperalloc", "pinned for DMA"), "passes (1)", (1, 1)),
        ),
        "memcoord claims H4", "a pin is a mark in the ledger: no device, no IOMMU, no VFIO",
    ),
    Claim(
        "H5", HYPERALLOC, "Resizing has no measurable impact on the guest.",
        (
            Figure("throughput of the resized domain over undisturbed, 2 MiB pages", "mechanisms",
                   ratio("hyperalloc donor resizing/undisturbed 2m"), "at least 0.97", (0.97, ANY),
                   (0.9, 0.97)),
            Figure("throughput of a bystander, the same", "mechanisms",
                   ratio("hyperalloc bystander resizing/undisturbed 2m"), "at least 0.97",
                   (0.97, ANY), (0.9, 0.97)),
        ),
        "memcoord bench mechanisms", "the paper has 12 cores and more; two share all work here",
    ),
)  # fmt: skip


def _arm(results: Results) -> str:
    machine = results.get("host", {}).get("machine", "")
    return "" if machine == "aarch64" else f"this machine is {machine or 'of another kind'}"


_SECTIONS = (
    Claim(
        "B1", SECTIONS, "Memory is plugged in sections, out of independent banks.",
        (
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
            Figure("a section of 16 MiB", "kit",
                   entry("granule_mib", "hotplug in sections of 16 MiB"), "16 MiB", (16, 16), None,
                   "MiB"),
        ),
        "memcoord claims B1",
    ),
    Claim(
        "B2", SECTIONS, "A bank can be remote memory, of another machine.",
        (), "memcoord claims B2", "",
        lambda _results: "a remote bank is an account here; there is no second machine and no CXL",
    ),
    Claim(
        "B3", SECTIONS, "It needs no ACPI and no emulated hardware.",
        (
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
        ),
        "memcoord claims B3", "trivially: domains are processes, and have no firmware at all",
    ),
    Claim(
        "B4", SECTIONS, "It works on 64-bit ARM.",
        (
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
        ),
        "memcoord claims B4", "", _arm, ("host",),
    ),
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (*_MOHAPATRA, *_SMARTMEM, *_VIRTIO_MEM, *_HYPERALLOC, *_SECTIONS)
