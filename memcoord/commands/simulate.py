"""``memcoord sim SCENARIO``: a scenario under several policies, in virtual time.

Owns: the choice of policies and seeds, and the output, which is that of ``memcoord run``. All times
are virtual, so the same arguments give the same JSON. With several seeds every count and time is a
mean over the seeds, each of which has every domain alone beside it. Called by ``memcoord.cli``.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import msgspec

from hypervisor.public.errors import ConfigError
from memcoord.commands import EXIT_FAILED
from memcoord.simulation.costs import costs_of
from memcoord.testbed.archive.columns import joined, write_csv
from memcoord.testbed.archive.outcome import REPORT
from memcoord.testbed.archive.run import Run
from memcoord.testbed.report.claims import verdicts
from memcoord.testbed.report.comparison import merge, set_against
from memcoord.testbed.report.metrics import alone
from memcoord.testbed.report.printed import json_report, print_report, text_report, troubles
from memcoord.testbed.report.progress import Progress, duration, expected_sim_s
from memcoord.testbed.report.results import (
    BASELINE,
    DONE,
    PolicyResult,
    RunReport,
)
from memcoord.testbed.report.series import FILE, Sample
from memcoord.testbed.runs import rundir
from memcoord.testbed.scenarios.scale import at_scale
from memcoord.testbed.scenarios.schema import SEEDS_MAX, Scenario, check_simulable, load
from memcoord.testbed.streams import lengths_of
from memcoord.testbed.streams.seeds import has_randomness, seeds_of, varied
from memcoord.testbed.watch.kept import DECISIONS
from policies import loader
from tmem import compiled_cache

#: Compared unless the command line names policies, also when the scenario does not name them.
ALWAYS = (BASELINE, "smart-alloc")
POLICIES_MAX = 64
NOT_A_DIRECTORY = "none: nothing was started"
#: For the first line: compiling on two quiet cores.
COMPILE_S = 15.0
NO_RANDOMNESS = "no randomness: seeds change nothing in this scenario, so it was run once"


@dataclass(frozen=True)
class SimulateOptions:
    """Options of the command line; None is the scenario's. ``alone``: also each domain alone."""

    policies: Sequence[str] = ()
    as_json: bool = False
    overrides: Sequence[str] = ()
    seed: int | None = None
    seeds: str | None = None
    repeat: int | None = None
    alone: bool = True
    scale: float | None = None
    costs: str = ""
    run_dir: str | None = None


def simulate_command(scenario: str | None, options: SimulateOptions) -> int:
    """Simulate and report; 0, or 1 when a domain did not do its work.

    ConfigError or PolicyError when an argument is wrong.
    """
    begin_s = time.monotonic()
    run, samples = simulated(scenario, options)
    took = f"{run.report.wall_s:.1f} s of virtual time in {time.monotonic() - begin_s:.1f} s"
    last = [*troubles(run.report), took]
    if options.run_dir is not None:
        last.append(f"run directory: {save(run, options.run_dir, samples)}")
    print_report(run.report, samples, options.as_json, last)
    return run.report.exit_code


def simulated(scenario: str | None, options: SimulateOptions) -> tuple[Run, list[Sample]]:
    """The outcome, with every tick and decision, and the samples for a chart; errors as above."""
    what, size = at_scale(load(scenario, options.overrides), options.scale)
    check_simulable(what)
    what = msgspec.structs.replace(what, cost_set=options.costs or what.cost_set)
    costs_of(what)
    names = list(options.policies) or _default_policies(what)
    if len(set(names)) != len(names) or len(names) > POLICIES_MAX:
        raise ConfigError("--policy", f"name each policy once, at most {POLICIES_MAX}")
    seeds, note = _seeds(what, options)
    with contextlib.redirect_stdout(sys.stderr), Progress() as progress:  # a policy may print
        for name in names:
            loader.load(name)
        progress.say(_first_line(what, len(names) + options.alone, len(seeds)))
        run, samples = _simulate_all(what, names, seeds, options.alone, progress)
    run.report.notes += [*note, *([size] if size else [])]
    return run, samples


def save(run: Run, directory: str, samples: Sequence[Sample]) -> Path:
    """Leave the directory that ``memcoord run`` would: every view of a run works on it.

    ConfigError when it is in use, RunDirError when it cannot be written.
    """
    made = rundir.create(f"sim-{run.report.scenario}", path=directory)
    state = "failed"
    try:
        run.report.run_dir = str(made.path)
        made.write(REPORT, json_report(run.report) + b"\n")
        made.write("report.txt", text_report(run.report, samples).encode())
        write_csv(run.recorded, made.path / FILE)
        made.write(DECISIONS, b"".join(msgspec.json.encode(one) + b"\n" for one in run.decided))
        state = "finished"
    finally:
        made.finish(state)
    return made.path


