"""Nothing a policy answers is believed before it has been through here.

Owns: the rules a plan must keep and the clamps put on one that keeps them. Pure. Called by the
coordinator, the simulator and the conformance kit.

A plan is refused (``PlanError``) for what only a mistake explains: a wrong type, length or number,
a negative target, targets above capacity in sum. It is clamped, with the reason noted, to what an
operator asked for: minimum and maximum. Minima are met first; what they take beyond capacity
comes from the other domains, in proportion to what each has above its own minimum. After that the
limited targets never exceed capacity in sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.base import Column, Plan, View

Targets = NDArray[np.int64]

WHY_CHARACTERS_MAX = 200


class PlanError(ValueError):
    """A plan breaks ``clause``; ``domain`` names the first culprit, or is empty."""

    def __init__(self, clause: str, what: str, domain: str = "") -> None:
        self.clause, self.domain = clause, domain
        super().__init__(f"{clause}: {what}" + (f" for domain {domain}" if domain else ""))


@dataclass(frozen=True, eq=False)
class CheckedPlan:
    """A plan that may be applied: whole pages and frames, within every limit.

    ``tmem`` entries may be ``Plan.UNLIMITED``. The clamps give, by index, why a target differs from
    what the policy asked for; rounding down is not worth a word.
    """

    tmem: Targets | None
    ram: Targets | None
    why: tuple[str, ...] | None
    tmem_clamps: dict[int, str]
    ram_clamps: dict[int, str]


def check_plan(plan: object, view: View) -> CheckedPlan:
    """``plan`` made fit to apply to the domains of ``view``; PlanError if it is nonsense."""
    if not isinstance(plan, Plan):
        raise PlanError("type", f"answered {type(plan).__name__}, not Plan")
    tmem = ram = None
    tmem_clamps: dict[int, str] = {}
    ram_clamps: dict[int, str] = {}
    if plan.tmem is not None:
        wanted = _numbers("tmem", plan.tmem, view)
        tmem = _limited("tmem", wanted, view.capacity, view, unlimited_ok=True)
        tmem, tmem_clamps = _clamp(tmem, view.minimum, view.maximum, view.capacity)
    if plan.ram is not None:
        wanted = _numbers("ram", plan.ram, view)
        ram = _limited("ram", wanted, view.ram_capacity, view, unlimited_ok=False)
        ram, ram_clamps = _clamp(ram, view.ram_minimum, view.ram_maximum, view.ram_capacity)
    return CheckedPlan(tmem, ram, _reasons(plan, view), tmem_clamps, ram_clamps)


def _numbers(what: str, raw: ArrayLike, view: View) -> Column:
    try:
        values = np.asarray(raw)
    except (TypeError, ValueError) as error:
        raise PlanError("number", f"{what} is no array: {error}") from None
    if values.ndim != 1 or len(values) != len(view):
        raise PlanError("length", f"{what} has shape {values.shape}, there are {len(view)} domains")
    if values.size and values.dtype.kind not in "iuf":
        raise PlanError("number", f"{what} holds {values.dtype}, not numbers")
    return values.astype(np.float64)


def _limited(
    what: str, wanted: Column, capacity: int, view: View, *, unlimited_ok: bool
) -> Targets:
    """Whole pages, each finite and not negative, together within capacity."""
    _refuse(np.isnan(wanted), "nan", f"{what} target is not a number", view)
    _refuse(np.isinf(wanted), "infinite", f"{what} target is infinite", view)
    unlimited = wanted == Plan.UNLIMITED
    if not unlimited_ok:
        _refuse(unlimited, "unlimited", f"{what} target cannot be unlimited", view)
    _refuse((wanted < 0) & ~unlimited, "negative", f"{what} target is negative", view)
    floored = np.floor(wanted)
    total = floored[~unlimited].sum()
    if total > capacity:
        raise PlanError("capacity", f"{what} targets add up to {total:.0f} of {capacity}")
    return floored.astype(np.int64)


def _refuse(bad: NDArray[np.bool_], clause: str, what: str, view: View) -> None:
    if bad.any():
        raise PlanError(clause, what, view.names[int(np.argmax(bad))])


def _clamp(
    wanted: Targets, minimum: Column, maximum: Column, capacity: int
) -> tuple[Targets, dict[int, str]]:
    low, high = minimum.astype(np.int64), np.maximum(minimum, maximum).astype(np.int64)
    clamps: dict[int, str] = {}
    unlimited = wanted == Plan.UNLIMITED
    capped = unlimited & (high < capacity)
    asked = np.where(capped, high, wanted)
    free = unlimited & ~capped
    promised = low[~free].sum()
    if promised > capacity:
        low = np.floor(low * (capacity / promised)).astype(np.int64)
    held = np.where(free, 0, np.clip(asked, low, high))
    excess = int(held.sum()) - capacity
    taken = np.zeros_like(held)
    if excess > 0:
        spare = np.where(free, 0, held - low)
        taken = np.minimum(spare, np.ceil(spare * (excess / spare.sum())).astype(np.int64))
    for index in np.flatnonzero(~free & (asked < low)):
        clamps[int(index)] = f"raised to minimum {low[index]}"
    for index in np.flatnonzero(capped | (~free & (asked > high))):
        clamps[int(index)] = f"cut to maximum {high[index]}"
    for index in np.flatnonzero(taken):
        note = f"gave {taken[index]} so that minima and capacity hold"
        clamps[int(index)] = "; ".join(filter(None, (clamps.get(int(index)), note)))
    return np.where(free, Plan.UNLIMITED, held - taken), clamps


def _reasons(plan: Plan, view: View) -> tuple[str, ...] | None:
    if plan.why is None:
        return None
    texts = plan.why
    if not isinstance(texts, list | tuple | np.ndarray) or len(texts) != len(view):
        raise PlanError("length", f"why must hold {len(view)} texts, one per domain")
    return tuple(_plain(text) for text in texts)


def _plain(text: object) -> str:
    """One line that any message can carry."""
    line = " ".join(str(text).split())[:WHY_CHARACTERS_MAX]
    return line.encode("utf-8", "replace").decode()
