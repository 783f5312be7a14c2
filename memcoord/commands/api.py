"""The verbs of the command as functions: what ``import memcoord`` offers beside a hypervisor.

Owns: their arguments, and nothing of what they do. Each returns what a program or a notebook goes
on with, prints nothing on stdout, and shows its progress on stderr as the command does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypervisor.public.errors import MemcoordError
from memcoord.testbed.archive.run import Run, open_run
from memcoord.testbed.archive.sweep import SweepResults, open_sweep

Settings = Mapping[str, Any]


def run(
    scenario: str | None = None,
    policies: Sequence[str] = (),
    *,
    settings: Settings | None = None,
    repeat: int | None = None,
    seeds: str | int | None = None,
    alone: bool = True,
    scale: float | None = None,
    run_dir: str | Path | None = None,
) -> Run:
    """Run ``scenario`` with real processes under each policy, as ``memcoord run`` does.

    ``policies``: those of the scenario where none is given. ``settings``: keys of the scenario and
    their values, as ``{"domain[0].ram": "4 MiB"}``. The result has failed domains in its verdict.
    From the main thread only. ConfigError or PolicyError when an argument is wrong; MemcoordError
    when nothing came to be compared.
    """
    from memcoord.commands.run import RunOptions, executed

    options = RunOptions(
        policies=tuple(policies),
        run_dir=None if run_dir is None else str(run_dir),
        overrides=_overrides(settings),
        repeat=repeat,
        seeds=None if seeds is None else str(seeds),
        alone=alone,
        scale=scale,
    )
    report, _ = executed(scenario, options)
    if not report.policies:
        raise MemcoordError(f"nothing was run: {report.error or report.run_dir}")
    return open_run(report.run_dir)


def simulate(
    scenario: str | None = None,
    policies: Sequence[str] = (),
    *,
    settings: Settings | None = None,
    seed: int | None = None,
    seeds: str | int | None = None,
    alone: bool = True,
    scale: float | None = None,
    costs: str = "",
    run_dir: str | Path | None = None,
) -> Run:
    """Run ``scenario`` in virtual time under each policy, as ``memcoord sim`` does.

    Seconds are virtual, so the same arguments give the same result. ``run_dir``: also leave a run
    directory there. ``costs``: a cost set, or a file of one. ConfigError or PolicyError when an
    argument is wrong.
    """
    from memcoord.commands.simulate import SimulateOptions, save, simulated

    options = SimulateOptions(
        policies=tuple(policies),
        overrides=_overrides(settings),
        seed=seed,
        seeds=None if seeds is None else str(seeds),
        alone=alone,
        scale=scale,
        costs=costs,
    )
    made, samples = simulated(scenario, options)
    if run_dir is not None:
        return open_run(save(made, str(run_dir), samples))
    return made


def sweep(
    grid: str | Path | Mapping[str, Any], out: str | Path | None = None, workers: int | None = None
) -> SweepResults:
    """Cross policies, parameters, scenarios and seeds, as ``memcoord sweep`` does.

    ``grid``: a file, or its tables, as ``{"sweep": {"policies": [...], "scenarios": [...]}}``.
    ``out``: the sweep's directory, which a second call goes on with; without, a temporary one that
    is the caller's to remove. MemcoordError when a cell failed; ``out`` keeps what did not fail.
    """
    from memcoord.benchmarks.sweep.grid import grid_of, read_grid
    from memcoord.commands.sweep import error_lines, swept

    if isinstance(grid, str | Path):
        what, name = read_grid(Path(grid)), Path(grid).stem
    else:
        what, name = grid_of(grid), "grid"
    where = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="memcoord-sweep-"))
    done, _ = swept(what, name, where, workers)
    if done.errors:
        raise MemcoordError("; ".join(error_lines(done)))
    return open_sweep(where)


def bench(
    name: str, *, rounds: int | None = None, out: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Measure, as ``memcoord bench NAME`` does: the object that ``--json`` prints.

    ``options``: those of the command, as ``quick=True``. ConfigError when one is wrong.
    """
    from memcoord.benchmarks.runner import measured
    from memcoord.commands.bench import bench_of

    return measured(bench_of(name, rounds, options), None if out is None else str(out))[0]


def _overrides(settings: Settings | None) -> tuple[str, ...]:
    """Settings as ``--set`` takes them."""
    import msgspec

    return tuple(
        f"{key}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for key, value in (settings or {}).items()
    )
