"""What a run of the situations says of the claims, in sentences. Pure.

Owns: the rules. "Up to 35 %" is the largest gain of a domain under smart-alloc, of those whose
interval leaves 0 out, beside what an equal share gives the same domain and who pays. Our policy is
held to two sentences of its own: nobody is more than WORSE_MAX percent slower than under greedy,
and in the mean and for the worst domain it is better than smart-alloc with its best P.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.sweep.table import number

Found = Mapping[str, Any]

BASELINE = "greedy"
SMART, EQUAL = "smart-alloc", "static-alloc"
OURS = "fallow"
WORSE_MAX = 5.0
#: An equal share gives as much when it lacks no more than so many points.
AS_MUCH = 3.0
CLAIMED_PERCENT = 35
#: The paper's situations; ours are held to nothing.
PAPERS = ("S1", "S2", "S3", "usemem")


def rows_of(found: Found, world: str, situation: str) -> dict[str, Mapping[str, Any]]:
    """The rows there by policy."""
    return {
        row["policy"]: row
        for row in found["rows"].values()
        if (row["world"], row["situation"]) == (world, situation)
    }


def best(found: Found, world: str, situation: str) -> tuple[Any, str, str]:
    """The largest gain of a domain under smart-alloc: the figure, the domain, the policy.

    Of those that their interval shows; of all where it shows none.
    """
    known = [
        (number(figure["low"]) > 0, number(figure["value"]), figure, name, policy)
        for policy, row in rows_of(found, world, situation).items()
        if policy.startswith(SMART)
        for name, figure in row["domains"].items()
        if number(figure["value"]) == number(figure["value"])
    ]
    if not known:
        return None, "", ""
    return max(known, key=lambda one: one[:2])[2:]


def sentences(found: Found, world: str) -> list[str]:
    """The verdicts of ``world``, a line each."""
    return [*_claimed(found, world), *_ours(found, world)]


def _claimed(found: Found, world: str) -> list[str]:
    told, tops = [], []
    for situation in found["situations"]:
        figure, name, policy = best(found, world, situation)
        if figure is None:
            continue
        rows = rows_of(found, world, situation)
        value = number(figure["value"])
        is_shown = number(figure["low"]) > 0
        tops.append((is_shown, value, f"{name} in {situation} under {policy}"))
        pays = " ".join(rows[policy]["pays"]) or "nobody, by the intervals"
        equal = number(rows[EQUAL]["domains"][name]["value"]) if EQUAL in rows else float("nan")
        share = "as much" if equal >= value - AS_MUCH else "less"
        told.append(
            f"{situation}, {world}: {name} has the most of {policy}, {value:+.0f} %; pays: {pays}; "
            f"an equal share ({EQUAL}) gives it {equal:+.0f} %, {share}"
        )
    if not tops:
        return []
    is_shown, value, where = max(tops)
    verdict = "reached" if round(value) >= CLAIMED_PERCENT else "not reached"
    verdict = verdict if is_shown else "not shown, no interval leaves 0 out"
    return [f"Up to {CLAIMED_PERCENT} %, {world}: {verdict}: {value:+.0f} % for {where}", *told]


def _ours(found: Found, world: str) -> list[str]:
    told, held = list[str](), list[bool]()
    for situation in PAPERS:
        rows = rows_of(found, world, situation)
        smart = [row for policy, row in rows.items() if policy.startswith(SMART)]
        if OURS not in rows or not smart:
            continue
        ours = rows[OURS]
        losses = [-number(figure["value"]) for figure in ours["domains"].values()]
        checks = {"no domain loses more than 5 %": max(losses) <= WORSE_MAX}
        for what in ("mean", "worst"):
            rival = max(number(row[what]["value"]) for row in smart)
            mine = number(ours[what]["value"])
            text = f"{what} {mine:+.0f} against {rival:+.0f} % of smart-alloc's best P"
            checks[text] = mine > rival
        held += checks.values()
        parts = (f"{text}: {'yes' if is_so else 'no'}" for text, is_so in checks.items())
        most = f"largest loss {max(losses):.0f} %" if max(losses) > 0 else "nobody loses"
        told.append(f"{OURS} in {situation}, {world}: {most}; " + "; ".join(parts))
    if not told:
        return []
    verdict = "holds" if all(held) else "does not hold"
    return [f"Our policy ({OURS}) never 5 % worse than greedy and better than smart-alloc, "
            f"{world}: {verdict} ({sum(held)} of {len(held)} conditions)", *told]  # fmt: skip
