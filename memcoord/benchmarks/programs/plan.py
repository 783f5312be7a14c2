"""What ``memcoord bench programs`` reports: the names of its rows, ratios, targets.

Owns: the names, so that the bench, its tables and its tests agree on them, and the figures of the
kernel that were recorded on another machine, for one that cannot swap. Pure.
Every row is time: of a whole run of a program, of a touch, of a fault, of a MiB that is given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from memcoord.benchmarks.harness import BenchPlan, Formula, Row, Sheet, Target
from memcoord.benchmarks.programs.catalogue import FULL, PROGRAMS

OURS, ZRAM, FILE = "domain", "zram", "swap file"
OURS_ON_FILE = "domain and file"
ORDERS = ("sequential", "uniform", "skewed")
NAMES = tuple(program.name for program in PROGRAMS)
SQUEEZED = tuple(program.name for program in PROGRAMS if program.is_squeezed)
MIB = 1 << 20
#: Above the limit: what may be, as the issue of programs puts it.
ABOVE_BYTES, ABOVE_SHARE = MIB, 0.01
#: Linux 6.18 on a KVM guest, 2 CPUs: us a touch of 256 MiB in 194, and p50 of a fault, zram (lz4).
RECORDED_TOUCH_US = {"sequential": 23.5, "uniform": 9.8, "skewed": 3.0}
RECORDED_FAULT_US = 7.0


def cpu(name: str, side: str) -> str:
    """CPU time of a program with ample memory."""
    return f"cpu {name} {side}"


def wall(name: str, percent: int, side: str) -> str:
    """Wall time of a program with so much of what it needs."""
    return f"wall {name} {percent}% {side}"


def touch(order: str, side: str) -> str:
    """Time of a touch, hits included."""
    return f"touch {order} {side}"


def fault(side: str) -> str:
    """A single touch that had to wait for its page."""
    return f"fault {side}"


def touching(threads: int) -> str:
    """Time of a touch when so many threads touch."""
    return f"touch uniform {threads} threads"


START_PLAIN, START_DOMAIN, START_COMMAND = "start plain", "start in a domain", "start by exec"
FALL = "fall of a target, a MiB"


def _pairs(sheet: Sheet, percents: Sequence[int], sides: tuple[str, str]) -> list[float]:
    """Of each program that both sides finished, ours over theirs."""
    found = []
    for percent in percents:
        for name in SQUEEZED:
            rows = sheet.rows_of(*(wall(name, percent, side) for side in sides))
            if rows is not None:
                found.append(rows[0].median_ns() / rows[1].median_ns())
    return found


def _mean_of(*sides: str) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        found = _pairs(sheet, FULL.shares, (sides[0], sides[1]))
        return math.exp(sum(map(math.log, found)) / len(found)) if found else None

    return formula


def _milliseconds(over: str, under: str) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(over, under)
        return None if rows is None else (rows[0].median_ns() - rows[1].median_ns()) / 1e6

    return formula


def _of_one(name: str, figure: Callable[[Row], float]) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(name)
        return None if rows is None else figure(rows[0])

    return formula


def above(limit_bytes: int, held_bytes: int) -> float:
    """How much of what may be held above a limit was: 0 for none, 1 for all of it."""
    return max(held_bytes - limit_bytes, 0) / (ABOVE_BYTES + ABOVE_SHARE * limit_bytes)


def _above(key: str) -> Formula:
    """The worst of every run that was short of memory."""

    def formula(sheet: Sheet) -> float | None:
        found = [row.extra[key] for row in sheet.rows.values() if key in row.extra]
        return max(found) if found else None

    return formula


def _recorded(order: str) -> Formula:
    return _of_one(touch(order, OURS), lambda row: row.median_ns() / 1e3 / RECORDED_TOUCH_US[order])


START_MS, START_INSIDE_MS = "start beyond a plain one, ms", "start without the command's own, ms"
FALL_MS = "target that falls, ms a MiB"
TIGHT, TIGHT_ON_FILE = "75 % and 50 %: domain/zram", "75 %: domain and file/swap file"
ABOVE, ABOVE_OUTSIDE = "above the limit, share of what may be", "the same seen from outside"
KEY_ABOVE, KEY_OUTSIDE = "above_limit", "above_limit_outside"
THREADS = f"{touching(1)}/{touching(2)}"
FAULT = f"{fault(OURS)}/{fault(ZRAM)}"
_CPU_TARGETS = {
    f"{cpu(name, OURS)}/{cpu(name, 'native')}": Target(1.10 if name == "java" else 1.05, 1.03)
    for name in NAMES
}
_TOUCH_TARGETS = {"sequential": (0.4, 0.2), "uniform": (1.2, 0.8), "skewed": (1.3, 1.0)}

PLAN = BenchPlan(
    bench="programs",
    targets={
        **_CPU_TARGETS,
        START_MS: Target(150, 50),
        FAULT: Target(2.0, 1.3),
        **{
            f"{touch(order, OURS)}/{touch(order, ZRAM)}": Target(*goals)
            for order, goals in _TOUCH_TARGETS.items()
        },
        TIGHT: Target(1.3, 0.9),
        TIGHT_ON_FILE: Target(1.0, 0.6),
        FALL_MS: Target(4, 2),
        THREADS: Target(1.4, 1.8, higher=True),
        ABOVE: Target(1.0, 0.0),
    },
    also=tuple(
        f"{wall(name, percent, OURS)}/{wall(name, percent, ZRAM)}"
        for percent in FULL.shares
        for name in SQUEEZED
    ),
    formulas={
        START_MS: _milliseconds(START_COMMAND, START_PLAIN),
        START_INSIDE_MS: _milliseconds(START_DOMAIN, START_PLAIN),
        TIGHT: _mean_of(OURS, ZRAM),
        TIGHT_ON_FILE: _mean_of(OURS_ON_FILE, FILE),
        FALL_MS: _of_one(FALL, lambda row: row.median_ns() / 1e6),
        ABOVE: _above(KEY_ABOVE),
        ABOVE_OUTSIDE: _above(KEY_OUTSIDE),
        **{f"{touch(order, OURS)}/zram recorded elsewhere": _recorded(order) for order in ORDERS},
        f"{fault(OURS)}/zram recorded elsewhere": _of_one(
            fault(OURS), lambda row: row.median_ns() / 1e3 / RECORDED_FAULT_US
        ),
    },
    skippable=(ZRAM, FILE, *NAMES),
    rounds=5,
    round_s=100,
    notes={
        START_PLAIN: "true, started and ended",
        START_DOMAIN: "the same in a domain, by a process that runs: attach, start, end, detach",
        START_COMMAND: "the same by the whole command, with a hypervisor that runs",
        FALL: "from the order to the last frame given back, beside the program that uses them",
        touching(1): "one thread that faults",
        touching(2): "two that fault, each on any of two CPUs; per touch of both together",
    },
)
