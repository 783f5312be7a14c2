"""What is said of policies after several rounds: intervals, ratios, verdicts, words."""

import math
from typing import Any

import pytest

from memcoord.testbed.report.comparison import (
    estimate,
    merge,
    ratio,
    set_against,
)
from memcoord.testbed.report.headline import NO_INTERVAL, is_comparable, remarks, table
from memcoord.testbed.report.intervals import student_t, t_interval
from memcoord.testbed.report.results import DomainResult, PolicyResult, RunReport
from memcoord.testbed.runs.load import OTHERS_CPUS_MAX, Load

#: Seconds alone of the two domains, the same in every round.
ALONE = {number: {"vm1": 2.0, "vm2": 1.0} for number in range(5)}


def run(
    policy: str, round_index: int, seconds: tuple[float, float], **options: Any
) -> PolicyResult:
    reads = options.pop("reads", (10, 20))
    domains = [
        DomainResult(domain=name, workload="loop", run_s=one, swap_ins=count)
        for name, one, count in zip(("vm1", "vm2"), seconds, reads, strict=True)
    ]
    return PolicyResult(policy=policy, domains=domains, round_index=round_index, **options)


def report_of(*policies: PolicyResult) -> RunReport:
    return RunReport(
        scenario="s",
        run_dir="d",
        exit_code=0,
        wall_s=1.0,
        tmem_capacity_pages=1,
        policies=list(policies),
        times_comparable=is_comparable(policies),
    )


def test_slowdowns_are_of_the_same_round() -> None:
    alone = {0: {"vm1": 2.0, "vm2": 1.0}, 1: {"vm1": 4.0, "vm2": 2.0}}
    made = merge([run("greedy", 0, (4.0, 3.0)), run("greedy", 1, (8.0, 6.0))], alone)
    assert made.worst_slowdown.value == pytest.approx(3.0)
    assert made.worst_slowdown.low == pytest.approx(made.worst_slowdown.high)
    assert made.mean_slowdown.value == pytest.approx(2.5)
    assert [domain.slowdown for domain in made.domains] == pytest.approx([2.0, 3.0])
    assert made.seconds.value == pytest.approx(math.sqrt(3.5 * 7.0))


def test_counts_and_states_are_merged() -> None:
    runs = [run("p", 0, (4.0, 3.0), reads=(1, 2)), run("p", 1, (4.0, 3.0), reads=(3, 6))]
    runs[1].domains[1].state = "killed"
    runs[1].domains[1].reason = "killed by SIGKILL"
    made = merge(runs, ALONE)
    # The round in which one was killed says nothing of counts either.
    assert [domain.swap_ins for domain in made.domains] == [1, 2]
    assert made.disk_reads.n == 1
    assert made.domains[1].state == "killed"
    assert made.domains[0].slowdown == pytest.approx(2.0)
    assert made.domains[1].slowdown is None
    assert not made.good
    # The round in which one was killed says nothing of slowdowns.
    assert made.worst_slowdown.n == 1


def test_one_round_has_no_interval_and_no_verdict() -> None:
    greedy, other = (
        merge([run(name, 0, (4.0, seconds))], ALONE)
        for name, seconds in (("greedy", 8.0), ("p", 2.0))
    )
    set_against([greedy, other])
    against = other.against_baseline["worst_slowdown"]
    assert against.value == pytest.approx(0.25)
    assert (against.low, against.high, against.n) == (None, None, 1)
    assert against.verdict == "no difference shown"
    text = "\n".join([*table(report_of(greedy, other)), *remarks(report_of(greedy, other))])
    assert NO_INTERVAL in text
    assert "better" not in text


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.5, 0.6, 0.5], "better"),
        ([2.0, 2.2, 1.9], "worse"),
        ([0.5, 2.0, 0.6], "no difference shown"),
        ([0.5, 0.5, None], "better"),
        ([0.5, None, None], "no difference shown"),
    ],
)
def test_a_verdict_goes_by_the_interval(ours: list[float | None], verdict: str) -> None:
    assert ratio(ours, [1.0, 1.0, 1.0]).verdict == verdict


