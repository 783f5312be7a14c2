"""The claims of HyperAlloc.

Owns: these claims and what their figures must be. Read by ``catalogue``.
"""

from __future__ import annotations

import math

from memcoord.benchmarks.claims.claim import Claim, Figure, Read, entry, of_rows, ratio

ANY = math.inf
WHOSE = "Wrenger et al., HyperAlloc, EuroSys 2025"


def _below(key: str) -> Read:
    """By how many percent the build with automatic reclaim is below another one."""
    return entry("below_percent", "hyperalloc", key)


CLAIMS = (
    Claim(
        "H1", WHOSE, "Touched memory is reclaimed 362 times faster than by virtio-balloon.",
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
        "H2", WHOSE, "Touched memory is reclaimed 10 times faster than by virtio-mem.",
        (
            Figure("virtio-mem over hyperalloc, shrink touched, 2 MiB pages", "mechanisms",
                   of_rows("virtio-mem shrink touched 2m", "hyperalloc shrink touched 2m"),
                   "10, less 25 %", (7.5, ANY), (1.5, 7.5)),
        ),
        "memcoord bench mechanisms", "there is no exit of a VM, no EPT and no guest kernel here",
    ),
    Claim(
        "H3", WHOSE, "Automatic reclaim lowers the footprint of a build by 17 %.",
        (
            Figure("below reporting of free pages, GiB x min of the build", "build",
                   _below("build_gib_min below reporting"), "17 %, at least 12.5 %", (12.5, ANY),
                   (3, 12.5), "%"),
            Figure("the same, over what the build had itself", "build",
                   _below("over_use below reporting"), "17 %, at least 12.5 %", (12.5, ANY),
                   (3, 12.5), "%"),
            Figure("the first, with the delay after it and after clean", "build",
                   _below("total_gib_min below reporting"), "21 %, at least 15 %", (15, ANY),
                   (3, 15), "%"),
        ),
        "memcoord bench build",
        "reporting has our allocator here, which packs like LLFree; in the paper it has Linux's",
    ),
    Claim(
        "H4", WHOSE, "It is safe with devices that write to memory (DMA).",
        (
            Figure("the kit's check of pinned memory", "kit",
                   entry("passed", "hyperalloc", "pinned for DMA"), "passes (1)", (1, 1)),
        ),
        "memcoord claims H4", "a pin is a mark in the ledger: no device, no IOMMU, no VFIO",
    ),
    Claim(
        "H5", WHOSE, "Resizing has no measurable impact on the guest.",
        (
            Figure("throughput of the resized domain over undisturbed, 2 MiB pages", "mechanisms",
                   ratio("hyperalloc donor resizing/undisturbed 2m"), "at least 0.97", (0.97, ANY),
                   (0.9, 0.97)),
            Figure("throughput of a bystander, the same", "mechanisms",
                   ratio("hyperalloc bystander resizing/undisturbed 2m"), "at least 0.97",
                   (0.97, ANY), (0.9, 0.97)),
            Figure("CPU time of a build, less than with a fixed size", "build",
                   _below("cpu_s below fixed size"), "0 %, at least -3 %", (-3, ANY), (-10, -3),
                   "%"),
            Figure("a bystander's CPU time beside that build, the same", "build",
                   _below("bystander_cpu_us below fixed size"), "0 %, at least -3 %", (-3, ANY),
                   (-10, -3), "%"),
        ),
        "memcoord bench mechanisms; memcoord bench build",
        "the paper has 12 cores and more; two share all work here",
    ),
)  # fmt: skip
