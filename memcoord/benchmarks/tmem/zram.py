"""A swap device on zram for the time of a bench: the kernel's own way with cold pages.

Owns: one zram device, made for the bench and removed after it, and the row measured on it.
Needs root and the zram module; ``why_missing`` tells. The device has the highest priority while it
lives, so that the pages of the bench go there. Other pages that the kernel puts there meanwhile
come back when the device is switched off.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import stat
import struct
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.runs.facts import read_text

CONTROL = Path("/sys/class/zram-control")
DEVICE_BYTES = 1 << 28
PAGE_BYTES = 4096
SWAP_PREFER, SWAP_PRIORITY_MAX = 0x8000, 32767
SIGNATURE, SIGNATURE_AT = b"SWAPSPACE2", PAGE_BYTES - 10
HEADER_AT = 1024  # version, last page, bad pages: three u32
MADV_PAGEOUT = 21
DEVICE_WAIT_S = 5.0
POLL_S = 0.01


def why_missing() -> str:
    """Why there can be no such device here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.access(CONTROL / "hot_add", os.R_OK):
        return "this kernel has no zram module loaded"
    return ""


@contextlib.contextmanager
def zram_swap(size_bytes: int = DEVICE_BYTES) -> Iterator[None]:
    """Within the block, pages that the kernel pages out go to a zram device of our own.

    OSError when the kernel refuses; nothing is left then.
    """
    with contextlib.ExitStack() as stack:
        number = int((CONTROL / "hot_add").read_text())
        stack.callback((CONTROL / "hot_remove").write_text, str(number))
        settings = Path(f"/sys/block/zram{number}")
        (settings / "comp_algorithm").write_text("lz4")
        (settings / "disksize").write_text(str(size_bytes))
        stack.callback((settings / "reset").write_text, "1")
        device = Path(f"/dev/zram{number}")
        _await_device(device)
        write_header(device, size_bytes)
        stack.enter_context(swapped_on(device))
        yield


@contextlib.contextmanager
def swapped_on(path: Path) -> Iterator[None]:
    """Within the block, a device or file with a header is swap, before all others; OSError."""
    _switch("swapon", path, SWAP_PREFER | SWAP_PRIORITY_MAX)
    try:
        yield
    finally:
        _switch("swapoff", path)


def _switch(call: str, device: Path, *flags: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), call)(bytes(device), *flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def page_out(content: bytes) -> bytes:
    """Have the kernel page out these pages; nanoseconds per 2 MiB, one sample each.

    OSError when the kernel left more than a tenth of them in memory.
    """
    samples = array("Q")
    with mmap.mmap(-1, len(content), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:] = content
        for start in range(0, len(content), AREA_BYTES):
            before = time.perf_counter_ns()
            memory.madvise(MADV_PAGEOUT, start, AREA_BYTES)
            samples.append(time.perf_counter_ns() - before)
        swapped = re.search(r"^VmSwap:\s+(\d+) kB$", read_text("/proc/self/status"), re.MULTILINE)
        if swapped is None or int(swapped[1]) * 1024 < len(content) * 9 // 10:
            raise OSError("the kernel did not page out nine tenths of the pages")
    return samples.tobytes()


def _await_device(device: Path) -> None:
    deadline = time.monotonic() + DEVICE_WAIT_S
    while not (device.exists() and stat.S_ISBLK(device.stat().st_mode)):
        if time.monotonic() > deadline:
            raise FileNotFoundError(str(device))
        time.sleep(POLL_S)


def write_header(path: Path, size_bytes: int) -> None:
    """Write the header that mkswap would write."""
    header = bytearray(PAGE_BYTES)
    struct.pack_into("<III", header, HEADER_AT, 1, size_bytes // PAGE_BYTES - 1, 0)
    header[SIGNATURE_AT:] = SIGNATURE
    with path.open("r+b", buffering=0) as file:
        file.write(header)