def test_an_interval_is_students_of_the_logarithms() -> None:
    found = ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    reach = student_t(2) * math.log(2) / math.sqrt(3)
    assert found.value == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0 * math.exp(-reach))
    assert found.high == pytest.approx(2.0 * math.exp(reach))


def test_student_t_is_right_in_and_beyond_the_table() -> None:
    assert student_t(1) == pytest.approx(12.706)
    assert student_t(30) == pytest.approx(2.042, abs=1e-3)
    assert student_t(10_000) == pytest.approx(1.960, abs=1e-3)
    assert math.isnan(t_interval([]).mean)
    assert t_interval([3.0, math.nan]).count == 1


def test_no_reads_at_all_can_be_compared() -> None:
    assert ratio([0.0, 0.0], [99.0, 99.0], is_count=True).value == pytest.approx(0.01)
    assert estimate([0.0, 4.0], is_count=True).low == 0.0


def test_the_counts_of_rounds_are_averaged() -> None:
    runs = [run("p", 0, (4.0, 3.0), reads=(1, 2)), run("p", 1, (4.0, 3.0), reads=(3, 6))]
    made = merge(runs, ALONE)
    assert [domain.swap_ins for domain in made.domains] == [2, 4]
    assert made.disk_reads.value == pytest.approx(6.0)


def test_an_interval_that_says_nothing_is_not_printed_in_twenty_digits() -> None:
    made = []
    for name, counts in (("greedy", (0, 10)), ("p", (100_000, 10))):
        runs = [run(name, n, (1.0, 1.0), reads=(count, 0)) for n, count in enumerate(counts)]
        made.append(merge(runs, {}))
    set_against(made)
    lines = table(report_of(*made))
    assert all(len(line) < 100 for line in lines)
    assert any(">999" in line for line in lines)


def test_one_domain_can_be_held_against_itself() -> None:
    base = merge([run("greedy", n, (4.0, 2.0)) for n in range(3)], ALONE)
    ours = merge([run("p", n, (8.0, 1.0), reads=(21, 6)) for n in range(3)], ALONE)
    set_against([base, ours])
    first, second = (domain.against_baseline for domain in ours.domains)
    assert first["seconds"].verdict == "worse"
    assert second["seconds"].value == pytest.approx(0.5)
    assert second["disk_reads"].value == pytest.approx(7 / 21)
    said = "\n".join(remarks(report_of(base, ours)))
    assert "p, disk reads against greedy: less for vm2 (x0.33" in said
    assert "more for vm1 (x2.00" in said


def test_above_the_stated_load_times_are_marked_and_counts_stay() -> None:
    load = Load(before_1m=3.0, after_1m=2.0, others_cpus=OTHERS_CPUS_MAX + 0.1)
    made = []
    for name, reads, seconds in (("greedy", (90, 90), 8.0), ("p", (9, 9), 4.0)):
        runs = [run(name, n, (seconds, seconds), reads=reads, load=load) for n in range(3)]
        made.append(merge(runs, ALONE))
    set_against(made)
    report = report_of(*made)
    assert not report.times_comparable
    lines = table(report)
    ours = [line for line in lines if " p " in line]
    assert ["not comparable" in line for line in ours] == [True, True, False, True]
    assert "better" in ours[2]
    said = "\n".join(remarks(report))
    assert "others used 0.35 CPUs on average" in said
    assert "times and slowdowns are not comparable" in said


def test_the_table_says_who_moves_ram() -> None:
    made = [
        merge([run("greedy", 0, (1.0, 1.0))], ALONE),
        merge([run("p", 0, (1.0, 1.0), moves_ram=True)], ALONE),
    ]
    greedy, other = table(report_of(*made))[1:3]
    assert "  no  " in greedy
    assert "  yes  " in other
