"""``memcoord ls``: the runs, and the domains of live ones.

Owns: reading run directories, and asking live hypervisors for their domains. Returns plain values
and lines; the command prints them.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.config import CONFIG_FILE
from hypervisor.public.backend import STANDING, not_reached
from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import MemcoordError
from hypervisor.public.messages import CONTROL_SOCKET
from hypervisor.public.run_files import EVENTS
from memcoord.commands import wrapped
from memcoord.testbed.runs import control_client
from memcoord.testbed.runs.rundir import RunDirError, every_run, live, read_manifest
from memcoord.testbed.watch.cells import mib, named

LIST_TIMEOUT_MS = 1000
SHOWN = ("domid", "name", "guest_references", *STANDING)
#: What a report or a log is read of at most; the end of a log says how far a run is.
REPORT_BYTES_MAX, LOG_BYTES_MAX = 4 << 20, 1 << 16
REPORT = "report.json"
#: Of so many runs the report is read, the newest.
VERDICTS_MAX = 200
#: A run says with this event which of how many it begins, and how long its domains are.
STEP = "step"
#: A smaller difference in pages read from disk is called none.
DIFFERENCE = 0.05
NAME_WIDTH = 14


def list_runs(base: Path | None = None) -> list[dict[str, Any]]:
    """Every run, newest first: those below ``base``, and those that were given a directory.

    ``state`` is what the manifest says, or ``live``, or ``dead`` for a run that never ended itself.
    A live run has ``domains``, and ``problem`` when it does not, ``policy`` and ``progress``;
    ``restarts`` counts the deaths of its hypervisor. ``verdict``: what came of one that ended.
    """
    found = every_run(base)
    return [_describe(path, number < VERDICTS_MAX) for number, path in enumerate(found)]


def _describe(path: Path, has_verdict: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"run": path.name, "path": str(path), "domains": [], "problem": ""}
    row |= {"restarts": 0, "policy": "", "progress": "", "verdict": ""}
    try:
        manifest = read_manifest(path)
    except RunDirError as error:
        return row | {"state": "unreadable", "scenario": "", "started": "", "problem": str(error)}
    row |= {"scenario": manifest.scenario, "started": manifest.started_utc}
    if not live(path, manifest):
        row["verdict"] = verdict_of(path) if has_verdict else ""
        return row | {"state": "dead" if manifest.state == "running" else manifest.state}
    row["state"] = "live"
    row["policy"] = policy_of(path)
    try:
        row["domains"], row["restarts"] = _ask(path, LIST_TIMEOUT_MS)
    except MemcoordError as error:
        row["problem"] = str(error)
    row["progress"] = _progress(path, row["domains"])
    return row


def policy_of(path: Path) -> str:
    """The policy of the hypervisor that serves ``path`` now, as it was given; empty if unknown."""
    with suppress(OSError, *UNREADABLE):
        served = (path / CONTROL_SOCKET).resolve().parent  # in a run of several policies, a link
        config = msgspec.json.decode((served / CONFIG_FILE).read_bytes(), type=dict[str, Any])
        return str(config.get("policy", ""))
    return ""


def _progress(path: Path, domains: list[dict[str, Any]]) -> str:
    """Which of how many runs is at work, and how far it is."""
    step = _last_step(path)
    if not step:
        return ""
    lengths = step.get("lengths") or {}
    total = sum(lengths.values())
    done = sum(
        min(max(row.get("guest_references") or 0, 0), lengths.get(row["name"], 0))
        for row in domains
    )
    part = f", {100 * done // total} % of its references" if total else ""
    return f"run {step.get('number')} of {step.get('total')}{part}"


def _last_step(path: Path) -> dict[str, Any]:
    with suppress(OSError), (path / EVENTS).open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - LOG_BYTES_MAX, 0))
        for line in reversed(file.read().splitlines()):
            with suppress(*UNREADABLE):
                event = msgspec.json.decode(line, type=dict[str, Any])
                if event.get("event") == STEP:
                    return event
    return {}


def verdict_of(path: Path) -> str:
    """What came of a run, in a few words; empty where it left no report to tell it by."""
    with suppress(OSError, *UNREADABLE, AttributeError, TypeError):
        with (path / REPORT).open("rb") as file:
            report = msgspec.json.decode(file.read(REPORT_BYTES_MAX), type=dict[str, Any])
        said = []
        for policy in report["policies"]:
            against = (policy.get("against_baseline") or {}).get("disk_reads")
            if policy.get("error"):
                said.append(f"{policy['policy']} broke")
            elif against and against["value"] is not None:
                said.append(f"{policy['policy']} {_compared(against)}")
        names = ", ".join(policy["policy"] for policy in report["policies"])
        return f"disk reads against greedy: {', '.join(said)}" if said else names
    return ""


def _compared(against: dict[str, Any]) -> str:
    """One ratio to greedy, as far as its interval shows a difference."""
    value = against["value"]
    is_sure = against["verdict"] in ("better", "worse") if against["n"] > 1 else True
    if not is_sure or abs(value - 1) < DIFFERENCE:
        return "no difference"
    return f"x{value:.2f}"


def domains(run_dir: Path, timeout_ms: int = control_client.TIMEOUT_MS) -> list[dict[str, Any]]:
    """The domains of a live run: the columns SHOWN of its hypervisor's ``statistics``."""
    return _ask(run_dir, timeout_ms)[0]


def _ask(run_dir: Path, timeout_ms: int) -> tuple[list[dict[str, Any]], int]:
    """The domains of a live run by name, and how often its hypervisor was started again."""
    answer = control_client.call(run_dir, "statistics", timeout_ms)
    found = answer.get("domains", []) if isinstance(answer, dict) else []
    control = answer.get("control", {}) if isinstance(answer, dict) else {}
    shown = [{key: row.get(key) for key in SHOWN} for row in found if isinstance(row, dict)]
    shown.sort(key=lambda row: str(row["name"]))
    return shown, int(control.get("restarts", 0)) if isinstance(control, dict) else 0


def run_lines(found: list[dict[str, Any]], width: int = 80) -> list[str]:
    """``list_runs`` as lines for a terminal or a pipe."""
    if not found:
        return ["no runs"]
    lines = []
    for row in found:
        again = f"  hypervisor restarted {row['restarts']} times" if row["restarts"] else ""
        lines += wrapped(f"{row['state']}  {row['started']}{again}", 2, width, f"{row['run']} ")
        told = [f"policy {row['policy']}"] if row.get("policy") else []
        told += [row[key] for key in ("progress", "verdict", "problem") if row.get(key)]
        if told:
            lines += wrapped("; ".join(told), 2, width)
        for domain in row["domains"]:
            lines.append(_domain_line(domain))
            if said := not_reached(domain):
                lines += wrapped(said, 2 + NAME_WIDTH, width)
    return lines


def _domain_line(domain: dict[str, Any]) -> str:
    target = domain["tmem_target_pages"]
    limit = "no limit" if target is None or target < 0 else f"of {mib(target)} MiB"
    ram, aim = mib(domain["current_frames"]), mib(domain["target_frames"])
    name, tmem = named(str(domain["name"]), NAME_WIDTH - 1), mib(domain["tmem_used_pages"])
    return f"  {name:{NAME_WIDTH}}RAM {ram} of {aim} MiB  tmem {tmem} {limit}"
