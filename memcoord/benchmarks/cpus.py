"""The machine of a bench: its facts, and the CPUs the bench measures on.

Owns: the ``machine`` object of a bench's JSON, and the choice of the CPUs a bench measures on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memcoord.benchmarks._loops import lib
from memcoord.testbed.runs import facts

CORES_FOR_SPINNING = 4
WAKE_WARNING = (
    f"fewer than {CORES_FOR_SPINNING} cores: a spinning side can take the core that the other side "
    "or the hypervisor's worker needs; rows that spin vary more than on a larger machine"
)
VM_WARNING = (
    "a virtual machine: a page that its own host must find first costs several times as much, and "
    "waking an idle CPU is an exit to the host; tails show it, on both sides of a ratio"
)


@dataclass(frozen=True)
class Placement:
    """The CPUs of the two ends of a round trip: the domain's thread and the serving process."""

    domain_cpu: int
    serving_cpu: int

    @property
    def one_cpu(self) -> bool:
        """Whether there is no second CPU to use."""
        return self.domain_cpu == self.serving_cpu


@contextlib.contextmanager
def running_on(cpu: int) -> Iterator[None]:
    """Run this thread, and those it starts meanwhile, on one CPU within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pair() -> Placement:
    """Two CPUs this process may use, of different cores if there are such; else one twice."""
    allowed = sorted(os.sched_getaffinity(0))
    first = allowed[0]
    shared = _siblings(first)
    others = [cpu for cpu in allowed if cpu not in shared] or allowed[1:] or [first]
    return Placement(first, others[0])


def place(pid: int, *cpus: int) -> None:
    """Have every thread a process has now run on these CPUs; one that just ended is no error."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cpus)


def describe(placement: Placement) -> dict[str, Any]:
    """The facts a result depends on; the load is that before the bench."""
    found = facts.describe()
    found["load_before_1m"] = found.pop("load_1m")
    # The setting in sysfs promises nothing: this asks the kernel for a huge page and looks.
    found["shmem_2m_given"] = bool(lib.mc_shmem_thp() == 1)
    found["spin_calibrated_ns"] = int(lib.mc_spin_calibrate_ns())
    found["libc"] = " ".join(platform.libc_ver())
    found["versions"] = facts.versions()
    found["clock_resolution_ns"] = round(time.get_clock_info("monotonic").resolution * 1e9)
    found["domain_cpu"] = placement.domain_cpu
    found["serving_cpu"] = placement.serving_cpu
    found["same_core"] = placement.serving_cpu in _siblings(placement.domain_cpu)
    found["virtual_machine"] = " hypervisor" in facts.read_text("/proc/cpuinfo")
    few = facts.cores() < CORES_FOR_SPINNING
    found["warnings"] = [WAKE_WARNING] * few + [VM_WARNING] * found["virtual_machine"]
    return found


def finish(found: dict[str, Any]) -> dict[str, Any]:
    """The facts with the load after the bench."""
    return {**found, "load_after_1m": facts.load()}


def _siblings(cpu: int) -> set[int]:
    """CPUs that share the core of ``cpu``, itself included."""
    text = facts.read_text(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    found = {cpu}
    for part in text.split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            found.update(range(int(low), int(high if high.isdigit() else low) + 1))
    return found
