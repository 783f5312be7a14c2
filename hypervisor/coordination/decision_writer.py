"""From the moves of a tick to decisions for the journal.

Owns: the wording of rules, clamps and inputs of one tick's decisions. Made and used by the
coordinator, once per tick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hypervisor.coordination.apply import Move
from hypervisor.coordination.decisions import Decision
from hypervisor.coordination.snapshot_view import Present
from policies import CheckedPlan, View
from policies.reasons import contradicts

TMEM_INPUTS = ("used", "target", "puts", "failed_puts", "gets", "hits", "swap_ins")
RAM_INPUTS = ("ram_current", "ram_target", "ram_used", "swap_ins")


@dataclass(frozen=True, eq=False)
class DecisionWriter:
    """The view and plan of one tick, from which its decisions quote."""

    tick: int
    time_ns: int
    view: View
    plan: CheckedPlan
    rule: str  # for a plan that gives no reasons of its own
    proxies: tuple[str, ...] = ()  # by row of the view: what stands in for a column

    def news(self, text: str, present: Present) -> list[Decision]:
        """``text`` for every domain, no target moved."""
        targets = [now.tmem_target_pages for _, now in present]
        return [self._line(i, "policy", old, old, text) for i, old in enumerate(targets)]

    def tmem(self, moves: list[Move]) -> list[Decision]:
        """A decision for each target sent."""
        clamps = self.plan.tmem_clamps
        return [
            self._line(move.index, "tmem", move.old, move.new, self._why(move.index), clamps, move)
            for move in moves
        ]

    def ram(self, moves: list[Move], present: Present) -> list[Decision]:
        """A decision for each target sent, and one when a grow begins to wait."""
        waiting = {move.index: move.wanted - move.new for move in moves if move.new < move.wanted}
        written = []
        for move in moves:
            before = present[move.index][0].waiting_frames
            if move.new != move.old or waiting.get(move.index, 0) != before or move.refusal:
                rule, clamps = self._why(move.index), self.plan.ram_clamps
                written.append(
                    self._line(move.index, "ram", move.old, move.new, rule, clamps, move)
                )
        for index, (member, _) in enumerate(present):
            member.waiting_frames = waiting.get(index, 0)
        return written

    def _why(self, index: int) -> str:
        return self.plan.why[index] if self.plan.why is not None else self.rule

    def _line(
        self,
        index: int,
        kind: Literal["tmem", "ram", "policy"],
        old: int,
        new: int,
        rule: str,
        clamps: Mapping[int, str] | None = None,
        move: Move | None = None,
    ) -> Decision:
        notes = [(clamps or {}).get(index, "")]
        if move is not None and move.refusal:
            notes.append(f"the backend refused: {move.refusal}")
        elif move is not None and kind == "ram" and move.new < move.wanted:
            notes.append(f"{move.wanted - move.new} frames wait for memory to arrive")
        if move is not None and (said := contradicts(rule, _size(old), _size(new))):
            notes.append(f"yet the target {said}")
        columns = RAM_INPUTS if kind == "ram" else TMEM_INPUTS
        if index < len(self.proxies) and self.proxies[index]:
            notes.append(self.proxies[index])
            columns = tuple(dict.fromkeys((*columns, "failed_puts")))
        seen = {name: float(getattr(self.view, name)[index]) for name in columns}
        inputs = {name: int(value) for name, value in seen.items() if not math.isnan(value)}
        capacity = self.view.ram_capacity if kind == "ram" else self.view.capacity
        return Decision(
            tick=self.tick,
            time_ns=self.time_ns,
            domain=self.view.names[index],
            kind=kind,
            old=old,
            new=new,
            rule=rule,
            clamp="; ".join(filter(None, notes)),
            inputs=inputs | {"capacity": capacity},
            asked=None if move is None else move.wanted,
        )


def _size(target: int) -> float:
    return math.inf if target < 0 else target
