"""The kernel alone: giving pages, taking them back, and zeroing beside a bystander.

Owns: the rows named ``kernel``. No mechanism can be quicker than its part of them, and a bystander
suffers from zeroing whoever asks for it. Used by: ``memcoord.benchmarks.mechanisms.bench``.
"""

from __future__ import annotations

from array import array

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks._loops import ffi, lib
from memcoord.benchmarks.measured import ok
from memcoord.benchmarks.mechanisms import rows

KERNEL = "kernel"


def measure(scene: rows.Scene, pages: rows.Pages) -> None:
    """As much memory as a mechanism moves, touched and punched: a row each, per 2 MiB."""
    kind = lib.MC_BACKING_2M if pages.backing == "2m" else lib.MC_BACKING_4K
    size = rows.SIZE_AREAS * AREA_BYTES
    touch_ns, punch_ns = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    rows.warm_up()
    status = lib.mcb_kernel_pages(pages.directory.encode(), kind, size, touch_ns, punch_ns)
    ok(status, "the kernel's pages")
    for what, took in (("grow and touch", touch_ns[0]), ("shrink touched", punch_ns[0])):
        samples = array("Q", [took]).tobytes()
        scene.sheet.add(f"{KERNEL} {what} {pages.backing}", samples, rows.SIZE_AREAS)


def zeroes(pages: rows.Pages, run_s: float) -> None:
    """Take, zero and give back private memory on this thread's CPU, for ``run_s``."""
    kind = lib.MC_BACKING_2M if pages.backing == "2m" else lib.MC_BACKING_4K
    ok(lib.mcb_kernel_zeroes(kind, int(run_s * 1e9)), "zeroing")
