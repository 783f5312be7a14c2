"""The two worlds a cell can run in, behind one function.

Owns: the start of a run in each world, and the figures of memory over time that are taken from it.
In the testbed a run is ``memcoord run`` in a process of its own, because it needs a main thread for
its signals, which a worker of a cluster does not have.
"""

from __future__ import annotations

import contextlib
import csv
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hypervisor.public.documents import UNREADABLE
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.report.metrics import TimeSeries, control_figures, failed_put_ratio
from memcoord.testbed.report.results import PolicyResult, RunReport
from memcoord.testbed.report.series import FILE
from memcoord.testbed.runs.launcher import start_python

if TYPE_CHECKING:
    from hypervisor.coordination.coordinator import TickReport
    from memcoord.testbed.scenarios.schema import Scenario

Figures = dict[str, float]

TESTBED_S_MAX = 600.0
#: Seen of a domain at a tick: fields of a ``DomainSnapshot``, columns of series.csv.
COLUMNS = (
    "tmem_used_pages", "tmem_target_pages", "current_frames", "target_frames", "puts",
    "puts_failed",
)  # fmt: skip


class Seen(NamedTuple):
    """One domain at one tick, after COLUMNS."""

    time_s: float
    domain: str
    used: int
    target: int
    ram: int
    ram_target: int
    puts: int
    failed: int


class RunFailed(MemcoordError):
    """A run of the testbed gave no report; the text is the last line it said."""


def run(world: str, scenario: Scenario, policy: str, seed: int) -> tuple[PolicyResult, Figures]:
    """``scenario`` under ``policy`` in ``world``; its result, and the figures over time."""
    if world == "testbed":
        return _testbed(scenario, policy)
    return _simulator(scenario, policy, seed)


def _simulator(scenario: Scenario, policy: str, seed: int) -> tuple[PolicyResult, Figures]:
    from memcoord.simulation.world import simulate  # here only: it loads numba

    seen: list[Seen] = []
    capacity = 0

    def record(time_s: float, report: TickReport) -> None:
        nonlocal capacity
        capacity = max(capacity, report.host.tmem_capacity_pages)
        seen.extend(
            Seen(time_s, domain.name, *(getattr(domain, name) for name in COLUMNS))
            for domain in report.host.domains
        )

    result = simulate(scenario, policy, seed=seed, recorder=record)
    return result, figures_of(seen, capacity)


def _testbed(scenario: Scenario, policy: str) -> tuple[PolicyResult, Figures]:
    with real_run(scenario, policy) as (report, run_dir, _):
        seen = read_series(run_dir / FILE)
        return report.policies[0], figures_of(seen, report.tmem_capacity_pages)


#: What goes on beside a run: told the scenario and the run directory.
Beside = Callable[["Scenario", Path], contextlib.AbstractContextManager[Any]]


def _nobody(scenario: Scenario, run_dir: Path) -> contextlib.AbstractContextManager[Any]:
    del scenario, run_dir
    return contextlib.nullcontext()


@contextlib.contextmanager
def real_run(
    scenario: Scenario, policy: str, limit_s: float = TESTBED_S_MAX, beside: Beside = _nobody
) -> Iterator[tuple[RunReport, Path, Any]]:
    """A run of real processes: its report, its run directory, which goes with the block, and what
    ``beside`` gave, which is entered before it starts.

    RunFailed when it gave no report.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mc-") as folder,
        beside(scenario, Path(folder) / "run") as others,
    ):
        file, run_dir = Path(folder) / "scenario.toml", Path(folder) / "run"
        told = msgspec.structs.replace(scenario, scale=1.0)  # as the simulator has it
        file.write_text(as_toml(told), encoding="utf-8")
        command = ["-m", "memcoord", "run", str(file), "--json", "--no-alone"]
        process = start_python(
            *command, "--policy", policy, "--run-dir", str(run_dir),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            try:
                said, wrong = process.communicate(timeout=limit_s)
            except BaseException:
                process.kill()
                raise
        try:
            report = msgspec.json.decode(said, type=RunReport)
        except UNREADABLE:
            lines = wrong.decode("utf-8", "replace").strip().splitlines()
            why = lines[-1] if lines else f"exit code {process.returncode}"
            raise RunFailed(why) from None
        yield report, run_dir, others


def as_toml(scenario: Scenario) -> str:
    """A scenario file that means ``scenario``."""
    return text_of(msgspec.to_builtins(scenario, enc_hook=int))


def text_of(raw: Mapping[str, Any]) -> str:
    """The file of a decoded scenario."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in raw.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        rows = (f"{key} = {_toml(entry)}" for key, entry in value.items() if entry is not None)
        return "{ " + ", ".join(rows) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # Text, numbers and truth look in TOML as in JSON, except numbers from 1e16 on.
    return repr(value) if isinstance(value, float) else msgspec.json.encode(value).decode()


def read_series(path: Path) -> list[Seen]:
    """The content of a run's series.csv."""
    with path.open(newline="", encoding="ascii") as file:
        return [
            Seen(float(row["time_s"]), row["domain"], *(int(row[name] or 0) for name in COLUMNS))
            for row in csv.DictReader(file)
        ]


def figures_of(seen: Sequence[Seen], capacity: float) -> Figures:
    """The figures of a run seen at its ticks, in order; none when nothing was seen."""
    if not seen:
        return {}
    names = tuple(dict.fromkeys(each.domain for each in seen))
    ticks = {time_s: tick for tick, time_s in enumerate(dict.fromkeys(e.time_s for e in seen))}
    columns = np.full((len(COLUMNS), len(ticks), len(names)), math.nan)
    for each in seen:
        columns[:, ticks[each.time_s], names.index(each.domain)] = each[2:]
    used, target, ram, ram_target, puts, failed = columns
    refused = np.diff(failed, axis=0, prepend=0.0)
    target[(target < 0) | (target > capacity)] = capacity  # unlimited
    series = TimeSeries(
        names=names, capacity=capacity, time_s=np.array(list(ticks)), used=used, target=target,
        ram=ram, ram_target=ram_target, demand=used + np.maximum(np.nan_to_num(refused), 0.0),
    )  # fmt: skip
    ratio = failed_put_ratio(_last(failed), _last(puts))
    return control_figures(series) | {"failed_put_ratio": ratio}


def _last(counter: NDArray[np.float64]) -> float:
    """The sum over domains of a counter that only rises; a domain may have gone before the end."""
    return float(np.nanmax(counter, axis=0).sum())
