"""Goal: the verdict says who gained and who paid, and no more than was shown. Method: reports."""

from __future__ import annotations

from memcoord.testbed.report.comparison import merge, set_against
from memcoord.testbed.report.results import DomainResult, PolicyResult, RunReport
from memcoord.testbed.report.verdict import BUSY, ONE_ROUND, sentences

#: By policy, by domain: seconds and pages from disk, a pair a round.
Figures = dict[str, dict[str, list[tuple[float, int]]]]


def report_of(figures: Figures, *, times_comparable: bool = True) -> RunReport:
    policies = []
    for policy, domains in figures.items():
        rounds = len(next(iter(domains.values())))
        runs = [
            PolicyResult(
                policy=policy,
                round_index=number,
                domains=[
                    DomainResult(
                        domain=name, workload="w", run_s=of[number][0], swap_ins=of[number][1]
                    )
                    for name, of in domains.items()
                ],
            )
            for number in range(rounds)
        ]
        policies.append(merge(runs, {}))
    set_against(policies)
    return RunReport(
        scenario="main",
        run_dir="",
        exit_code=0,
        wall_s=1.0,
        tmem_capacity_pages=1,
        policies=policies,
        times_comparable=times_comparable,
    )


ONE = {
    "greedy": {"vm1": [(10.0, 0)], "vm2": [(10.0, 100)], "vm3": [(10.0, 900)]},
    "fair": {"vm1": [(15.0, 40)], "vm2": [(10.2, 100)], "vm3": [(2.0, 60)]},
}


def test_it_names_who_gained_who_paid_and_what_differs_by_nothing() -> None:
    (first, sure) = sentences(report_of(ONE))
    assert first == (
        "Under fair, compared with greedy: vm3 5.0 times as fast; who pays: vm1 1.5 times as long; "
        "no difference above 5 % shown for vm2. "
        "Pages read back from disk: 1,000 -> 200 (-80 %; more for vm1)."
    )
    assert sure == ONE_ROUND


def rounds(policy: list[float], greedy: list[float]) -> Figures:
    return {
        "greedy": {"vm1": [(seconds, 10) for seconds in greedy]},
        "fair": {"vm1": [(seconds, 10) for seconds in policy]},
    }


def test_over_rounds_only_what_the_interval_shows_is_a_gain() -> None:
    clear = sentences(report_of(rounds([5.0, 5.1, 4.9], [10.0, 10.2, 9.9])))
    assert "vm1 2.0 times as fast" in clear[0]
    assert clear[1].startswith("3 rounds")
    small = sentences(report_of(rounds([9.7, 9.71, 9.69], [10.0, 10.01, 9.99])))
    assert "no difference above 5 % shown for vm1" in small[0]
    noise = sentences(report_of(rounds([5.0, 14.0, 9.0], [10.0, 9.0, 11.0])))
    assert "no difference above 5 % shown for vm1" in noise[0]
    assert "no change" in noise[0]


def test_on_a_busy_machine_counts_stand_for_times() -> None:
    said = sentences(report_of(ONE, times_comparable=False))
    assert said[0] == (
        "Under fair, compared with greedy: fewer pages from disk for vm3 (900 -> 60); "
        "who pays, with more of them: vm1 (0 -> 40); no difference above 5 % shown for vm2. "
        "Pages read back from disk: 1,000 -> 200 (-80 %)."
    )
    assert said[-1] == BUSY


def test_what_broke_comes_first() -> None:
    report = report_of(ONE)
    report.policies[1].domains[0].state, report.policies[1].domains[0].reason = "killed", "SIGKILL"
    report.policies[1].error = "it died"
    assert sentences(report)[:2] == [
        "fair broke: it died.",
        "Under fair, vm1 was killed: SIGKILL.",
    ]


def test_without_greedy_nothing_is_compared() -> None:
    (only,) = sentences(report_of({"fair": {"vm1": [(2.5, 7)]}}))
    assert only == "Under fair: vm1 2.50 s. Pages read back from disk: 7."


def test_nothing_run_is_no_error() -> None:
    assert sentences(report_of({})) == []
