"""``memcoord bench bank``: memory of a bank that another process serves, by class of access.

Owns: two hypervisors, one program that is a domain of both, and the rows. The second hypervisor is
the bank: a process of its own whose memory is one remote bank, spoken to by the same protocol, of
which the program gets sections and to which it gives them back. Rows CLASS WHERE +N us: a frame of
4 KiB is populated (its first touch), read, or written, with N microseconds added to each access of
the bank (``bench_bank.h``: by waiting, since no hardware here is far). *plug* and *give back* are
whole resizes per section of 2 MiB, asked for over the control plane, with nothing added. A row
FAR % far +N us is a program that refers to both: so much of its memory is the bank's, the part
referred to least; a sample is 64 references.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from hypervisor.config import BankConfig, DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES
from memcoord.benchmarks import cpus
from memcoord.benchmarks._loops import lib
from memcoord.benchmarks.harness import BenchPlan
from memcoord.benchmarks.lab import BenchError
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs.control_client import call

GUEST = "memcoord.benchmarks.bank.guest"
ROUNDS = 6
NEAR, BANK = "near", "bank"
AREAS, BOOT_AREAS, SPARE_AREAS = 32, 1, 4
ADDED_US = (0, 1, 5, 20)
FAR_PERCENT = (0, 25, 50, 75)
CLASSES = {"populate": "MCB_BANK_POPULATE", "read": "MCB_BANK_READ", "write": "MCB_BANK_WRITE"}
MIX_SAMPLES = 400
RESIZE_S, POLL_S = 20.0, 0.0002


def row_name(what: str, where: str, added_us: int) -> str:
    """As rows are called."""
    return f"{what} {where} +{added_us} us"


def _also() -> tuple[str, ...]:
    classes = [f"{row_name(one, BANK, 0)}/{row_name(one, NEAR, 0)}" for one in CLASSES]
    resizes = [f"{what} {BANK}/{what} {NEAR}" for what in ("plug", "give back")]
    none = row_name("0 %", "far", 0)
    mixes = [
        f"{row_name(f'{far} %', 'far', added)}/{none}"
        for far in FAR_PERCENT[1:]
        for added in ADDED_US
    ]
    return (*classes, *resizes, *mixes)


PLAN = BenchPlan("bank", also=_also(), rounds=ROUNDS, round_s=4.0)


class BankBench(Rounds):
    """One run; ``round`` measures every row once more."""

    def __init__(self, setting: Setting) -> None:
        lab, self._sheet = setting.lab, setting.sheet
        self._hosts = {name: lab.host(name, _config(name)) for name in (NEAR, BANK)}
        self._guest = lab.remote("vm1", GUEST)
        for name, host in self._hosts.items():
            self._guest.ask("attach", run_dir=str(host.run_dir), name=name)
            cpus.place(host.pid, setting.placement.serving_cpu)
        self._guest.ask("place", cpu=setting.placement.domain_cpu)

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Plug, populate, read, write, refer to both, give back; bank first in every other."""
        order = (NEAR, BANK) if index % 2 else (BANK, NEAR)
        for name in order:
            self._resize(name, AREAS, "plug")
            self._accesses(name)
        done(0.5)
        frames = min(self._guest.ask("take", key=name, most=1 << 30) for name in order)
        for far in FAR_PERCENT:
            for added in ADDED_US if far else ADDED_US[:1]:
                split = frames * far // 100
                samples = self._guest.ask(
                    "mix", near=frames - split, far=split, added_ns=1000 * added,
                    seed=index + 1, count=MIX_SAMPLES,
                )  # fmt: skip
                name = row_name(f"{far} %", "far", added)
                self._sheet.add(name, samples, int(lib.MCB_BANK_BATCH))
        for name in order:
            self._guest.ask("give", key=name)
            self._resize(name, BOOT_AREAS, "give back")
        done(1.0)

    def _accesses(self, name: str) -> None:
        """Every class: as many frames for each added latency."""
        added_us = ADDED_US if name == BANK else ADDED_US[:1]
        held = int(self._guest.ask("take", key=name, most=1 << 30))
        part = held // len(ADDED_US)
        for one, constant in CLASSES.items():
            for number, added in enumerate(added_us):
                samples = self._guest.ask(
                    "access", key=name, kind=getattr(lib, constant), first=number * part,
                    count=part, added_ns=1000 * added,
                )  # fmt: skip
                self._sheet.add(row_name(one, name, added), samples, 1)
            if one == "populate":  # all of it, before anything else is measured
                self._guest.ask(
                    "access", key=name, kind=getattr(lib, constant), first=0, count=held,
                    added_ns=0,
                )  # fmt: skip

    def _resize(self, name: str, areas: int, what: str) -> None:
        """Set the target and wait: nanoseconds per section that came or went."""
        host, frames = self._hosts[name], areas * AREA_FRAMES
        before = host.domain(name)["current_frames"] // AREA_FRAMES
        begin_ns = time.monotonic_ns()
        call(host.run_dir, "mem-set", domain=name, target_frames=frames)
        while host.domain(name)["current_frames"] != frames:
            if time.monotonic_ns() - begin_ns > RESIZE_S * 1e9:
                raise BenchError(f"{name}: {what} to {areas} areas is not reached")
            time.sleep(POLL_S)
        took_ns = time.monotonic_ns() - begin_ns
        moved = max(abs(areas - before), 1)
        self._sheet.add(f"{what} {name}", array("Q", [took_ns]).tobytes(), moved)


def _config(name: str) -> HypervisorConfig:
    total = (AREAS + SPARE_AREAS) * AREA_FRAMES
    sizes = (AREAS * AREA_FRAMES, BOOT_AREAS * AREA_FRAMES, BOOT_AREAS * AREA_FRAMES)
    options = {"section_areas": 1}
    domain = DomainConfig(name, *sizes, credit_areas=0, mechanism="sections", options=options)
    bank = BankConfig(total, remote=name == BANK)
    return HypervisorConfig(
        total_frames=total, slack_frames=0, tmem_max_pages=0, banks=(bank,), domains=(domain,)
    )
