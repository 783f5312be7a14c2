"""The start of a run's domains: who starts together, and whether what was asked for came about.

Owns: the order of opening the gates (``memcoord.testbed.guests.gates``), and the comparison of the
overlap that a run had with the overlap that its scenario asks for. A late domain that waits for the
progress of another attaches while that one is held, and both go on together. Called by
``memcoord.testbed.live.session``.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from memcoord.testbed.guests import gates
from memcoord.testbed.live.verdicts import RunningDomain

#: Beyond this part of a program's references, or of its run time, a start is not the scenario's.
OVERLAP_TOLERANCE = 0.1


def is_late(domain: RunningDomain) -> bool:
    """Whether the scenario lets it start after the others."""
    return domain.spec.start_when is not None or domain.spec.start_after_s > 0


def attach_first(domains: Sequence[RunningDomain]) -> None:
    """Let those attach that start together; the late ones stay outside."""
    for domain in domains:
        if not is_late(domain):
            _let_in(domain)


def holds_of(domain: RunningDomain, domains: Sequence[RunningDomain]) -> list[int]:
    """After how many references ``domain`` is to be held, for those that start then; ascending.

    A real program is never held: who waits for one starts as soon as it is seen to be that far.
    """
    if domain.is_program:
        return []
    found = {_start_of(other, domain) for other in domains if _waits_for(other, domain)}
    return sorted(done for done in found if done < domain.length)


def _waits_for(late: RunningDomain, other: RunningDomain) -> bool:
    return late.spec.start_when is not None and late.spec.start_when.domain == other.spec.name


def _start_of(late: RunningDomain, other: RunningDomain) -> int:
    """How many references of ``other`` come before ``late`` starts."""
    when = late.spec.start_when
    return other.length if when is None else int(when.done * other.length)


def is_closed(domains: Sequence[RunningDomain]) -> bool:
    """Whether somebody is still on the way to the gate the others wait at."""
    return any(
        domain.runs and not _stands_at(domain, gates.MADE if is_late(domain) else gates.READY)
        for domain in domains
    )


def let_go(domains: Sequence[RunningDomain], elapsed_s: float) -> list[RunningDomain]:
    """Open the gates of those whose time has come; those that make their first reference now."""
    waiting = [domain for domain in domains if not domain.is_going]
    due = [domain for domain in waiting if _is_due(domain, domains, elapsed_s)]
    for domain in due:
        _go(domain)
    for holder in domains:
        due += _go_on(holder, domains)
    return due


def _is_due(late: RunningDomain, domains: Sequence[RunningDomain], elapsed_s: float) -> bool:
    """Whether it starts without anybody being held for it."""
    if late.spec.start_when is None:
        return elapsed_s >= late.spec.start_after_s
    when = late.spec.start_when
    return all(
        other.result is not None or (other.is_program and other.done >= when.done)
        for other in domains
        if _waits_for(late, other)
    )


def _go_on(holder: RunningDomain, domains: Sequence[RunningDomain]) -> list[RunningDomain]:
    """If ``holder`` is held: have those attach that wait for it, and once all have, let all go."""
    if not holder.runs or not holder.holds:
        return []
    done = holder.holds[0]
    if not _stands_at(holder, gates.held_at(done)):
        return []
    waiting = [one for one in domains if not one.is_going and _waits_for(one, holder)]
    late = [one for one in waiting if _start_of(one, holder) == done]
    for one in late:
        _let_in(one)
    if any(one.runs and not _stands_at(one, gates.READY) for one in late):
        return []
    for one in late:
        _go(one)
    del holder.holds[0]
    _open(holder)
    return late


def _go(domain: RunningDomain) -> None:
    """Let ``domain`` make its first reference, and attach before that if it has not."""
    _let_in(domain)
    domain.is_going = True
    _open(domain)


def _let_in(domain: RunningDomain) -> None:
    if not domain.is_let_in:
        domain.is_let_in = True
        _open(domain)


def _open(domain: RunningDomain) -> None:
    if domain.child is not None and domain.runs:
        gates.open_gates(domain.child.process.stdin)


def _stands_at(domain: RunningDomain, gate: str) -> bool:
    return domain.child is not None and gates.reached(domain.child.output(), gate)


def differences(domains: Sequence[RunningDomain]) -> list[str]:
    """How the starts of a run differ from its scenario's, a sentence each; none if they do not."""
    by_name = {domain.spec.name: domain for domain in domains}
    found = [_late(domain, by_name) for domain in domains if domain.begin_s is not None]
    together = [one for one in domains if not is_late(one) and one.begin_s is not None]
    found += [_apart(domain, together) for domain in together]
    return [text for text in found if text]


def _late(domain: RunningDomain, by_name: dict[str, RunningDomain]) -> str:
    when = domain.spec.start_when
    if when is None or domain.begin_s is None:
        return ""
    other = by_name[when.domain]
    had = done_at(other, domain.begin_s)
    if abs(had - when.done) <= OVERLAP_TOLERANCE:
        return ""
    return (
        f"{domain.spec.name} was to start with {when.domain} at {when.done:.0%}, "
        f"and started with it at {had:.0%}"
    )


def _apart(domain: RunningDomain, together: Sequence[RunningDomain]) -> str:
    """Whether it began well after the first of those it was to start with."""
    first = min(together, key=lambda one: one.begin_s or 0.0)
    if domain is first or first.end_s is None or domain.begin_s is None:
        return ""
    assert first.begin_s is not None
    later_s, lasts_s = domain.begin_s - first.begin_s, first.end_s - first.begin_s
    if later_s <= OVERLAP_TOLERANCE * lasts_s:
        return ""
    return (
        f"{domain.spec.name} was to start together with {first.spec.name}, "
        f"and began {later_s:.2f} s after it, which ran for {lasts_s:.2f} s"
    )


def done_at(domain: RunningDomain, time_s: float) -> float:
    """The part of its references that ``domain`` had done at a time, between what was seen.

    A program that does not say how much it does has done nothing until it ends.
    """
    if domain.end_s is not None and time_s >= domain.end_s:
        return 1.0
    begin = (-1.0 if domain.begin_s is None else domain.begin_s, 0)
    seen = [begin, *(point for point in domain.seen if point[0] > begin[0])]
    if domain.end_s is not None and domain.result is not None:
        seen = [point for point in seen if point[0] < domain.end_s]
        seen.append((domain.end_s, domain.length))
    after = bisect.bisect_right(seen, (time_s, domain.length + 1))
    before_s, before = seen[max(after - 1, 0)]
    if after in (0, len(seen)):
        return before / max(domain.length, 1)
    next_s, following = seen[after]
    share = (time_s - before_s) / max(next_s - before_s, 1e-9)
    return (before + (following - before) * share) / max(domain.length, 1)
