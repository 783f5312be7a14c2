"""A program and its domain, from start to end: ``in_domain`` and ``run``.

Owns: the domain of a program, the signals passed on to its process, and what is said of it at the
end. Who calls ``run`` starts the process, with ``environment``; it has the rights that this gives
it, and nothing of the hypervisor's but its own domain's memory.
Rules: signals are handled in the main thread. ``run`` ends when the program does; what the program
has started and left behind ends then, because its memory does.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType

import msgspec

from frontend.domain import Domain
from frontend.handshake import join
from frontend.pager import library
from frontend.pager.family import Family, Helper, Lent
from hypervisor.public.errors import MemcoordError, PeerGone
from hypervisor.public.units import FRAME_BYTES

ATTACH_S = 30.0
#: Swap space and tmem together, in pages of the domain's largest size; at least SLOTS_LEAST.
SLOTS_PER_FRAME = 4
SLOTS_LEAST = 1 << 18
STEP_S = 0.02
#: The same while the domain is above its target: what programs give up is to be given on at once.
FALLING_STEP_S = 0.002
REPORT_S = 0.1
#: For what a program left behind to end, once told.
END_S = 2.0
EXIT_SIGNAL = 128
#: Sent on to the program. Those of the keyboard reach it by itself: it is in the same group.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


class Outcome(msgspec.Struct, frozen=True):
    """How a program ended, what memory it had, where its faults were served, what waiting cost.

    ``limited``: empty, or why the program had no limit; then no figure is known but the times.
    """

    exit_code: int
    wall_s: float
    limited: str
    left_behind: int
    figures: dict[str, int]
    wait_p50_ns: int
    wait_p99_ns: int

    def lines(self) -> list[str]:
        """For people."""
        if self.limited:
            return [f"ran {self.wall_s:.2f} s without a limit: {self.limited}"]
        now = self.figures
        mib = {key: now[key] * FRAME_BYTES / (1 << 20) for key in now if key.endswith("_pages")}
        ins = f"tmem {now['tmem_pages_in']}, swap file {now['disk_pages_in']}, "
        ins += f"fresh {now['zero_pages_in']}"
        found = [
            f"ran {self.wall_s:.2f} s; held at most {mib['peak_pages']:.1f} MiB "
            f"of {mib['limit_pages']:.1f}; {now['processes'] + now['forks']} processes",
            f"faults {now['faults']}; pages in: {ins}; out: tmem {now['tmem_pages_out']}, "
            f"swap file {now['disk_pages_out']}, zeroes {now['zero_pages_out']}",
            f"waited {now['wait_ns'] / 1e9:.2f} s for pages: p50 {self.wait_p50_ns / 1000:.1f} us, "
            f"p99 {self.wait_p99_ns / 1000:.1f} us",
        ]
        if now["forced_pages"]:
            found.append(f"{now['forced_pages']} pages were held above the limit for a time")
        if self.left_behind:
            found.append(f"{self.left_behind} processes that it left behind were ended")
        return found


@contextmanager
def in_domain(
    path: str,
    name: str,
    max_frames: int,
    mechanism: str,
    swap_dir: str,
    *,
    token: str = "",
    directory: str = "",
    helper: Helper | None = None,
    family_of: type[Family] = Family,
) -> Iterator[tuple[Domain, Family]]:
    """A domain that programs may run in, attached within ATTACH_S to the hypervisor at ``path``.

    Leaving it ends every program that still runs. ``frontend.attach`` says what is raised, and what
    ``max_frames`` and ``mechanism`` are for; ``Family``, what the others are.
    """
    lent: list[Lent] = []
    domain = join(
        path, name, max_frames,
        doorbell="futex", timeout_s=ATTACH_S, wait=True, token=token, mechanism=mechanism,
        lend=lambda handles: lent.append(Lent.of(handles)),
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(domain)
        for fd in lent[0]:
            stack.callback(os.close, fd)
        if family_of.needs_single_frames and domain.granule_frames != 1:
            raise MemcoordError(
                f"domain {name} is resized in steps of {domain.granule_frames} frames: "
                f'configure it with mechanism = "{mechanism}" to run programs in it'
            )
        slots = max(domain.maxmem_frames * SLOTS_PER_FRAME, SLOTS_LEAST)
        family = family_of(domain, lent[0], slots, swap_dir, directory=directory, helper=helper)
        yield domain, stack.enter_context(family)


def run(
    start: Callable[[], subprocess.Popen[bytes]],
    domain: Domain,
    family: Family,
    *,
    work: Callable[[], int | None] = lambda: None,
    limit_s: float = math.inf,
) -> Outcome:
    """Run the process that ``start`` makes to its end; MemcoordError after ``limit_s``.

    ``work``: its units of work so far, where they are known. What ``start`` raises is raised.
    """
    begin_s = time.monotonic()
    family.follow_target()
    with start() as child, _passed_on(child):
        _serve(child, domain, family, work, begin_s + limit_s)
    wall_s = time.monotonic() - begin_s
    figures = family.figures()
    family.step(0)  # the program's own connection has hung up
    left = family.end()
    deadline_s = time.monotonic() + END_S
    while family.processes and time.monotonic() < deadline_s:
        family.step(STEP_S)
    return Outcome(
        exit_code=_exit_code(child.returncode),
        wall_s=wall_s,
        limited="" if figures["processes"] else "the pager was not loaded into it",
        left_behind=left,
        figures=figures,
        wait_p50_ns=family.wait_ns(500),
        wait_p99_ns=family.wait_ns(990),
    )


def run_without_limit(argv: Sequence[str], why: str) -> Outcome:
    """Run ``argv`` as it would run by itself; OSError when it cannot be started."""
    begin_s = time.monotonic()
    with subprocess.Popen(argv) as child, _passed_on(child):
        code = child.wait()
    return Outcome(
        exit_code=_exit_code(code),
        wall_s=time.monotonic() - begin_s,
        limited=why,
        left_behind=0,
        figures={},
        wait_p50_ns=0,
        wait_p99_ns=0,
    )


def environment(outer: Mapping[str, str], family: Family) -> dict[str, str]:
    """What a program gets: all of ``outer``, the pager first among what is loaded before it."""
    before = outer.get("LD_PRELOAD", "")
    preload = f"{family.preload} {before}".strip()
    return {**outer, "LD_PRELOAD": preload, library.DOMAIN_VARIABLE: family.address}


def _serve(
    child: subprocess.Popen[bytes],
    domain: Domain,
    family: Family,
    work: Callable[[], int | None],
    until_s: float,
) -> None:
    """Until the program has ended. PeerGone, with the program dead, when the hypervisor is."""
    report_s, step_s = 0.0, STEP_S
    with _pidfd(child.pid) as pidfd, family.watching(pidfd):
        while child.poll() is None:
            family.step(step_s)
            if not domain.alive:
                family.end()
                child.kill()
                raise PeerGone("the hypervisor is gone, and memory of the program with it")
            step_s = FALLING_STEP_S if family.follow_target() else STEP_S
            now_s = time.monotonic()
            if now_s > until_s:
                family.end()
                child.kill()
                raise MemcoordError("the program took longer than it may, and was ended")
            if now_s - report_s > REPORT_S:
                report_s = now_s
                family.report(work())
    family.report(work())


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _passed_on(child: subprocess.Popen[bytes]) -> AbstractContextManager[None]:
    return sent_on(child.send_signal)


@contextmanager
def sent_on(send: Callable[[int], object]) -> Iterator[None]:
    """Signals go to a program by ``send``; the keyboard's reach it by themselves, and spare us."""

    def forward(number: int, _: FrameType | None) -> None:
        send(number)

    def wait(number: int, _: FrameType | None) -> None:
        if not os.isatty(0):  # then it came from a process, to us alone
            send(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    before |= {number: signal.signal(number, wait) for number in KEYBOARD}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else EXIT_SIGNAL - returncode
