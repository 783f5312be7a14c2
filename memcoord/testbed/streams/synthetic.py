"""Programs made of loops: usemem, a cyclic scan, a liar, a quiet tenant.

Owns: their references. Each is the shortest program that shows one thing: pressure that rises in
steps, the worst case of LRU, memory asked for and never used again, and memory hardly used at all.
"""

from collections.abc import Iterator

import numpy as np

from memcoord.testbed.scenarios import workloads
from memcoord.testbed.streams.references import (
    Part,
    References,
    cyclic,
    forked,
    gathered,
    skewed,
    spans,
    sweep,
)
from memcoord.testbed.streams.stream import Stream, anonymous


def usemem(work: workloads.UsememWorkload, seed: int) -> Stream:
    """Allocate a step, write all there is from end to end, allocate the next.

    References to one page in a row are one, as everywhere: so sweeps over the first page alone are
    part of what follows.
    """
    del seed
    most, step = work.most.frames, work.step.frames
    sizes, sweeps = range(max(step, 2), most, step), work.sweeps if most > 1 else 1

    def parts() -> Iterator[Part]:
        for size in (*sizes, most):
            yield from cyclic(sweep(0, size, write=True), size * sweeps).parts()

    count = (sum(sizes) + most) * sweeps
    return anonymous("usemem", References(count, lambda: gathered(parts())), most)


def loop(work: workloads.LoopWorkload, seed: int) -> Stream:
    """Read from one end to the other, again and again."""
    del seed
    size = work.size.frames
    start = int(work.phase * size)
    return anonymous("loop", cyclic(sweep(0, size, write=False), size * work.repeat, start), size)


def junk(work: workloads.JunkWorkload, seed: int) -> Stream:
    """Write each junk page once, then refer ``every`` times to hot pages, numbered after junk."""
    start = np.random.default_rng(seed)
    count, hot, each = work.size.frames, work.hot.frames, work.every + 1

    def parts() -> Iterator[Part]:
        rng = forked(start)
        for begin, end in spans(count, each):
            pages = np.empty((end - begin, each), dtype=np.int32)
            pages[:, 0] = np.arange(begin, end)
            pages[:, 1:] = count + rng.integers(0, hot, (end - begin, work.every))
            writes = np.zeros_like(pages, dtype=np.uint8)
            writes[:, 0] = 1
            yield pages.ravel(), writes.ravel()

    return anonymous("junk", References(count * each, parts), count + hot)


def quiet(work: workloads.QuietWorkload, seed: int) -> Stream:
    """A few references, a pause, a few more."""
    rng = np.random.default_rng(seed)
    count, size = work.references, work.size.frames
    places = sorted({count * turn // (work.pauses + 1) for turn in range(1, work.pauses + 1)})
    pauses = tuple((place, work.pause_s) for place in places if work.pause_s > 0)
    return anonymous("quiet", skewed(rng, lambda *_: size, count, 0.1), size, pauses)
