"""The clauses of the conformance kit, one function each: the faults of a policy on one view.

Owns: the meaning of each clause. A clause gets a ``Subject`` and a view and returns the fault as
text, empty when there is none. The policy is always shown a copy of the view. Called by
``policies.conformance`` only.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Plan, Policy, View
from policies.checked import CheckedPlan, PlanError, Targets, check_plan
from policies.kit_views import (
    KIT_FRAMES_PER_DOMAIN,
    REPORTED,
    SHOWN_DOMAINS_MAX,
    columns_of,
    copy_of,
    is_scarce,
    reordered,
)
from policies.ram_targets import ROUNDING_FRAMES_MAX, needed_frames
from policies.reasons import contradicts

#: Plans in a row of the clause "carry"; what each carries is in the view of the next.
KIT_SEQUENCE = 50
KIT_NEWCOMER_EVERY = 7
#: Ticks a policy with ``settles = True`` has to come to rest; a number there replaces it.
KIT_SETTLE_TICKS = 500
KIT_REST_TICKS = 16
KIT_REST_PAGES = 2
KIT_REST_OF_CAPACITY = 0.001
#: Plans in a row of the clause "unknown".
KIT_UNKNOWN_PLANS = 60
#: What a domain of the clause "truthful" multiplies its need by.
KIT_LIES = (2.0, 4.0)
PRINTED_CHARACTERS_MAX = 100


@dataclass(frozen=True)
class Subject:
    """A policy under test: how a new one is made, and one that has answered all views so far."""

    make: Callable[[], Policy]
    used: Policy


Clause = Callable[[Subject, View], str]


def valid(subject: Subject, view: View) -> str:
    """``plan(view)`` returns a Plan that ``check_plan`` accepts."""
    try:
        check_plan(subject.make().plan(copy_of(view)), view)
    except PlanError as error:
        return "" if error.clause == "capacity" and is_scarce(view) else str(error)
    except (Exception, SystemExit) as error:  # the author's code may raise anything
        return f"raised {_describe(error)}"
    return ""


def read_only(subject: Subject, view: View) -> str:
    """The view is as it was after the call."""
    shown = copy_of(view)
    _ask(subject.make(), shown)
    kept = dict(columns_of(view))
    changed = [name for name, now in columns_of(shown) if now.tobytes() != kept[name].tobytes()]
    return f"changed {', '.join(changed)}" if changed else ""


def pure(subject: Subject, view: View) -> str:
    """The same view gives the same plan, whichever views came before."""
    first = _ask(subject.make(), copy_of(view))
    for who, policy in (("one asked before", subject.used), ("itself again", subject.used)):
        again = _ask(policy, copy_of(view))
        if first is not None and again is not None and _differ(first, again, 0):
            return f"a new instance says {_text(first)}, {who} {_text(again)}"
    return ""


def equivariant(subject: Subject, view: View) -> str:
    """Domains in another order get the same targets, if the carry is reordered along."""
    plan = _ask(subject.make(), view)
    if plan is None:
        return ""
    views = [view]
    if plan.carry is not None:
        views.append(replace(view, carry=plan.carry))
    count = np.arange(len(view))
    for shown in views:
        plan = _ask(subject.make(), copy_of(shown))
        for order in (count[::-1].copy(), np.roll(count, 1)):
            other = _ask(subject.make(), reordered(shown, order))
            if plan is not None and other is not None:
                expected = _reordered_plan(plan, order)
                if _differ(expected, other, 1):
                    return (
                        f"in the order {order.tolist()[:SHOWN_DOMAINS_MAX]} it says "
                        f"{_text(other)} for {_text(expected)}"
                    )
    return ""


def limits(subject: Subject, view: View) -> str:
    """After clamping, minimum and maximum hold and the sum is within capacity."""
    plan = _ask(subject.make(), copy_of(view))
    if plan is None:
        return ""
    for what, targets, low, high, capacity in (
        ("tmem", plan.tmem, view.minimum, view.maximum, view.capacity),
        ("ram", plan.ram, view.ram_minimum, view.ram_maximum, view.ram_capacity),
    ):
        if targets is None:
            continue
        limited = targets != Plan.UNLIMITED
        if targets[limited].sum() > capacity:
            return f"{what} targets above capacity after clamping"
        if (targets > np.maximum(low, high))[limited].any():
            return f"{what} target above maximum after clamping"
        if low[limited].sum() <= capacity and (targets < low)[limited].any():
            return f"{what} target below minimum after clamping"
    return ""


def honest(subject: Subject, view: View) -> str:
    """A reason that says grow is not given to a target that fell, nor shrink to one that rose.

    Of a policy that sets both targets the reason may be of either. What is clamped is not looked
    at: the coordinator says so.
    """
    plan = _ask(subject.make(), copy_of(view))
    if plan is None or plan.why is None:
        return ""
    kinds = [
        (what, clamps, before)
        for what, clamps, before in (
            ("tmem", plan.tmem_clamps, view.target),
            ("ram", plan.ram_clamps, view.ram_target),
        )
        if getattr(plan, what) is not None
    ]
    for index, name in enumerate(view.names[:SHOWN_DOMAINS_MAX]):
        moves = [
            (float(before[index]), _target(plan, what, index))
            for what, clamps, before in kinds
            if index not in clamps
        ]
        # Rounding down is no shrinking.
        said = [contradicts(plan.why[index], old, new) for old, new in moves if abs(new - old) > 1]
        if said and all(said) and len(said) == len(kinds):
            (old, new), how = moves[0], said[0]
            return f"{name} is told {plan.why[index]!r}, and {old:.0f} {how} to {new:.0f}"
    return ""


def carry(subject: Subject, view: View) -> str:
    """A carry can be shown again, for KIT_SEQUENCE plans while domains come and go."""
    policy = subject.make()
    shown = replace(view, carry=np.empty((len(view), 0)))
    for number in range(KIT_SEQUENCE):
        try:
            plan = check_plan(policy.plan(copy_of(shown)), shown)
        except (Exception, SystemExit) as error:  # the author's code may raise anything
            scarce = isinstance(error, PlanError) and error.clause == "capacity" and is_scarce(view)
            return "" if scarce else f"plan {number + 1} in a row: {_describe(error)}"
        # Demand comes and goes, and now and then a domain is replaced by another.
        scale = (0.0, 1.0, 0.5, 2.0)[number % 4]
        columns: dict[str, Any] = {
            name: np.floor(getattr(view, name) * scale)
            for name in ("used", "puts", "failed_puts", "gets", "hits", "swap_ins")
        }
        carried = np.empty((len(view), 0)) if plan.carry is None else plan.carry.copy()
        age = shown.age + 1
        if len(view) and number % KIT_NEWCOMER_EVERY == 0:
            newcomer = number // KIT_NEWCOMER_EVERY % len(view)
            carried[newcomer], age[newcomer] = np.nan, 0
        shown = replace(view, carry=carried, age=age, tick=view.tick + number + 1, **columns)
    return ""


def unknown(subject: Subject, view: View) -> str:
    """While memory is not short, a domain is not shrunk for reporting nothing.

    That is: not where one that reports to be short of memory is not shrunk either.
    """
    nothing = dict.fromkeys(REPORTED, np.nan)
    held = KIT_FRAMES_PER_DOMAIN // 4
    needy: dict[str, float] = {
        "swap_ins": held,
        "ram_used": held,
        "committed": held,
        "idle": 0,
        "pressure": 1,
    }
    lost = _shrunk(subject, view, held, nothing)
    if not lost or _shrunk(subject, view, held, needy):
        return ""
    return f"with memory to spare, it shrinks one that reports nothing: {lost}"


def _shrunk(subject: Subject, view: View, held: int, told: dict[str, float]) -> str:
    """Whose RAM goes down while all of the domains of ``view`` report ``told`` and obey."""
    policy, start = subject.make(), np.full(len(view), float(held))
    columns: dict[str, Any] = {name: np.full(len(view), value) for name, value in told.items()}
    shown = View.of(
        capacity=view.capacity,
        ram_capacity=view.ram_capacity,
        names=view.names,
        host_frames=view.host_frames,
        ram_current=start,
        ram_target=start,
        **columns,
    )
    for number in range(KIT_UNKNOWN_PLANS):
        left = max(view.host_frames - int(shown.ram_current.sum()), 0)
        shown = replace(shown, host_free_frames=left)
        plan = _ask(policy, copy_of(shown))
        if plan is None or plan.ram is None:
            return ""
        for index in np.flatnonzero(plan.ram < start - ROUNDING_FRAMES_MAX)[:1]:
            return (
                f"RAM of {view.names[index]} from {held} to {plan.ram[index]} frames "
                f"in {number + 1} plans"
            )
        shown = _fed_back(shown, plan)
    return ""


def quiet(subject: Subject, view: View) -> str:
    """A plan prints nothing."""
    policy, heard = subject.make(), io.StringIO()
    with contextlib.redirect_stdout(heard):
        _ask(policy, copy_of(view))
    text = heard.getvalue()
    return f"prints {text[:PRINTED_CHARACTERS_MAX]!r}" if text else ""


def monotone(subject: Subject, view: View) -> str:
    """A domain that demands more, all else equal, is not given less."""
    before = _ask(subject.make(), copy_of(view))
    if before is None:
        return ""
    for index in range(min(len(view), SHOWN_DOMAINS_MAX)):
        for name in ("failed_puts", "used"):
            column = getattr(view, name).copy()
            column[index] = 2 * column[index] + 10
            after = _ask(subject.make(), copy_of(replace(view, **{name: column})))
            if after is None:
                continue
            for what in ("tmem", "ram"):
                old, new = _target(before, what, index), _target(after, what, index)
                if new < old - 1:
                    return (
                        f"{view.names[index]} with {name} {column[index]:.0f} is given "
                        f"{what} {new:.0f}, without {old:.0f}"
                    )
    return ""


def truthful(subject: Subject, view: View) -> str:
    """A domain that claims more than it needs gets no more that it can use.

    It exaggerates what tells of its need, all at once; not how long it stands still for memory, as
    a guest can really do that and pays for it. Memory is of use up to the need it would have told;
    a rounding of RAM targets is no gain.
    """
    before = _ask(subject.make(), copy_of(view))
    if before is None:
        return ""
    for index in range(min(len(view), SHOWN_DOMAINS_MAX)):
        honest = _useful(before, view, index)
        for factor in KIT_LIES:
            after = _ask(subject.make(), _exaggerated(view, index, factor))
            if after is not None and _useful(after, view, index) > honest + ROUNDING_FRAMES_MAX:
                return (
                    f"{view.names[index]} can use {_useful(after, view, index):.0f} pages when it "
                    f"claims {factor} times its need, {honest:.0f} when it tells the truth"
                )
    return ""


def _useful(plan: CheckedPlan, view: View, index: int) -> float:
    """Pages of RAM and tmem that ``index`` is given and, by what it tells in ``view``, needs."""
    if plan.ram is None:
        return min(_target(plan, "tmem", index), float(view.demand[index]))
    need = float(needed_frames(view)[index])
    ram = min(float(plan.ram[index]), need)
    return ram + min(_target(plan, "tmem", index), need - ram)


def _exaggerated(view: View, index: int, factor: float) -> View:
    """``view`` with all that tells of the need of domain ``index`` so many times as large."""
    told: dict[str, Any] = {}
    for name in ("puts", "failed_puts", "failed_puts_total", "swap_ins", "committed"):
        told[name] = getattr(view, name).copy()
        told[name][index] *= factor
    told["ram_used"] = view.ram_used.copy()
    told["ram_used"][index] = min(view.ram_used[index] * factor, view.ram_current[index])
    return copy_of(replace(view, **told))


def settles(subject: Subject, view: View) -> str:
    """Shown its own plan and otherwise the same, it comes to rest."""
    policy = subject.make()
    declared = getattr(policy, "settles", True)
    ticks = KIT_SETTLE_TICKS if declared is True else int(declared)
    shown, before, still = view, None, 0
    last: deque[CheckedPlan] = deque(maxlen=KIT_REST_TICKS)
    for _ in range(ticks + KIT_REST_TICKS):
        plan = _ask(policy, copy_of(shown))
        if plan is None:
            return ""
        still = still + 1 if before is not None and not _differ(before, plan, 0) else 0
        if still == KIT_REST_TICKS:
            return ""
        before = plan
        last.append(plan)
        shown = _fed_back(shown, plan)
    for what, capacity in (("tmem", view.capacity), ("ram", view.ram_capacity)):
        targets = [getattr(plan, what) for plan in last if getattr(plan, what) is not None]
        swing = np.ptp(np.array(targets), axis=0) if targets else np.zeros(len(view))
        if (swing > KIT_REST_PAGES + KIT_REST_OF_CAPACITY * capacity).any():
            worst = int(np.argmax(swing))
            return (
                f"after {ticks} ticks of the same the {what} target of {view.names[worst]} "
                f"still moves by {swing[worst]:.0f} within {KIT_REST_TICKS} ticks"
            )
    return ""


def _fed_back(view: View, plan: CheckedPlan) -> View:
    """The view of the next tick, if every domain obeys and demands as much as before."""
    now: dict[str, Any] = {"tick": view.tick + 1, "age": view.age + 1}
    if plan.tmem is not None:
        now["target"] = np.where(plan.tmem == Plan.UNLIMITED, view.capacity, plan.tmem) * 1.0
    if plan.ram is not None:
        now["ram_target"] = plan.ram * 1.0
        now["ram_current"] = now["ram_target"].copy()
    now["carry"] = np.empty((len(view), 0)) if plan.carry is None else plan.carry
    return replace(view, **now)


def _ask(policy: Policy, view: View) -> CheckedPlan | None:
    """The policy's checked plan; None when it has none, which is the clause ``valid``'s business.

    A view whose arrays the policy made writable and changed is checked as it is now.
    """
    try:
        return check_plan(policy.plan(view), view)
    except (Exception, SystemExit):  # the author's code may raise anything
        return None


def _target(plan: CheckedPlan, what: str, index: int) -> float:
    targets = getattr(plan, what)
    if targets is None:
        return 0.0
    return np.inf if targets[index] == Plan.UNLIMITED else float(targets[index])


def _reordered_plan(plan: CheckedPlan, order: NDArray[np.intp]) -> CheckedPlan:
    arrays = {name: getattr(plan, name) for name in ("tmem", "ram", "carry")}
    present = {name: array[order] for name, array in arrays.items() if array is not None}
    return replace(plan, **present)


def _differ(one: CheckedPlan, other: CheckedPlan, slack_pages: int) -> bool:
    def differ(left: Targets | None, right: Targets | None) -> bool:
        if left is None or right is None:
            return left is not right
        return bool((np.abs(left - right) > slack_pages).any())

    if differ(one.tmem, other.tmem) or differ(one.ram, other.ram):
        return True
    if one.carry is None or other.carry is None:
        return one.carry is not other.carry
    if one.carry.shape != other.carry.shape:
        return True
    # A carry may count pages, which rounding moves, or fractions, which it does not.
    return not np.allclose(one.carry, other.carry, rtol=1e-6 * slack_pages, atol=slack_pages)


def _text(plan: CheckedPlan) -> str:
    shown = [
        f"{what} {targets[:SHOWN_DOMAINS_MAX].tolist()}"
        for what, targets in (("tmem", plan.tmem), ("ram", plan.ram))
        if targets is not None
    ]
    if plan.carry is not None:
        shown.append(f"carry {plan.carry[:SHOWN_DOMAINS_MAX, :SHOWN_DOMAINS_MAX].tolist()}")
    return ", ".join(shown) or "nothing"


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, PlanError) else f"{type(error).__name__}: {error}"
