"""The clairvoyant optima: the best static splits of a scenario's memory, known beforehand.

Owns: the cost that a policy's regret is measured against, and the split of the row best-static.
Each domain's exact LRU miss-ratio curve (Mattson et al., 1970) says how many pages it reads from
disk with its resident set and x pages of tmem; dynamic programming finds the x that add up to
tmem's capacity with the least sum. The first touch of an anonymous page reads nothing and is not
counted. best-static is the same over areas of RAM, and its sum is that of the slowdowns, by the
costs of the scenario; writes to disk are left out of it. A split that never changes is not the best
there is: a policy that moves memory as programs come and go may do better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from memcoord.testbed.scenarios.schema import Domain, Scenario

#: Steps tmem is split in; the true optimum is at most a step per domain away.
UNITS = 256


def optimal_cost(scenario: Scenario, seed: int) -> float:
    """Pages read from disk under the best split of tmem that never changes."""
    from hypervisor.public.units import AREA_FRAMES, areas_of
    from policies.hull import best_split

    boot = sum(areas_of(domain.ram.frames) * AREA_FRAMES for domain in scenario.domain)
    left = scenario.memory.frames - boot - scenario.slack.frames
    most = left if scenario.tmem is None else min(left, scenario.tmem.frames)
    shares = np.linspace(0, max(most, 0), UNITS + 1).astype(np.int64)
    reads = np.empty((len(scenario.domain), UNITS + 1))
    for row, domain in zip(reads, scenario.domain, strict=True):
        row[:] = _disk_reads(domain, seed, domain.workload.resident.frames + shares)[0]
    return best_split(reads, UNITS)[1]


def best_areas(scenario: Scenario, seed: int) -> dict[str, int]:
    """Areas of RAM for every domain by name, with the least sum of slowdowns reckoned."""
    from hypervisor.public.units import AREA_FRAMES, areas_of
    from memcoord.simulation.costs import costs_of
    from policies.hull import best_split

    costs = costs_of(scenario).costs
    least = [areas_of((domain.ram_min or domain.ram).frames) for domain in scenario.domain]
    most = [areas_of((domain.ram_max or domain.maxmem).frames) for domain in scenario.domain]
    all_areas = (scenario.memory.frames - scenario.slack.frames) // AREA_FRAMES
    spare = max(all_areas - sum(least), 0)
    slowdowns = np.empty((len(least), spare + 1))
    for row, domain, low, high in zip(slowdowns, scenario.domain, least, most, strict=True):
        areas = np.minimum(low + np.arange(spare + 1), high)
        beyond_boot = areas * AREA_FRAMES - domain.ram.frames
        sizes = np.maximum(domain.workload.resident.frames + beyond_boot, 1)
        reads, compute_ns = _disk_reads(domain, seed, np.append(sizes, high * AREA_FRAMES))
        time_ns = compute_ns + reads * (costs.fault_ns + costs.disk_read_ns)
        row[:] = time_ns[:-1] / max(time_ns[-1], 1.0)
    split = best_split(slowdowns, spare)[0]
    return {
        domain.name: low + int(more)
        for domain, low, more in zip(scenario.domain, least, split, strict=True)
    }


def _disk_reads(
    domain: Domain, seed: int, sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Pages that ``domain`` reads from disk with room for so many, and the time it computes."""
    from memcoord.simulation.caches import reuse
    from memcoord.testbed.streams import domain_seed, stream_of

    stream = stream_of(domain.workload, domain_seed(seed, domain.name))
    ends = 1.0 if domain.crash_at is None else domain.crash_at
    pages = stream.pages[: int(ends * len(stream))]
    misses = reuse.curve(reuse.histogram(pages, stream.page_count))
    first = np.count_nonzero(~stream.program[np.unique(pages)])
    reads = misses[np.minimum(sizes, len(misses) - 1)].astype(np.float64) - first
    return reads, float(len(pages)) * stream.compute_ns
