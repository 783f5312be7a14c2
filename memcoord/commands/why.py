"""``memcoord why``: which rules led to a domain's targets, while a run lives and after it.

Owns: whom it asks, the hypervisor or the run directory, and the words of the answer. Decisions of a
kind that follow one another are one line. Returns plain values and lines; the command prints them.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from hypervisor.coordination.decisions import Decision
from hypervisor.public.errors import ConfigError, PeerGone
from memcoord.testbed.runs import control_client
from memcoord.testbed.runs.rundir import every_run, newest_live
from memcoord.testbed.watch import kept
from memcoord.testbed.watch.folding import Decided, fold
from memcoord.testbed.watch.kept import KeptDecision

#: Decisions within this time are one line; of a run that ended, a part of its length if that is
#: more, so that about so many lines tell of it.
FOLD_S, LINES_WANTED = 2.0, 20
#: A line of a pipe is one decision; on a terminal it goes on below, so far to the right.
UNBROKEN, CONTINUED = 1 << 20, 14

Answer = tuple[dict[str, Any], list[str]]


def why_command(
    vm: str, run_dir: str | None, *, each: bool = False, width: int = UNBROKEN
) -> Answer:
    """The decisions about ``vm``: one JSON object, and lines, oldest first, broken at ``width``.

    ConfigError when there is no run; Refused when the hypervisor does not know the domain; PeerGone
    when no hypervisor serves the directory and it keeps no decisions.
    """
    place = Path(run_dir) if run_dir else _newest()
    try:
        answer = control_client.call(place, "why", domain=vm)
    except PeerGone:
        if not (place / kept.DECISIONS).exists():
            raise
        found = [one for one in kept.decisions(place) if one.domain == vm]
        told = [msgspec.to_builtins(one) for one in found]
        return {"domain": vm, "why": told}, _broken(kept_lines(vm, found, each=each), width)
    decisions = msgspec.convert(answer, list[Decision])
    return {"domain": vm, "why": answer}, _broken(decision_lines(vm, decisions, each=each), width)


def _broken(lines: list[str], width: int) -> list[str]:
    found: list[str] = []
    for line in lines:
        found += textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * CONTINUED,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return found


def _newest() -> Path:
    """The newest run that lives, or that keeps decisions; ConfigError when there is neither."""
    try:
        return newest_live()
    except ConfigError:
        for path in every_run():
            if (path / kept.DECISIONS).exists():
                return path
        raise


def decision_lines(vm: str, decisions: list[Decision], *, each: bool = False) -> list[str]:
    """What a hypervisor remembers, as lines, oldest first."""
    if not decisions:
        return [f"{vm}: no target of it was ever changed"]
    if each:
        return [str(one) for one in decisions]
    told = [Decided.of(one.time_ns / 1e9, one.tick, one) for one in decisions]
    return [one.line for one in fold(told, FOLD_S)]


def kept_lines(vm: str, decisions: list[KeptDecision], *, each: bool = False) -> list[str]:
    """What a run directory keeps, as lines below the policy and the round they are of."""
    if not decisions:
        return [f"{vm}: no target of it was ever changed"]
    lines = []
    for (policy, number), own in groupby(decisions, lambda one: (one.policy, one.round)):
        lines.append(f"{vm} under {policy}" + (f", round {number + 1}" if number else ""))
        told = [Decided.of(one.time_s, one.tick, one) for one in own]
        span_s = max(FOLD_S, (told[-1].time_s - told[0].time_s) / LINES_WANTED)
        lines += [
            f"  {max(one.first.time_s, 0.0):7.1f} s  {one.line}"
            for one in fold(told, 0.0 if each else span_s)
        ]
    return lines
