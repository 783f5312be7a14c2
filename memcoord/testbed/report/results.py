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

    value: float | None = None  # the mean
    low: float | None = None  # of the interval
    high: float | None = None  # of the interval
    n: int = 0  # rounds


class Against(Estimate, frozen=True):
    """A ratio to greedy's figure: below 1 is less. ``verdict`` goes by the interval alone."""

    verdict: str = "no difference shown"  # better, worse or no difference shown, by the interval


class DomainResult(msgspec.Struct, kw_only=True):
    """One domain under one policy. Counts are the guest's; ``failed_puts`` the puts tmem refused.

    ``state`` is done, crashed as told, killed, failed or stopped; unless it is done, the counts are
    the last ones the hypervisor saw, and ``reason`` says what went wrong. ``slowdown`` is how many
    times as long it ran as alone on the host; None when it did not finish, or was not run alone.
    ``against_baseline`` compares ``disk_reads`` and ``seconds`` with its own under greedy.
    """

    domain: str  # its name
    workload: str  # what it did
    state: str = DONE  # done, crashed as told, killed, failed or stopped
    reason: str = ""  # why it is not done
    references: int = 0  # to pages
    faults: int = 0  # references to pages that were not in RAM
    tmem_hits: int = 0  # pages that came from tmem
    swap_ins: int = 0  # pages read from swap
    swap_outs: int = 0  # pages written to swap
    file_reads: int = 0  # pages read from files
    failed_puts: int = 0  # pages that tmem refused
    pages_verified: int = 0  # pages whose every byte was compared when they came back
    run_s: float = 0.0  # its run time
    slowdown: float | None = None  # how many times as long as alone; none: it did not finish
    # ``disk_reads`` and ``seconds`` against greedy's
    against_baseline: dict[str, Against] = msgspec.field(default_factory=dict)


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run under one policy; None where they could not be had.

    ``domains``: ``disk_reads`` and ``seconds`` of each.
    """

    seed: int  # of this run
    round_index: int  # from 0
    worst_slowdown: float | None  # of its domains
    mean_slowdown: float | None  # of its domains
    disk_reads: float | None  # of all domains
    seconds: float | None  # the mean
    load: Load | None  # of the machine; None in a simulation
    domains: dict[str, dict[str, float | None]] = {}  # ``disk_reads`` and ``seconds`` of each


class PolicyResult(msgspec.Struct, kw_only=True):
    """The same scenario under one policy; ``error`` is empty unless the run itself broke.

    Of one run at first, then of all (``comparison.merge``): ``domains`` are then means over
    ``rounds``. ``disk_reads`` are pages read from swap and files, all domains; ``seconds`` a
    domain's run time, the mean. ``moves_ram``: it set other targets of RAM than the domains had.
    ``notices`` are complaints of the hypervisor, such as faults of the policy. ``overlap`` says
    where domains ran at other times than the scenario asks for: such a run shows something else.
    """

    policy: str  # as it was given
    domains: list[DomainResult]  # each; means over the rounds
    wall_s: float = 0.0  # of the wall clock
    ticks: int = 0  # rounds of view and plan
    policy_faults: int = 0  # ticks at which it failed; its last valid plan stayed
    error: str = ""  # what broke the run; "": nothing
    notices: list[str] = msgspec.field(default_factory=list)  # complaints of the hypervisor
    # Where domains ran at other times than the scenario asks.
    overlap: list[str] = msgspec.field(default_factory=list)
    seed: int = 0  # of the first run
    round_index: int = 0  # of the first run
    moves_ram: bool = False  # whether it set other targets of RAM than the domains had
    load: Load | None = None  # of the machine in the first run
    worst_slowdown: Estimate = Estimate()  # of the domain that suffered most
    mean_slowdown: Estimate = Estimate()  # over its domains
    disk_reads: Estimate = Estimate()  # pages read from swap and files, all domains
    seconds: Estimate = Estimate()  # run time of a domain, the mean
    # Figure -> its ratio to greedy's.
    against_baseline: dict[str, Against] = msgspec.field(default_factory=dict)
    rounds: list[RoundResult] = msgspec.field(default_factory=list)  # each by itself

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

    says: str  # the claim
    is_shown: bool  # whether the run shows it
    why: str  # the ratio, or what forbids to say


class RunReport(msgspec.Struct, kw_only=True):
    """One ``memcoord run`` or ``sim``; the object that ``--json`` prints.

    ``alone`` are the seconds of every domain alone on the host, means over rounds;
    ``times_comparable`` is False when others used the CPUs too much; ``notes`` are for the reader.
    """

    schema: int = SCHEMA  # of this object
    scenario: str  # its name
    run_dir: str  # where the run lies; "": nowhere
    exit_code: int  # of the command
    wall_s: float  # of the wall clock
    tmem_capacity_pages: int  # the most that tmem could hold
    policies: list[PolicyResult]  # in their order
    error: str = ""  # what broke the run; "": nothing
    world: str = "testbed"  # testbed or sim
    # Seconds of every domain alone, means over rounds.
    alone: dict[str, float] = msgspec.field(default_factory=dict)
    times_comparable: bool = True  # false: others used the CPUs too much
    claims: list[ClaimVerdict] = msgspec.field(default_factory=list)  # of the scenario
    notes: list[str] = msgspec.field(default_factory=list)  # for the reader
