"""``memcoord run``: one scenario under several policies, compared over rounds.

Owns: the run directory of a run from creation to ``finish``, and the order of its runs. A round has
every policy once and every domain alone once; the next round begins one further on, so that no
policy is always first. What happens under one policy is the business of
``memcoord.testbed.live.session``. In the directory:

    manifest.json, events.jsonl     as ``rundir`` says
    series.csv                      a row per policy, round, tick and domain
    decisions.jsonl, latency.jsonl  what policies decided, and how long grants took
    report.txt, report.json         the report, as printed
    1-greedy/, 2-.../               per run: what each process was told, said and logged
"""

import contextlib
import fcntl
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from hypervisor.coordination.policy_process import probe
from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.commands import EXIT_FAILED
from memcoord.commands.runs import STEP
from memcoord.testbed.live import machine_start
from memcoord.testbed.live.hypervisor_main import MEASURED
from memcoord.testbed.live.nurseries import Nurseries
from memcoord.testbed.live.session import PolicyRun
from memcoord.testbed.report.claims import verdicts
from memcoord.testbed.report.comparison import merge, set_against
from memcoord.testbed.report.headline import is_comparable
from memcoord.testbed.report.metrics import alone
from memcoord.testbed.report.printed import json_report, print_report, text_report
from memcoord.testbed.report.progress import Progress, duration, expected_real_s
from memcoord.testbed.report.results import (
    DONE,
    PolicyResult,
    RunReport,
)
from memcoord.testbed.report.series import Sample, Series
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.confine import lacking
from memcoord.testbed.runs.launcher import Interrupts
from memcoord.testbed.scenarios.scale import at_scale
from memcoord.testbed.scenarios.schema import Scenario, load
from memcoord.testbed.scenarios.workloads import REAL
from memcoord.testbed.streams import length_of, lengths_of
from memcoord.testbed.streams.seeds import seeds_of, varied
from memcoord.testbed.watch.kept import Kept

EXIT_SIGNAL = 128
POLICIES_MAX = 16
LABEL_CHARACTERS_MAX = 24
ROUNDS_MAX = 1000

_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]+")


@dataclass(frozen=True)
class RunOptions:
    """Options of the command line. ``alone``: also run every domain alone, for the slowdowns."""

    policies: Sequence[str] = ()
    as_json: bool = False
    run_dir: str | None = None
    overrides: Sequence[str] = ()
    record: str | None = None
    repeat: int | None = None
    seeds: str | None = None
    alone: bool = True
    scale: float | None = None


@dataclass(frozen=True)
class Step:
    """One run of a round: all domains under ``policy``, or only ``domain``."""

    scenario: Scenario
    policy: str
    round_index: int
    domain: str = ""

    @property
    def label(self) -> str:
        """What it is called while it runs."""
        return f"{self.domain} alone" if self.domain else self.policy


@dataclass(frozen=True)
class Work:
    """What is to be run: the steps, how long they take, and a file for all tmem operations."""

    what: Scenario
    steps: list[Step]
    takes_s: float
    length: Callable[[Any, int], int]
    record: Path | None


@dataclass
class Done:
    """The results so far."""

    runs: dict[str, list[PolicyResult]] = field(default_factory=dict)
    alone: dict[int, dict[str, float]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)  # of runs alone

    def can_go_on(self, step: Step) -> bool:
        """False when the first policy of another round failed as all of the first did."""
        return step.round_index == 0 or any(one.good for runs in self.runs.values() for one in runs)

    def note(self, step: Step, result: PolicyResult) -> None:
        """Keep the result of one step."""
        if not step.domain:
            self.runs.setdefault(step.policy, []).append(result)
            return
        (domain,) = result.domains
        if result.good and domain.state == DONE:
            self.alone.setdefault(step.round_index, {})[step.domain] = domain.run_s
        else:
            why = result.error or domain.reason or domain.state
            self.troubles.append(f"{step.domain} alone: {why}")


