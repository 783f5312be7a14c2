"""The clairvoyant optimum: the best static split of a scenario's memory, known beforehand.

Owns: the cost that a policy's regret is measured against. Each domain's exact LRU miss-ratio curve
(Mattson et al., 1970) says how many pages it reads from disk with its resident set and x pages of
tmem; dynamic programming finds the x that add up to tmem's capacity with the least sum. The first
touch of an anonymous page reads nothing and is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

#: Steps tmem is split in; the true optimum is at most a step per domain away.
UNITS = 256


def optimal_cost(scenario: Scenario, seed: int) -> float:
    """Pages read from disk under the best split of tmem that never changes."""
    from hypervisor.public.units import AREA_FRAMES, areas_of
    from memcoord.simulation.caches import reuse
    from memcoord.testbed.streams import domain_seed, stream_of
    from policies.hull import best_split

    boot = sum(areas_of(domain.ram.frames) * AREA_FRAMES for domain in scenario.domain)
    left = scenario.memory.frames - boot - scenario.slack.frames
    most = left if scenario.tmem is None else min(left, scenario.tmem.frames)
    shares = np.linspace(0, max(most, 0), UNITS + 1).astype(np.int64)
    reads = np.empty((len(scenario.domain), UNITS + 1))
    for row, domain in zip(reads, scenario.domain, strict=True):
        stream = stream_of(domain.workload, domain_seed(seed, domain.name))
        ends = 1.0 if domain.crash_at is None else domain.crash_at
        pages = stream.pages[: int(ends * len(stream))]
        misses = reuse.curve(reuse.histogram(pages, stream.page_count))
        sizes = np.minimum(domain.workload.resident.frames + shares, len(misses) - 1)
        touched = np.unique(pages)
        row[:] = misses[sizes] - np.count_nonzero(~stream.program[touched])
    return best_split(reads, UNITS)[1]
