"""Workload streams: the pages that the programs of a domain refer to, the same in both worlds.

``stream_of(workload, seed)`` is a pure function: the testbed's guests and the simulator replay the
very same references. ``domain_seed`` gives each domain of a scenario a seed of its own that does
not depend on the other domains, so that a domain does the same alone as in company.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from memcoord.testbed.scenarios.workloads import (
    AnalyticsWorkload,
    BlockTraceWorkload,
    BurstsWorkload,
    DemandSeriesWorkload,
    GraphWorkload,
    JunkWorkload,
    LoopWorkload,
    PageTraceWorkload,
    QuietWorkload,
    UsememWorkload,
    Workload,
)
from memcoord.testbed.streams.block_trace import block_trace
from memcoord.testbed.streams.demand import bursts, demand_series
from memcoord.testbed.streams.page_trace import page_trace
from memcoord.testbed.streams.sparse import graph_analytics, in_memory_analytics
from memcoord.testbed.streams.stream import Stream
from memcoord.testbed.streams.synthetic import junk, loop, quiet, usemem

__all__ = ["Stream", "domain_seed", "stream_of"]

_MAKERS: dict[type, Callable[[Any, int], Stream]] = {
    PageTraceWorkload: page_trace,
    BlockTraceWorkload: block_trace,
    UsememWorkload: usemem,
    GraphWorkload: graph_analytics,
    AnalyticsWorkload: in_memory_analytics,
    LoopWorkload: loop,
    JunkWorkload: junk,
    BurstsWorkload: bursts,
    DemandSeriesWorkload: demand_series,
    QuietWorkload: quiet,
}


def stream_of(workload: Workload, seed: int) -> Stream:
    """The references of ``workload``; ConfigError when a file of its cannot be read."""
    return _MAKERS[type(workload)](workload, seed)


def domain_seed(seed: int, domain: str) -> int:
    """The seed of the stream of the domain of that name in a scenario with ``seed``."""
    return seed << 32 | zlib.crc32(domain.encode())
