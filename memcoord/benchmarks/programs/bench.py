"""``memcoord bench programs``: unmodified programs in a domain beside the same outside.

Owns: the hypervisor, the process that starts the programs, and the order of the rows within a
round, which rotates, as do the sides of each row. What the rows are called and compared stands in
``programs.plan``; which programs there are, in ``programs.catalogue``; the kernel's side in
``programs.kernel``. What a program needs is measured first, once, with nothing timed.
A program and its pager have one CPU, the hypervisor the other; rows of several threads have both.
"""

from __future__ import annotations

import contextlib
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, FRAME_BYTES
from memcoord.benchmarks import cpus
from memcoord.benchmarks.harness import Row, rotated
from memcoord.benchmarks.lab import BenchError
from memcoord.benchmarks.programs import catalogue, kernel, plan, touch
from memcoord.benchmarks.programs.catalogue import ENVIRONMENT, FULL, Sizes
from memcoord.benchmarks.programs.guest import MODULE, Ran
from memcoord.benchmarks.programs.plan import FILE, MIB, OURS, OURS_ON_FILE, PLAN, ZRAM
from memcoord.benchmarks.runner import Rounds, Setting
from memcoord.testbed.runs import userfaults
from memcoord.testbed.runs.control_client import call

__all__ = ["PLAN", "ProgramsBench"]

#: Of a domain with ample memory, beside twice what its program needs.
AMPLE_BYTES = 64 * MIB
TMEM_BYTES = 512 * MIB
RUN_S = 110.0
POLL_S = 0.002
#: A touch that took longer had to wait for its page.
FAULT_NS = 2000
#: Between the moment a program uses its memory and the order that takes it back.
SETTLE_S = 0.05
#: Touches in a sample.
OPS = 1000

Step = Callable[[], None]


