"""What a policy sees, what it answers, and how its parameters are declared.

Owns: ``View``, ``Plan``, ``PolicyParams``, the ``Policy`` protocol and ``PolicyError``. A policy is
a pure function: the same view gives the same plan; no clock, no input or output, no memory of
earlier calls. To remember numbers about a domain, a policy returns them as ``Plan.carry`` and finds
them in the next ``View.carry``. Any module may import this one; it imports nothing of the project.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

Column = NDArray[np.float64]
Pages = Annotated[int, msgspec.Meta(ge=0)]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Ticks = Annotated[int, msgspec.Meta(ge=1)]
Scale = Annotated[float, msgspec.Meta(ge=0)]  # see ``policies.ram_targets``

MRC_POINTS = 65
CARRY_COLUMNS_MAX = 256
#: Idle ages of ``cold`` and ``promotions``, in seconds.
AGE_EDGES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0)
#: Columns of a view that cost time to measure, by their names in a policy's ``needs``.
NEEDS = {"mrc": "miss ratios over the size of tmem", "ages": "how long pages have been idle"}


class PolicyError(ValueError):
    """A policy cannot be found, loaded or configured; the text names the part that is wrong."""


# Not written in the class line: type checkers would then want ``frozen=True`` of every subclass.
_STRICT: dict[str, Any] = {"frozen": True, "forbid_unknown_fields": True}


class PolicyParams(msgspec.Struct, **_STRICT):
    """Base of a policy's nested ``Params``: fields with types and defaults; frozen."""


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """All domains at one tick: read-only float64 columns, one entry per domain, in domid order.

    Pages and frames are 4 KiB. "This interval" means since the view before. ``len(view)`` is the
    number of domains and may be 0. NaN in ``swap_ins``, ``ram_used``, ``committed``, ``idle`` and
    ``pressure`` means: the guest does not report it. ``failed_puts`` of a guest without tmem may be
    a proxy of the guest's own, pages written to its swap; then NaN means the same. None for
    ``mrc``, ``cold`` and ``promotions`` means: not measured. Neither is 0.
    """

    capacity: int  # tmem pages there are to share
    ram_capacity: int  # frames there are to share
    tick: int  # how many there were before
    interval_s: float  # time the "this interval" columns cover
    host_frames: int  # all the host has
    host_free_frames: int  # neither in a domain nor held by tmem; includes the host's slack
    names: tuple[str, ...]  # of the domains, in the order of the columns
    used: Column  # tmem pages held now
    target: Column  # mm_target in force; unlimited is given as capacity
    minimum: Column  # least and most tmem target; check_plan clamps to them
    maximum: Column  # see ``minimum``
    weight: Column  # above 0
    priority: Column  # higher matters more
    puts: Column  # this interval
    failed_puts: Column  # this interval
    failed_puts_total: Column  # since the domain attached
    gets: Column  # this interval
    hits: Column  # gets that found their page, this interval
    swap_ins: Column  # this interval, the guest's own word; see ``came_back``
    ram_current: Column  # frames the domain holds
    ram_target: Column  # frames it should hold
    ram_used: Column  # frames it says it uses, never above current; see ``in_use``
    ram_minimum: Column  # least and most target of RAM; check_plan clamps to them
    ram_maximum: Column  # see ``ram_minimum``
    age: Column  # ticks since it attached; 0 at its first
    committed: Column  # pages its programs hold wherever they are; the guest's own word
    idle: Column  # fraction of its RAM not referenced lately, 0 to 1
    pressure: Column  # fraction of this interval it stood still for want of memory, 0 to 1
    carry: Column  # what this policy's last plan carried, domains x any; NaN for a newcomer
    # Miss ratio of its tmem requests were it to have i / (MRC_POINTS - 1) of capacity.
    mrc: Column | None = None  # domains x MRC_POINTS
    # By age: pages not referenced for AGE_EDGES_S[i] or longer; references this interval to those.
    cold: Column | None = None  # domains x len(AGE_EDGES_S)
    promotions: Column | None = None  # domains x len(AGE_EDGES_S)

    def __post_init__(self) -> None:
        """Freeze every column; ValueError names one that has not an entry for each domain."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                if value.shape[:1] != (len(self.names),):
                    raise ValueError(f"{item.name}: {value.shape}, {len(self.names)} domains")
                value.setflags(write=False)

    def __len__(self) -> int:
        """Domains in this view."""
        return len(self.names)

    @property
    def demand(self) -> Column:
        """Tmem pages each domain could use: pages held, plus puts that failed this interval."""
        return self.used + np.nan_to_num(self.failed_puts)

    @property
    def came_back(self) -> Column:
        """Pages read from swap this interval; puts that failed, of a guest that does not report."""
        failed = np.nan_to_num(self.failed_puts)
        return np.where(np.isnan(self.swap_ins), failed, self.swap_ins)

    @property
    def in_use(self) -> Column:
        """Frames each domain uses; all it holds, of a guest that does not report."""
        return np.where(np.isnan(self.ram_used), self.ram_current, self.ram_used)

    def carried(self, columns: int, start: float = 0.0) -> Column:
        """A copy of ``carry`` with ``columns`` columns; ``start`` where nothing was carried."""
        if self.carry.shape[1] != columns:
            return np.full((len(self), columns), start)
        return np.where(np.isnan(self.carry), start, self.carry)

    @classmethod
    def of(
        cls,
        *,
        capacity: int,
        names: Sequence[str] | None = None,
        ram_capacity: int = 0,
        tick: int = 0,
        interval_s: float = 1.0,
        host_frames: int = 0,
        host_free_frames: int = 0,
        **columns: ArrayLike,
    ) -> Self:
        """A view from the columns a test or an example cares about; lists will do.

        The others are 0, except: weight 1, target an equal share, maximum the capacity,
        ram_maximum the RAM capacity, nothing carried, and what may be missing is not measured.
        ValueError for an unknown one.
        """
        known = {item.name for item in fields(cls)}
        unknown = set(columns) - known
        if unknown:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        unmeasured = {name for name in _GRIDS if columns.get(name) is None}
        made: dict[str, Any] = {
            name: np.array(value, dtype=np.float64)
            for name, value in columns.items()
            if name not in unmeasured
        }
        if names is None:
            count = len(next(iter(made.values()))) if made else 0
            names = [f"vm{index + 1}" for index in range(count)]
        special = {
            "weight": 1.0,
            "target": float(capacity // max(len(names), 1)),
            "maximum": float(capacity),
            "ram_maximum": float(ram_capacity),
        } | dict.fromkeys(("committed", "idle", "pressure"), np.nan)
        made.setdefault("carry", np.empty((len(names), 0)))
        plain = known - _SCALARS - set(_GRIDS) - set(made)
        made |= {name: np.full(len(names), special.get(name, 0.0)) for name in plain}
        return cls(
            capacity=capacity,
            ram_capacity=ram_capacity,
            tick=tick,
            interval_s=interval_s,
            host_frames=host_frames,
            host_free_frames=host_free_frames,
            names=tuple(names),
            **made,
        )


_GRIDS = ("mrc", "cold", "promotions")
_SCALARS = {item.name for item in fields(View) if item.type != Column} - {*_GRIDS}


@dataclass(frozen=True, eq=False)
class Plan:
    """A policy's answer: targets per domain in the order of the view; ``None`` leaves them as is.

    Fractions are fine, they are rounded down. The sum may not exceed the view's capacity; an entry
    that is ``Plan.UNLIMITED`` counts nothing and may hold all there is (tmem only). ``why`` is an
    optional text per domain, the rule that led to its target, for ``memcoord why``. ``carry``, of
    shape (domains, at most CARRY_COLUMNS_MAX) and finite, comes back in the next view; without it
    nothing does.
    """

    #: Not -1, because a mistaken subtraction gives -1.
    UNLIMITED: ClassVar[int] = -(1 << 62)

    tmem: ArrayLike | None = None
    ram: ArrayLike | None = None
    why: Sequence[str] | NDArray[np.str_] | None = None
    carry: Column | None = None


class Policy(Protocol):
    """The whole plug-in interface. A class may also say, as attributes:

    ``name``, for reports; ``needs``, those of ``NEEDS`` that it cannot decide anything without;
    and promises the conformance kit tries: ``monotone``, ``truthful``, ``settles``, ``vectors``.
    """

    def plan(self, view: View) -> Plan:
        """Targets for the domains of ``view``; must not change or keep it."""


def needs_of(policy: object) -> frozenset[str]:
    """What ``policy`` declares as its ``needs``."""
    return frozenset(getattr(policy, "needs", ()))


def name_of(policy: Policy) -> str:
    """What reports call ``policy``: its ``name``, else its class's."""
    return str(getattr(policy, "name", type(policy).__name__))