def run_command(scenario: str | None, options: RunOptions) -> int:
    """Run and report; returns the exit code: 0, 1 (something broke), 128 + signal.

    ConfigError or PolicyError, before anything is started, when an argument is wrong.
    """
    report, samples = executed(scenario, options)
    print_report(report, samples, options.as_json)
    return report.exit_code


def executed(scenario: str | None, options: RunOptions) -> tuple[RunReport, list[Sample]]:
    """Run; the report, and the samples for a chart. Errors as above. From the main thread only."""
    what, size = at_scale(load(scenario, options.overrides), options.scale)
    machine_start.check(what)
    names = list(options.policies) or list(what.policies)
    if len(names) > POLICIES_MAX:
        raise ConfigError("--policy", f"{len(names)} policies, at most {POLICIES_MAX}")
    if len(set(names)) != len(names):
        raise ConfigError("--policy", "one policy is named twice")
    steps = steps_of(what, names, options)
    length = _remembered()
    takes_s = expected_s(steps, length)  # a stream that cannot be made leaves nothing behind
    for name in names:  # a user's file may print; stdout is the report's
        probe(name, MEASURED, lambda line: sys.stderr.write(f"{line}\n"))
    with contextlib.ExitStack() as stack:
        recorded = None
        if options.record is not None:
            recorded = stack.enter_context(_recorded(what, options.record))
        interrupts = stack.enter_context(Interrupts())
        plain = msgspec.to_builtins(what, enc_hook=int)
        run = rundir.create(what.name, path=options.run_dir, seed=what.seed, config=plain)
        state = "failed"
        try:
            with Series(run.path) as series, Kept(run.path) as kept:
                work = Work(what, steps, takes_s, length, recorded)
                report = _run_all(work, run, series, kept, interrupts)
            report.notes += [size] if size else []
            _save(run, report, series)
            state = {0: "finished", EXIT_FAILED: "failed"}.get(report.exit_code, "interrupted")
        finally:
            with contextlib.suppress(rundir.RunDirError):  # ``ls`` then calls it dead
                run.finish(state)
    return report, series.samples


def steps_of(what: Scenario, names: Sequence[str], options: RunOptions) -> list[Step]:
    """Every run in its order: A B A B, each round begun one further on; ConfigError."""
    repeat = what.repeat if options.repeat is None else options.repeat
    seeds = [] if options.seeds is None else seeds_of(options.seeds, what.seed)
    scenarios = [varied(what, seed) for seed in seeds] if len(seeds) > 1 else [what]
    if len(seeds) == 1:
        scenarios = [msgspec.structs.replace(what, seed=seeds[0])]
    rounds = [one for one in scenarios for _ in range(repeat)]
    if not 1 <= len(rounds) <= ROUNDS_MAX:
        raise ConfigError("--repeat", f"{len(rounds)} rounds, must be 1 to {ROUNDS_MAX}")
    steps = []
    for number, one in enumerate(rounds):
        turn = number % len(names)
        steps += [Step(one, name, number) for name in [*names[turn:], *names[:turn]]]
        if options.alone:
            domains = [domain.name for domain in what.domain]
            steps += [Step(alone(one, name), "greedy", number, name) for name in domains]
    return steps


def _remembered() -> Callable[[Any, int], int]:
    """``length_of``, which makes each stream once: most runs of a scenario have the same."""
    known: dict[tuple[bytes, int], int] = {}

    def length(workload: Any, seed: int) -> int:
        key = msgspec.msgpack.encode(workload, enc_hook=int), seed
        if key not in known:
            known[key] = length_of(workload, seed)
        return known[key]

    return length


def expected_s(steps: Sequence[Step], length: Callable[[Any, int], int] = length_of) -> float:
    """About how long the steps take on two quiet cores."""
    references: dict[str, int] = {}
    for step in steps[: len({one.label for one in steps})]:  # the first round: all are alike
        references[step.label] = sum(lengths_of(step.scenario, length).values())
    return sum(expected_real_s(references[step.label]) for step in steps)


