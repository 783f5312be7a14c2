"""Several runs of one scenario: which seeds, and what a seed changes.

Owns: the reading of ``--seeds``, and ``varied``, the scenario of a seed. A seed makes the streams
of workloads that draw from it. What draws nothing is shifted instead, so that runs differ where
real ones would: a repeated trace begins at another place (its phase), and a late domain starts a
little earlier or later. Both worlds run the same varied scenario. A scenario in which none of
this changes anything has no randomness, and one run says all.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from hypervisor.public.errors import ConfigError
from memcoord.testbed.scenarios.schema import SEEDS_MAX, Domain, Scenario
from memcoord.testbed.streams import Stream, domain_seed, stream_of
from memcoord.testbed.streams.references import PART_REFERENCES, Cursor, Part

SEED_MAX = (1 << 63) - 1
#: A late start is moved by this part of the other's references at most.
START_SHIFT_MAX = 0.05


def seeds_of(text: str, first: int) -> list[int]:
    """The seeds of ``--seeds``: "5" are five from ``first`` on, "1,4,9" these; ConfigError."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError("--seeds", f"{text!r}: how many, or seeds as in 1,4,9") from None
    seeds = list(range(first, first + numbers[0])) if len(numbers) == 1 else numbers
    if not 1 <= len(seeds) <= SEEDS_MAX or len(set(seeds)) < len(seeds):
        raise ConfigError("--seeds", f"1 to {SEEDS_MAX} of them, none twice")
    if not all(0 <= seed <= SEED_MAX for seed in seeds):
        raise ConfigError("--seeds", f"must be 0 to {SEED_MAX}")
    return seeds


def varied(scenario: Scenario, seed: int) -> Scenario:
    """The scenario of ``seed``."""
    rng = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    # Floats of Python's own: those of numpy are no numbers to who writes a scenario down.
    domains = tuple(_varied(domain, *rng.random(2).tolist()) for domain in scenario.domain)
    return replace(scenario, seed=seed, domain=domains)


def _varied(domain: Domain, phase: float, shift: float) -> Domain:
    work, when = domain.workload, domain.start_when
    if getattr(work, "repeat", 1) > 1 and hasattr(work, "phase"):
        domain = replace(domain, workload=replace(work, phase=round(phase, 6)))
    if when is not None and 0 < when.done < 1:
        done = min(max(when.done + (2 * shift - 1) * START_SHIFT_MAX, 0.0), 1.0)
        domain = replace(domain, start_when=replace(when, done=round(done, 6)))
    return domain


def has_randomness(scenario: Scenario, seeds: Sequence[int]) -> bool:
    """Whether two of ``seeds`` make different runs of ``scenario``."""
    if len(seeds) < 2:
        return False
    one, other = (varied(scenario, seed) for seed in seeds[:2])
    if one.domain != other.domain:
        return True
    return any(
        not _same(stream_of(domain.workload, domain_seed(one.seed, domain.name)),
                  stream_of(domain.workload, domain_seed(other.seed, domain.name)))
        for domain in scenario.domain
    )  # fmt: skip


def _same(one: Stream, other: Stream) -> bool:
    """Whether two streams refer to the same pages at the same times."""
    if len(one) != len(other) or one.pauses != other.pauses:
        return False
    first, second = Cursor(one.references), Cursor(other.references)
    left = len(one)
    while left > 0:
        part = first.take(PART_REFERENCES)
        left -= len(part[0])
        if not _continues(second, part):
            return False
    return True


def _continues(reader: Cursor, part: Part) -> bool:
    """Whether the next references of ``reader`` are those of ``part``."""
    pages, writes = part
    while len(pages):
        other_pages, other_writes = reader.take(len(pages))
        count = len(other_pages)
        same = np.array_equal(pages[:count], other_pages)
        if count == 0 or not same or not np.array_equal(writes[:count], other_writes):
            return False
        pages, writes = pages[count:], writes[count:]
    return True
