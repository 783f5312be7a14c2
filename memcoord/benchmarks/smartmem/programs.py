"""A run of real programs under a policy: what the bench keeps of it beside a run of streams.

Owns: ``run_cell``, which workers call by name; ``checksum``: what a program said of its own memory,
equal in every run of the same words, and ``over_time``: tmem used and its target, thinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from memcoord.benchmarks.smartmem.clients import clients, latencies
from memcoord.benchmarks.sweep.cell import Cell, Result, plain, policy_of, scenario_of
from memcoord.benchmarks.sweep.worlds import RunFailed, Seen, figures_of, read_series, real_run
from memcoord.testbed.guests.program import STDOUT
from memcoord.testbed.report.results import DONE
from memcoord.testbed.report.series import FILE

RUNNER = f"{__name__}:run_cell"
#: Of the curve of a domain, and of the words of a program that are kept.
POINTS_MAX, WORDS_MAX = 120, 4096
RUN_S_MAX = 3600.0
LATENCIES = ("p50", "p99", "p999", "max", "requests")


def run_cell(cell: Cell) -> Result:
    """Run ``cell`` with real processes; as ``sweep.cell.run_cell``, and more.

    RunFailed when a program did not do its work: such a run is not kept.
    """
    scenario = scenario_of(cell)
    with (
        policy_of(cell) as policy,
        real_run(scenario, policy, RUN_S_MAX, clients) as (report, run_dir, asking),
    ):
        result, seen = report.policies[0], read_series(run_dir / FILE)
        for each in result.domains:
            if each.state != DONE:
                raise RunFailed(f"{each.domain} {each.state}: {each.reason}")
        found = plain(result, figures_of(seen, report.tmem_capacity_pages))
        for domain in found["domains"]:
            if domain["domain"] not in asking:  # whose answers are compared by its client
                domain["checksum"] = _said(run_dir, domain["domain"])
        found["latencies"] = {name: latencies(client) for name, client in asking.items()}
        found["over_time"] = thinned(seen)
        found["tmem_capacity_pages"] = report.tmem_capacity_pages
        return found


def _said(run_dir: Path, domain: str) -> str:
    """The last line of what the program of ``domain`` wrote."""
    for path in run_dir.glob(f"*/{domain}/{STDOUT}"):
        lines = path.read_text(encoding="utf-8", errors="replace")[-WORDS_MAX:].splitlines()
        return lines[-1] if lines else ""
    return ""


def thinned(seen: Sequence[Seen]) -> dict[str, list[tuple[float, int, int]]]:
    """Of each domain at most POINTS_MAX ticks: seconds, pages used, the target (-1: none)."""
    by_domain: dict[str, list[tuple[float, int, int]]] = {}
    for each in seen:
        point = (round(each.time_s, 3), each.used, each.target)
        by_domain.setdefault(each.domain, []).append(point)
    return {name: points[:: -(-len(points) // POINTS_MAX)] for name, points in by_domain.items()}


def kept(results: Iterable[tuple[Cell, Mapping[str, Any]]]) -> dict[str, Any]:
    """For the bench's result: loads beside the runs, and curves of the first run of each.

    ``over_time``: situation -> policy -> domain -> points; ``starts``: runs whose domains did not
    overlap as the scenario says; ``latencies_ms``: "situation/policy/domain" of a server -> what
    its client saw in each run.
    """
    curves: dict[str, Any] = {}
    served: dict[str, Any] = {}
    loads: list[Mapping[str, Any]] = []
    starts = []
    for cell, result in results:
        by_policy = curves.setdefault(cell.scenario, {})
        by_policy.setdefault(cell.policy_text, result.get("over_time", {}))
        loads.append(result.get("load") or {})
        for name, seen in result.get("latencies", {}).items():
            row = served.setdefault(f"{cell.scenario}/{cell.policy_text}/{name}", [])
            row.append({key: seen.get(key) for key in LATENCIES})
        starts += [f"{cell.label}: {text}" for text in result.get("overlap") or ()]
    names = ("before_1m", "others_cpus")
    beside = {name: _span([load[name] for load in loads if name in load]) for name in names}
    return {"over_time": curves, "latencies_ms": served, "starts": starts, "loads": beside}


def _span(values: Sequence[float]) -> dict[str, float | None]:
    """The middle and the most."""
    if not values:
        return {"median": None, "most": None}
    return {"median": round(median(values), 2), "most": round(max(values), 2)}


def wrong_bytes(results: Iterable[tuple[Cell, Mapping[str, Any]]]) -> list[str]:
    """Domains that did not say in every run what they said in the first, a sentence each."""
    said: dict[tuple[str, str, str], tuple[str, str]] = {}
    found = []
    for cell, result in results:
        for domain in result["domains"]:
            if "checksum" not in domain or domain["state"] != DONE:
                continue
            first, told = said.setdefault(
                (cell.world, cell.text, domain["domain"]), (cell.label, domain["checksum"])
            )
            if domain["checksum"] != told or not told:
                found.append(f"{cell.label}: {domain['domain']} said other than in {first}")
        for name, seen in result.get("latencies", {}).items():
            if seen.get("wrong", 0):
                found.append(f"{cell.label}: {seen['wrong']} answers of {name} were wrong")
    return found
