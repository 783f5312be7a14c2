"""The situations of SmarTmem with real programs, as scenarios of any size.

Owns: who runs what in which memory, "in the spirit of" the paper: only its abstract was open to
us, so sizes, starts and pauses are ours. Full size has the gibibytes of its VMs (512 MiB and 1 GiB)
and an interval of 1 s. At another ``scale`` memory and interval shrink together, so that as large a
part of memory is used per interval. Work is counted in ``rounds``: ``rounds_for`` says how many
make a run long enough.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks.smartmem.clients import REDIS, redis_work, sqlite_work

MIB = 1 << 20
GIB = 1 << 30
FULL, SMALL, SMALLEST = 1.0, 0.125, 1 / 64
#: Of the policy at full size, and the intervals that a run is to have.
INTERVAL_MS, INTERVALS = 1000, 100
#: Between two runs of analytics, at full size.
PAUSE_MS = 5000
#: When the late VM starts, as a part of the work of the first.
LATE, LATE_USEMEM = 0.3, 0.5
USEMEM_STEPS = 8
LIMIT_S = 3600.0
#: Of the server, at full size: 400 a second for some 20 intervals.
REQUESTS_A_ROUND = 8000
SLACK_BYTES = 2 * AREA_BYTES
#: A run goes on for so much longer than a look under greedy says it must: others may be quicker.
MARGIN = 1.35


def _areas(gib: float) -> int:
    """Bytes of whole areas."""
    return max(math.ceil(gib * GIB / AREA_BYTES), 1) * AREA_BYTES


def _analytics(scale: float, rounds: int, runs: int) -> tuple[float, dict[str, Any]]:
    memory, each = 1.5 * scale, 2 * rounds
    words = ["memcoord:als", "--ratings", "ratings.csv", "--memory", f"{memory * 1024:.0f}"]
    words += ["--iterations", str(each), "--runs", str(runs)]
    words += ["--pause", str(max(round(PAUSE_MS * scale), 1))] if runs > 1 else []
    return memory, _work(words, "iterations", each * runs, files=["memcoord:ratings.csv"])


def _graph(scale: float, rounds: int, data: str) -> tuple[float, dict[str, Any]]:
    words = [
        "memcoord:pagerank",
        "--memory",
        f"{scale * 1024:.0f}",
        "--iterations",
        str(6 * rounds),
    ]
    words += ["--edges", data] if data else []
    return scale, _work(words, "iterations", 6 * rounds)


def _usemem(scale: float, rounds: int) -> tuple[float, dict[str, Any]]:
    step = max(round(scale * 1024 / USEMEM_STEPS), 1)
    words = ["memcoord:usemem", "--step", str(step), "--most", str(step * USEMEM_STEPS)]
    return scale, _work([*words, "--sweeps", str(rounds)], "sweeps", USEMEM_STEPS * rounds)


def _work(argv: list[str], unit: str, total: int, **more: Any) -> dict[str, Any]:
    base = {"kind": "program", "argv": argv, "work": unit, "total": total, "limit_s": LIMIT_S}
    return base | more


def _domain(
    number: int, ram_gib: float, made: tuple[float, dict[str, Any]], late: float = 0.0
) -> dict[str, Any]:
    memory_gib, work = made
    ram = _areas(ram_gib)
    found = {
        "name": f"vm{number}", "maxmem": _areas(1.25 * memory_gib), "ram": ram,
        "ram_min": _areas(ram_gib / 4), "mechanism": "balloon", "workload": work,
    }  # fmt: skip
    return found | ({"start_when": {"domain": "vm1", "done": late}} if late else {})


def _s1(scale: float, rounds: int, data: str) -> tuple[float, list[dict[str, Any]]]:
    del data
    work = _analytics(scale, rounds, 2)
    return scale, [_domain(number, scale, work) for number in (1, 2, 3)]


def _s2(scale: float, rounds: int, data: str) -> tuple[float, list[dict[str, Any]]]:
    work, ram = _graph(scale, rounds, data), scale / 2
    return scale, [_domain(1, ram, work), _domain(2, ram, work), _domain(3, ram, work, LATE)]


def _s3(scale: float, rounds: int, data: str) -> tuple[float, list[dict[str, Any]]]:
    work = _graph(scale, rounds, data)
    late = _domain(3, scale, _analytics(scale, rounds, 1), LATE)
    return scale, [_domain(1, scale / 2, work), _domain(2, scale / 2, work), late]


def _usemems(scale: float, rounds: int, data: str) -> tuple[float, list[dict[str, Any]]]:
    del data
    work, ram = _usemem(scale, rounds), scale / 2
    late = _domain(3, ram, work, LATE_USEMEM)
    return 0.375 * scale, [_domain(1, ram, work), _domain(2, ram, work), late]


def _servers(
    scale: float, rounds: int, data: str, make: Callable[[int, int], dict[str, Any]] = sqlite_work
) -> tuple[float, list[dict[str, Any]]]:
    requests = round(REQUESTS_A_ROUND * scale) * rounds
    work = {"kind": "program", "limit_s": LIMIT_S, **make(round(scale * 1024), requests)}
    served = scale, work
    first = _domain(1, scale / 2, _graph(scale, rounds, data))
    return scale, [first, _domain(2, scale, _analytics(scale, rounds, 1)),
                   _domain(3, scale / 2, served, LATE)]  # fmt: skip


#: Name -> the gibibytes of tmem, and the domains.
MADE: Mapping[str, Callable[[float, int, str], tuple[float, list[dict[str, Any]]]]] = {
    "S1": _s1,
    "S2": _s2,
    "S3": _s3,
    "usemem": _usemems,
    "servers": _servers,
    "redis": partial(_servers, make=redis_work),
}
#: Situations that need a program which not every machine has.
NEEDS = {"redis": REDIS}
#: Rounds of the look that says how many a run must have.
LOOK_ROUNDS = 2


def interval_ms(scale: float) -> int:
    """Of the policy."""
    return max(round(INTERVAL_MS * scale), 1)


def scenario(name: str, scale: float, rounds: int, data: str = "") -> dict[str, Any]:
    """The situation ``name`` as a decoded scenario file; ``data``: a file of edges."""
    tmem_gib, domains = MADE[name](scale, rounds, data)
    memory = sum(domain["ram"] for domain in domains) + _areas(tmem_gib) + SLACK_BYTES
    return {
        "name": name, "memory": memory, "slack": SLACK_BYTES, "interval_ms": interval_ms(scale),
        "domain": domains,
    }  # fmt: skip


def rounds_for(looked_ticks: int, intervals: int) -> int:
    """How many rounds make a run of ``intervals``, when LOOK_ROUNDS made ``looked_ticks``."""
    return max(math.ceil(LOOK_ROUNDS * MARGIN * intervals / max(looked_ticks, 1)), LOOK_ROUNDS)


def found() -> list[str]:
    """Those whose programs this machine has."""
    return [name for name in MADE if name not in NEEDS or shutil.which(NEEDS[name])]
