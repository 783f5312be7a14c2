"""The values of every metric at one moment, made of what the feed told last.

Owns: the way from ``Seen`` to values under the names of ``table``. Pure, and needs no Prometheus
library. When the last tick is no news any more, only the metrics of the feed itself are told: an
old number would pass for a new one. What a guest never reported is absent, not 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypervisor.public.feed import Hello
from hypervisor.public.latency import BUCKETS, LOW_NS, STEPS_PER_POWER, Counts, bucket_low_ns
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.metrics import table
from memcoord.testbed.metrics.heard import Seen
from memcoord.testbed.metrics.table import Metric
from memcoord.testbed.watch.frame import is_stale

#: One host has no more; a message that says otherwise is not believed.
DOMAINS_MAX = 64
LABEL_CHARACTERS_MAX = 128
#: Powers of two, from the first bucket's on, at which a bucket of the histogram ends: 1 us to 1 s.
FIRST_POWER, LAST_POWER = 2, 22
#: What tells that a guest reports how it fares: -1 in each until it does.
_GUEST_WORDS = ("guest_references", "guest_faults", "guest_stall_ns")


@dataclass(frozen=True)
class Histogram:
    """Counts up to each bound in seconds; the last bound is infinite."""

    buckets: list[tuple[float, int]]
    sum_s: float


@dataclass
class Family:
    """One metric and its values by the values of its labels. Empty: it has none now."""

    metric: Metric
    values: dict[tuple[str, ...], float | Histogram] = field(default_factory=dict)


def families(seen: Seen, now_ns: int) -> Iterator[Family]:
    """Every metric at ``now_ns`` of CLOCK_MONOTONIC, in the order of the table."""
    made = _feed(seen, now_ns)
    if made[table.UP.name].values[()]:
        made |= _run(seen) | _host(seen) | _domains(seen)
    for metric in table.METRICS:
        yield made.get(metric.name, Family(metric))


def _family(metric: Metric, value: float) -> dict[str, Family]:
    return {metric.name: Family(metric, {(): value})}


def _feed(seen: Seen, now_ns: int) -> dict[str, Family]:
    made = _family(table.UP, _is_up(seen, now_ns)) | _family(table.UNREADABLE, seen.unreadable)
    if seen.tick is not None:
        made |= _family(table.AGE, max(now_ns - seen.tick.monotonic_ns, 0) / 1e9)
    return made


def _is_up(seen: Seen, now_ns: int) -> bool:
    """Whether there is a tick, and it is news."""
    if seen.hello is None or seen.tick is None:
        return False
    return not is_stale((now_ns - seen.tick.monotonic_ns) / 1e9, seen.hello.interval_ms)


def _run(seen: Seen) -> dict[str, Family]:
    assert seen.hello is not None
    assert seen.tick is not None
    hello: Hello = seen.hello
    labels = tuple(
        text[:LABEL_CHARACTERS_MAX]
        for text in (seen.run or hello.run, hello.scenario, hello.policy)
    )
    return {
        table.RUN.name: Family(table.RUN, {labels: 1}),
        **_family(table.RESTARTS, hello.restarts),
        **_family(table.INTERVAL, hello.interval_ms / 1000),
        **_family(table.TICKS, seen.tick.tick),
    }


def _host(seen: Seen) -> dict[str, Family]:
    assert seen.tick is not None
    host = seen.tick.host
    memory = Family(table.MEMORY)
    for use, column in table.USES.items():
        if column in host:
            memory.values[use,] = host[column] * FRAME_BYTES
    made = {table.MEMORY.name: memory}
    for metric in table.OF_HOST:
        if metric.column in host:
            made |= _family(metric, host[metric.column] * metric.factor)
    return made


def _domains(seen: Seen) -> dict[str, Family]:
    assert seen.tick is not None
    metrics = (
        *table.OF_DOMAIN,
        *(table.RAM_LIMIT, table.RAM_UNMET, table.REPORTING, table.GRANTS, table.GRANT_SECONDS),
    )
    made = {metric.name: Family(metric) for metric in metrics}
    names = set()
    for row in seen.tick.domains[:DOMAINS_MAX]:
        name = str(row.get("name"))[:LABEL_CHARACTERS_MAX]
        names.add(name)
        for metric in table.OF_DOMAIN:
            value = _known(row, metric.column)
            if value is not None:
                made[metric.name].values[name,] = value * metric.factor
        for path, column in table.PATHS.items():
            if (grants := _known(row, column)) is not None:
                made[table.GRANTS.name].values[name, path] = grants
        made[table.REPORTING.name].values[name,] = any(
            _known(row, word) is not None for word in _GUEST_WORDS
        )
        if (why := _unmet(row)) is not None:
            made[table.RAM_UNMET.name].values[name, why] = 1
        if name in seen.limits:
            limit = seen.limits[name].maxmem_frames * FRAME_BYTES
            made[table.RAM_LIMIT.name].values[name,] = limit
    for key, counts in seen.counts.items():
        if key[0] in names:
            made[table.GRANT_SECONDS.name].values[key] = histogram(counts)
    return made


def _known(row: Mapping[str, Any], column: str) -> int | None:
    """A value of the row; None for -1, which is no limit, or that the guest never reported it."""
    value = row.get(column)
    return value if isinstance(value, int) and value >= 0 else None


def _unmet(row: Mapping[str, Any]) -> str | None:
    """Why the target of RAM is not reached, in one of the words of ``table.WHYS``."""
    if row.get("reach", "reached") == "reached":
        return None
    why = row.get("reach_why") or table.MOVING
    return why if why in table.WHYS else table.MOVING


def histogram(counts: Counts) -> Histogram:
    """What was counted in the feed's buckets, in one bucket for each power of two.

    The sum takes every grant for one in the middle of its bucket.
    """
    buckets: list[tuple[float, int]] = []
    for power in range(FIRST_POWER, LAST_POWER + 1):
        below = power * STEPS_PER_POWER
        total = sum(count for bucket, count in counts.items() if bucket < below)
        buckets.append(((LOW_NS << power) / 1e9, total))
    buckets.append((float("inf"), sum(counts.values())))
    middles = (
        count * (bucket_low_ns(bucket) + bucket_low_ns(bucket + 1)) / 2
        for bucket, count in counts.items()
        if bucket < BUCKETS
    )
    return Histogram(buckets, sum(middles) / 1e9)
