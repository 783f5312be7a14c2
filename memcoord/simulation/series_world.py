"""A world of demand series: ten thousand domains, no pages, one array operation per step.

Owns: the fluid model. At each tick a domain demands d pages and its target allows x. It holds
min(x, d) useful pages, and its puts of the other pages fail. Memory follows a target within the
tick. With unlimited targets (greedy) every domain first keeps the pages it holds and still demands;
domains then take the remaining memory in the order of their numbers, first come, first served. A
policy that answers targets of RAM is given all memory as RAM, any other policy all of it as tmem.

View, check and meaning of a plan are the same as in the other worlds. A run is deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies import Plan, Policy, PolicyError, View, check_plan
from policies.base import Column

TICK_S = 1.0


#: Demand made from a seed: ticks of a day and of a burst, and the chance that a burst begins.
DAY_TICKS = 96
BURST_TICKS = 12
BURST_CHANCE = 0.01


def synthetic_demand(domains: int, ticks: int, peak_pages: float, seed: int) -> NDArray[np.float64]:
    """Demand with days, bursts and noise, (``ticks``, ``domains``) in pages.

    A domain's peak is drawn around ``peak_pages`` (log-normal). Its level is a fraction of the peak
    and twice as high at noon as at night; now and then a burst reaches the peak.
    """
    rng = np.random.default_rng(seed)
    size = peak_pages * rng.lognormal(0.0, 0.5, domains)
    level = rng.uniform(0.1, 0.5, domains)
    phase = rng.uniform(0, 2 * np.pi, domains)
    day = 1 + 0.33 * np.sin(2 * np.pi * np.arange(ticks)[:, None] / DAY_TICKS + phase)
    starts = rng.random((ticks, domains)) < BURST_CHANCE
    burst = np.zeros((ticks, domains), dtype=bool)
    for tick in range(min(BURST_TICKS, ticks)):
        burst[tick:] |= starts[: ticks - tick]
    noise = rng.uniform(0.9, 1.1, (ticks, domains))
    demand: NDArray[np.float64] = np.minimum(np.where(burst, 1.0, level * day) * noise, 1.0) * size
    return demand


@dataclass(frozen=True, eq=False)
class SeriesRun:
    """The course of a run; arrays are (ticks, domains) in pages."""

    capacity: int
    demand: NDArray[np.float64]
    held: NDArray[np.float64]  # useful pages: at most the demand, in sum at most the capacity
    target: NDArray[np.float64]  # capacity where the target is unlimited

    @property
    def welfare(self) -> NDArray[np.float64]:
        """Per domain, the part of its demand that was met; 1 for a domain without demand."""
        wanted = self.demand.sum(axis=0)
        return np.where(wanted > 0, self.held.sum(axis=0) / np.maximum(wanted, 1e-300), 1.0)

    @property
    def utilisation(self) -> float:
        """Useful pages as a part of capacity, over all ticks."""
        return float(self.held.sum() / (self.capacity * len(self.held)))


class SeriesWorld:
    """Domains with the given demand under a policy.

    ``demand`` is (ticks, domains) in pages; ``tick`` consumes a row of it. ``capacity`` is in
    pages, ``weight`` and ``minimum`` (pages) have a value per domain.
    """

    def __init__(
        self,
        demand: NDArray[np.float64],
        capacity: int,
        policy: Policy,
        *,
        weight: NDArray[np.float64] | None = None,
        minimum: NDArray[np.float64] | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self.demand, self.capacity = np.ascontiguousarray(demand, dtype=np.float64), capacity
        self.ticks, self.domains = self.demand.shape
        self._policy, self._tick_s = policy, tick_s
        self._names = tuple(f"vm{number + 1}" for number in range(self.domains))
        self._zeroes = _frozen(np.zeros(self.domains))
        self._full = _frozen(np.full(self.domains, float(capacity)))
        self._weight = self._zeroes + 1 if weight is None else weight.astype(np.float64)
        self._minimum = self._zeroes if minimum is None else minimum.astype(np.float64)
        self._unknown = _frozen(np.full(self.domains, np.nan))
        self.now = 0
        self.held = np.zeros(self.domains)
        self._before = np.zeros(self.domains)
        self._wanted = np.zeros(self.domains)
        self.target = np.full(self.domains, math.floor(capacity / max(self.domains, 1)), float)
        self._failed_total = np.zeros(self.domains)
        self._carry = np.empty((self.domains, 0))
        self._is_ram = False  # in the view that the policy answers first
        self._is_ram = self._answers_ram()

    def _answers_ram(self) -> bool:
        if not self.domains:
            return False
        plan = self._policy.plan(self.view())
        if plan.ram is None:
            return False
        return plan.tmem is None or not np.asarray(plan.tmem, dtype=np.float64).any()

    def view(self) -> View:
        """The policy's view at the start of this tick, of the interval before the tick."""
        failed = self._wanted - self.held
        grown = np.maximum(self.held - self._before, 0.0)
        lost = np.maximum(self._before - self.held, 0.0)
        shares = np.divide(failed, self._wanted, out=np.zeros_like(failed), where=self._wanted > 0)
        zeroes, full, target = self._zeroes, self._full, np.minimum(self.target, self.capacity)
        tmem, ram = (zeroes, target) if self._is_ram else (target, zeroes)
        used, ram_used = (zeroes, self.held) if self._is_ram else (self.held, zeroes)
        unused = np.maximum(target - self.held, 0.0)
        idle = np.divide(unused, target, out=np.zeros_like(unused), where=target > 0)
        return View(
            capacity=0 if self._is_ram else self.capacity,
            ram_capacity=self.capacity if self._is_ram else 0,
            tick=self.now,
            interval_s=self._tick_s,
            host_frames=self.capacity,
            host_free_frames=max(self.capacity - int(self.held.sum()), 0),
            names=self._names,
            used=used.copy(),
            target=tmem,
            minimum=zeroes if self._is_ram else self._minimum,
            maximum=full,
            weight=self._weight,
            priority=zeroes,
            puts=grown + failed,
            failed_puts=failed,
            failed_puts_total=self._failed_total.copy(),
            gets=lost + failed,
            hits=lost,
            swap_ins=failed,
            ram_current=ram,
            ram_target=ram,
            ram_used=ram_used.copy(),
            ram_minimum=self._minimum if self._is_ram else zeroes,
            ram_maximum=full if self._is_ram else zeroes,
            age=np.full(self.domains, float(self.now)),
            committed=self._wanted.copy(),
            idle=idle if self._is_ram else self._unknown,
            pressure=shares,
            carry=self._carry,
        )

    def tick(self) -> None:
        """Have the policy plan, check and apply the plan, then serve the demand of this tick.

        PlanError when the plan is refused; any error the policy raises.
        """
        view = self.view()
        plan = self._policy.plan(view)
        checked = check_plan(plan, view)
        targets = checked.ram if self._is_ram else checked.tmem
        if targets is not None:
            self.target = targets.astype(np.float64)
            self.target[targets == Plan.UNLIMITED] = np.inf
        self._carry = np.empty((self.domains, 0)) if plan.carry is None else plan.carry
        self._settle()
        self.now += 1

    def _settle(self) -> None:
        wanted = self.demand[self.now]
        may = np.minimum(wanted, self.target)
        self._before = self.held
        if np.isinf(self.target).any():
            kept = np.minimum(may, self.held)
            rest = may - kept
            room = self.capacity - kept.sum()
            given = np.clip(room - (np.cumsum(rest) - rest), 0.0, rest)
            self.held = np.minimum(kept + given, may)  # rounding may add a bit to the sum
        else:
            self.held = may
        self._wanted = wanted
        self._failed_total = self._failed_total + (wanted - self.held)

    def validate(self) -> None:
        """ValueError when domains hold more than the capacity, or one more than it demands."""
        if self.held.sum() > self.capacity * (1 + 1e-9) or (self.held > self._wanted).any():
            raise ValueError(f"tick {self.now}: {self.held.sum()} of {self.capacity} pages held")

    def run(self) -> SeriesRun:
        """Run all ticks that are left. PolicyError when a plan is refused."""
        held, target = [], []
        while self.now < self.ticks:
            try:
                self.tick()
            except PolicyError:
                raise
            except ValueError as error:
                raise PolicyError(f"tick {self.now}: {error}") from error
            held.append(self.held)
            target.append(np.minimum(self.target, self.capacity))
        shape = (len(held), self.domains)
        rows = self.demand[self.ticks - len(held) :]
        return SeriesRun(self.capacity, rows, np.reshape(held, shape), np.reshape(target, shape))


def _frozen(column: Column) -> Column:
    column.setflags(write=False)
    return column
