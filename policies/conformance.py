"""The contract of a policy, as a check that an author can run on a policy of their own.

Owns: the list of clauses, the order they are tried in, and the verdict. ``check_policy`` returns
the failures, each with its clause and the smallest input found that shows it; an empty list is a
pass. ``examine`` also lists the clauses that passed and the time a plan takes. Called by tests,
``memcoord policy check`` and policy authors. ``CLAUSES`` says what each clause asks.

Views have 0 to 1000 domains and KIT_PAGES_PER_DOMAIN pages for each, so that a policy may promise a
floor. On views with less memory, down to none, the sum of the targets may exceed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from policies import kit_clauses as clauses
from policies.base import Policy, View
from policies.checked import check_plan
from policies.kit_clauses import Clause, Subject
from policies.kit_views import (
    KIT_PAGES_PER_DOMAIN,
    is_scarce,
    nonsense_views,
    sensible_view,
    sensible_views,
    smaller,
    text_of,
)

KIT_SPEED_SIZES = (100, 10_000)
KIT_SPEED_PLANS = 5
#: Generous on purpose: it is for what loops over domains squared, not for a slow machine.
KIT_DEADLINE_S = 2.0
#: Clauses that need sequences of plans are tried up to this size only.
KIT_SEQUENCE_DOMAINS_MAX = 8

CLAUSES = {
    "valid": "plan(view) returns a Plan that check_plan accepts",
    "read-only": "the view is as it was after the call",
    "pure": "the same view gives the same plan, whichever views came before",
    "equivariant": "domains in another order get the same targets, a page more or less",
    "limits": "after clamping, minimum and maximum hold and the sum is within capacity",
    "honest": "a reason that says grow is not of a target that fell, nor the other way round",
    "carry": "the carry of a plan can be shown again, while domains come and go",
    "unknown": "while memory is not short, who reports nothing (NaN, not 0) is not shrunk",
    "quiet": "a plan prints nothing",
    "nonsense": "empty, huge and impossible views have valid plans too",
    "speed": f"a plan for 10,000 domains comes within {KIT_DEADLINE_S:g} s",
    "monotone": "more demand never gets less memory (if the class says monotone = True)",
    "truthful": "a claim above its need gets a domain nothing it can use (truthful = True)",
    "settles": "shown its own plan it comes to rest (settles = True, or a number of ticks)",
    "vectors": "the examples in the class's vectors come out as they say",
}

_EVERY_VIEW: dict[str, Clause] = {
    "valid": clauses.valid,
    "read-only": clauses.read_only,
    "pure": clauses.pure,
    "equivariant": clauses.equivariant,
    "limits": clauses.limits,
    "honest": clauses.honest,
}
_SMALL_VIEWS: dict[str, Clause] = {
    "carry": clauses.carry,
    "unknown": clauses.unknown,
    "quiet": clauses.quiet,
    "monotone": clauses.monotone,
    "truthful": clauses.truthful,
    "settles": clauses.settles,
}


@dataclass(frozen=True, eq=False)
class Failure:
    """One broken clause, and the input that shows it; ``name`` is that of a nonsense view."""

    clause: str
    what: str
    view: View
    name: str = ""

    @property
    def input(self) -> str:
        """The view, with its name, so that it can be pasted into a test."""
        return f"{self.name}: {text_of(self.view)}" if self.name else text_of(self.view)

    def __str__(self) -> str:
        """A line for people."""
        return f"{self.clause}: {self.what} (view: {self.input})"


@dataclass(frozen=True, eq=False)
class Report:
    """What ``examine`` found."""

    tried: tuple[str, ...]  # of CLAUSES, in their order; the others are not declared
    failures: tuple[Failure, ...]
    plan_ns: dict[int, int] = field(default_factory=dict)  # of one plan, by number of domains


def check_policy(factory: Callable[[], Policy], *, seed: int = 0) -> list[Failure]:
    """What ``factory()`` breaks: at most one failure per clause, empty when it keeps them all."""
    return list(examine(factory, seed=seed).failures)


def examine(
    factory: Callable[[], Policy], *, seed: int = 0, clock_ns: Callable[[], int] | None = None
) -> Report:
    """Try every clause; with a clock, the speed too. Exceptions of ``factory`` pass through."""
    subject = Subject(factory, factory())
    kind = type(subject.used)
    tried = [name for name in CLAUSES if _is_tried(name, kind, clock_ns is not None)]
    failures: dict[str, Failure] = {}
    for view in sensible_views(np.random.default_rng(seed)):
        _try_view(subject, view, tried, failures)
    _try_nonsense(subject, failures)
    for vector in getattr(kind, "vectors", ()):
        if what := vector.failure(kind):
            failures.setdefault("vectors", Failure("vectors", what, vector.view))
    plan_ns: dict[int, int] = {}
    if clock_ns is not None and "valid" not in failures:
        plan_ns = _time(subject, failures, clock_ns)
    in_order = tuple(failures[name] for name in CLAUSES if name in failures)
    return Report(tuple(tried), in_order, plan_ns)


def _is_tried(name: str, kind: type, timed: bool) -> bool:
    if name == "speed":
        return timed
    return name not in ("monotone", "truthful", "settles", "vectors") or bool(
        getattr(kind, name, False)
    )


def _try_view(subject: Subject, view: View, tried: list[str], failures: dict[str, Failure]) -> None:
    for name, clause in (_EVERY_VIEW | _SMALL_VIEWS).items():
        if "valid" in failures:
            return  # without a plan there is nothing the other clauses could look at
        if name not in tried or name in failures:
            continue
        if name in _SMALL_VIEWS and (is_scarce(view) or len(view) > KIT_SEQUENCE_DOMAINS_MAX):
            continue
        if clause(subject, view):
            failures[name] = _smallest(name, clause, subject, view)


def _smallest(name: str, clause: Clause, subject: Subject, view: View) -> Failure:
    found = smaller(view, lambda one: clause(subject, one) != "")
    # A policy that is not pure may not fail twice.
    what = clause(subject, found) or "not every time it is asked"
    return Failure(name, what, found)


def _try_nonsense(subject: Subject, failures: dict[str, Failure]) -> None:
    for name, view in nonsense_views():
        what = clauses.valid(subject, view)
        if what and "valid" not in failures:
            failures["nonsense"] = Failure("nonsense", what, view, name)
            return


def _time(
    subject: Subject, failures: dict[str, Failure], clock_ns: Callable[[], int]
) -> dict[int, int]:
    """The quickest of a few plans of each size; a slow one is not repeated."""
    taken: dict[int, int] = {}
    for domains in KIT_SPEED_SIZES:
        policy, random = subject.make(), np.random.default_rng(0)
        view = sensible_view(random, domains, domains * KIT_PAGES_PER_DOMAIN, measured=True)
        for _ in range(KIT_SPEED_PLANS):
            before = clock_ns()
            try:
                check_plan(policy.plan(view), view)
            except (Exception, SystemExit) as error:  # the author's code may raise anything
                what = f"raised {type(error).__name__}: {error}"
                failures.setdefault("speed", Failure("speed", what, view))
                return taken
            now = clock_ns() - before
            taken[domains] = min(taken.get(domains, now), now)
            if now > KIT_DEADLINE_S * 1e9:
                break
        if taken[domains] > KIT_DEADLINE_S * 1e9:
            what = f"a plan takes {taken[domains] / 1e9:.1f} s, at most {KIT_DEADLINE_S:g} s"
            failures.setdefault("speed", Failure("speed", what, view))
    return taken
