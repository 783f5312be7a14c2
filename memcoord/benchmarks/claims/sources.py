"""Where figures of claims come from: benches and probes, each run once, as processes of their own.

Owns: the list of sources, how long each takes, and the time limits of a quick run. A source that
fails, or would go beyond its time, is ``{"missing": why}``, so that its figures are "not measured"
and the others still are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from memcoord.testbed.runs.launcher import start_python

PROBES = "memcoord.benchmarks.claims.probes"
#: All that a quick run may take, with what comes before and after its sources.
QUICK_S = 870.0
#: A source is not begun with less than this share of its expected time left.
LEAST_SHARE = 0.5
WORDS_MAX = 160


@dataclass(frozen=True)
class Source:
    """``quick`` and ``full`` are arguments of python; the times are of two quiet cores."""

    quick: tuple[str, ...]
    full: tuple[str, ...]
    quick_s: float
    full_s: float
    limit_factor: float = 3.0

    def arguments(self, is_quick: bool) -> tuple[str, ...]:
        """What to run."""
        return self.quick if is_quick else self.full

    def expected_s(self, is_quick: bool) -> float:
        """About how long it takes."""
        return self.quick_s if is_quick else self.full_s


def _bench(name: str, quick: Sequence[str], quick_s: float, full_s: float) -> Source:
    command = ("-m", "memcoord", "bench", name, "--json")
    return Source((*command, *quick), command, quick_s, full_s)


def _devices(expected_s: float) -> Source:
    command = ("-m", "memcoord", "bench", "mechanisms", "--qemu", "--json")
    return Source(command, command, expected_s, expected_s)


def _probe(name: str, quick_s: float, full_s: float) -> Source:
    command = ("-m", PROBES, name)
    return Source((*command, "--quick"), command, quick_s, full_s)


def _smartmem_programs(quick_s: float, full_s: float) -> Source:
    """Real programs, at the small scale: the full size takes a day."""
    command: tuple[str, ...] = ("-m", "memcoord", "bench", "smartmem", "--json")
    command += ("--world", "programs", "--scale", "small")
    papers = [word for name in ("S1", "S2", "S3", "usemem") for word in ("--scenario", name)]
    full = (*command, *papers, "--policy", "static-alloc", "--policy", "smart-alloc:P=0.25")
    full += ("--policy", "smart-alloc:P=2", "--policy", "smart-alloc:P=6", "--policy", "fallow")
    return Source((*command, "--quick"), full, quick_s, full_s)


#: In the order in which they run: what many claims need, and what is short, comes first.
SOURCES: dict[str, Source] = {
    "host": _probe("host", 1, 1),
    "unplug": _probe("unplug", 5, 5),
    "refusals": _probe("refusals", 4, 4),
    "detection": _probe("detection", 15, 400),
    "bank": _bench("bank", ("--rounds", "2"), 8, 30),
    "arm": _probe("arm", 10, 10),
    "unplug under load": _bench("unplug", ("--quick",), 28, 1500),
    "grant": _bench("grant", ("--rounds", "5"), 25, 200),
    "smartmem": _bench("smartmem", ("--quick",), 30, 300),
    "smartmem-programs": _smartmem_programs(180, 3600),
    "mechanisms": _bench("mechanisms", ("--rounds", "1"), 90, 600),
    "kit": _probe("kit", 20, 20),
    "devices": _devices(90),
    "build": _bench("build", ("--quick",), 160, 10500),
    "interference": _bench("interference", ("--rounds", "3"), 105, 400),
    "bursts": _bench("bursts", ("--quick",), 40, 1650),
}

Told = Callable[[int, int, str], None]


def measure(
    names: Sequence[str], is_quick: bool, told: Told, sources: Mapping[str, Source] = SOURCES
) -> dict[str, dict[str, Any]]:
    """The result of each source by name; a quick run ends within QUICK_S."""
    begin_s = time.monotonic()
    wanted = [name for name in sources if name in set(names)]
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(wanted):
        source = sources[name]
        told(number, len(wanted), f"{name}, about {source.expected_s(is_quick):.0f} s")
        limit_s = source.limit_factor * source.expected_s(is_quick)
        if is_quick:
            limit_s = min(limit_s, QUICK_S - (time.monotonic() - begin_s))
        if limit_s < LEAST_SHARE * source.expected_s(is_quick):
            found[name] = {"missing": f"no time left for {name} in a quick run"}
            continue
        found[name] = run(name, source.arguments(is_quick), limit_s)
    told(len(wanted), len(wanted), "done")
    return found


def run(name: str, arguments: Sequence[str], limit_s: float) -> dict[str, Any]:
    """The JSON a process prints, and the seconds it took; "missing" when there is none."""
    begin_s = time.monotonic()
    process = start_python(
        *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            said, wrong = process.communicate(timeout=max(limit_s, 0.001))
        except subprocess.TimeoutExpired:
            _end(process)
            return {"missing": f"{name} took more than {limit_s:.0f} s"}
        except BaseException:
            _end(process)
            raise
    lines = said.decode("utf-8", "replace").strip().splitlines()
    try:
        decoded: Any = msgspec.json.decode(lines[-1]) if lines else None
    except msgspec.DecodeError:
        decoded = None
    if not isinstance(decoded, dict):
        told = wrong.decode("utf-8", "replace").strip().splitlines()
        last = told[-1][:WORDS_MAX] if told else f"exit code {process.returncode}"
        return {"missing": f"{name} failed: {last}"}
    return {**decoded, "took_s": round(time.monotonic() - begin_s, 1)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a bench as Ctrl-C would, so that it ends its own children; then for good."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=10.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
