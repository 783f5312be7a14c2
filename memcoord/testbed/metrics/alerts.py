"""Alerting rules on the exported metrics, as a file that Prometheus loads.

Owns: which rules there are, and their expressions, which take every name from ``table``. Pure. What
starved means is said by ``memcoord.testbed.watch.states``, as in every view.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from memcoord.testbed.metrics import table
from memcoord.testbed.watch.states import STARVED_SHARE

RANGE, LONG_RANGE = "[2m]", "[10m]"


@dataclass(frozen=True)
class Alert:
    """One rule. ``holds``: for how long the expression must hold first."""

    name: str
    expr: str
    holds: str
    severity: str
    summary: str
    text: str


def _rate(metric: table.Metric) -> str:
    return f"rate({metric.name}{RANGE})"


ALERTS = (
    Alert(
        "MemcoordNoTicks",
        f"{table.UP.name} == 0",
        "1m",
        "critical",
        "No ticks of the hypervisor arrive",
        "The run has ended, or the hypervisor is stuck or gone. `memcoord ls` tells.",
    ),
    Alert(
        "MemcoordDomainStarved",
        f"{_rate(table.STALLS)} >= {STARVED_SHARE} or {_rate(table.REQUESTS_REFUSED)} > 0",
        "1m",
        "warning",
        "{{ $labels.domain }} is starved",
        "It waits for memory half of its time or more, or is refused RAM. `memcoord why "
        "{{ $labels.domain }}` tells what the policy decided.",
    ),
    Alert(
        "MemcoordTargetUnreached",
        f'max without (why) ({table.RAM_UNMET.name}{{why!~"{table.MOVING}|{table.SILENT}"}}) > 0',
        "2m",
        "warning",
        "{{ $labels.domain }} does not reach its target of RAM",
        "`memcoord top --domain {{ $labels.domain }}` tells what is in the way.",
    ),
    Alert(
        "MemcoordPolicyFault",
        f"increase({table.POLICY_FAULTS.name}{LONG_RANGE}) > 0",
        "0s",
        "warning",
        "The policy fails",
        "Its last valid plan stands. The run's events.jsonl has the faults.",
    ),
    Alert(
        "MemcoordDomainSilent",
        f'{table.RAM_UNMET.name}{{why="{table.SILENT}"}} > 0 unless ignoring (why) '
        f"({_rate(table.GROWN)} > 0 or {_rate(table.SHRUNK)} > 0)",
        "1m",
        "warning",
        "{{ $labels.domain }} does not answer",
        "Its driver has not acted upon its target, and its size does not move. It is stopped, or "
        "hangs.",
    ),
    Alert(
        "MemcoordDomainUnreported",
        f"{table.REPORTING.name} == 0",
        "10m",
        "info",
        "{{ $labels.domain }} says nothing of how it fares",
        "No policy can see whether it needs memory. A program that attaches by itself is so.",
    ),
    Alert(
        "MemcoordDomainBroken",
        f"{table.BROKEN.name} > 0",
        "0s",
        "critical",
        "{{ $labels.domain }} broke the rules",
        "The hypervisor serves it no more. The run's events.jsonl says why.",
    ),
)


def rules() -> str:
    """All rules, as YAML. A text in it is quoted as JSON does, which YAML reads the same."""
    lines = ["# Made by `memcoord metrics --alerts`.", "groups:", "- name: memcoord", "  rules:"]
    for alert in ALERTS:
        lines += [
            f"  - alert: {alert.name}",
            f"    expr: {json.dumps(alert.expr)}",
            f"    for: {alert.holds}",
            "    labels:",
            f"      severity: {alert.severity}",
            "    annotations:",
            f"      summary: {json.dumps(alert.summary)}",
            f"      description: {json.dumps(alert.text)}",
        ]
    return "\n".join(lines)