def _default_policies(what: Scenario) -> list[str]:
    """The scenario's policies, and those of ALWAYS that it does not name with any parameters."""
    kinds = {name.partition(":")[0] for name in what.policies}
    return [*(name for name in ALWAYS if name not in kinds), *what.policies]


def _seeds(what: Scenario, options: SimulateOptions) -> tuple[list[int], list[str]]:
    """The seeds to run, and what is to be said of them."""
    if options.seeds is not None and options.repeat is not None:
        raise ConfigError("--repeat", "is the same as --seeds here: a seed repeats exactly")
    first = what.seed if options.seed is None else options.seed
    count = what.seeds if options.repeat is None else options.repeat
    if not 1 <= count <= SEEDS_MAX:
        raise ConfigError("--repeat", f"must be 1 to {SEEDS_MAX}")
    seeds = seeds_of(options.seeds or str(count), first)
    if len(seeds) > 1 and not has_randomness(what, seeds):
        return seeds[:1], [NO_RANDOMNESS]
    return seeds, []


def _first_line(what: Scenario, runs: int, seeds: int) -> str:
    """What is about to be done, and how long it takes."""
    expected_s = runs * seeds * expected_sim_s(sum(lengths_of(what).values()))
    line = f"{what.name} in virtual time: {runs * seeds} simulations"
    if is_compiled():
        return f"{line}, {duration(expected_s)}"
    return f"{line}, {duration(expected_s + COMPILE_S)}: the first start compiles kernels"


def is_compiled() -> bool:
    """Whether compiled kernels are kept on this machine, so that they need not be made again."""
    spec = find_spec("memcoord.simulation.guest")
    place = compiled_cache.directory(spec.origin or "") if spec is not None else None
    return place is not None and next(place.rglob("*.nbi"), None) is not None


def _simulate_all(
    what: Scenario, names: list[str], seeds: list[int], with_alone: bool, progress: Progress
) -> tuple[Run, list[Sample]]:
    """Every policy and every domain alone with every seed; ticks are kept of the first seed."""
    from memcoord.simulation.record import Ticks, Track, both  # here: these compile
    from memcoord.simulation.world import simulate

    tracks = {name: Track(tuple(domain.name for domain in what.domain)) for name in names}
    ticks = {name: Ticks(name) for name in names}
    runs: dict[str, list[PolicyResult]] = {name: [] for name in names}
    alone_s: dict[int, dict[str, float]] = {}
    total = len(seeds) * (len(names) + with_alone)
    progress.begin(what.name, total)
    for number, seed in enumerate(seeds):
        one = what if len(seeds) == 1 else varied(what, seed)
        for name in names:
            recorder = None if number else both(tracks[name], ticks[name])
            result = simulate(one, name, seed=seed, recorder=recorder)
            result.round_index = number
            runs[name].append(result)
            progress.advance(sum(map(len, runs.values())) + len(alone_s), total, name)
        if with_alone:
            alone_s[number] = _alone(one, seed)
            progress.advance(sum(map(len, runs.values())) + len(alone_s), total, "alone")
    policies = [merge(runs[name], alone_s) for name in names]
    set_against(policies)
    report = RunReport(
        scenario=what.name,
        run_dir=NOT_A_DIRECTORY,
        exit_code=0 if all(result.good for result in policies) else EXIT_FAILED,
        wall_s=sum(result.wall_s for result in policies),
        tmem_capacity_pages=max(track.capacity_pages for track in tracks.values()),
        policies=policies,
        world="sim",
        alone=_means(alone_s),
        claims=verdicts(what.claim, policies, times_comparable=True),
        notes=list(what.see_also),
    )
    recorded = joined([one.columns() for one in ticks.values()])
    decided = [decision for one in ticks.values() for decision in one.decided]
    run = Run(report, recorded=recorded, decided=decided)
    return run, [one for name, track in tracks.items() for one in track.samples(name)]


def _alone(what: Scenario, seed: int) -> dict[str, float]:
    """The seconds of each domain that finishes when it has the host to itself."""
    from memcoord.simulation.world import simulate

    found = {}
    for domain in what.domain:
        (result,) = simulate(alone(what, domain.name), BASELINE, seed=seed).domains
        if result.state == DONE:
            found[domain.name] = result.run_s
    return found


def _means(alone_s: dict[int, dict[str, float]]) -> dict[str, float]:
    """The mean over rounds for each domain."""
    names = dict.fromkeys(name for one in alone_s.values() for name in one)
    return {name: fmean(one[name] for one in alone_s.values() if name in one) for name in names}
