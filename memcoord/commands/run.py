"""``memcoord run``: one scenario under several policies, compared.

Owns: the run directory of a run from creation to ``finish``, and the order of the policies. What
happens under one policy is the business of ``memcoord.testbed.live.session``. In the directory:

    manifest.json, events.jsonl     as ``rundir`` says
    series.csv                      a row per policy, tick and domain
    report.txt, report.json         the report, as printed
    1-greedy/, 2-.../               per policy: what each process was told, said and logged
"""

import contextlib
import fcntl
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hypervisor.coordination.policy_process import probe
from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.commands import EXIT_FAILED
from memcoord.testbed.live.hypervisor_main import MEASURED
from memcoord.testbed.live.session import PolicyRun
from memcoord.testbed.report.progress import Progress
from memcoord.testbed.report.results import (
    PolicyResult,
    RunReport,
    json_report,
    print_report,
    set_gains,
    text_report,
)
from memcoord.testbed.report.series import Series
from memcoord.testbed.runs import rundir
from memcoord.testbed.runs.confine import lacking
from memcoord.testbed.runs.launcher import Interrupts
from memcoord.testbed.scenarios.schema import Scenario, load
from memcoord.testbed.streams import domain_seed, stream_of

EXIT_SIGNAL = 128
POLICIES_MAX = 16
LABEL_CHARACTERS_MAX = 24

_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]+")


def run_command(
    scenario: str | None,
    policies: Sequence[str],
    as_json: bool,
    run_dir: str | None,
    overrides: Sequence[str] = (),
    record: str | None = None,
) -> int:
    """Run and report; returns the exit code: 0, 1 (something broke), 128 + signal.

    ``record``: a file for every tmem operation of the run, one policy after the other.
    ConfigError or PolicyError, before anything is started, when an argument is wrong.
    """
    what = load(scenario, overrides)
    names = list(policies) or list(what.policies)
    if len(names) > POLICIES_MAX:
        raise ConfigError("--policy", f"{len(names)} policies, at most {POLICIES_MAX}")
    if len(set(names)) != len(names):
        raise ConfigError("--policy", "one policy is named twice")
    for name in names:  # a user's file may print; stdout is the report's
        probe(name, MEASURED, lambda line: sys.stderr.write(f"{line}\n"))
    with contextlib.ExitStack() as stack:
        recorded = None if record is None else stack.enter_context(_recorded(what, record))
        interrupts = stack.enter_context(Interrupts())
        plain = msgspec.to_builtins(what, enc_hook=int)
        run = rundir.create(what.name, path=run_dir, seed=what.seed, config=plain)
        state = "failed"
        try:
            with Series(run.path) as series:
                report = _run_all(what, names, run, series, interrupts, recorded)
            _save(run, report, series)
            state = {0: "finished", EXIT_FAILED: "failed"}.get(report.exit_code, "interrupted")
        finally:
            with contextlib.suppress(rundir.RunDirError):  # ``ls`` then calls it dead
                run.finish(state)
    print_report(report, series.samples, as_json)
    return report.exit_code


def _save(run: rundir.RunDir, report: RunReport, series: Series) -> None:
    """Write the files of the report; a full disk costs the files, not the printed report."""
    try:
        run.write("report.txt", text_report(report, series.samples).encode())
        run.write("report.json", json_report(report) + b"\n")
    except rundir.RunDirError as error:
        report.error, report.exit_code = str(error), report.exit_code or EXIT_FAILED


def _run_all(
    what: Scenario,
    names: list[str],
    run: rundir.RunDir,
    series: Series,
    interrupts: Interrupts,
    record: Path | None,
) -> RunReport:
    begin_s = time.monotonic()
    lengths = {
        domain.name: len(stream_of(domain.workload, domain_seed(what.seed, domain.name)))
        for domain in what.domain
    }
    results: list[PolicyResult] = []
    with Progress() as progress:
        if lacks := lacking():
            progress.note(f"not possible here: keeping domains from {'; from '.join(lacks)}")
        for index, name in enumerate(names):
            policy_run = PolicyRun(
                what,
                name,
                run.path / _label(index, name),
                run=run,
                series=series,
                progress=progress,
                interrupts=interrupts,
                lengths=lengths,
                record=record,
            )
            try:
                results.append(policy_run.execute())
            except (MemcoordError, OSError) as error:  # the others may fare better
                results.append(policy_run.broken(str(error)))
            if interrupts.received is not None:
                break
    set_gains(results)
    code = 0 if all(result.good for result in results) else EXIT_FAILED
    return RunReport(
        scenario=what.name,
        run_dir=str(run.path),
        exit_code=code if interrupts.received is None else EXIT_SIGNAL + interrupts.received,
        wall_s=time.monotonic() - begin_s,
        tmem_capacity_pages=series.capacity_pages,
        policies=results,
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


def _label(index: int, policy: str) -> str:
    """A directory's name: short, because sockets lie in it, and one of its own per policy."""
    text = Path(policy).name if ".py" in policy else policy
    return f"{index + 1}-{_UNSAFE.sub('-', text)[:LABEL_CHARACTERS_MAX]}"
