"""The contract of a policy, as a check anybody can run on their own.

Owns: the clauses and the views they are tried on. ``check_policy`` returns what failed, each time
with the clause and the smallest view tried that shows it; an empty list is a pass. Called by tests,
``memcoord policy check`` and policy authors.

    valid        plan(view) returns a Plan that ``check_plan`` accepts
    pure         the same view gives the same plan, whatever was asked before
    read-only    the view is as it was after the call
    equivariant  domains in another order get the same targets, a page more or less for rounding
    limits       after clamping, minimum and maximum hold and the sum is within capacity

Views have 0 to 1000 domains. They offer KIT_PAGES_PER_DOMAIN each, so that a policy may promise a
floor; with less, down to none at all, everything is asked but that the sum fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Plan, Policy, View
from policies.checked import CheckedPlan, PlanError, Targets, check_plan

KIT_PAGES_PER_DOMAIN = 4096
KIT_SIZES = (0, 1, 2, 3, 8, 64, 1000)
KIT_VIEWS_PER_SIZE = 4
SHOWN_DOMAINS_MAX = 8
SHOWN_COLUMNS = ("used", "target", "failed_puts", "minimum", "maximum")


@dataclass(frozen=True, eq=False)
class Failure:
    """One broken clause, and the input that shows it."""

    clause: str
    what: str
    view: View

    def __str__(self) -> str:
        """A line for people."""
        shown = [f"{len(self.view)} domains", f"capacity {self.view.capacity}"]
        if 0 < len(self.view) <= SHOWN_DOMAINS_MAX:
            shown += [f"{name} {getattr(self.view, name).tolist()}" for name in SHOWN_COLUMNS]
        return f"{self.clause}: {self.what} (view: {', '.join(shown)})"


def check_policy(factory: Callable[[], Policy], *, seed: int = 0) -> list[Failure]:
    """What ``factory()`` breaks: at most one failure per clause, empty when it keeps them all."""
    random = np.random.default_rng(seed)
    used = factory()
    failures: dict[str, Failure] = {}
    for view, scarce in _views(random):
        for failure in _failures(factory, used, view, random.permutation(len(view)), scarce):
            failures.setdefault(failure.clause, failure)
    return list(failures.values())


def _failures(
    factory: Callable[[], Policy],
    used: Policy,
    view: View,
    order: NDArray[np.intp],
    scarce: bool,
) -> Iterator[Failure]:
    """Clauses ``view`` shows to be broken. ``used`` has answered all earlier views."""
    before = {name: value.tobytes() for name, value in _columns(view)}
    try:
        plan = check_plan(used.plan(view), view)
        again = check_plan(factory().plan(view), view)
        shuffled = check_plan(factory().plan(reordered(view, order)), reordered(view, order))
    except PlanError as error:
        if not (scarce and error.clause == "capacity"):
            yield Failure("valid", str(error), view)
        return
    except Exception as error:  # the author's code may raise anything
        yield Failure("valid", f"raised {type(error).__name__}: {error}", view)
        return
    finally:
        changed = [name for name, value in _columns(view) if value.tobytes() != before[name]]
        if changed:
            yield Failure("read-only", f"changed {', '.join(changed)}", view)
    if not _same(plan, again, 0):
        yield Failure("pure", f"{_text(plan)}, then {_text(again)} from a new instance", view)
    if not _same(_reordered_plan(plan, order), shuffled, 1):
        yield Failure("equivariant", f"differs for the order {order.tolist()[:8]}", view)
    yield from _limits(plan, view)


def _limits(plan: CheckedPlan, view: View) -> Iterator[Failure]:
    for what, targets, low, high, capacity in (
        ("tmem", plan.tmem, view.minimum, view.maximum, view.capacity),
        ("ram", plan.ram, view.ram_minimum, view.ram_maximum, view.ram_capacity),
    ):
        if targets is None:
            continue
        limited = targets != Plan.UNLIMITED
        if targets[limited].sum() > capacity:
            yield Failure("limits", f"{what} targets above capacity after clamping", view)
        if (targets > np.maximum(low, high))[limited].any():
            yield Failure("limits", f"{what} target above maximum after clamping", view)
        if low.sum() <= capacity and (targets < low)[limited].any():
            yield Failure("limits", f"{what} target below minimum after clamping", view)


def reordered(view: View, order: NDArray[np.intp]) -> View:
    """``view`` with its domains in another order."""
    columns: dict[str, Any] = {name: value[order] for name, value in _columns(view)}
    return replace(view, names=tuple(view.names[index] for index in order), **columns)


def _reordered_plan(plan: CheckedPlan, order: NDArray[np.intp]) -> CheckedPlan:
    return replace(
        plan,
        tmem=None if plan.tmem is None else plan.tmem[order],
        ram=None if plan.ram is None else plan.ram[order],
    )


def _same(one: CheckedPlan, other: CheckedPlan, slack_pages: int) -> bool:
    def same(left: Targets | None, right: Targets | None) -> bool:
        if left is None or right is None:
            return left is right
        return bool((np.abs(left - right) <= slack_pages).all())

    return same(one.tmem, other.tmem) and same(one.ram, other.ram)


def _text(plan: CheckedPlan) -> str:
    targets = plan.tmem if plan.tmem is not None else plan.ram
    return "nothing" if targets is None else str(targets[:SHOWN_DOMAINS_MAX].tolist())


def _columns(view: View) -> list[tuple[str, NDArray[np.float64]]]:
    values = [(item.name, getattr(view, item.name)) for item in fields(view)]
    return [(name, value) for name, value in values if isinstance(value, np.ndarray)]


def _views(random: np.random.Generator) -> Iterator[tuple[View, bool]]:
    """Views, small ones first, and whether each is scarce."""
    for domains in KIT_SIZES:
        for _ in range(KIT_VIEWS_PER_SIZE):
            yield _view(random, domains, domains * KIT_PAGES_PER_DOMAIN), False
        yield _view(random, domains, domains), True
        yield _view(random, domains, 0), True


def _view(random: np.random.Generator, domains: int, capacity: int) -> View:
    share = capacity / max(domains, 1)

    def some(most: float) -> NDArray[np.float64]:
        return np.floor(random.random(domains) * most)

    puts, gets = some(1000), some(1000)
    minimum = some(share / 4)
    current = some(65536)
    unlimited = random.random() < 0.2
    return View.of(
        names=[f"vm{index + 1}" for index in range(domains)],
        capacity=capacity,
        ram_capacity=domains * 65536,
        tick=int(random.integers(1000)),
        used=some(share),
        target=np.full(domains, capacity) if unlimited else some(share),
        minimum=minimum,
        maximum=np.where(random.random(domains) < 0.5, capacity, minimum + some(share)),
        weight=0.5 + random.random(domains),
        priority=some(3),
        puts=puts,
        failed_puts=np.where(random.random(domains) < 0.5, 0, some(1) + puts // 2),
        failed_puts_total=puts + some(1000),
        gets=gets,
        hits=gets // 2,
        swap_ins=some(100),
        ram_current=current,
        ram_target=current,
        ram_used=current // 2,
        ram_maximum=np.full(domains, 65536),
        age=some(100),
    )
