"""Ticks as their readers see them: columns put back on rows, parts put back together.

Owns: ``Publication`` and ``Assembly``, which makes them of the messages of the feed. Pure. Every
view and every recording reads ticks through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypervisor.public.feed import Hello, Tick
from hypervisor.public.messages import BadMessage

#: Parts of one tick: each has at least one of at most so many domains.
PARTS_MAX = 64


@dataclass(frozen=True)
class Publication:
    """One tick. ``domains`` have the fields of ``DomainSnapshot``, less what ``Hello`` said.

    ``monotonic_ns`` is the hypervisor's CLOCK_MONOTONIC, which every process here shares.
    """

    tick: int
    monotonic_ns: int
    host: dict[str, int]
    domains: list[dict[str, Any]]


class Assembly:
    """Ticks out of messages of one hypervisor, which come in their order; some may be missing."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self._parts: list[Tick] = []

    def schema(self, hello: Hello) -> None:
        """What follows has these columns."""
        self.hello = hello

    def add(self, tick: Tick) -> Publication | None:
        """The tick that is whole with this part; None as long as parts are missing.

        BadMessage when a row does not fit the columns, or a part is of no tick there can be.
        """
        if self.hello is None:  # who subscribes gets the hello first: of the hypervisor before
            return None
        if not 0 <= tick.part < tick.parts <= PARTS_MAX:
            raise BadMessage(f"part {tick.part} of {tick.parts}")
        if tick.part == 0:
            self._parts = []
        elif not self._follows(tick):
            self._parts = []
            return None
        self._parts.append(tick)
        if tick.part < tick.parts - 1:
            return None
        rows = [row for part in self._parts for row in part.rows]
        self._parts = []
        return self._publication(self.hello, tick, rows)

    def _follows(self, tick: Tick) -> bool:
        """Whether a part follows the last one: a slow reader may have lost one in between."""
        if not self._parts:
            return False
        last = self._parts[-1]
        return (last.tick, last.parts, last.part + 1) == (tick.tick, tick.parts, tick.part)

    @staticmethod
    def _publication(hello: Hello, tick: Tick, rows: list[list[Any]]) -> Publication:
        try:
            host = dict(zip(hello.host_columns, tick.host, strict=True))
            domains = [dict(zip(hello.domain_columns, row, strict=True)) for row in rows]
        except ValueError:
            raise BadMessage("a row does not fit its columns") from None
        return Publication(tick.tick, tick.monotonic_ns, host, domains)
