"""The results of a run, per domain and policy.

Owns: the types that a report is made of. ``comparison`` computes what is compared, ``printed``
shows it.
"""

import msgspec

from memcoord.testbed.runs.load import Load

BASELINE = "greedy"
DONE = "done"
#: Killed because the scenario says so (``crash_at``); not a failure.
CRASHED = "crashed as told"
SCHEMA = 2


class Estimate(msgspec.Struct, frozen=True):
    """A mean over ``n`` rounds and its 95 % interval; without bounds when there was one round."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Against(Estimate, frozen=True):
    """A ratio to greedy's figure: below 1 is less. ``verdict`` goes by the interval alone."""

    verdict: str = "no difference shown"


class DomainResult(msgspec.Struct, kw_only=True):
    """One domain under one policy. Counts are the guest's; ``failed_puts`` the puts tmem refused.

    ``state`` is done, crashed as told, killed, failed or stopped; unless it is done, the counts are
    the last ones the hypervisor saw, and ``reason`` says what went wrong. ``slowdown`` is how many
    times as long it ran as alone on the host; None when it did not finish, or was not run alone.
    ``against_baseline`` compares ``disk_reads`` and ``seconds`` with its own under greedy.
    """

    domain: str
    workload: str
    state: str = DONE
    reason: str = ""
    references: int = 0
    faults: int = 0
    tmem_hits: int = 0
    swap_ins: int = 0
    swap_outs: int = 0
    file_reads: int = 0
    failed_puts: int = 0
    pages_verified: int = 0
    run_s: float = 0.0
    slowdown: float | None = None
    against_baseline: dict[str, Against] = msgspec.field(default_factory=dict)


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run under one policy; None where they could not be had.

    ``domains``: ``disk_reads`` and ``seconds`` of each.
    """

    seed: int
    round_index: int
    worst_slowdown: float | None
    mean_slowdown: float | None
    disk_reads: float | None
    seconds: float | None
    load: Load | None
    domains: dict[str, dict[str, float | None]] = {}


class PolicyResult(msgspec.Struct, kw_only=True):
    """The same scenario under one policy; ``error`` is empty unless the run itself broke.

    Of one run at first, then of all (``comparison.merge``): ``domains`` are then means over
    ``rounds``. ``disk_reads`` are pages read from swap and files, all domains; ``seconds`` a
    domain's run time, the mean. ``moves_ram``: it set other targets of RAM than the domains had.
    ``notices`` are complaints of the hypervisor, such as faults of the policy. ``overlap`` says
    where domains ran at other times than the scenario asks for: such a run shows something else.
    """

    policy: str
    domains: list[DomainResult]
    wall_s: float = 0.0
    ticks: int = 0
    policy_faults: int = 0  # ticks at which the policy failed and its last valid plan stayed
    error: str = ""
    notices: list[str] = msgspec.field(default_factory=list)
    overlap: list[str] = msgspec.field(default_factory=list)
    seed: int = 0
    round_index: int = 0
    moves_ram: bool = False
    load: Load | None = None
    worst_slowdown: Estimate = Estimate()
    mean_slowdown: Estimate = Estimate()
    disk_reads: Estimate = Estimate()
    seconds: Estimate = Estimate()
    against_baseline: dict[str, Against] = msgspec.field(default_factory=dict)
    rounds: list[RoundResult] = msgspec.field(default_factory=list)

    @property
    def good(self) -> bool:
        """True when every domain did all the scenario asks of it."""
        return not self.error and all(result.state in (DONE, CRASHED) for result in self.domains)


def policy_failure(faulty_ticks: int, served_ticks: int) -> str:
    """The error of a run whose policy failed at every tick; empty when it decided anything.

    ``served_ticks`` are the ticks with domains.
    """
    if not served_ticks or faulty_ticks < served_ticks:
        return ""
    return f"the policy failed at every one of {served_ticks} ticks"


class ClaimVerdict(msgspec.Struct, frozen=True):
    """Whether the run shows a claim of its scenario; ``why``: the ratio, or what forbids to say."""

    says: str
    is_shown: bool
    why: str


class RunReport(msgspec.Struct, kw_only=True):
    """One ``memcoord run`` or ``sim``; the object that ``--json`` prints.

    ``alone`` are the seconds of every domain alone on the host, means over rounds;
    ``times_comparable`` is False when others used the CPUs too much; ``notes`` are for the reader.
    """

    schema: int = SCHEMA
    scenario: str
    run_dir: str
    exit_code: int
    wall_s: float
    tmem_capacity_pages: int
    policies: list[PolicyResult]
    error: str = ""
    world: str = "testbed"
    alone: dict[str, float] = msgspec.field(default_factory=dict)
    times_comparable: bool = True
    claims: list[ClaimVerdict] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
