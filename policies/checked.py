"""The check between a policy's answer and the domains: a plan is refused, or clamped.

Owns: the rules a plan must keep, the clamps put on a plan that keeps them, and the order in which
domains are served when memory is short. Pure; no loop over domains. Called by the coordinator, the
simulator and the conformance kit.

A plan is refused (``PlanError``) for mistakes: a wrong type, length or number, a negative target,
targets above capacity in sum, a carry that is no finite grid. A plan without mistakes is clamped to
the minimum and maximum the operator set, and the reason is noted. Minima are met first. If targets
then exceed capacity, the excess is taken from the other domains, in proportion to the part of each
target above its own minimum. Minima that do not fit by themselves are met by priority. After that
the limited targets never exceed capacity in sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.base import CARRY_COLUMNS_MAX, Column, Plan, View

Targets = NDArray[np.int64]

WHY_CHARACTERS_MAX = 200


class PlanError(ValueError):
    """A plan breaks ``clause``; ``domain`` names the first culprit, or is empty."""

    def __init__(self, clause: str, what: str, domain: str = "") -> None:
        self.clause, self.domain = clause, domain
        super().__init__(f"{clause}: {what}" + (f" for domain {domain}" if domain else ""))


@dataclass(frozen=True, eq=False)
class Clamps(Mapping[int, str]):
    """By index, why a target differs from the plan; the text is made when it is read."""

    raised: NDArray[np.bool_]  # to the minimum
    cut: NDArray[np.bool_]  # to the maximum
    taken: Targets  # pages taken from each so that minima and capacity hold
    low: Targets
    high: Targets

    def __getitem__(self, index: int) -> str:
        """The reason in words; KeyError for a domain whose target is as planned."""
        notes = []
        if 0 <= index < len(self.taken):
            if self.raised[index]:
                notes.append(f"raised to minimum {self.low[index]}")
            if self.cut[index]:
                notes.append(f"cut to maximum {self.high[index]}")
            if self.taken[index]:
                notes.append(f"gave {self.taken[index]} so that minima and capacity hold")
        if not notes:
            raise KeyError(index)
        return "; ".join(notes)

    def __iter__(self) -> Iterator[int]:
        """Indices of the domains whose target was clamped."""
        return iter(np.flatnonzero(self.raised | self.cut | (self.taken != 0)).tolist())

    def __len__(self) -> int:
        """How many targets were clamped."""
        return int(np.count_nonzero(self.raised | self.cut | (self.taken != 0)))


@dataclass(frozen=True, eq=False)
class Reasons(Sequence[str]):
    """A policy's texts, each made one short line when it is read."""

    texts: Sequence[object] | NDArray[np.str_]

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        """The text of one domain, fit to be sent."""
        return _plain(self.texts[index])

    def __len__(self) -> int:
        """One per domain."""
        return len(self.texts)

    def __eq__(self, other: object) -> bool:
        """Whether they read the same as the texts of ``other``."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class CheckedPlan:
    """A plan that may be applied: whole pages and frames, within every limit.

    ``tmem`` entries may be ``Plan.UNLIMITED``. The clamps give, by index, why a target differs from
    the policy's wish; rounding down is not noted. ``carry`` is finite, a copy.
    """

    tmem: Targets | None = None
    ram: Targets | None = None
    why: Sequence[str] | None = None
    tmem_clamps: Mapping[int, str] = field(default_factory=dict)
    ram_clamps: Mapping[int, str] = field(default_factory=dict)
    carry: Column | None = None


def check_plan(plan: object, view: View) -> CheckedPlan:
    """``plan`` made fit to apply to the domains of ``view``; PlanError if it is nonsense."""
    if not isinstance(plan, Plan):
        raise PlanError("type", f"answered {type(plan).__name__}, not Plan")
    tmem = ram = None
    tmem_clamps: Mapping[int, str] = {}
    ram_clamps: Mapping[int, str] = {}
    if plan.tmem is not None:
        wanted = _limited("tmem", plan.tmem, view.capacity, view, unlimited_ok=True)
        tmem, tmem_clamps = _clamp(wanted, view.minimum, view.maximum, view.priority, view.capacity)
    if plan.ram is not None:
        wanted = _limited("ram", plan.ram, view.ram_capacity, view, unlimited_ok=False)
        low, high = view.ram_minimum, view.ram_maximum
        ram, ram_clamps = _clamp(wanted, low, high, view.priority, view.ram_capacity)
    return CheckedPlan(tmem, ram, _reasons(plan, view), tmem_clamps, ram_clamps, _carry(plan, view))


def ration(asked: Targets, priority: Column, supply: int) -> Targets:
    """What each gets of ``supply`` whole units: higher priority first, then in proportion.

    Never more than ``asked``, all of ``supply`` if that much is asked. What rounding leaves over
    goes in units of one to the domains that are owed most.
    """
    if asked.sum() <= supply:
        return asked.copy()
    levels, level = np.unique(-priority, return_inverse=True)
    wanted = np.bincount(level, weights=asked, minlength=len(levels))
    share = np.clip(supply - (np.cumsum(wanted) - wanted), 0, wanted)
    due = asked * (share / np.maximum(wanted, 1))[level]
    given: Targets = np.floor(due).astype(np.int64)
    owed = np.lexsort((given - due, level))
    owed = owed[(given < asked)[owed]][: max(supply - int(given.sum()), 0)]
    given[owed] += 1
    return given


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
    what: str, raw: ArrayLike, capacity: int, view: View, *, unlimited_ok: bool
) -> Targets:
    """Whole pages, each finite and not negative, together within capacity."""
    wanted = _numbers(what, raw, view)
    if not np.isfinite(wanted).all():
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
    wanted: Targets, minimum: Column, maximum: Column, priority: Column, capacity: int
) -> tuple[Targets, Clamps]:
    low, high = minimum.astype(np.int64), np.maximum(minimum, maximum).astype(np.int64)
    unlimited = wanted == Plan.UNLIMITED
    capped = unlimited & (high < capacity)
    asked = np.where(capped, high, wanted)
    free = unlimited & ~capped
    low = ration(np.where(free, 0, low), priority, capacity)
    held = np.where(free, 0, np.clip(asked, low, high))
    excess = int(held.sum()) - capacity
    taken = np.zeros_like(held)
    if excess > 0:
        spare = np.where(free, 0, held - low)
        taken = np.minimum(spare, np.ceil(spare * (excess / spare.sum())).astype(np.int64))
    raised, cut = ~free & (asked < low), capped | (~free & (asked > high))
    clamps = Clamps(raised, cut, taken, low, high)
    return np.where(free, Plan.UNLIMITED, held - taken), clamps


def _carry(plan: Plan, view: View) -> Column | None:
    if plan.carry is None:
        return None
    try:
        grid = np.array(plan.carry)
    except (TypeError, ValueError) as error:
        raise PlanError("carry", f"is no array: {error}") from None
    if grid.ndim != 2 or len(grid) != len(view) or grid.shape[1] > CARRY_COLUMNS_MAX:
        wanted = f"({len(view)}, at most {CARRY_COLUMNS_MAX})"
        raise PlanError("carry", f"has shape {grid.shape}, wants {wanted}")
    if grid.size and grid.dtype.kind not in "iufb":
        raise PlanError("carry", f"holds {grid.dtype}, not numbers")
    # NaN is how a view marks a newcomer; carried by others, it would make newcomers of them.
    bad = np.asarray(~np.isfinite(grid)).any(axis=1)
    _refuse(np.asarray(bad), "carry", "is not a finite number", view)
    return grid.astype(np.float64)


def _reasons(plan: Plan, view: View) -> Reasons | None:
    if plan.why is None:
        return None
    texts = plan.why
    if not isinstance(texts, list | tuple | np.ndarray) or len(texts) != len(view):
        raise PlanError("length", f"why must hold {len(view)} texts, one per domain")
    return Reasons(tuple(texts) if isinstance(texts, list) else texts)


def describe_error(error: BaseException) -> str:
    """Type and text, in one line, of an exception whose own ``__str__`` may raise."""
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception:
        return type(error).__name__


def _plain(text: object) -> str:
    """One line that any message can carry."""
    try:
        line = " ".join(str(text).split())[:WHY_CHARACTERS_MAX]
    except Exception:  # the author's own ``__str__`` may raise anything
        line = type(text).__name__
    return line.encode("utf-8", "replace").decode()