def _save(run: rundir.RunDir, report: RunReport, series: Series) -> None:
    """Write the files of the report; a full disk costs the files, not the printed report."""
    try:
        run.write("report.txt", text_report(report, series.samples).encode())
        run.write("report.json", json_report(report) + b"\n")
    except rundir.RunDirError as error:
        report.error, report.exit_code = str(error), report.exit_code or EXIT_FAILED


def _run_all(
    work: Work, run: rundir.RunDir, series: Series, kept: Kept, interrupts: Interrupts
) -> RunReport:
    what, steps, begin_s, done = work.what, work.steps, time.monotonic(), Done()
    with Progress() as progress, Nurseries(run.path) as born:
        takes = f"{duration(work.takes_s)} on two quiet cores"
        if any(isinstance(domain.workload, REAL) for domain in what.domain):
            takes = "each as long as its programs take"
        progress.say(f"{what.name}: {len(steps)} runs, {takes}")
        if lacks := lacking():
            progress.say(f"not possible here: keeping domains from {'; from '.join(lacks)}")
        for index, step in enumerate(steps):
            known = lengths_of(step.scenario, work.length)
            told = {"number": index + 1, "total": len(steps), "lengths": known}
            with contextlib.suppress(rundir.RunDirError):
                run.event(step.label, STEP, **told)  # ``ls`` says how far it is
            policy_run = PolicyRun(
                step.scenario,
                step.policy,
                run.path / _label(index, step),
                run=run,
                series=None if step.domain else series,
                kept=None if step.domain else kept,
                progress=progress,
                interrupts=interrupts,
                born=born,
                lengths=known,
                record=None if step.domain else work.record,
                round_index=step.round_index,
                label=step.label,
            )
            try:
                result = policy_run.execute()
            except (MemcoordError, OSError) as error:  # the others may fare better
                result = policy_run.broken(str(error))
            done.note(step, result)
            if interrupts.received is not None or not done.can_go_on(step):
                break
    code = EXIT_SIGNAL + interrupts.received if interrupts.received is not None else 0
    return _report(what, run, series, done, code, time.monotonic() - begin_s)


def _report(
    what: Scenario, run: rundir.RunDir, series: Series, done: Done, code: int, wall_s: float
) -> RunReport:
    policies = [merge(runs, done.alone) for runs in done.runs.values()]
    set_against(policies)
    good = all(result.good for result in policies) and not done.troubles
    alone_s = {
        domain.name: fmean(times)
        for domain in what.domain
        if (times := [one[domain.name] for one in done.alone.values() if domain.name in one])
    }
    comparable = is_comparable(policies)
    return RunReport(
        scenario=what.name,
        run_dir=str(run.path),
        exit_code=code or (0 if good else EXIT_FAILED),
        wall_s=wall_s,
        tmem_capacity_pages=series.capacity_pages,
        policies=policies,
        alone=alone_s,
        times_comparable=comparable,
        claims=verdicts(what.claim, policies, comparable),
        notes=[*done.troubles, *what.see_also],
    )


@contextlib.contextmanager
def _recorded(what: Scenario, record: str) -> Iterator[Path]:
    """The file to record in, emptied, and nobody else's meanwhile; ConfigError if it cannot be."""
    if what.tmem_dedup or what.tmem_compression:
        raise ConfigError("--record", "a stream cannot tell of dedup and compression")
    path = Path(record).resolve()
    try:
        file = path.open("ab")
    except OSError as error:
        raise ConfigError("--record", f"{path}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("--record", f"{path}: another run records in it") from None
        file.truncate(0)
        yield path


def _label(index: int, step: Step) -> str:
    """A directory's name: short, because sockets lie in it, and one of its own per run."""
    text = step.policy
    if step.domain:
        text = f"alone-{step.domain}"
    elif ".py" in text:
        text = Path(text).name
    return f"{index + 1}-{_UNSAFE.sub('-', text)[:LABEL_CHARACTERS_MAX]}"
