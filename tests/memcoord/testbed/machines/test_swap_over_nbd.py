"""Goal: an unmodified Linux swaps to tmem, and notices neither a freeze nor a hypervisor's death.

Method: one real guest in QEMU, whose swap disk is a block device of this process's domain.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from booted_guest import BootedGuest

import memcoord
from frontend.blocks import BlockDevice
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.machines.image.build import Image
from memcoord.testbed.machines.spec import MachineSpec, SwapServer

pytestmark = [pytest.mark.qemu, pytest.mark.process, pytest.mark.timeout(300)]
MIB = 1 << 20
WAIT_S = 60.0


def test_a_guest_swaps_to_tmem_while_its_hypervisor_dies(
    guest_image: Image, short_path: Path
) -> None:
    """``usemem`` ends with an error at the first word that is not what it wrote."""
    sock = short_path / "swap.sock"
    with (
        memcoord.Hypervisor("256 MiB", run_dir=short_path / "run") as hypervisor,
        hypervisor.attach("vm1", maxmem="4 MiB") as domain,
        BlockDevice(domain, 256 * MIB, short_path / "file", connections=1) as device,
    ):
        device.serve(sock)
        spec = MachineSpec(
            kernel=guest_image.kernel,
            initrd=guest_image.initrd,
            memory_bytes=128 * MIB,
            swap=SwapServer(str(sock)),
        )
        with BootedGuest(spec) as guest:
            assert "/dev/vda" in guest.output("cat", "/proc/swaps")
            over = threading.Event()
            harm = threading.Thread(target=_harm, args=(hypervisor, device, over))
            harm.start()
            try:
                guest.output("usemem", "--step", "120", "--most", "120", "--sweeps", "2")
            finally:
                over.set()
                harm.join()
            counted = device.statistics()
            assert min(counted.puts, counted.tmem_reads, counted.refused, counted.file_reads) > 0
            assert (counted.errors, counted.lost, counted.late) == (0, 0, 0)
            wait_until(lambda: device.statistics().discards > 0)  # of a program that has ended
            wait_until(lambda: _pages_listed(hypervisor) == device.statistics().tmem_blocks)


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def _pages_listed(hypervisor: memcoord.Hypervisor) -> int:
    return int(hypervisor.control("tmem-list", domain="vm1")["pools"][0]["pages"])


def _harm(hypervisor: memcoord.Hypervisor, device: BlockDevice, over: threading.Event) -> None:
    """Kill, freeze and thaw, each after another 2000 blocks went somewhere."""
    for step in range(6):
        before = device.statistics()
        while not over.wait(0.02):
            now = device.statistics()
            if now.puts + now.refused > before.puts + before.refused + 2000:
                break
        with contextlib.suppress(MemcoordError):
            if step in (0, 3):
                os.kill(hypervisor.control("ping")["pid"], signal.SIGKILL)
            else:
                hypervisor.control(("tmem-freeze", "tmem-thaw")[step % 2], domain="vm1")
    with contextlib.suppress(MemcoordError):
        hypervisor.control("tmem-thaw", domain="vm1")
