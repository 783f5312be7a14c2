"""A cell: one run of a sweep, complete in itself, and how it is run.

Owns: ``Cell``, its key, and ``run_cell``. A cell carries the texts of its scenario, of a policy's
file and of the modules beside it, so that any process with this package can run it. The same cell
gives the same result; only runs in the testbed, which take real time, differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from memcoord.testbed.report.results import PolicyResult
from memcoord.testbed.scenarios.overrides import apply

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

#: Part of every key: raised when the meaning of a result changes.
SCHEMA = 2
KEY_CHARACTERS = 32
WORLDS = ("sim", "testbed")

#: Stands for ``static-ram`` with the areas that are best for the cell's scenario and seed.
BEST_STATIC = "best-static"

Kind = Literal["run", "alone", "without", "lie", "optimal"]
Result = dict[str, Any]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``kind`` is the kind of run, ``domain`` the domain it concerns:

    run: the scenario under ``policy``; alone: only ``domain``, under greedy; without: all but
    ``domain``; lie: ``domain`` misreports its signals by ``factor``; optimal: nothing is run, the
    best static split is computed from exact miss-ratio curves.
    """

    policy: str  # NAME or FILE.py:CLASS, without parameters
    scenario: str  # its name in reports
    text: str  # the scenario, TOML
    seed: int
    world: str = "sim"
    params: tuple[tuple[str, str], ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    policy_file: str = ""  # the text of FILE.py
    beside: dict[str, str] = {}  # the texts of the modules that FILE.py imports from its folder
    kind: Kind = "run"
    domain: str = ""
    factor: float = 1.0

    @property
    def key(self) -> str:
        """Names the cell in files and on a cluster; the same for equal cells, here and anywhere."""
        text = msgspec.json.encode([SCHEMA, msgspec.to_builtins(self)])
        return hashlib.sha256(text).hexdigest()[:KEY_CHARACTERS]

    @property
    def label(self) -> str:
        """Its name in progress and errors."""
        what = "" if self.kind == "run" else f" {self.kind} {self.domain}".rstrip()
        return f"{self.policy_text} on {self.scenario}{what}, seed {self.seed}, {self.world}"

    @property
    def policy_text(self) -> str:
        """The policy as ``--policy`` takes it."""
        return ":".join(filter(None, (self.policy, ",".join(f"{k}={v}" for k, v in self.params))))


def run_cell(cell: Cell) -> Result:
    """Run ``cell``; plain data: ``domains``, ``figures``, ``ticks``, ``error``.

    ConfigError or PolicyError when it cannot be run as it is written.
    """
    scenario = scenario_of(cell)
    if cell.kind == "optimal":
        from memcoord.benchmarks.sweep.optimal import optimal_cost

        return {"domains": [], "figures": {"optimal_cost": optimal_cost(scenario, cell.seed)}}
    from memcoord.benchmarks.sweep.worlds import run

    with policy_of(cell) as policy:
        result, figures = run(cell.world, scenario, policy, cell.seed)
    return plain(result, figures)


def scenario_of(cell: Cell) -> Scenario:
    """The scenario of ``cell``, with its settings and without domains left out; ConfigError."""
    from memcoord.testbed.report.metrics import alone, without
    from memcoord.testbed.scenarios.schema import parse

    raw = tomllib.loads(cell.text)
    raw["seed"] = cell.seed
    for key, value in cell.overrides:
        apply(raw, f"{key}={value}")
    scenario = parse(raw)
    if cell.kind == "alone":
        return alone(scenario, cell.domain)
    return without(scenario, cell.domain) if cell.kind == "without" else scenario


@contextlib.contextmanager
def policy_of(cell: Cell) -> Iterator[str]:
    """The text that names the policy here; within the block, the policy's file exists."""
    with contextlib.ExitStack() as stack:
        policy = cell.policy_text
        if cell.policy == BEST_STATIC:
            from memcoord.benchmarks.sweep.optimal import best_areas
            from policies.static_ram import areas_text

            areas = best_areas(scenario_of(cell), cell.seed)
            policy = f"static-ram:areas={areas_text(areas)}"
        if cell.policy_file:
            from policies.loader import file_in

            source = file_in(policy)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mc-policy-"))
            path = Path(folder) / Path(source).name
            for place, text in {path.name: cell.policy_file, **cell.beside}.items():
                file = Path(folder) / place
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            policy = f"{path}{policy.removeprefix(source)}"
        if cell.kind == "lie":
            from memcoord.benchmarks.sweep.misreport import policy_text

            policy = policy_text(policy, cell.domain, cell.factor)
        with contextlib.redirect_stdout(sys.stderr):  # a user's file may print
            yield policy


def plain(result: PolicyResult, figures: dict[str, float]) -> Result:
    """All of a result but the wall-clock time, which differs from run to run; of a real run also
    the load beside it, and where its domains did not overlap as the scenario says."""
    domains = [msgspec.to_builtins(domain) for domain in result.domains]
    for domain in domains:
        domain.pop("slowdown", None)  # known only beside the cells of the domains alone
    told = {"ticks": result.ticks, "error": result.error, "notices": result.notices}
    if result.load is not None:
        told |= {"load": msgspec.to_builtins(result.load), "overlap": result.overlap}
    return {"domains": domains, "figures": figures, **told}
