"""``memcoord bench malloc``: unmodified allocators in a domain beside the same outside.

Owns: the two hypervisors, the runs of each trace with each allocator, and their order, in which the
situations rotate. What the rows are called and compared stands in ``malloc.plan``.
The roomy host gives memory at once; the full one must take it from a neighbour first, which has
used it and no longer needs it. A domain that grows has room for its program's start; its target is
raised when the trace is ready, and the first call is made as soon as that was said. The rival of
coordination is a control group of the size that such a domain has at first, with zram below it.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.harness import rotated
from memcoord.benchmarks.lab import BenchError, Host
from memcoord.benchmarks.malloc import guest, plan, replay, traces
from memcoord.benchmarks.malloc.plan import FROM_HOST, FROM_NEIGHBOUR, HAS, NATIVE, OWN_LIMIT, PLAN
from memcoord.benchmarks.programs import guest as programs_guest
from memcoord.benchmarks.programs import kernel
from memcoord.benchmarks.programs.guest import Ran
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs import userfaults
from memcoord.testbed.runs.control_client import call

__all__ = ["PLAN", "MallocBench"]

MIB_FRAMES = (1 << 20) // FRAME_BYTES
MIB = 1 << 20
RUN_S = 110.0
POLL_S = 0.001
#: What a program gets to load its trace, also one that is short of memory.
READY_S = 40.0
SETTLE_S = 5.0
SLACK_FRAMES = 2 * AREA_FRAMES
#: Of a full host: what nobody has, and tmem may use.
SPARE_MIB = 16


@dataclass(frozen=True)
class Sizes:
    """How much one run of the bench does."""

    kept_mib: int  # what a trace keeps, all its copies together
    small_mib: int  # of a domain that grows, at first
    most_mib: int
    samples: int  # calls of a run that are kept one by one
    traces: int  # how many of the shipped
    allocators: int


FULL = Sizes(kept_mib=64, small_mib=56, most_mib=160, samples=20_000, traces=9, allocators=9)
QUICK = Sizes(kept_mib=16, small_mib=48, most_mib=96, samples=2_000, traces=1, allocators=1)


class MallocBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting, sizes: Sizes = FULL) -> None:
        obstacle = userfaults.probe().obstacle()
        if obstacle:
            raise BenchError(f"programs cannot be paged here: {obstacle}")
        lab, self._sheet, self._sizes = setting.lab, setting.sheet, sizes
        self._files = lab.scratch("files")
        self._out, self._begun = self._files / "replayed", self._files / "begun"
        self._guest = lab.remote("guest", programs_guest.MODULE)
        self._neighbour = lab.remote("neighbour", guest.MODULE)
        small, most = sizes.small_mib, sizes.most_mib
        self._most_frames = most * MIB_FRAMES
        roomy = [_domain("has", most, most), _domain("host", small, most)]
        self._roomy = lab.host("roomy", _config(2 * most + SPARE_MIB, roomy))
        full = [_domain("taker", small, most), _domain("neighbour", most - small, most - small)]
        self._full = lab.host("full", _config(most + SPARE_MIB, full))
        where = str(self._full.run_dir)
        self._neighbour.ask("attach", run_dir=where, name="neighbour")
        for host in (self._roomy, self._full):
            cpus.place(host.pid, setting.placement.serving_cpu)
        self._ask("place_all", cpus=[setting.placement.domain_cpu])
        self._libraries = self._found()
        self._has_group = self._can_limit()

    def _ask(self, op: str, **args: Any) -> Any:
        self._guest.tell(op, **args)
        return self._guest.answer(RUN_S)

    def _found(self) -> dict[str, str]:
        """Allocators that are installed, with what is to be loaded before the program."""
        found = {}
        for allocator in plan.RIVALS[: self._sizes.allocators]:
            library = allocator.library()
            if library is None:
                self._sheet.skip(allocator.name, OSError("the library is not installed"))
            else:
                found[allocator.name] = library
        return found

    def _can_limit(self) -> bool:
        why = kernel.why_no_group()
        try:
            if why:
                raise OSError(why)
            with kernel.swap_on_zram():
                return True
        except OSError as error:
            self._sheet.skip(OWN_LIMIT, error)
            return False

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once, beginning with another one than last time."""
        names = traces.names()[: self._sizes.traces]
        runs: dict[str, Callable[[list[str], dict[str, str]], Any]] = {
            NATIVE: self._native,
            HAS: partial(self._in_domain, self._roomy, "has"),
            FROM_HOST: partial(self._growing, self._roomy, "host"),
            FROM_NEIGHBOUR: partial(self._growing, self._full, "taker"),
        }
        if self._has_group:
            runs[OWN_LIMIT] = self._limited
        cells = [(trace, name) for trace in names for name in self._libraries]
        for at, (trace, name) in enumerate(rotated(cells, index), start=1):
            for situation in rotated(list(runs), index + at):
                self._run(trace, name, situation, runs[situation])
            done(at / len(cells))

    def finish(self) -> None:
        """The quantiles of the figure."""
        for name, row in self._sheet.rows.items():
            if name.startswith("calls "):
                row.extra[plan.KEY_SHARES] = [row.quantile(share) for share in plan.SHARES]

    def _run(
        self, trace: str, name: str, situation: str,
        run: Callable[[list[str], dict[str, str]], Any],
    ) -> None:  # fmt: skip
        self._out.unlink(missing_ok=True)
        self._begun.unlink(missing_ok=True)
        kept_bytes = self._sizes.kept_mib * MIB
        argv = replay.argv(self._out, self._begun, trace, kept_bytes, self._sizes.samples)
        library = self._libraries[name]
        run(argv, {"LD_PRELOAD": library} if library else {})
        if not self._out.exists():
            if situation == OWN_LIMIT:  # the kernel has killed it
                killed = self._sheet.facts.setdefault("killed_by_the_kernel", {})
                killed[f"{trace} {name}"] = killed.get(f"{trace} {name}", 0) + 1
                return
            raise BenchError(f"{trace} with {name}, {situation}: the program failed")
        found = replay.read(self._out)
        self._sheet.add(plan.calls(trace, name, situation), found.samples, 1)
        per_call = array("Q", [found.sum_ns * OPS // found.calls]).tobytes()
        self._sheet.add(plan.total(trace, name, situation), per_call, OPS)

    # The situations

    def _native(self, argv: list[str], env: dict[str, str]) -> None:
        self._guest.tell("alone", argv=argv, env=env)
        self._let_go()

    def _limited(self, argv: list[str], env: dict[str, str]) -> None:
        with kernel.swap_on_zram(), kernel.group(self._sizes.small_mib * MIB) as path:
            self._guest.tell("alone", argv=argv, env=env, group=str(path))
            self._let_go()

    def _in_domain(
        self, host: Host, name: str, argv: list[str], env: dict[str, str],
        first: Callable[[], object] = lambda: None,
    ) -> Ran:  # fmt: skip
        self._guest.tell(
            "in_domain", argv=argv, env=env, run_dir=str(host.run_dir), name=name,
            max_frames=self._most_frames, swap_dir=str(self._files),
        )  # fmt: skip
        return self._let_go(first)

    def _let_go(self, first: Callable[[], object] = lambda: None) -> Ran:
        """Once the trace is ready: ``first``, then its first call; how the program ran."""
        deadline_s = time.monotonic() + READY_S
        while not self._begun.exists() and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        if self._begun.exists():  # else it has failed, or was killed: its answer says so
            first()
            self._begun.unlink()
        return Ran(*self._guest.answer(RUN_S))

    def _growing(self, host: Host, name: str, argv: list[str], env: dict[str, str]) -> None:
        """The target of the domain is raised when the trace is ready; a neighbour's falls first."""
        if host is self._full:
            self._refill()

        def grow() -> None:
            if host is self._full:
                call(host.run_dir, "mem-set", domain="neighbour", target_frames=AREA_FRAMES)
            call(host.run_dir, "mem-set", domain=name, target_frames=self._most_frames)

        found = self._in_domain(host, name, argv, env, grow)
        if found.figures["limit_pages"] < self._sizes.small_mib * MIB_FRAMES:
            raise BenchError(f"the domain {name} has not grown: {found.figures}")

    def _refill(self) -> None:
        """The neighbour has all its memory again, and has used it."""
        wanted = self._most_frames - self._sizes.small_mib * MIB_FRAMES
        call(self._full.run_dir, "mem-set", domain="neighbour", target_frames=wanted)
        deadline_s = time.monotonic() + SETTLE_S
        while self._full.domain("neighbour")["current_frames"] < wanted:
            if time.monotonic() > deadline_s:
                raise BenchError("the neighbour does not get its memory back")
            time.sleep(POLL_S)
        self._neighbour.ask("use_all", key="neighbour")


#: Calls in a sample of a row ``sum``.
OPS = 1000


def _domain(name: str, boot_mib: int, most_mib: int) -> DomainConfig:
    boot = boot_mib * MIB_FRAMES
    return DomainConfig(
        name=name, maxmem_frames=most_mib * MIB_FRAMES, boot_frames=boot, target_frames=boot,
        ram_min_frames=AREA_FRAMES, mechanism="balloon",
    )  # fmt: skip


def _config(total_mib: int, domains: list[DomainConfig]) -> HypervisorConfig:
    total = total_mib * MIB_FRAMES + SLACK_FRAMES
    return HypervisorConfig(total_frames=total, slack_frames=SLACK_FRAMES, domains=tuple(domains))
