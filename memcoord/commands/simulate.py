"""``memcoord sim SCENARIO``: a scenario under several policies, in virtual time.

Owns: the choice of policies and seeds, and the output, which is the table of ``memcoord run``. All
times are virtual, so the same arguments give the same JSON. With several seeds every count and time
is the mean over the seeds. Called by ``memcoord.cli``.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from statistics import fmean

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.commands import EXIT_FAILED
from memcoord.simulation.record import Track
from memcoord.simulation.world import simulate
from memcoord.testbed.report.results import (
    BASELINE,
    DONE,
    PolicyResult,
    RunReport,
    closing,
    print_report,
    set_gains,
)
from memcoord.testbed.scenarios.schema import Scenario, load

#: Compared unless the command line names policies, also when the scenario does not name them.
ALWAYS = (BASELINE, "smart-alloc")
POLICIES_MAX = 64
SEEDS_MAX = 1000
NOT_A_DIRECTORY = "none: nothing was started"


def simulate_command(
    scenario: str | None,
    policies: Sequence[str],
    as_json: bool,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    seeds: int | None = None,
) -> int:
    """Simulate and report; 0, or 1 when a domain did not do its work.

    ``seed`` (the first) and ``seeds`` (how many) replace the scenario's. ConfigError or PolicyError
    when an argument is wrong.
    """
    what = load(scenario, overrides)
    names = list(policies) or _default_policies(what)
    if len(set(names)) != len(names) or len(names) > POLICIES_MAX:
        raise ConfigError("--policy", f"name each policy once, at most {POLICIES_MAX}")
    count = what.seeds if seeds is None else seeds
    if not 1 <= count <= SEEDS_MAX:
        raise ConfigError("--seeds", f"must be 1 to {SEEDS_MAX}")
    first = what.seed if seed is None else seed
    begin_s = time.monotonic()
    tracks = {name: Track(tuple(domain.name for domain in what.domain)) for name in names}
    seeds_run = range(first, first + count)
    with contextlib.redirect_stdout(sys.stderr):  # a user's policy may print
        results = [_mean_of(what, name, seeds_run, tracks[name]) for name in names]
    set_gains(results)
    report = RunReport(
        scenario=what.name,
        run_dir=NOT_A_DIRECTORY,
        exit_code=0 if all(result.good for result in results) else EXIT_FAILED,
        wall_s=sum(result.wall_s for result in results),
        tmem_capacity_pages=max(track.capacity_pages for track in tracks.values()),
        policies=results,
    )
    samples = [sample for name, track in tracks.items() for sample in track.samples(name)]
    took = f"{report.wall_s:.1f} s of virtual time in {time.monotonic() - begin_s:.1f} s"
    print_report(report, samples, as_json, [*closing(report)[:-2], took])
    return report.exit_code


def _default_policies(what: Scenario) -> list[str]:
    """The scenario's policies, and those of ALWAYS that it does not name with any parameters."""
    kinds = {name.partition(":")[0] for name in what.policies}
    return [*(name for name in ALWAYS if name not in kinds), *what.policies]


def _mean_of(what: Scenario, policy: str, seeds: range, track: Track) -> PolicyResult:
    """The mean result over ``seeds``; ``track`` records the run of the first seed."""
    results = [
        simulate(what, policy, seed=seed, recorder=track if seed == seeds[0] else None)
        for seed in seeds
    ]
    mean = results[0]
    for index, domain in enumerate(mean.domains):
        all_of = [result.domains[index] for result in results]
        for name, value in msgspec.structs.asdict(domain).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                average = fmean(getattr(one, name) for one in all_of)
                setattr(domain, name, round(average) if isinstance(value, int) else average)
        domain.state = next((one.state for one in all_of if one.state != DONE), DONE)
    mean.wall_s = fmean(result.wall_s for result in results)
    return mean
