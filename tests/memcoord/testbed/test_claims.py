"""Whether a run shows what its scenario says: by intervals, overlap and load."""

import pytest

from hypervisor.public.errors import ConfigError
from memcoord.testbed.report.claims import lines, verdicts
from memcoord.testbed.report.results import Against, DomainResult, PolicyResult
from memcoord.testbed.scenarios.schema import Claim, load, parse

LESS = Against(0.1, 0.05, 0.2, 3, "better")
READS = Claim(says="vm3 reads less", policy="smart-alloc", domain="vm3", verdict="better")
TIME = Claim(says="it is quicker", policy="smart-alloc", figure="seconds", verdict="better")


def smart(reads: Against = LESS, overlap: tuple[str, ...] = ()) -> PolicyResult:
    ratios = {"disk_reads": reads, "seconds": LESS}
    domain = DomainResult(domain="vm3", workload="loop", against_baseline=ratios)
    made = PolicyResult(policy="smart-alloc", domains=[domain], overlap=list(overlap))
    made.against_baseline = ratios
    return made


def shown(claim: Claim, policy: PolicyResult, *, comparable: bool = True) -> bool:
    (found,) = verdicts([claim], [policy], comparable)
    assert found.says in lines([found])[1]
    assert ("NOT shown" in lines([found])[1]) == (not found.is_shown)
    return found.is_shown


def test_a_claim_is_shown_by_its_interval() -> None:
    assert shown(READS, smart())
    assert not shown(READS, smart(Against(0.5, 0.2, 1.2, 3)))
    assert not shown(READS, smart(Against(3.0, 2.0, 4.0, 3, "worse")))
    assert not shown(READS, smart(Against(0.1, None, None, 1)))
    assert not shown(READS, smart(Against()))


def test_another_overlap_shows_nothing() -> None:
    assert not shown(READS, smart(overlap=("vm3 started late",)))


def test_load_forbids_claims_about_time_alone() -> None:
    assert shown(READS, smart(), comparable=False)
    assert shown(TIME, smart())
    assert not shown(TIME, smart(), comparable=False)


def test_nothing_is_said_of_a_policy_that_was_not_run() -> None:
    assert verdicts([READS], [], True) == []
    assert lines([]) == []


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"domain": "vm9"}, "claim.0..domain"), ({"figure": "mean_slowdown"}, "claim.0..figure")],
)
def test_a_claim_must_fit_its_scenario(wrong: dict[str, str], key: str) -> None:
    work = {"kind": "loop", "size": "1 MiB", "resident": "10 pages"}
    plain = {"name": "vm1", "maxmem": "2 MiB", "ram": "2 MiB", "workload": work}
    claim = {"says": "so", "policy": "greedy", "verdict": "better", "domain": "vm1"} | wrong
    with pytest.raises(ConfigError, match=key):
        parse({"name": "t", "memory": "16 MiB", "domain": [plain], "claim": [claim]})


def test_the_demo_has_claims_of_both_kinds_and_enough_rounds() -> None:
    demo = load()
    assert {claim.verdict for claim in demo.claim} == {"better", "worse"}
    assert {claim.policy for claim in demo.claim} <= set(demo.policies)
    assert all(claim.figure == "disk_reads" for claim in demo.claim)  # it must bear load
    assert demo.repeat >= 3
