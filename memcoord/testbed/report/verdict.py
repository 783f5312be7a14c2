"""The verdict on a run in sentences: who gained, who paid, pages from disk, how sure.

Owns: the words and the rules behind them. Pure. A difference is told from DIFFERENCE on, and with
several rounds only where their interval leaves out "none". Where other work took the CPUs,
run times say nothing, and pages read from disk stand for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from memcoord.testbed.report.comparison import baseline_of, disk_reads
from memcoord.testbed.report.results import (
    CRASHED,
    DONE,
    Against,
    DomainResult,
    PolicyResult,
    RunReport,
)

#: A smaller difference is not told.
DIFFERENCE = 0.05
FACTOR_MAX = 99.0
ONE_ROUND = "One run each: repeat it (--repeat 5) before you believe a small difference."
BUSY = "Other work took the CPUs meanwhile: times say nothing here, counts of pages do."


def sentences(report: RunReport) -> list[str]:
    """The verdict, most important sentence first; a sentence per policy beside greedy."""
    base = baseline_of(report.policies)
    said = [text for policy in report.policies for text in _troubles(policy)]
    others = [policy for policy in report.policies if policy is not base]
    if base is None or not others:
        said += [_alone(policy) for policy in report.policies]
    else:
        said += [_compared(policy, base, report.times_comparable) for policy in others]
    return [*said, *_how_sure(report)]


def _troubles(policy: PolicyResult) -> list[str]:
    """What broke, which nobody may overlook behind a gain."""
    found = [f"{policy.policy} broke: {policy.error}."] if policy.error else []
    for one in policy.domains:
        if one.state not in (DONE, CRASHED):
            why = f": {one.reason}" if one.reason else ""
            found.append(f"Under {policy.policy}, {one.domain} was {one.state}{why}.")
    if policy.policy_faults:
        found.append(f"{policy.policy} failed at {policy.policy_faults} ticks.")
    return found


def _alone(policy: PolicyResult) -> str:
    """A policy with nothing to compare it with."""
    times = ", ".join(f"{one.domain} {one.run_s:.2f} s" for one in policy.domains)
    if not times:
        return f"Under {policy.policy}: nothing that has an end."
    reads = policy.disk_reads.value
    disk = "" if reads is None else f" Pages read back from disk: {reads:,.0f}."
    return f"Under {policy.policy}: {times}.{disk}"


def _compared(policy: PolicyResult, base: PolicyResult, times: bool) -> str:
    figure = "seconds" if times else "disk_reads"
    ratios = ((one.domain, _ratio(one, figure)) for one in policy.domains)
    known = {name: ratio for name, ratio in ratios if ratio is not None}
    by_value = sorted(known, key=lambda name: _value(known[name]))
    gained = [name for name in by_value if _verdict(known[name]) < 0]
    paid = [name for name in reversed(by_value) if _verdict(known[name]) > 0]
    same = [name for name in known if _verdict(known[name]) == 0]
    if times:
        parts = [_factors([(name, 1 / _value(known[name])) for name in gained], "times as fast")]
        pays = _factors([(name, _value(known[name])) for name in paid], "times as long")
        parts.append(f"who pays: {pays}" if pays else "")
    else:
        parts = [_counts("fewer pages from disk for", gained, policy, base)]
        parts.append(_counts("who pays, with more of them:", paid, policy, base))
    shown = f"no difference above {100 * DIFFERENCE:.0f} % shown for {', '.join(same)}"
    parts.append(shown if same else "")
    told = "; ".join(filter(None, parts)) or "nothing that can be compared"
    return (
        f"Under {policy.policy}, compared with {base.policy}: {told}.{_disk(policy, base, times)}"
    )


def _factors(found: Sequence[tuple[str, float]], unit: str) -> str:
    """``vm3 3.8 times as fast, vm1 2.3``: the unit once."""
    told: list[str] = []
    for name, factor in found:
        shown = f"{factor:.1f}" if factor <= FACTOR_MAX else f"over {FACTOR_MAX:g}"
        told.append(f"{name} {shown}" if told else f"{name} {shown} {unit}")
    return ", ".join(told)


def _counts(words: str, names: Sequence[str], policy: PolicyResult, base: PolicyResult) -> str:
    """``fewer pages from disk for vm3 (1,912 -> 215)``; nothing where there is nobody."""
    before, after = ({one.domain: disk_reads(one) for one in of.domains} for of in (base, policy))
    told = [f"{name} ({before.get(name, 0):,} -> {after[name]:,})" for name in names]
    return f"{words} {', '.join(told)}" if told else ""


def _ratio(domain: DomainResult, figure: str) -> Against | None:
    found = domain.against_baseline.get(figure)
    return found if found is not None and found.value is not None else None


def _value(against: Against) -> float:
    return 1.0 if against.value is None or against.value <= 0 else against.value


def _verdict(against: Against) -> int:
    """Below 0: less than the baseline; 0: no difference shown; above 0: more."""
    value = 1.0 if against.value is None else against.value
    sign = (value > 1 + DIFFERENCE) - (value < 1 - DIFFERENCE)
    if against.low is None and against.high is None:
        return sign
    return sign if sign == {"better": -1, "worse": 1}.get(against.verdict, 0) else 0


def _disk(policy: PolicyResult, base: PolicyResult, times: bool) -> str:
    """All domains together; who reads more, unless that was told already."""
    before, after = base.disk_reads.value, policy.disk_reads.value
    if before is None or after is None:
        return ""
    change = f"{100 * (after - before) / before:+.0f} %" if before else "from none"
    change = "no change" if before == after else change
    ratios = ((one.domain, _ratio(one, "disk_reads")) for one in policy.domains)
    more = [name for name, ratio in ratios if ratio is not None and _verdict(ratio) > 0]
    change += f"; more for {', '.join(more)}" if more and times else ""
    return f" Pages read back from disk: {before:,.0f} -> {after:,.0f} ({change})."


def _how_sure(report: RunReport) -> list[str]:
    rounds = max((len(policy.rounds) for policy in report.policies), default=0)
    said = []
    if len(report.policies) > 1:
        sure = f"{rounds} rounds: a difference is named where its 95 % interval leaves out none."
        said.append(sure if rounds > 1 else ONE_ROUND)
    if not report.times_comparable:
        said.append(BUSY)
    return said