def _areas(size_bytes: float) -> int:
    """Frames of whole areas that hold so many bytes."""
    return -(-round(size_bytes) // AREA_BYTES) * AREA_FRAMES


class ProgramsBench(Rounds):
    """One run of the bench; ``round`` measures every row once more."""

    def __init__(self, setting: Setting, sizes: Sizes = FULL) -> None:
        obstacle = userfaults.probe().obstacle()
        if obstacle:
            raise BenchError(f"programs cannot be paged here: {obstacle}")
        lab, self._sheet, self._sizes = setting.lab, setting.sheet, sizes
        self._placement = setting.placement
        self._files = lab.scratch("files")
        self._guest = lab.remote("guest", MODULE)
        self._domains: dict[str, DomainConfig] = {}
        self._argv = self._programs()
        self._needs = {
            name: int(self._ask("need", argv=argv, env=ENVIRONMENT))
            for name, argv in self._argv.items()
        }
        self._add_domains()
        self._host = lab.host("host", self._config())
        cpus.place(self._host.pid, setting.placement.serving_cpu)
        self._rivals = {ZRAM: self._with_zram, FILE: self._with_file}
        self._find_rivals()

    def _ask(self, op: str, **args: Any) -> Any:
        self._guest.tell(op, **args)
        return self._guest.answer(RUN_S)

    def _programs(self) -> dict[str, list[str]]:
        found = {}
        for program in catalogue.PROGRAMS:
            size = self._sizes.programs.get(program.name)
            if size is None:
                continue
            argv = program.ready(self._files, size)
            if argv is None:
                why = OSError(f"needs {' and '.join(program.tools)}")
                self._sheet.skip(program.name, why)
                continue
            found[program.name] = argv
        return found

    # The domains: one for each program and size, attached anew for each run

    def _squeezed(self) -> list[tuple[str, int]]:
        names = [name for name in plan.SQUEEZED if name in self._argv]
        return [(name, percent) for name in names for percent in self._sizes.shares]

    def _add_domains(self) -> None:
        sizes = self._sizes
        for name, need in self._needs.items():
            self._add(f"{name}_ample", 2 * need + AMPLE_BYTES)
        for name, percent in self._squeezed():
            self._add(f"{name}_{percent}", self._needs[name] * percent / 100)
        for name in sizes.on_file:
            if name in self._needs:
                self._add(f"{name}_file", self._needs[name] * sizes.shares[0] / 100, tmem=0)
        self._add("touch", sizes.touch_ram_mib * MIB)
        self._add("fall", 2 * sizes.fall_mib * MIB)
        self._add("start", AMPLE_BYTES)

    def _add(self, name: str, size_bytes: float, tmem: int = -1) -> None:
        frames = _areas(size_bytes)
        self._domains[name] = DomainConfig(
            name=name, maxmem_frames=frames, boot_frames=frames, target_frames=frames,
            ram_min_frames=AREA_FRAMES, tmem_max_pages=tmem, mechanism="balloon",
        )  # fmt: skip

    def _config(self) -> HypervisorConfig:
        boot = sum(domain.boot_frames for domain in self._domains.values())
        total = boot + _areas(TMEM_BYTES) + 2 * AREA_FRAMES
        return HypervisorConfig(total_frames=total, domains=tuple(self._domains.values()))

    def _limit_bytes(self, name: str) -> int:
        return self._domains[name].maxmem_frames * FRAME_BYTES

    # The kernel's side

    def _find_rivals(self) -> None:
        """Leave out, by name, what this machine does not let us have."""
        why = kernel.why_no_group()
        for name, swap in list(self._rivals.items()):
            try:
                if why:
                    raise OSError(why)
                with kernel.group(MIB * 64), swap():
                    pass
            except OSError as error:
                self._sheet.skip(name, error)
                del self._rivals[name]

    @contextlib.contextmanager
    def _with_zram(self) -> Iterator[None]:
        with kernel.swap_on_zram():
            yield

    @contextlib.contextmanager
    def _with_file(self) -> Iterator[None]:
        path = self._files / "swap"
        if not path.exists():
            kernel.make_file(path)
        with kernel.swap_on_file(path):
            yield

    # Runs

    def _in_domain(self, name: str, argv: list[str], watched: bool = False) -> Ran:
        domain = self._domains[name]
        found = Ran(*self._ask(
            "in_domain", argv=argv, env=ENVIRONMENT, run_dir=str(self._host.run_dir), name=name,
            max_frames=domain.maxmem_frames, swap_dir=str(self._files), watched=watched,
        ))  # fmt: skip
        if found.exit_code:
            raise BenchError(f"{argv[0]} in the domain {name} ended with {found.exit_code}")
        return found

    def _beside(self, rival: str, limit_bytes: int, argv: list[str]) -> Ran | None:
        """A run on the kernel's side; None when the kernel has killed it."""
        with self._rivals[rival](), kernel.group(limit_bytes) as path:
            found = Ran(*self._ask("alone", argv=argv, env=ENVIRONMENT, group=str(path)))
        if found.exit_code == -signal.SIGKILL:
            return None
        if found.exit_code:
            raise BenchError(f"{argv[0]} with {rival} ended with {found.exit_code}")
        return found

    def _add_row(self, name: str, value_ns: int, ops: int = 1) -> Row:
        return self._sheet.add(name, array("Q", [value_ns]).tobytes(), ops)

    # Steps of a round

    def round(self, index: int, done: Callable[[float], None]) -> None:
        """Measure every row once, beginning with another one than last time."""
        steps: list[Step] = [partial(self._ample, name, index) for name in self._argv]
        steps += [
            partial(self._tight, name, percent, index, (OURS, ZRAM), f"{name}_{percent}")
            for name, percent in self._squeezed()
        ]
        steps += [
            partial(self._tight, name, self._sizes.shares[0], index, (OURS_ON_FILE, FILE),
                    f"{name}_file")
            for name in self._sizes.on_file if name in self._argv
        ]  # fmt: skip
        steps += [partial(self._touch, order, index) for order in plan.ORDERS]
        steps += [partial(self._start, index), partial(self._threads, index), self._fall]
        steps += [partial(self._watch, name) for name in self._argv if name in plan.SQUEEZED]
        for at, step in enumerate(rotated(steps, index), start=1):
            self._ask("place_all", cpus=[self._placement.domain_cpu])
            step()
            done(at / len(steps))

    def finish(self) -> None:
        """Nothing is left to do."""

    def _ample(self, name: str, index: int) -> None:
        for side in rotated(["native", OURS], index):
            if side == OURS:
                found = self._in_domain(f"{name}_ample", self._argv[name])
            else:
                found = Ran(*self._ask("alone", argv=self._argv[name], env=ENVIRONMENT))
                if found.exit_code:
                    raise BenchError(f"{name} ended with {found.exit_code}")
            self._add_row(plan.cpu(name, side), found.cpu_ns)

    def _tight(
        self, name: str, percent: int, index: int, sides: tuple[str, str], domain: str
    ) -> None:
        ours, rival = sides
        for side in rotated(sides, index):
            row = plan.wall(name, percent, side)
            if side == ours:
                found = self._in_domain(domain, self._argv[name])
                _above(self._add_row(row, found.wall_ns), found)
            elif rival in self._rivals:
                limit_bytes = self._limit_bytes(domain)
                beside = self._beside(rival, limit_bytes, self._argv[name])
                if beside is not None:
                    self._add_row(row, beside.wall_ns)
                else:
                    key = f"{name} {percent}% {rival}"
                    self._sheet.facts.setdefault("killed_by_the_kernel", {}).setdefault(key, 0)
                    self._sheet.facts["killed_by_the_kernel"][key] += 1

    def _touching(self, order: str, **how: Any) -> tuple[Path, list[str]]:
        out = self._files / "touched"
        pages = self._sizes.touch_mib * MIB // FRAME_BYTES
        return out, touch.argv(out, pages, self._sizes.touches, order, **how)

    def _touch(self, order: str, index: int) -> None:
        out, argv = self._touching(order)
        for side in rotated([OURS, ZRAM], index):
            if side == OURS:
                self._in_domain("touch", argv)
            elif ZRAM not in self._rivals or not self._beside(
                ZRAM, self._limit_bytes("touch"), argv
            ):
                continue
            found = touch.read(out)
            self._add_touches(plan.touch(order, side), found)
            if order == "uniform":
                waited = array("Q", (ns for ns in array("Q", found.samples) if ns > FAULT_NS))
                if waited:
                    self._sheet.add(plan.fault(side), waited.tobytes(), 1)

    def _add_touches(self, name: str, found: touch.Touched) -> None:
        """The time of a thousand touches, whatever their number was."""
        self._add_row(name, found.elapsed_ns * OPS // found.touches, OPS)

    def _threads(self, index: int) -> None:
        """Threads that fault at once, on two CPUs."""
        if self._placement.one_cpu:
            return
        both = [self._placement.domain_cpu, self._placement.serving_cpu]
        self._ask("place_all", cpus=both)
        for threads in rotated([1, 2], index):
            out, argv = self._touching("uniform", threads=threads)
            self._in_domain("touch", argv)
            self._add_touches(plan.touching(threads), touch.read(out))

    def _start(self, index: int) -> None:
        where = str(self._host.run_dir)
        for side in rotated([plan.START_PLAIN, plan.START_DOMAIN, plan.START_COMMAND], index):
            for _ in range(self._sizes.starts):
                if side == plan.START_COMMAND:
                    size = f"{AMPLE_BYTES // MIB}MiB"
                    took_ns = int(self._ask("by_command", argv=["true"], run_dir=where,
                                            name="start", size=size))  # fmt: skip
                elif side == plan.START_DOMAIN:
                    found = self._in_domain("start", ["true"])
                    took_ns = found.start_ns + found.wall_ns
                else:
                    took_ns = Ran(*self._ask("alone", argv=["true"], env=ENVIRONMENT)).wall_ns
                self._add_row(side, took_ns)

    def _fall(self) -> None:
        """Half of its memory is ordered back from a program that uses all of it."""
        sizes, out = self._sizes, self._files / "touched"
        pages = 2 * sizes.fall_mib * MIB * 3 // 4 // FRAME_BYTES
        argv = touch.argv(out, pages, 1 << 26, "skewed", limit_s=sizes.fall_s)
        domain, where = self._domains["fall"], str(self._host.run_dir)
        self._guest.tell(
            "in_domain", argv=argv, env=ENVIRONMENT, run_dir=where, name="fall",
            max_frames=domain.maxmem_frames, swap_dir=str(self._files),
        )  # fmt: skip
        deadline_s = time.monotonic() + RUN_S
        full = domain.maxmem_frames * 7 // 10
        while self._reported("guest_used_frames") < full and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        time.sleep(SETTLE_S)
        target = domain.maxmem_frames // 2
        begin_ns = time.perf_counter_ns()
        call(self._host.run_dir, "mem-set", domain="fall", target_frames=target)
        while self._reported("current_frames") > target and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        took_ns = time.perf_counter_ns() - begin_ns
        self._guest.answer(RUN_S)
        self._add_row(plan.FALL, took_ns, sizes.fall_mib)

    def _reported(self, key: str) -> int:
        """A figure of the domain whose target falls; 0 while it is not attached."""
        with contextlib.suppress(BenchError):
            return int(self._host.domain("fall")[key])
        return 0

    def _watch(self, name: str) -> None:
        """A run that is looked at from outside; its time is no row."""
        domain = f"{name}_{self._sizes.shares[0]}"
        found = self._in_domain(domain, self._argv[name], watched=True)
        row = self._sheet.rows.get(plan.wall(name, self._sizes.shares[0], OURS))
        if row is not None:
            held = plan.above(found.figures["limit_pages"] * FRAME_BYTES, found.outside_bytes)
            _keep_most(row, plan.KEY_OUTSIDE, held)


def _above(row: Row, found: Ran) -> None:
    now = {key: found.figures[key] * FRAME_BYTES for key in ("limit_pages", "peak_pages")}
    _keep_most(row, plan.KEY_ABOVE, plan.above(now["limit_pages"], now["peak_pages"]))


def _keep_most(row: Row, key: str, value: float) -> None:
    row.extra[key] = round(max(value, row.extra.get(key, 0.0)), 3)
