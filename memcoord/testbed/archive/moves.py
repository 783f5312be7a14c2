"""Decisions folded: where a target went, by which rules, how often it turned.

Owns: the arithmetic. Pure. A list of decisions by tick scrolls ten times a second and tells nobody
anything; one line per domain and kind of target can be read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from memcoord.testbed.archive.columns import Columns, in_order, length, rows_where

RULES_MAX = 4


@dataclass(frozen=True)
class Moves:
    """All decisions on one target. ``turns``: how often it went the other way than before."""

    domain: str
    kind: str
    first_bytes: float  # NaN where no target was moved, infinite without a limit
    last_bytes: float
    count: int
    turns: int
    rules: tuple[tuple[str, int], ...]  # the most frequent ones, with their number


def moves_of(decisions: Columns) -> list[Moves]:
    """A line per domain and kind, in the order in which they first came."""
    if not length(decisions):
        return []
    return [
        _moves(domain, kind, rows_where(own, kind=kind))
        for domain in in_order(decisions["domain"])
        for own in [rows_where(decisions, domain=domain)]
        for kind in in_order(own["kind"])
    ]


def _moves(domain: str, kind: str, own: Columns) -> Moves:
    old, new = own["old_target_bytes"], own["new_target_bytes"]
    with np.errstate(invalid="ignore"):  # from no limit to no limit
        moves = np.sign(np.nan_to_num(new - old, nan=0.0, posinf=1.0, neginf=-1.0))
    moving = moves[moves != 0]
    names = [
        f"{rule} ({clamp})" if clamp else rule
        for rule, clamp in zip(own["rule"].tolist(), own["clamp"].tolist(), strict=True)
    ]
    counted = Counter(names).most_common(RULES_MAX + 1)
    rules = tuple(counted[:RULES_MAX])
    if len(counted) > RULES_MAX:
        others = len(names) - sum(count for _, count in rules)
        rules += (("others", others),)
    has_target = kind in ("tmem", "ram")
    return Moves(
        domain=domain,
        kind=kind,
        first_bytes=float(old[0]) if has_target else np.nan,
        last_bytes=float(new[-1]) if has_target else np.nan,
        count=len(names),
        turns=int(np.count_nonzero(moving[1:] != moving[:-1])),
        rules=rules,
    )
