"""The process that starts the programs of ``memcoord bench programs``, on either side.

Owns: one run of a program: by itself, in a domain, or in a control group of the kernel; what it
took, and how it ended. All sides have the same parent, CPUs, environment and standard files.
Rules: one program at a time. CPU time is that of the program and of its pager, which is a thread of
the program, and of what they started; not that of this process, which serves the domain meanwhile,
nor of the hypervisor.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from typing import Any, NamedTuple

from frontend.pager.program import environment, in_domain, run
from hypervisor.public.errors import AttachRefused
from memcoord.benchmarks import measured
from memcoord.benchmarks.measured import Measured
from memcoord.benchmarks.programs.need import Watch, need_bytes
from memcoord.testbed.runs.remote import operation

MODULE = "memcoord.benchmarks.programs.guest"
MECHANISM = "balloon"
#: A program that takes longer is ended; the process of the bench waits a little longer than that.
RUN_S = 100.0
#: How long a domain waits for the memory of the one before, and what it is refused with until then.
JOIN_S, JOIN_POLL_S = 5.0, 0.01
NO_MEMORY = "no-memory"


class Ran(NamedTuple):
    """How a program ran: as it goes over the line."""

    wall_ns: int
    cpu_ns: int
    exit_code: int
    figures: dict[str, int]  # of the domain; empty outside of one
    wait_p50_ns: int
    start_ns: int  # of the domain, until the program could be started
    outside_bytes: int  # held at most, as seen from outside; 0 where nobody looked


class ProgramsGuest(Measured):
    """The operations."""

    @operation
    def place_all(self, cpus: list[int]) -> None:
        """Run this process, and the programs it starts, on these CPUs from now on."""
        os.sched_setaffinity(0, cpus)

    @operation
    def need(self, argv: list[str], env: dict[str, str]) -> int:
        """Bytes of private memory that a program has at most; RuntimeError when it fails."""
        child = subprocess.Popen(argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
        found = need_bytes(child)
        if child.returncode:
            raise RuntimeError(f"{argv[0]} ended with {child.returncode}")
        return found

    @operation
    def alone(self, argv: list[str], env: dict[str, str], group: str = "") -> Ran:
        """Run a program by itself, in the control group ``group`` if one is given."""

        def enter() -> None:
            with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")

        cpu_ns, begin_ns = _children_ns(), time.perf_counter_ns()
        child = subprocess.Popen(
            argv,
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            preexec_fn=enter if group else None,
        )
        code = child.wait()
        wall_ns = time.perf_counter_ns() - begin_ns
        return Ran(wall_ns, _children_ns() - cpu_ns, code, {}, 0, 0, 0)

    @operation
    def in_domain(
        self, argv: list[str], env: dict[str, str], run_dir: str, name: str, max_frames: int,
        swap_dir: str, watched: bool = False,
    ) -> Ran:  # fmt: skip
        """Attach a domain, run a program in it, detach. ``watched``: look at it from outside."""
        begin_ns = time.perf_counter_ns()
        with contextlib.ExitStack() as stack:
            domain, family = _joined(stack, run_dir, name, max_frames, MECHANISM, swap_dir)
            watch = stack.enter_context(Watch()) if watched else None
            preloaded = environment({**os.environ, **env}, family)
            cpu_ns, start_ns = _children_ns(), time.perf_counter_ns() - begin_ns
            outcome = run(
                lambda: subprocess.Popen(argv, env=preloaded, stdout=subprocess.DEVNULL),
                domain, family, limit_s=RUN_S,
            )  # fmt: skip
            cpu_ns = _children_ns() - cpu_ns
        wall_ns = round(outcome.wall_s * 1e9)
        return Ran(
            wall_ns, cpu_ns, outcome.exit_code, outcome.figures, outcome.wait_p50_ns, start_ns,
            watch.most_bytes if watch else 0,
        )  # fmt: skip

    @operation
    def by_command(self, argv: list[str], run_dir: str, name: str, size: str) -> int:
        """Nanoseconds of a whole ``memcoord exec`` in a hypervisor that runs; RuntimeError."""
        words = [sys.executable, "-P", "-m", "memcoord", "exec", "--run-dir", run_dir]
        words += ["--ram", size, "--name", name]
        begin_ns = time.perf_counter_ns()
        done = subprocess.run([*words, "--", *argv], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return time.perf_counter_ns() - begin_ns


def _joined(stack: contextlib.ExitStack, *where: Any) -> tuple[Any, Any]:
    """``in_domain``, until the memory of the domain before is back; AttachRefused after JOIN_S."""
    deadline_s = time.monotonic() + JOIN_S
    while True:
        try:
            return stack.enter_context(in_domain(*where))
        except AttachRefused as refused:
            if refused.code != NO_MEMORY or time.monotonic() > deadline_s:
                raise
            time.sleep(JOIN_POLL_S)


def _children_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)


if __name__ == "__main__":
    measured.run(ProgramsGuest)
