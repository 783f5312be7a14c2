"""Policies compared over several runs: slowdowns, disk reads and times, with intervals.

Owns: the arithmetic of a comparison. Pure. A *round* is every domain alone and every policy once,
with one seed. Within a round a domain's slowdown is its time in company over its time alone, so an
influence on the whole round cancels. Over rounds:

* A value is the mean with Student's interval at 95 %: of the logarithms for slowdowns and times,
  which are then geometric means; of the counts themselves for disk reads.
* A ratio to the baseline is the geometric mean of the rounds' ratios, with Student's interval of
  the logarithms. Counts are compared as (reads + 1), so that none at all can be compared.
* A policy is *better* or *worse* only where that interval leaves out 1; else there is no difference
  shown.

One round has no interval, and shows no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import msgspec

from memcoord.testbed.report.intervals import t_interval
from memcoord.testbed.report.results import (
    BASELINE,
    DONE,
    Against,
    DomainResult,
    Estimate,
    PolicyResult,
    RoundResult,
)

#: Seconds alone, by round and domain.
Alone = Mapping[int, Mapping[str, float]]
#: The figures of a comparison, as fields of a ``RoundResult``, the most telling first.
FIGURES = ("worst_slowdown", "mean_slowdown", "disk_reads", "seconds")
COUNTS = ("disk_reads",)
DOMAIN_FIGURES = ("disk_reads", "seconds")
LOG_MAX = 700.0


def merge(runs: Sequence[PolicyResult], alone: Alone) -> PolicyResult:
    """The runs of one policy, a round each, as one result: means, slowdowns and their intervals."""
    rounds = [_round(run, alone.get(run.round_index, {})) for run in runs]
    whole = [run for run in runs if run.good] or runs  # what broke off has no counts to compare
    made = msgspec.structs.replace(runs[0], domains=_domains(whole))
    for index, domain in enumerate(made.domains):
        others = (run.domains[index] for run in runs)
        worst = next((one for one in others if one.state != DONE), domain)
        domain.state, domain.reason = worst.state, worst.reason
    made.wall_s = fmean(run.wall_s for run in runs)
    made.rounds = rounds
    made.moves_ram = any(run.moves_ram for run in runs)
    made.policy_faults = sum(run.policy_faults for run in runs)
    made.error = next((run.error for run in runs if run.error), "")
    made.notices = list(dict.fromkeys(text for run in runs for text in run.notices))
    made.overlap = list(dict.fromkeys(text for run in runs for text in run.overlap))
    made.worst_slowdown = estimate([one.worst_slowdown for one in rounds])
    made.mean_slowdown = estimate([one.mean_slowdown for one in rounds])
    made.disk_reads = estimate([one.disk_reads for one in rounds], is_count=True)
    made.seconds = estimate([one.seconds for one in rounds])
    for index, domain in enumerate(made.domains):
        values = [run.domains[index].slowdown for run in whole]
        known = [value for value in values if value is not None]
        domain.slowdown = estimate(known).value if domain.state == DONE else None
    return made


def _round(run: PolicyResult, alone_s: Mapping[str, float]) -> RoundResult:
    """The figures of one run; its domains get their slowdowns."""
    done = [domain for domain in run.domains if domain.state == DONE]
    for domain in done:
        alone = alone_s.get(domain.domain, 0.0)
        domain.slowdown = domain.run_s / alone if alone > 0 and domain.run_s > 0 else None
    slow = [domain.slowdown for domain in done if domain.slowdown is not None]
    is_whole = run.good and len(slow) == len(done) > 0
    return RoundResult(
        seed=run.seed,
        round_index=run.round_index,
        worst_slowdown=max(slow) if is_whole else None,
        mean_slowdown=fmean(slow) if is_whole else None,
        disk_reads=float(sum(map(disk_reads, run.domains))) if run.good else None,
        seconds=fmean(domain.run_s for domain in done) if run.good and done else None,
        load=run.load,
        domains={
            one.domain: {
                "disk_reads": float(disk_reads(one)) if one.state == DONE else None,
                "seconds": one.run_s if one.state == DONE else None,
            }
            for one in run.domains
        },
    )


def _domains(runs: Sequence[PolicyResult]) -> list[DomainResult]:
    """Every domain with the means of its counts and times."""
    made = [msgspec.structs.replace(domain) for domain in runs[0].domains]
    for index, domain in enumerate(made):
        all_of = [run.domains[index] for run in runs]
        for name, value in msgspec.structs.asdict(domain).items():
            if isinstance(value, int | float) and name != "slowdown":
                mean = fmean(getattr(one, name) for one in all_of)
                setattr(domain, name, round(mean) if isinstance(value, int) else mean)
    return made


def disk_reads(domain: DomainResult) -> int:
    """Pages that a domain read from a disk."""
    return domain.swap_ins + domain.file_reads


def estimate(values: Sequence[float | None], *, is_count: bool = False) -> Estimate:
    """The mean of ``values`` with its interval; a geometric mean unless they are counts."""
    known = [value for value in values if value is not None]
    if not is_count:
        found = t_interval([math.log(value) for value in known if value > 0])
        return _estimate(_exp, found.mean, found.low, found.high, found.count)
    found = t_interval(known)
    return _estimate(lambda x: max(x, 0.0), found.mean, found.low, found.high, found.count)


def _estimate(
    scale: Callable[[float], float], mean: float, low: float, high: float, count: int
) -> Estimate:
    ends = [None if math.isnan(x) else scale(x) for x in (mean, low, high)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2], n=count)


def _exp(value: float) -> float:
    """Without an overflow: an interval of two very different values has no bounds worth a name."""
    return math.exp(min(value, LOG_MAX))


def set_against(policies: Sequence[PolicyResult]) -> None:
    """Fill ``against_baseline`` of the other policies and their domains, if greedy was run."""
    base = baseline_of(policies)
    for policy in policies:
        if base is not None and policy is not base:
            policy.against_baseline = {
                figure: ratio(_values(policy, figure), _values(base, figure), figure in COUNTS)
                for figure in FIGURES
            }
            for domain in policy.domains:
                domain.against_baseline = {
                    figure: _domain_ratio(policy, base, domain.domain, figure)
                    for figure in DOMAIN_FIGURES
                }


def baseline_of(policies: Sequence[PolicyResult]) -> PolicyResult | None:
    """Greedy's result, with any parameters; None when it was not run."""
    found = (one for one in policies if one.policy.partition(":")[0] == BASELINE)
    return next(found, None)


def _values(policy: PolicyResult, figure: str) -> list[float | None]:
    return [getattr(one, figure) for one in policy.rounds]


def ratio(
    ours: Sequence[float | None], theirs: Sequence[float | None], is_count: bool = False
) -> Against:
    """``ours`` over ``theirs``, round by round, and what the interval says; less is better."""
    more = 1.0 if is_count else 0.0
    ratios = [
        (one + more) / (other + more)
        for one, other in zip(ours, theirs, strict=False)
        if one is not None and other is not None and other + more > 0
    ]
    found = estimate(ratios)
    verdict = "no difference shown"
    if found.high is not None and found.high < 1:
        verdict = "better"
    elif found.low is not None and found.low > 1:
        verdict = "worse"
    return Against(found.value, found.low, found.high, found.n, verdict)


def _domain_ratio(ours: PolicyResult, base: PolicyResult, domain: str, figure: str) -> Against:
    """One domain's figure under a policy over its own under another, round by round."""
    values = [[one.domains[domain][figure] for one in of.rounds] for of in (ours, base)]
    return ratio(values[0], values[1], figure in COUNTS)
