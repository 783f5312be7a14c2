"""Programs made of loops: usemem, a cyclic scan, a liar, a quiet tenant.

Owns: their references. Each is the shortest program that shows one thing: pressure that rises in
steps, the worst case of LRU, memory asked for and never used again, and memory hardly used at all.
"""

import numpy as np

from memcoord.testbed.scenarios import workloads
from memcoord.testbed.streams.stream import Stream, anonymous, joined, merged, skewed, swept


def usemem(work: workloads.UsememWorkload, seed: int) -> Stream:
    """Allocate a step, write all there is from end to end, allocate the next."""
    del seed
    most, step = work.most.frames, work.step.frames
    parts = []
    for size in [*range(step, most, step), most]:
        parts += [swept(0, size, write=True)] * work.sweeps
    return anonymous("usemem", *merged(*joined(parts)), most)


def loop(work: workloads.LoopWorkload, seed: int) -> Stream:
    """Read from one end to the other, again and again."""
    del seed
    pages, writes = joined([swept(0, work.size.frames, write=False)] * work.repeat)
    pages = np.roll(pages, -int(work.phase * work.size.frames))
    return anonymous("loop", pages, writes, work.size.frames)


def junk(work: workloads.JunkWorkload, seed: int) -> Stream:
    """Write each junk page once, then refer ``every`` times to hot pages, numbered after junk."""
    rng = np.random.default_rng(seed)
    count, hot = work.size.frames, work.hot.frames
    pages = np.empty((count, work.every + 1), dtype=np.int32)
    pages[:, 0] = np.arange(count)
    pages[:, 1:] = count + rng.integers(0, hot, (count, work.every))
    writes = np.zeros_like(pages, dtype=np.uint8)
    writes[:, 0] = 1
    return anonymous("junk", pages.ravel(), writes.ravel(), count + hot)


def quiet(work: workloads.QuietWorkload, seed: int) -> Stream:
    """A few references, a pause, a few more."""
    rng = np.random.default_rng(seed)
    count = work.references
    pages = skewed(rng, np.full(count, work.size.frames))
    writes = (rng.random(count) < 0.1).astype(np.uint8)
    places = sorted({count * turn // (work.pauses + 1) for turn in range(1, work.pauses + 1)})
    pauses = tuple((place, work.pause_s) for place in places if work.pause_s > 0)
    return anonymous("quiet", pages, writes, work.size.frames, pauses)
