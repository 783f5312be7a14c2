"""Bursty demand: how many areas of memory a guest wants, and when, from a seed.

Owns: the series of ``memcoord bench bursts``. Pure. A series is steps of (nanoseconds after the
start, areas wanted or, negative, given back); no step leads below 0 or above PEAK_AREAS.
media: viewers of a streaming server come and go, each with a buffer of its own; on and off times
are Pareto, without a finite variance. social: posts of a feed come in flashes, at a rate that falls
off after each; a few posts are read by very many, so their sizes are Pareto. bitbrains: memory in
use of a real machine of the GWA-T-12 archive, its first SAMPLES samples, one every five minutes.
Time is compressed to SPAN_S.
"""

from __future__ import annotations

import csv
import io
import lzma
import random
from collections.abc import Iterable
from importlib import resources

SPAN_S = 1.2
PEAK_AREAS = 24
EXCERPT = "bitbrains_excerpt.csv.xz"
SERIES = ("media", "social", "bitbrains")

VIEWERS = 10
VIEWER_AREAS = (1, 1, 2)
ON_S, OFF_S, VIEWER_ALPHA = 0.04, 0.1, 1.5
FLASHES, POSTS = 5, 8
POST_ALPHA, POST_AREAS_MAX = 1.2, 8
POST_SPACING_S, POST_HOLD_S = 0.004, 0.03
SAMPLES, WALK_STEP, WALK_JUMP_CHANCE = 96, 60, 0.12

Step = tuple[int, int]


def demand(series: str, seed: int) -> list[Step]:
    """One series of SERIES; the same seed gives the same steps. ValueError for another name."""
    source = random.Random(f"{series} {seed}")
    if series == "media":
        return bounded(_media(source))
    if series == "social":
        return bounded(_social(source))
    if series == "bitbrains":
        return _levels(excerpt(seed)[:SAMPLES] or _walk(source))
    raise ValueError(f"{series!r} is none of {', '.join(SERIES)}")


def excerpt(number: int) -> list[int]:
    """Memory in use of a recorded machine, in thousandths of its peak; [] without data."""
    packed = resources.files("memcoord.testbed").joinpath("data", EXCERPT)
    if not packed.is_file():
        return []
    machines: dict[str, list[int]] = {}
    text = lzma.decompress(packed.read_bytes()).decode("ascii")
    for row in csv.DictReader(io.StringIO(text)):
        machines.setdefault(row["vm"], []).append(int(row["permille"]))
    return list(machines.values())[number % len(machines)]


def bounded(sessions: Iterable[tuple[float, float, int]]) -> list[Step]:
    """Sessions of (begin, end, areas), in seconds, as steps; those without room are left out."""
    events = []
    for number, (begin_s, end_s, areas) in enumerate(sessions):
        if begin_s < SPAN_S:
            events.append((begin_s, number, areas))
            events.append((min(end_s, SPAN_S), number, -areas))
    level, inside, steps = 0, set(), []
    for at_s, number, areas in sorted(events):
        if areas > 0 and level + areas <= PEAK_AREAS:
            inside.add(number)
        elif areas > 0 or number not in inside:
            continue
        level += areas
        steps.append((int(at_s * 1e9), areas))
    return steps


def _media(source: random.Random) -> Iterable[tuple[float, float, int]]:
    for _ in range(VIEWERS):
        at_s = source.uniform(0, OFF_S)
        areas = source.choice(VIEWER_AREAS)
        while at_s < SPAN_S:
            on_s = ON_S * source.paretovariate(VIEWER_ALPHA)
            yield at_s, at_s + on_s, areas
            at_s += on_s + OFF_S * source.paretovariate(VIEWER_ALPHA)


def _social(source: random.Random) -> Iterable[tuple[float, float, int]]:
    for _ in range(FLASHES):
        at_s, spacing_s = source.uniform(0, SPAN_S), POST_SPACING_S
        for _ in range(POSTS):
            areas = min(int(source.paretovariate(POST_ALPHA)), POST_AREAS_MAX)
            yield at_s, at_s + source.expovariate(1 / POST_HOLD_S), areas
            at_s += source.expovariate(1 / spacing_s)
            spacing_s *= 1.25


def _walk(source: random.Random) -> list[int]:
    """A stand-in for the recorded machine: a walk that jumps now and then."""
    level, levels = 300, []
    for _ in range(SAMPLES):
        jump = source.random() < WALK_JUMP_CHANCE
        level = source.randrange(1001) if jump else level + source.randint(-WALK_STEP, WALK_STEP)
        level = min(max(level, 0), 1000)
        levels.append(level)
    return levels


def _levels(permille: list[int]) -> list[Step]:
    """The differences between one sample and the next."""
    steps, level = [], 0
    for index, value in enumerate([*permille, 0]):
        wanted = round(value * PEAK_AREAS / 1000)
        if wanted != level:
            steps.append((int(index * SPAN_S * 1e9 / len(permille)), wanted - level))
        level = wanted
    return steps
