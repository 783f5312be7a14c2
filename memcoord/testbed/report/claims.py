"""What a scenario says it shows, held against a run of it.

Owns: the verdict on each ``Claim`` of a scenario. A claim is shown only by the interval of its
ratio, only in runs that overlapped as the scenario says, and, when it is about time, only by times
that can be compared. Pure. Called by ``memcoord.commands``.
"""

from collections.abc import Sequence

from memcoord.testbed.report.results import Against, ClaimVerdict, PolicyResult
from memcoord.testbed.scenarios.schema import Claim

COUNTS = ("disk_reads",)
#: Ratios beyond this are only said to be.
RATIO_MAX = 999.0


def verdicts(
    claims: Sequence[Claim], policies: Sequence[PolicyResult], times_comparable: bool
) -> list[ClaimVerdict]:
    """One for every claim about a policy that was run."""
    by_name = {policy.policy: policy for policy in policies}
    return [
        _verdict(claim, by_name[claim.policy], times_comparable, _overlap(policies))
        for claim in claims
        if claim.policy in by_name
    ]


def _overlap(policies: Sequence[PolicyResult]) -> str:
    return next((text for policy in policies for text in policy.overlap), "")


def _verdict(
    claim: Claim, policy: PolicyResult, times_comparable: bool, overlap: str
) -> ClaimVerdict:
    against = _against(claim, policy)
    if against is None or against.value is None:
        return ClaimVerdict(claim.says, False, "there is nothing to compare with")
    if overlap:
        return ClaimVerdict(claim.says, False, f"another overlap than the scenario's: {overlap}")
    if claim.figure not in COUNTS and not times_comparable:
        return ClaimVerdict(claim.says, False, "too much load beside the run to compare times")
    if against.low is None or against.high is None:
        return ClaimVerdict(claim.says, False, f"x{against.value:.2f}, but one round shows nothing")
    why = f"x{bound(against.value)} [{bound(against.low)}, {bound(against.high)}]"
    return ClaimVerdict(claim.says, against.verdict == claim.verdict, why)


def _against(claim: Claim, policy: PolicyResult) -> Against | None:
    if not claim.domain:
        return policy.against_baseline.get(claim.figure)
    found = (one for one in policy.domains if one.domain == claim.domain)
    return next((one.against_baseline.get(claim.figure) for one in found), None)


def bound(ratio: float) -> str:
    """A ratio, or an end of its interval, as it is shown."""
    return f"{ratio:.2f}" if ratio <= RATIO_MAX else f">{RATIO_MAX:.0f}"


def lines(found: Sequence[ClaimVerdict]) -> list[str]:
    """What a report says of them."""
    words = {True: "shown", False: "NOT shown by this run"}
    said = [f"- {one.says}: {words[one.is_shown]} ({one.why})" for one in found]
    return ["what this scenario is to show:", *said] if said else []
