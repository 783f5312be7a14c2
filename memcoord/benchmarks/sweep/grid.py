"""GRID.toml: which policies, parameters, scenarios, settings and seeds a sweep crosses.

Owns: the schema of that file and the list of cells it stands for. Example:

    [sweep]
    policies = ["greedy", "smart-alloc", "mine.py:Mine"]
    scenarios = ["usemem", "loop"]    # shipped ones, or files
    seeds = 5                         # 1 to 5; or a list
    world = "sim"                     # or "testbed"

    [parameters.smart-alloc]          # every combination of these
    P = [1, 2, 4]

    [set]                             # keys of the scenarios, as of ``run --set``
    "domain[0].ram" = ["4 MiB", "8 MiB"]

Every mistake is found before anything runs: a ConfigError or PolicyError names it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from hypervisor.public.documents import check_values, decode_toml
from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.sweep.cell import WORLDS, Cell, scenario_of

CELLS_MAX = 1_000_000
#: Keys of a scenario for which a sweep has a key of its own; they cannot be set.
OWN_KEYS = {"policies": "policies", "seed": "seeds", "seeds": "seeds"}
SEEDS_MAX = 10_000
Value = int | float | bool | str
Pairs = tuple[tuple[str, str], ...]

_AT = re.compile(r" - at `\$\.?(.*)`$")


class SweepTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[sweep]``."""

    policies: tuple[str, ...]  # each with every combination of its parameters
    scenarios: tuple[str, ...]  # shipped ones, or files
    seeds: int | tuple[int, ...] = 5  # 1 to N, or a list
    world: str = "sim"  # sim or testbed


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. ``parameters`` are by policy, without its own."""

    sweep: SweepTable  # the table [sweep]
    parameters: dict[str, dict[str, tuple[Value, ...]]] = {}
    set: dict[str, tuple[Value, ...]] = {}  # keys of the scenarios, every combination


def read_grid(path: Path) -> Grid:
    """The grid in the file ``path``; ConfigError names the wrong key."""
    try:
        raw = decode_toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), str(error)) from None
    return grid_of(raw, str(path))


def grid_of(raw: Mapping[str, Any], source: str = "grid") -> Grid:
    """The grid that the file's tables would be; ConfigError names the wrong key."""
    try:
        grid = msgspec.convert(raw, Grid)
    except msgspec.ValidationError as error:
        where = _AT.search(str(error))
        key = where[1] if where is not None else source
        raise ConfigError(key, _AT.sub("", str(error)).replace("`", "")) from None
    check_values(raw)
    return grid


def cells_of(grid: Grid) -> list[Cell]:
    """Every run of the grid, and each domain alone to compare with.

    ConfigError or PolicyError when a policy, a scenario or a setting is wrong.
    """
    sweep = grid.sweep
    if sweep.world not in WORLDS:
        raise ConfigError("sweep.world", f"{sweep.world!r}: write {' or '.join(WORLDS)}")
    for name in grid.parameters:
        if name not in sweep.policies:
            raise ConfigError(f"parameters.{name}", "is not among sweep.policies")
    policies = [
        (policy, params)
        for policy in _some("sweep.policies", sweep.policies)
        for params in _product(f"parameters.{policy}", grid.parameters.get(policy, {}))
    ]
    for name in OWN_KEYS.keys() & grid.set.keys():
        raise ConfigError(f"set.{name}", f"write sweep.{OWN_KEYS[name]}")
    texts = {name: scenario_text(name) for name in _some("sweep.scenarios", sweep.scenarios)}
    settings, seeds = _product("set", grid.set), seeds_of(sweep.seeds)
    count = len(policies) * len(texts) * len(settings) * len(seeds)
    if count > CELLS_MAX:
        raise ConfigError("sweep", f"{count:,} runs, at most {CELLS_MAX:,}")
    return cross(policies, texts, settings, seeds, (sweep.world,))


def cross(
    policies: Sequence[tuple[str, Pairs]], scenarios: dict[str, str], settings: Sequence[Pairs],
    seeds: Sequence[int], worlds: Sequence[str],
) -> list[Cell]:  # fmt: skip
    """Cells for every combination, and for each domain alone; every policy and scenario checked."""
    from policies import loader

    files = {policy: _policy_file(policy) for policy, _ in policies}
    cells: dict[str, Cell] = {}
    for world, (name, text), setting in itertools.product(worlds, scenarios.items(), settings):
        first = Cell(policy="greedy", scenario=name, text=text, seed=seeds[0], overrides=setting)
        try:
            names = [domain.name for domain in scenario_of(first).domain]
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.key}", error.why) from None
        for seed in seeds:
            base = replace(first, seed=seed, world=world)
            made = [replace(base, kind="alone", domain=domain) for domain in names]
            made += [
                replace(
                    base,
                    policy=policy,
                    params=params,
                    policy_file=files[policy][0],
                    beside=files[policy][1],
                )
                for policy, params in policies
            ]
            cells.update((cell.key, cell) for cell in made)
    with contextlib.redirect_stdout(sys.stderr):  # a user's file may print
        for policy in sorted({cell.policy_text for cell in cells.values()}):
            loader.load(policy)
    return list(cells.values())


def scenario_text(source: str) -> str:
    """The text of the scenario ``source``, a file or the name of a shipped one; ConfigError."""
    from memcoord.testbed.scenarios.schema import all_shipped, load

    load(source)  # raises when it is missing or wrong
    if source in all_shipped() and not Path(source).is_file():
        shipped_file = resources.files("memcoord.testbed") / "scenarios" / f"{source}.toml"
        return shipped_file.read_text(encoding="utf-8")
    return Path(source).read_text(encoding="utf-8")


def seeds_of(given: int | Sequence[int]) -> tuple[int, ...]:
    """1 to ``given``, or the list itself."""
    if isinstance(given, int) and not 1 <= given <= SEEDS_MAX:
        raise ConfigError("sweep.seeds", f"must be 1 to {SEEDS_MAX}, or a list")
    return tuple(range(1, given + 1)) if isinstance(given, int) else _some("sweep.seeds", given)


def split_policy(text: str) -> tuple[str, Pairs]:
    """A policy as ``--policy`` takes it, and its parameters apart."""
    head, colon, tail = text.rpartition(":")
    if not colon or "=" not in tail:
        return text, ()
    parts = (part.partition("=") for part in tail.split(",") if part)
    return head, tuple((key.strip(), value.strip()) for key, _, value in parts)


def _policy_file(policy: str) -> tuple[str, dict[str, str]]:
    """The text of a policy's file and of the modules beside it that it imports."""
    from policies.loader import file_in
    from policies.neighbours import TooMany, files_beside

    if not file_in(policy):
        return "", {}
    path = Path(file_in(policy))
    try:
        return path.read_text(encoding="utf-8"), files_beside(path.resolve())
    except (OSError, UnicodeDecodeError, TooMany) as error:
        raise ConfigError("sweep.policies", f"{path}: {error}") from None


def _product(key: str, values: dict[str, tuple[Value, ...]]) -> list[Pairs]:
    for name, choices in values.items():
        _some(f"{key}.{name}", choices)
    count = math.prod(map(len, values.values()))
    if count > CELLS_MAX:
        raise ConfigError(key, f"{count:,} combinations, at most {CELLS_MAX:,}")
    rows = itertools.product(*values.values())
    return [tuple(zip(values, map(_text, row), strict=True)) for row in rows]


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _some(key: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise ConfigError(key, "must not be empty")
    if len(set(values)) != len(values):
        raise ConfigError(key, "names one twice")
    return tuple(values)
