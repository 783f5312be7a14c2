"""The page of what a run writes: every file of its directory, and the columns of each.

Owns: which files there are, and what the events are called; columns come from whoever writes them.
``tests/memcoord/test_reference.py`` holds both against a real run and against the code.
"""

from __future__ import annotations

import msgspec

from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.feed import unit_of
from memcoord.benchmarks.sweep.summary import FIGURES
from memcoord.benchmarks.sweep.table import SUMS
from memcoord.reference.fields import described, meanings
from memcoord.reference.markdown import code, page, prose, table
from memcoord.testbed.archive.columns import NAMES, UNITS
from memcoord.testbed.report import results
from memcoord.testbed.report.series import DOMAIN_COLUMNS, HOST_COLUMNS
from memcoord.testbed.runs.identity import ProcessId
from memcoord.testbed.runs.load import Load
from memcoord.testbed.runs.rundir import Manifest
from memcoord.testbed.watch.kept import KeptDecision, KeptLatency

#: Name in the run directory -> what it is. ``N-POLICY`` stands for one policy's run.
FILES = {
    "manifest.json": "what was run, when, where, with which versions, and how it ended",
    "events.jsonl": "what happened, a JSON object a line",
    "series.csv": "a row per policy, round, tick and domain",
    "decisions.jsonl": "a line per decision of a policy or an operator",
    "latency.jsonl": "how long grants took, a line per second, domain, path and word",
    "report.json": "the results; the object that `--json` prints",
    "report.txt": "the results as they were printed",
    "run.lock": "held as long as the run lives",
    "control.token": "the operator's token, as long as a hypervisor lives",
    "attach.sock, control.ipc, stats.ipc, doorbell.ipc, keeper.sock": "its sockets",
    "N-POLICY/": "one policy's run of one round; `alone-VM` in the name: of one domain alone",
    "N-POLICY/hypervisor.json": "its [configuration](configuration.md)",
    "N-POLICY/events.jsonl": "what happened in its hypervisor",
    "N-POLICY/NAME.out, N-POLICY/NAME.err": "what a process of it printed",
    "N-POLICY/VM/": "of one domain: its configuration, swap file and program file",
}
#: Event -> its fields and what happened. Those of ``events.jsonl``, by who writes them.
LAUNCHER_EVENTS = {
    "step": ("number, total, lengths", "a run of a policy begins: which of how many"),
    "started": ("process, pid", "a process was started"),
    "ready": ("process", "the hypervisor serves"),
    "go": ("process", "a domain begins with its work"),
    "died": ("process, how", "the hypervisor died"),
    "done, crashed as told, killed, failed, stopped": ("process, how", "a domain ended so"),
    "ended": ("process, how", "the hypervisor ended"),
    "run-broken": ("reason", "the run cannot go on"),
}
HYPERVISOR_EVENTS = {
    "started": ("pid, policy", "it serves"),
    "restarted": (
        "pid, policy, restarts, pause_ms, domains, why",
        "it took over from one that died",
    ),
    "attached": ("domain, domid, pid", "a domain came"),
    "detached": ("domain, domid, reason", "a domain went, or was thrown out"),
    "detach-failed": ("domid, why", "what a domain held could not be taken back at once"),
    "domain-lingers": ("domid, name, why", "a domain that went still has memory"),
    "policy-fault": ("why", "the policy failed; its last valid plan stays in force"),
    "policy-said": ("policy, text", "a line that the policy's process printed"),
    "violation": ("name, frames, gone", "a domain uses memory that nobody granted; or no more"),
    "bad-message": ("note", "bytes came that are no message"),
    "watch-ended": ("", "whoever watched over it is gone: it ends"),
    "stopped": ("", "it ended in order"),
}
#: Struct of each object in ``report.json``, the outermost first.
REPORT: tuple[type[msgspec.Struct], ...] = (
    results.RunReport,
    results.PolicyResult,
    results.DomainResult,
    results.RoundResult,
    results.Estimate,
    results.Against,
    results.ClaimVerdict,
    Load,
)
#: Columns of a sweep's tables that are no setting, parameter or figure of the report.
SWEEP = {
    "world": "sim or testbed",
    "scenario": "its name, or its file",
    "policy": "without its parameters",
    "POLICY.KEY": "a parameter of that policy",
    "KEY": "a setting of the grid's table [set]",
    "seed": "of the run",
    **dict.fromkeys(FIGURES, "over the domains of the run"),
    **dict.fromkeys(SUMS, "counted, all domains"),
    "finished": "domains that did all their work",
    "domains": "how many there are",
    "regret": "disk reads beyond those of the best split that never changes, per reference",
    "slowdown.VM": "of one domain; empty if it did not finish",
    "error": "why a run is not good; empty: it is",
}
SUMMARY = {
    "world, scenario, KEY": "the situation",
    "policy": "with its parameters",
    "figure": ", ".join(FIGURES),
    "seeds": "how many runs the mean is of",
    "mean, low, high": "the mean and its 95 % interval",
    "ratio, ratio_low, ratio_high": "to greedy's, with its interval; below 1 is less",
    "verdict": "better, worse or no difference shown, by the interval",
}
HEADS = ("column", "unit", "from Python", "what it is")


