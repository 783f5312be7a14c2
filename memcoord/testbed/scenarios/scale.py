"""A scenario at another size: the same contest with more or less memory and work.

Owns: what ``scale`` and ``--scale`` multiply. A scenario file is written at a size that a
simulation does in seconds; its ``scale`` says how many times larger it is at full size, at which
``memcoord run`` and ``sim`` run it. Memory and the sizes of programs grow together, so that the
ratio of need to memory stays, and with them the references, so that a run lasts longer in the
same number of rounds and sweeps. What would be over too soon for its policies all the same goes
on for ``length`` times as many rounds, at full size only. A recorded trace has the pages it has: a
scenario of traces can only be repeated more often. Pure.
"""

import math
from typing import Any

from msgspec.structs import asdict, replace

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import AREA_BYTES, FRAME_BYTES
from memcoord.testbed.scenarios.schema import Domain, Scenario, check
from memcoord.testbed.scenarios.sizes import Size
from memcoord.testbed.scenarios.workloads import (
    REAL,
    BlockTraceWorkload,
    GraphWorkload,
    PageTraceWorkload,
    Workload,
)

#: Of a scenario and of a domain: amounts of memory, in whole areas.
HOST_SIZES = ("memory", "slack", "tmem")
DOMAIN_SIZES = ("maxmem", "ram", "ram_min", "ram_max", "tmem_min", "tmem_max")
#: Counts of a program's parts, which grow with its memory.
COUNTS = ("users", "items", "ratings", "references")
#: What makes a program longer in the same memory, the first that it has.
ROUNDS = ("sweeps", "iterations", "repeat", "references", "every")
#: Of a traced program, or a real one, which has the memory it has.
TRACES = (PageTraceWorkload, BlockTraceWorkload, *REAL)


def at_scale(scenario: Scenario, share: float | None) -> tuple[Scenario, str]:
    """The scenario at ``share`` of its full size (None: all of it), and what is to be said of it.

    ConfigError when it cannot be made of that size.
    """
    if share is not None and not 0 < share <= 1:
        raise ConfigError("--scale", "must be above 0, at most 1: a part of the full size")
    factor = scenario.scale * (1.0 if share is None else share)
    made = replace(scaled(scenario, factor), scale=1.0, length=1.0)
    if share is None or share == 1:
        return lengthened(made, scenario.length), ""
    return made, f"at {share:g} of its full size: a look, not a result"


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """``factor`` times as much memory and work; ConfigError names what does not fit any more."""
    if factor == 1:
        return scenario
    host = {} if _is_traced(scenario) else _sizes(scenario, HOST_SIZES, factor, AREA_BYTES)
    domains = tuple(_domain(domain, factor, _is_traced(scenario)) for domain in scenario.domain)
    made = replace(scenario, domain=domains, **host)
    check(made)
    return made


def lengthened(scenario: Scenario, factor: float) -> Scenario:
    """``factor`` times as many rounds; ConfigError names what becomes too long."""
    if factor == 1:
        return scenario
    domains = tuple(
        replace(domain, workload=_longer(domain.workload, factor)) for domain in scenario.domain
    )
    made = replace(scenario, domain=domains)
    check(made)
    return made


def _longer(work: Workload, factor: float) -> Workload:
    name = next((name for name in ROUNDS if hasattr(work, name)), None)
    if name is None:
        return work
    return replace(work, **{name: max(round(getattr(work, name) * factor), 1)})


def _is_traced(scenario: Scenario) -> bool:
    """Whether any program has a fixed size, and so the host."""
    return any(isinstance(domain.workload, TRACES) for domain in scenario.domain)


def _domain(domain: Domain, factor: float, is_traced: bool) -> Domain:
    sizes = {} if is_traced else _sizes(domain, DOMAIN_SIZES, factor, AREA_BYTES)
    return replace(domain, workload=_workload(domain.workload, factor, is_traced), **sizes)


def _workload(work: Workload, factor: float, is_traced: bool) -> Workload:
    if is_traced:
        repeat = getattr(work, "repeat", None)
        return work if repeat is None else replace(work, repeat=max(round(repeat * factor), 1))
    fields = asdict(work)
    names = [name for name, value in fields.items() if isinstance(value, Size)]
    changed: dict[str, int] = {**_sizes(work, names, factor, FRAME_BYTES)}
    changed |= {name: max(round(fields[name] * factor), 1) for name in COUNTS if name in fields}
    if isinstance(work, GraphWorkload):
        changed["vertices"] = max(1 << round(math.log2(work.vertices * factor)), 2)
    return replace(work, **changed)


def _sizes(owner: Any, names: Any, factor: float, unit: int) -> dict[str, Size]:
    """The named sizes, as many times larger, in whole units; those that are 0 or not set stay."""
    found = {name: getattr(owner, name) for name in names}
    return {
        name: Size(max(round(size * factor / unit), 1) * unit)
        for name, size in found.items()
        if size
    }
