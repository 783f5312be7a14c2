"""Working sets that change with time: bursts, and the demand of real VMs.

Owns: turning a size per reference into references. Within a working set low pages are likelier, so
that half of the memory serves well over half of the references, as in real programs.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.scenarios.workloads import BurstsWorkload, DemandSeriesWorkload
from memcoord.testbed.streams.references import skewed
from memcoord.testbed.streams.stream import Stream, anonymous
from memcoord.testbed.traces.table import shipped_table

EXCERPT = "bitbrains_excerpt.csv.xz"
#: By the ``source`` of a workload.
EXCERPTS = {
    "bitbrains": EXCERPT,
    "bitbrains-day2": "bitbrains_day2.csv.xz",
    "google": "google_2011.csv.xz",
}
WRITTEN = 0.3


def bursts(work: BurstsWorkload, seed: int) -> Stream:
    """A lull, a burst, a lull, ... until there are enough references."""
    rng = np.random.default_rng(seed)
    base, span = work.base.frames, work.most.frames - work.base.frames
    turns = work.turns
    lengths = np.empty(2 * turns, dtype=np.int64)
    lengths[0::2] = _pareto(rng, work.off, work.shape, turns, work.references)
    lengths[1::2] = _pareto(rng, work.on, work.shape, turns, work.references)
    sizes = np.full(2 * turns, base)
    sizes[1::2] += np.minimum(_pareto(rng, span / 3, work.shape, turns, span), span)
    ends = np.cumsum(lengths)

    def sizes_of(begin: int, end: int) -> NDArray[np.int64]:
        return sizes[np.searchsorted(ends, np.arange(begin, end), side="right")]

    return _follow("bursts", rng, sizes_of, work.references, work.most.frames)


def demand_series(work: DemandSeriesWorkload, seed: int) -> Stream:
    """As many references to each sample of the series."""
    rng = np.random.default_rng(seed)
    share = excerpt(work.source)[work.vm, work.start : work.start + work.samples]
    sizes = np.maximum((share * work.peak.frames).astype(np.int64), 1)

    def sizes_of(begin: int, end: int) -> NDArray[np.int64]:
        return sizes[np.arange(begin, end) * work.samples // work.references]

    return _follow("demand-series", rng, sizes_of, work.references, int(sizes.max()))


@functools.cache
def excerpt(source: str = "bitbrains") -> NDArray[np.float64]:
    """Memory in use of the VMs of ``source``, VMS x SAMPLES, as a fraction of each one's peak."""
    permille = shipped_table(EXCERPTS[source]).column("permille")
    shape = (DemandSeriesWorkload.VMS, DemandSeriesWorkload.SAMPLES)
    values: NDArray[np.float64] = permille.reshape(shape) / 1000
    values.setflags(write=False)
    return values


def _follow(
    name: str,
    rng: np.random.Generator,
    sizes: Callable[[int, int], NDArray[np.int64]],
    count: int,
    page_count: int,
) -> Stream:
    return anonymous(name, skewed(rng, sizes, count, WRITTEN), page_count)


def _pareto(
    rng: np.random.Generator, mean: float, shape: float, count: int, most: int
) -> NDArray[np.int64]:
    """Draws of a Pareto law with this mean, cut off at ``most``."""
    least = mean * (shape - 1) / shape
    drawn = least * (1 + rng.pareto(shape, count))
    return np.ceil(np.minimum(drawn, most)).astype(np.int64)
