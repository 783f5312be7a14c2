"""What a guest's paging costs on this machine, measured in a real domain: part of ``calibrate``.

Owns: what is measured, and the arithmetic that makes constants of ``memcoord.simulation.costs`` of
it. A domain goes round its pages, in slices of about a millisecond. The median of the slices
counts: what disturbs a machine all the time is a part of what it costs.

    hits      all pages are in RAM                        hit
    single    all are in tmem, one fault after another    hit + fault + call + get + put
    batched   the same with DEPTH faults under way        hit + fault + call / DEPTH + get + put
    crowded   single, on the processor of the hypervisor   the same + switch
    first     each page is touched once, in RAM it has    hit + fault + first touch

What get and put take of that is measured on the compiled pool, and given. A loop over a pool has
other pages in its caches than a service has: where both together would leave a guest less than
OWN_SHARE of what a fault takes without its message, they are made as much smaller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.lab import Host, Lab
from memcoord.benchmarks.runner import fresh_directory
from memcoord.testbed.guests.replaying import FAULTS_UNDER_WAY
from memcoord.testbed.runs.remote import Remote

PROBE = "memcoord.benchmarks.agreement.probe"
DOMAIN = "probe"
DEPTH = FAULTS_UNDER_WAY
#: Pages of the loops, and of those that a guest keeps in RAM: enough for DEPTH.
PAGES, RESIDENT, HIT_PAGES = 16_384, 64 * DEPTH, 400
#: References of a slice that hit, and of one that fault; slices.
HITS, FAULTS, SLICES = 40_000, 256, 400
FIRST_ATTEMPTS = 20
RAM_FRAMES, HOST_FRAMES = 72 * AREA_FRAMES, 128 * AREA_FRAMES
TYPICAL = 0.5
OWN_SHARE = 0.2
EXPECTED_S = 20.0
PROBES = 5


class Machine(Protocol):
    """A machine on which a domain goes round its pages."""

    def round_ns(self, pages: int, resident: int, depth: int, *, crowded: bool = False) -> float:
        """Nanoseconds of a reference that goes round ``pages``, those beyond RAM in tmem.

        ``crowded``: domain and hypervisor share one processor; else each has one.
        """

    def first_ns(self, pages: int) -> float:
        """Nanoseconds of a reference to a page never touched, in RAM the domain has."""


class GuestCosts(NamedTuple):
    """Nanoseconds, none below 0."""

    hit_ns: float
    fault_ns: float
    first_touch_ns: float
    call_ns: float
    switch_ns: float
    put_ns: float
    get_ns: float


def measure(
    machine: Machine, put_ns: float, get_ns: float, told: Callable[[int, int], None]
) -> GuestCosts:
    """The costs of a guest on ``machine``; ``told``: how many probes of how many are done."""
    hit_ns = machine.round_ns(HIT_PAGES, RESIDENT, 1)
    told(1, PROBES)
    single_ns = machine.round_ns(PAGES, RESIDENT, 1)
    told(2, PROBES)
    batched_ns = machine.round_ns(PAGES, RESIDENT, DEPTH)
    told(3, PROBES)
    crowded_ns = machine.round_ns(PAGES, RESIDENT, 1, crowded=True)
    told(4, PROBES)
    touched_ns = machine.first_ns(PAGES)
    told(5, PROBES)
    call_ns = max(single_ns - batched_ns, 0.0) * DEPTH / (DEPTH - 1)
    taken_ns = max(single_ns - hit_ns - call_ns, 0.0)
    part = min((1 - OWN_SHARE) * taken_ns / (put_ns + get_ns), 1.0)
    put_ns, get_ns = part * put_ns, part * get_ns
    fault_ns = taken_ns - put_ns - get_ns
    first_ns = max(touched_ns - hit_ns - fault_ns, 0.0)
    switch_ns = max(crowded_ns - single_ns, 0.0)
    return GuestCosts(hit_ns, fault_ns, first_ns, call_ns, switch_ns, put_ns, get_ns)


class RealMachine:
    """A hypervisor of its own, and one domain of it, in a process that is asked."""

    def __init__(self, probe: Remote, host: Host, scratch: str) -> None:
        self._probe, self._host, self._scratch = probe, host, scratch
        self._cpus = cpus.pair()

    def round_ns(self, pages: int, resident: int, depth: int, *, crowded: bool = False) -> float:
        """As ``Machine`` says."""
        per_slice = HITS if pages <= resident else FAULTS
        self._probe.ask("place", cpu=self._cpus.domain_cpu)
        cpus.place(self._host.pid, self._cpus.domain_cpu if crowded else self._cpus.serving_cpu)
        samples = self._probe.ask(
            "going_round", key=DOMAIN, scratch=self._scratch, pages=pages, resident=resident,
            depth=depth, per_slice=per_slice, slices=SLICES,
        )  # fmt: skip
        return _typical(samples) / per_slice

    def first_ns(self, pages: int) -> float:
        """As ``Machine`` says."""
        samples = b"".join(
            self._probe.ask(
                "first_touches", key=DOMAIN, scratch=self._scratch, pages=pages, per_slice=FAULTS
            )
            for _ in range(FIRST_ATTEMPTS)
        )
        return _typical(samples) / FAULTS


def _typical(samples: bytes) -> float:
    return float(np.quantile(np.frombuffer(samples, np.uint64), TYPICAL))


@contextlib.contextmanager
def real_machine() -> Iterator[RealMachine]:
    """This machine, within the block."""
    domain = DomainConfig(DOMAIN, RAM_FRAMES, RAM_FRAMES, RAM_FRAMES, credit_areas=0)
    config = HypervisorConfig(total_frames=HOST_FRAMES, domains=(domain,))
    with fresh_directory("calibrate", None) as run, Lab(run) as lab:
        host = lab.host("h0", config)
        probe = lab.remote("guest", PROBE)
        probe.ask("attach", run_dir=str(host.run_dir), name=DOMAIN)
        yield RealMachine(probe, host, str(lab.scratch("swap")))
