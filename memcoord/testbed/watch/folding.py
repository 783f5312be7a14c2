"""Many decisions as few lines: where a target went, by which rules, and whether it swings.

Owns: ``Decided``, a decision wherever it was read, ``Folding`` and ``fold``. Pure. A policy may
move a target at every tick, so a line per decision cannot be read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, Self

from hypervisor.public.units import FRAME_BYTES

RULES_SHOWN_MAX = 3
#: A target that turns at so many of its moves swings.
SWINGS_SHARE, SWINGS_MIN = 0.3, 3
_MIB_PAGES = (1 << 20) // FRAME_BYTES


class _Row(Protocol):
    """What every form of a decision has."""

    @property
    def domain(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def old(self) -> int: ...
    @property
    def new(self) -> int: ...
    @property
    def rule(self) -> str: ...
    @property
    def clamp(self) -> str: ...


@dataclass(frozen=True)
class Decided:
    """One decision: of a domain's target, or that there was none. Pages; -1: no limit."""

    time_s: float
    tick: int
    domain: str
    kind: str
    old: int
    new: int
    rule: str
    clamp: str

    @classmethod
    def of(cls, time_s: float, tick: int, row: _Row) -> Self:
        """The decision ``row``, wherever it was kept."""
        return cls(time_s, tick, row.domain, row.kind, row.old, row.new, row.rule, row.clamp)


@dataclass
class Folded:
    """Decisions of one kind about one domain, one after the other."""

    first: Decided
    last: Decided
    count: int = 0
    moves: int = 0
    turns: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    clamps: Counter[str] = field(default_factory=Counter)
    _step: int = 0

    def add(self, one: Decided) -> None:
        """One decision more."""
        self.last = one
        self.count += 1
        self.rules[one.rule] += 1
        self.clamps[one.clamp] += 1
        step = _direction(one.old, one.new)
        if step:
            self.moves += 1
            self.turns += step == -self._step
            self._step = step

    @property
    def swings(self) -> bool:
        """Whether the target goes up and down rather than anywhere."""
        return self.turns >= max(SWINGS_MIN, SWINGS_SHARE * self.moves)

    @property
    def way(self) -> str:
        """more, less or as is."""
        return ("as is", "more", "less")[_direction(self.first.old, self.last.new)]

    @property
    def moved(self) -> str:
        """From where to where; empty where no target moved."""
        if not self.moves:
            return ""
        old, new = target_text(self.first.old), target_text(self.last.new)
        if self.last.new < 0 <= self.first.old:
            return f"{old} MiB -> {new}"
        return f"{old} -> {new} MiB"

    @property
    def told(self) -> str:
        """The rules by frequency, and what else there is to say."""
        parts = [f"swings, {self.turns} turns in {self.moves} moves"] if self.swings else []
        parts += [self._counted(self.rules), self._counted(self.clamps)]
        return "; ".join(filter(None, parts))

    def _counted(self, texts: Counter[str]) -> str:
        """The most frequent texts, each with how often it was said."""
        known = [(text, times) for text, times in texts.most_common() if text]
        shown = ", ".join(
            f"{text} x{times}" if self.count > 1 else text
            for text, times in known[:RULES_SHOWN_MAX]
        )
        more = len(known) - RULES_SHOWN_MAX
        return f"{shown} and {more} more" if more > 0 else shown

    @property
    def line(self) -> str:
        """All of it, for a terminal or a pipe."""
        ticks = f"tick {self.first.tick}"
        if self.last.tick != self.first.tick:
            ticks = f"ticks {self.first.tick}-{self.last.tick}"
        what = f"{self.first.kind} {self.moved} ({self.way})" if self.moves else self.first.kind
        return "; ".join(filter(None, [f"{ticks}: {what}", self.told]))


class Folding:
    """Decisions about each domain as they come: those of one kind within ``span_s`` are one."""

    def __init__(self, span_s: float) -> None:
        self.found: deque[Folded] = deque()  # oldest first
        self._span_s = span_s
        self._open: dict[tuple[str, str], Folded] = {}

    def add(self, one: Decided) -> None:
        """One decision more."""
        where = one.domain, one.kind
        now = self._open.get(where)
        is_old = now is not None and one.time_s - now.first.time_s > self._span_s
        if now is None or is_old or _topic(now.last) != _topic(one):
            now = self._open[where] = Folded(one, one)
            self.found.append(now)
        now.add(one)


def fold(decisions: Iterable[Decided], span_s: float) -> list[Folded]:
    """Decisions about each domain, those of one kind within ``span_s`` as one; oldest first."""
    folding = Folding(span_s)
    for one in decisions:
        folding.add(one)
    return list(folding.found)


def _topic(one: Decided) -> str:
    """What one line may be about: moves of a target, or one piece of news."""
    return "" if one.old != one.new else one.rule


def _direction(old: int, new: int) -> int:
    """1 for a target that rose, -1 for one that fell; no limit is above all."""
    before, after = (float("inf") if target < 0 else target for target in (old, new))
    return (after > before) - (after < before)


def target_text(pages: int) -> str:
    """A target in MiB, without the unit."""
    if pages < 0:
        return "no limit"
    mib = pages / _MIB_PAGES
    return f"{mib:,.0f}" if mib >= 1000 else f"{mib:.1f}" if mib >= 10 else f"{mib:.2f}"