def series_rows() -> list[tuple[str, str, str, str]]:
    """Every column of ``series.csv``: name, unit, name from Python, meaning."""
    begin = {
        "policy": "as it was given",
        "round": "from 0",
        "tick": "the number of the tick",
        "time_s": "since the start of the policy's run",
        "domain": "whose row it is",
    }
    said, host = meanings(DomainSnapshot), meanings(HostSnapshot)
    rows = [
        (code(name), "s" if name == "time_s" else "", code(name), says)
        for name, says in begin.items()
    ]
    rows += [(code(name), unit_of(name), code(real(name)), said[name]) for name in DOMAIN_COLUMNS]
    rows += [
        (code(f"host_{name}"), unit_of(name), code(real(f"host_{name}")), host[name])
        for name in HOST_COLUMNS
    ]
    return rows


def real(name: str) -> str:
    """What a column is called where it is in bytes and seconds."""
    name = NAMES.get(name, name.removeprefix("guest_"))
    for suffix, becomes, _ in UNITS:
        if name.endswith(suffix):
            return name.removesuffix(suffix) + becomes
    return name


def file_page() -> str:
    """The files of a run and of a sweep."""
    return page(
        "Files of a run",
        "A run leaves a directory, whose name `memcoord run` prints last and `memcoord ls` shows. "
        "`memcoord.open_run()` reads it; [results](../results.md) shows what can be made of it.",
        table(("file", "what it is"), [(_files(name), says) for name, says in FILES.items()]),
        "## series.csv",
        "-1 in a target is no limit, in a guest's own count: not reported. Of one policy's run the "
        "first 10,000 ticks are there, and every tenth after them. From Python also `disk_reads`, "
        "the sum of `swap_ins` and of pages read from files.",
        table(HEADS, series_rows()),
        "## decisions.jsonl",
        described(KeptDecision),
        "## latency.jsonl",
        described(KeptLatency),
        "## events.jsonl",
        "Every line has `time_ns` (the wall clock), `source` and `event`. Of the launcher, whose "
        "`source` is the policy:",
        _events(LAUNCHER_EVENTS),
        "Of the hypervisor, in the directory of the policy's run:",
        _events(HYPERVISOR_EVENTS),
        "## report.json",
        *(part for kind in REPORT for part in (f"### {kind.__name__}", described(kind))),
        "## manifest.json",
        described(Manifest),
        "### ProcessId",
        described(ProcessId),
        "## Tables of a sweep",
        "`results.csv` (and `results.parquet`, with `pip install 'memcoord[parquet]'`) has a row "
        "per run:",
        table(
            ("column", "what it is"), [(code(name), prose(says)) for name, says in SWEEP.items()]
        ),
        "`summary.csv` has a row per situation, figure and policy:",
        table(("column", "what it is"), [(_files(n), prose(says)) for n, says in SUMMARY.items()]),
    )


def _files(names: str) -> str:
    return ", ".join(code(name) for name in names.split(", "))


def _events(events: dict[str, tuple[str, str]]) -> list[str]:
    rows = [
        (_files(name), _files(fields) if fields else "", prose(says))
        for name, (fields, says) in events.items()
    ]
    return table(("event", "fields", "what happened"), rows)
