"""Workload streams: the pages that the programs of a domain refer to, the same in both worlds.

``stream_of(workload, seed)`` is a pure function: the testbed's guests and the simulator replay the
very same references. Short streams are made and held; long ones are made part by part while they
are read, so a stream of any length takes a bounded amount of memory (``references``).
``domain_seed`` gives each domain of a scenario a seed of its own that does not depend on the other
domains, so that a domain does the same alone as in company.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios import workloads
from memcoord.testbed.streams.block_trace import block_trace
from memcoord.testbed.streams.demand import bursts, demand_series
from memcoord.testbed.streams.page_trace import page_trace
from memcoord.testbed.streams.references import kept
from memcoord.testbed.streams.sparse import graph_analytics, in_memory_analytics
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.synthetic import junk, loop, quiet, usemem

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

__all__ = ["Stream", "domain_seed", "length_of", "lengths_of", "stream_of"]

_MAKERS: dict[type, Callable[[Any, int], Stream]] = {
    workloads.PageTraceWorkload: page_trace,
    workloads.BlockTraceWorkload: block_trace,
    workloads.UsememWorkload: usemem,
    workloads.GraphWorkload: graph_analytics,
    workloads.AnalyticsWorkload: in_memory_analytics,
    workloads.LoopWorkload: loop,
    workloads.JunkWorkload: junk,
    workloads.BurstsWorkload: bursts,
    workloads.DemandSeriesWorkload: demand_series,
    workloads.QuietWorkload: quiet,
}


def stream_of(workload: workloads.Workload, seed: int) -> Stream:
    """The references of ``workload``; ConfigError when a file of its cannot be read.

    A real program has none: ``schema.check_simulable``.
    """
    made = _MAKERS[type(workload)](workload, seed)
    return replace(made, references=kept(made.references))


def length_of(workload: workloads.Workload, seed: int) -> int:
    """How many references a workload makes: its stream is made for that.

    Of a real program its units of work, 0 when it does not say how many it does.
    """
    if isinstance(workload, workloads.REAL):
        return workload.total
    return len(stream_of(workload, seed))


def lengths_of(
    scenario: "Scenario", length: Callable[[workloads.Workload, int], int] = length_of
) -> dict[str, int]:
    """``length`` of each domain of a scenario, by name; it may remember what it has told.

    ConfigError, which names the domain, for a stream that cannot be made.
    """
    lengths = {}
    for one in scenario.domain:
        try:
            lengths[one.name] = length(one.workload, domain_seed(scenario.seed, one.name))
        except ConfigError as error:
            raise ConfigError(f"domain {one.name}: {error.key}", error.why) from None
    return lengths


def domain_seed(seed: int, domain: str) -> int:
    """The seed of the stream of the domain of that name in a scenario with ``seed``."""
    return seed << 32 | zlib.crc32(domain.encode())
