"""``memcoord ls``: the runs, and the domains of live ones.

Owns: reading run directories, and asking live hypervisors for their domains and decisions. Returns
plain values and lines; the command prints them.
"""

from pathlib import Path
from typing import Any

import msgspec

from hypervisor.coordination.decisions import Decision
from hypervisor.public.backend import STANDING, not_reached
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs import control_client
from memcoord.testbed.runs.rundir import RunDirError, live, read_manifest, runs

LIST_TIMEOUT_MS = 1000
SHOWN = ("domid", "name", *STANDING)


def list_runs(base: Path | None = None) -> list[dict[str, Any]]:
    """Every run below ``base``, newest first.

    ``state`` is what the manifest says, or ``live``, or ``dead`` for a run that never ended itself.
    A live run has ``domains``, and ``problem`` when it does not; ``restarts`` counts the deaths of
    its hypervisor.
    """
    return [_describe(path) for path in runs(base)]


def _describe(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": path.name, "path": str(path), "domains": [], "problem": ""}
    row["restarts"] = 0
    try:
        manifest = read_manifest(path)
    except RunDirError as error:
        return row | {"state": "unreadable", "scenario": "", "started": "", "problem": str(error)}
    row |= {"scenario": manifest.scenario, "started": manifest.started_utc}
    if not live(path, manifest):
        return row | {"state": "dead" if manifest.state == "running" else manifest.state}
    row["state"] = "live"
    try:
        row["domains"], row["restarts"] = _ask(path, LIST_TIMEOUT_MS)
    except MemcoordError as error:
        row["problem"] = str(error)
    return row


def domains(run_dir: Path, timeout_ms: int = control_client.TIMEOUT_MS) -> list[dict[str, Any]]:
    """The domains of a live run: the columns SHOWN of its hypervisor's ``statistics``."""
    return _ask(run_dir, timeout_ms)[0]


def _ask(run_dir: Path, timeout_ms: int) -> tuple[list[dict[str, Any]], int]:
    """The domains of a live run, and how often its hypervisor was started again."""
    answer = control_client.call(run_dir, "statistics", timeout_ms)
    found = answer.get("domains", []) if isinstance(answer, dict) else []
    control = answer.get("control", {}) if isinstance(answer, dict) else {}
    shown = [{key: row.get(key) for key in SHOWN} for row in found if isinstance(row, dict)]
    return shown, int(control.get("restarts", 0)) if isinstance(control, dict) else 0


def decision_lines(vm: str, answer: list[dict[str, Any]]) -> list[str]:
    """The hypervisor's answer to ``why`` as lines, oldest decision first."""
    decisions = msgspec.convert(answer, list[Decision])
    return [str(decision) for decision in decisions] or [f"{vm}: no target of it was ever changed"]


def run_lines(found: list[dict[str, Any]]) -> list[str]:
    """``list_runs`` as lines for a terminal or a pipe."""
    if not found:
        return ["no runs"]
    lines = []
    for row in found:
        problem = f"  ({row['problem']})" if row["problem"] else ""
        again = f"  hypervisor restarted {row['restarts']} times" if row["restarts"] else ""
        lines.append(f"{row['run']}  {row['state']}  {row['started']}{again}{problem}")
        for domain in row["domains"]:
            lines.append(_domain_line(domain))
            if said := not_reached(domain):
                lines.append(f"  {'':12} {said}")
    return lines


def _domain_line(domain: dict[str, Any]) -> str:
    target = domain["tmem_target_pages"]
    limit = "no limit" if target is None or target < 0 else f"of {target}"
    return (
        f"  {domain['name']:12} frames {domain['current_frames']} of {domain['target_frames']}"
        f"  tmem {domain['tmem_used_pages']} {limit}"
    )
