"""Which accelerator works on this machine: found by a boot with a deadline, never by a file.

Owns: the answer, and where it is kept. ``/dev/kvm`` may be there and be of no use: in a machine
that is itself a virtual one a guest can start under KVM and get nowhere. So a guest is booted under
KVM, and unless it is ready in PROBE_S, QEMU's own emulation (TCG) is taken. What a probe has found
holds until this machine boots anew, for the same kernel image. Called by ``memcoord vm probe`` and
by whoever makes a machine; whoever shows a figure says which accelerator it was measured with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from hypervisor.public.documents import UNREADABLE
from memcoord.testbed.machines.command_line import PROGRAM
from memcoord.testbed.machines.process import GuestFailed, Machine, version
from memcoord.testbed.machines.spec import Accelerator, MachineSpec
from tmem import compiled_cache

PROBE_S = 10.0
PROBE_BYTES = 256 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DEVICE = Path("/dev/kvm")


class Found(msgspec.Struct, frozen=True):
    """The accelerator to use, and why."""

    accelerator: Accelerator
    why: str


def known(kernel: str, initrd: str) -> Found | None:
    """What a probe of this boot of the machine has found; None when nobody has tried."""
    file = _file(kernel, initrd)
    try:
        return None if file is None else msgspec.json.decode(file.read_bytes(), type=Found)
    except (OSError, *UNREADABLE):  # nobody has tried, or the disk was full
        return None


async def probe(kernel: str, initrd: str, again: bool = False) -> Found:
    """Boot the image under KVM, unless it is known; never raises for what it finds."""
    found = None if again else known(kernel, initrd)
    if found is not None:
        return found
    if version() is None:  # it may be installed later: that is not kept
        return Found("tcg", f"{PROGRAM} is not there")
    found, file = await _try(kernel, initrd, PROBE_S), _file(kernel, initrd)
    if file is not None:
        with contextlib.suppress(OSError):  # it is probed again
            file.write_bytes(msgspec.json.encode(found))
    return found


async def _try(kernel: str, initrd: str, limit_s: float) -> Found:
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Found("tcg", f"{DEVICE} is not there, or not ours to use")
    spec = MachineSpec(
        kernel=kernel, initrd=initrd, memory_bytes=PROBE_BYTES, accelerator="kvm", balloon=None
    )
    with tempfile.TemporaryDirectory(prefix="mc-") as folder:
        try:
            async with Machine(spec, Path(folder), "probe") as machine:
                await machine.booted(limit_s)
        except GuestFailed as failed:
            return Found("tcg", f"under KVM a {failed}")
    return Found("kvm", f"a guest booted under it within {limit_s:.0f} s")


def _file(kernel: str, initrd: str) -> Path | None:
    """Where the answer for an image is kept; None where nothing can be."""
    try:
        seen = hashlib.sha256(BOOT_ID.read_bytes())
        for path in (kernel, initrd):
            status = os.stat(path)
            seen.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
        folder = compiled_cache.home()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder / f"accelerator-{seen.hexdigest()[:16]}"
