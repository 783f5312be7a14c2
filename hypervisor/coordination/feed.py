"""What goes out on the statistics feed, and when: ``hypervisor/public/feed.py`` has the messages.

Owns: the columns of a tick, the pace of what is not sent at every tick, and the words of decisions
and events as rows. Main thread only; nothing here blocks, and no reader can ask for anything.
A message that cannot be sent is counted and dropped: no statistics are worth a hypervisor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.coordination.decisions import Decision
from hypervisor.public.backend import DomainSnapshot, HostSnapshot
from hypervisor.public.feed import (
    CURVES_S,
    EVENT_FIELDS_MAX,
    FEED_VERSION,
    HELLO_S,
    LATENCY_S,
    TOPICS,
    DecisionRow,
    DomainLimits,
    Event,
    FeedMessage,
    Hello,
    Latencies,
    LatencyRow,
    Tick,
    Why,
    encode,
    short,
    unit_of,
)
from hypervisor.public.messages import BadMessage
from hypervisor.public.units import FRAME_BYTES, DomId

#: Of a snapshot, what ``Hello`` says once for all ticks, and what has a form of its own.
_CONSTANT = ("maxmem_frames", "mechanism", "granule_frames")
CURVE_COLUMN = "mrc_permille"
DOMAIN_COLUMNS = tuple(
    name for name in DomainSnapshot.__struct_fields__ if name not in (*_CONSTANT, "mrc")
)
HOST_COLUMNS = tuple(name for name in HostSnapshot.__struct_fields__ if name != "domains")
_row_of = attrgetter(*DOMAIN_COLUMNS)
_host_of = attrgetter(*HOST_COLUMNS)

#: Send the bytes of one message under a topic.
Send = Callable[[str, bytes], None]
#: Write one event of the run: what happened, and its fields.
OnEvent = Callable[[str, dict[str, Any]], None]


class Feed:
    """The feed of the hypervisor in ``run_dir``. ``restarts``: of those before it that died."""

    def __init__(
        self,
        config: HypervisorConfig,
        run_dir: Path,
        send: Send,
        *,
        restarts: int = 0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config, self._run = config, run_dir.name
        self._send, self._restarts = send, restarts
        self._clock_ns, self._wall_ns = clock_ns, wall_ns
        self._due_ns = dict.fromkeys(("hello", "curves", "lat"), 0)
        self._told: list[tuple[DomId, str]] | None = None  # the domains of the last hello
        self.dropped = 0

    def tick(
        self,
        tick: int,
        snapshot: HostSnapshot,
        policy_faults: int,
        configs: Mapping[DomId, DomainConfig],
    ) -> None:
        """Tell of a tick that is over; ``configs``: of the attached domains, by domid."""
        now_ns = self._clock_ns()
        domains = [(now.domid, now.name) for now in snapshot.domains]
        if self._is_due("hello", HELLO_S, now_ns) or domains != self._told:
            self._told = domains
            known = (now for now in snapshot.domains if now.domid in configs)
            self._hello(now_ns, [_limits(now, configs[now.domid]) for now in known])
        has_curves = self._is_due("curves", CURVES_S, now_ns)
        rows = [
            [*_row_of(now), _permille(now.mrc) if has_curves else None] for now in snapshot.domains
        ]
        host = [*_host_of(snapshot), policy_faults]
        self._tell(Tick(FEED_VERSION, now_ns, tick, 0, 1, host, rows))

    def decided(self, tick: int, time_ns: int, decisions: Sequence[Decision]) -> None:
        """Tell what a tick decided, if it did."""
        if decisions:
            rows = [
                DecisionRow(
                    one.domain,
                    one.kind,
                    one.old,
                    one.new,
                    one.asked,
                    short(one.rule),
                    short(one.clamp),
                )
                for one in decisions
            ]
            self._tell(Why(FEED_VERSION, time_ns, tick, rows))

    def latencies(self, take: Callable[[], Iterable[LatencyRow]]) -> None:
        """Tell how long grants took, each LATENCY_S; ``take`` reads it then."""
        now_ns = self._clock_ns()
        if self._is_due("lat", LATENCY_S, now_ns) and (rows := list(take())):
            self._tell(Latencies(FEED_VERSION, now_ns, rows))

    def happened(self, event: str, fields: Mapping[str, Any]) -> None:
        """Tell of an event of the run."""
        plain = {
            short(name): value if isinstance(value, int) else short(str(value))
            for name, value in list(fields.items())[:EVENT_FIELDS_MAX]
        }
        self._tell(Event(FEED_VERSION, self._clock_ns(), event, plain))

    def beside(self, on_event: OnEvent) -> OnEvent:
        """``on_event``, whose events are told here as well."""

        def both(event: str, fields: dict[str, Any]) -> None:
            on_event(event, fields)
            self.happened(event, fields)

        return both

    def _is_due(self, what: str, pause_s: float, now_ns: int) -> bool:
        is_due = now_ns >= self._due_ns[what]
        if is_due:
            self._due_ns[what] = now_ns + round(pause_s * 1e9)
        return is_due

    def _hello(self, now_ns: int, limits: list[DomainLimits]) -> None:
        columns = [*DOMAIN_COLUMNS, CURVE_COLUMN]
        self._tell(
            Hello(
                FEED_VERSION,
                now_ns,
                time_ns=self._wall_ns(),
                run=self._run,
                scenario=self._config.scenario,
                policy=self._config.policy,
                interval_ms=self._config.interval_ms,
                page_bytes=FRAME_BYTES,
                restarts=self._restarts,
                host_columns=[*HOST_COLUMNS, "policy_faults"],
                domain_columns=columns,
                units=[unit_of(column) for column in columns],
                rows=limits,
            )
        )

    def _tell(self, message: FeedMessage) -> None:
        try:
            for data in encode(message):
                self._send(TOPICS[type(message)], data)
        except (BadMessage, ValueError):  # a row longer than any message; text that is no Unicode
            self.dropped += 1


def statistics_of(snapshot: HostSnapshot) -> dict[str, Any]:
    """A snapshot as the answer to ``statistics``: ``host``, and ``domains`` with all their fields.

    Curves are in whole thousandths, as on the feed: the answer of 64 domains is one message.
    """
    host = msgspec.to_builtins(snapshot)
    domains = list(host.pop("domains"))
    for row in domains:
        row[CURVE_COLUMN] = _permille(row.pop("mrc"))
    return {"host": host, "domains": domains}


def _limits(now: DomainSnapshot, config: DomainConfig) -> DomainLimits:
    low, high = config.ram_limits()
    return DomainLimits(
        now.name,
        now.domid,
        now.mechanism,
        now.granule_frames,
        now.maxmem_frames,
        low,
        high,
        config.tmem_min_pages,
        config.tmem_max_pages,
    )


def _permille(curve: Sequence[float] | None) -> list[int] | None:
    return None if curve is None else [round(1000 * ratio) for ratio in curve]
