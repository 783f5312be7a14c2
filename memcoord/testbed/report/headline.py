"""The first table of a report: which policy does better, as far as the runs show it.

Owns: the text of the comparison, of the columns' meaning and of the machine's load. Pure; the
figures are ``comparison``'s. Called by ``memcoord.testbed.report.printed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memcoord.testbed.report import claims
from memcoord.testbed.report.claims import bound
from memcoord.testbed.report.results import Against, Estimate, PolicyResult, RunReport
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX

#: Figures in the order of their weight: the field, its title, whether it is a count.
FIGURES = (
    ("worst_slowdown", "worst slowdown", False),
    ("mean_slowdown", "mean slowdown", False),
    ("disk_reads", "disk reads", True),
    ("seconds", "seconds", False),
)
COLUMNS = ("figure", "policy", "moves RAM", "value [95 %]", "against greedy [95 %]")
NO_INTERVAL = (
    "one round, no interval: repeat it (--repeat, --seeds) to tell a difference from noise"
)
NOT_COMPARABLE = "not comparable"
EXPLAINED = (
    "worst slowdown  of the domain that suffered most: its time over its time alone on the host",
    "mean slowdown   the mean over the domains",
    "disk reads      pages read from swap and files, all domains: a count, whatever the load",
    "seconds         the mean run time of a domain",
    "moves RAM       the policy set targets of RAM; others may only divide tmem",
    "against greedy  the policy's figure over greedy's in the same rounds: x0.50 is half of it;",
    "                better, worse: only where the 95 % interval leaves out x1 (docs/comparing.md)",
    "faults          references to a page that was not in the domain's own frames",
    "tmem hits       faults that tmem answered; swap-ins: that the disk answered",
    "failed puts     pages that tmem refused",
)


def table(report: RunReport) -> list[str]:
    """The figures of all policies, aligned; a block of rows per figure."""
    cells = [COLUMNS, *_rows(report)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = []
    for row in cells:
        aligned = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(aligned).rstrip())
    return lines


def _rows(report: RunReport) -> Iterator[tuple[str, ...]]:
    for field, title, is_count in FIGURES:
        shown = title
        for policy in report.policies:
            value: Estimate = getattr(policy, field)
            against = policy.against_baseline.get(field)
            comparable = is_count or report.times_comparable
            yield (
                *(shown, policy.policy, "yes" if policy.moves_ram else "no"),
                _value(value, is_count),
                "-" if against is None else _ratio(against, comparable),
            )
            shown = ""


def _value(value: Estimate, is_count: bool) -> str:
    if value.value is None:
        return "-"
    form = ",.0f" if is_count else ".2f"
    text = f"{value.value:{form}}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{value.low:{form}}, {value.high:{form}}]"


def _ratio(against: Against, comparable: bool) -> str:
    if against.value is None:
        return "-"
    text = f"x{bound(against.value)}"
    if against.low is None or against.high is None:
        return text if comparable else f"{text} {NOT_COMPARABLE}"
    text += f" [{bound(against.low)}, {bound(against.high)}]"
    return f"{text} {against.verdict if comparable else NOT_COMPARABLE}"


def remarks(report: RunReport) -> list[str]:
    """What must be known of the table: how many rounds, the load, what the columns mean."""
    rounds = max((len(policy.rounds) for policy in report.policies), default=0)
    lines = [] if rounds > 1 or not report.policies else [NO_INTERVAL]
    if rounds > 1:
        lines.append(f"{rounds} rounds: every policy once in each, in rotated order")
    said = [*lines, *load_lines(report), *who_pays(report), *claims.lines(report.claims)]
    return [*said, *report.notes]


def who_pays(report: RunReport) -> list[str]:
    """For each policy, whose disk reads it lessens and who pays, as far as the intervals show."""
    lines = []
    for policy in report.policies:
        known = {one.domain: one.against_baseline.get("disk_reads") for one in policy.domains}
        found = {name: against for name, against in known.items() if against is not None}
        if not found:
            continue
        parts = [
            f"{word} for {', '.join(shown)}"
            for word, verdict in (("less", "better"), ("more", "worse"))
            if (shown := [_short(*pair) for pair in found.items() if pair[1].verdict == verdict])
        ]
        said = "; ".join(parts) or "no difference shown for any domain"
        lines.append(f"{policy.policy}, disk reads against greedy: {said}")
    return lines


def _short(name: str, against: Against) -> str:
    assert against.value is not None
    ends = ", ".join(bound(end) for end in (against.low, against.high) if end is not None)
    return f"{name} (x{bound(against.value)} [{ends}])"


def load_lines(report: RunReport) -> list[str]:
    """The load before, during and after the runs; whether times can be compared."""
    loads = [one.load for policy in report.policies for one in policy.rounds if one.load]
    if not loads:
        return []
    others = [load.others_cpus for load in loads]
    lines = [
        f"load average {loads[0].before_1m:.2f} before, {loads[-1].after_1m:.2f} after; "
        f"others used {sum(others) / len(others):.2f} CPUs on average, "
        f"{max(others):.2f} in the worst run"
    ]
    if not report.times_comparable:
        lines.append(
            f"times and slowdowns are not comparable: others used more than {OTHERS_CPUS_MAX} CPUs "
            "during a run; counts are"
        )
    return lines


def is_comparable(policies: Sequence[PolicyResult]) -> bool:
    """Whether no run had so much load beside it that its times mean nothing."""
    loads = (one.load for policy in policies for one in policy.rounds)
    return all(load is None or load.is_quiet for load in loads)
