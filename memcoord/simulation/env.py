"""A simulated host as an environment for learning agents: ``reset`` and ``step``.

Owns: what an agent sees, does and earns. Shaped like Gymnasium's ``Env`` (same methods, same
returns, spaces with ``low``, ``high``, ``shape``, ``dtype``, ``sample`` and ``contains``) without
importing it, so that its agents, or a few lines of numpy, can drive a scenario.

One step is one interval: the action is put into force by the real coordinator, then the guests run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypervisor.public.backend import DomainSnapshot
from hypervisor.public.errors import ConfigError
from memcoord.simulation.world import World
from memcoord.testbed.scenarios.schema import Scenario, load
from policies import Plan, View

STEPS_MAX = 100_000
NS_PER_MS = 1_000_000

#: Columns of an observation, all 0 to 1 and 0 for a domain that is not there.
FEATURES = (
    "present",
    "tmem_used",  # of what tmem may hold, as the next
    "tmem_target",
    "failed_puts",  # of the puts of this interval
    "tmem_hits",  # of the gets of this interval
    "pressure",  # part of this interval it stood still for want of memory
    "idle",  # part of its resident pages not used lately
    "swap_ins",  # of its faults of this interval
)

Table = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Box:
    """A space of arrays, each entry from ``low`` to ``high``."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: type = np.float32

    def sample(self, rng: np.random.Generator) -> NDArray[Any]:
        """A point of it."""
        return rng.uniform(self.low, self.high, self.shape).astype(self.dtype)

    def contains(self, value: ArrayLike) -> bool:
        """Whether ``value`` is one."""
        found = np.asarray(value)
        if found.shape != self.shape or found.dtype.kind not in "iuf":
            return False
        return bool(((found >= self.low) & (found <= self.high)).all())


class _Chosen:
    """The policy that does what the agent says."""

    name = "agent"

    def __init__(self, names: list[str]) -> None:
        self._row = {name: row for row, name in enumerate(names)}
        self.shares = np.zeros(len(names))

    def plan(self, view: View) -> Plan:
        rows = [self._row[name] for name in view.names]
        return Plan(tmem=self.shares[rows] * view.capacity)


class Env:
    """``scenario`` (a name, a file or a ``Scenario``) driven by an agent.

    An action is one number from 0 to 1 per domain of the scenario: its share of tmem; shares that
    add up to more than 1 are scaled down. The reward of a step is minus the mean pressure of the
    domains that were there. ``terminated`` when all have ended, ``truncated`` after ``steps_max``.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self, scenario: Scenario | str = "main", seed: int | None = None, steps_max: int = STEPS_MAX
    ) -> None:
        self.scenario = load(scenario) if isinstance(scenario, str) else scenario
        self._seed = self.scenario.seed if seed is None else seed
        self._steps_max = min(steps_max, STEPS_MAX)
        self.names = [domain.name for domain in self.scenario.domain]
        self.action_space = Box(0.0, 1.0, (len(self.names),))
        self.observation_space = Box(0.0, 1.0, (len(self.names), len(FEATURES)))
        self._world: World | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Table, dict[str, Any]]:
        """Start anew: the first observation, and {}. The same seed gives the same run."""
        if seed is not None:
            self._seed = seed
        self._chosen = _Chosen(self.names)
        self._world = World(self.scenario, self._chosen, seed=self._seed)
        self._seen: dict[str, DomainSnapshot] = {}
        self._steps = 0
        observation, _ = self._look()
        return observation, {}

    def step(self, action: ArrayLike) -> tuple[Table, float, bool, bool, dict[str, Any]]:
        """One interval under ``action``: observation, reward, terminated, truncated, info.

        ConfigError for an action that is none, or before ``reset``.
        """
        if self._world is None or self._world.over:
            raise ConfigError("step", "reset the environment first")
        shares = np.asarray(action, dtype=np.float64)
        if not self.action_space.contains(shares):
            raise ConfigError("action", f"wants {self.action_space.shape} numbers of 0 to 1")
        self._chosen.shares = shares / max(shares.sum(), 1.0)
        self._world.tick()
        self._world.advance()
        self._steps += 1
        observation, reward = self._look()
        over = self._world.over
        info = {"time_s": self._world.now_ns / 1e9}
        if over:
            info["result"] = self._world.result()
        return observation, reward, over, not over and self._steps >= self._steps_max, info

    def close(self) -> None:
        """Forget the run."""
        self._world = None

    def _look(self) -> tuple[Table, float]:
        """What there is to see since the last look, and the reward of it."""
        assert self._world is not None
        host = self._world.host.snapshot()
        capacity = max(host.tmem_capacity_pages, 1)
        table = np.zeros((len(self.names), len(FEATURES)), np.float32)
        for now in host.domains:
            row = self.names.index(now.name)
            table[row] = self._features(now, self._seen.get(now.name), capacity)
            self._seen[now.name] = now
        there = table[:, 0] > 0
        pressure = table[there, FEATURES.index("pressure")]
        return table, -float(pressure.mean()) if there.any() else 0.0

    def _features(
        self, now: DomainSnapshot, before: DomainSnapshot | None, capacity: int
    ) -> list[float]:
        def risen(name: str) -> int:
            return int(getattr(now, name)) - (int(getattr(before, name)) if before else 0)

        target = capacity if now.tmem_target_pages < 0 else now.tmem_target_pages
        values = (
            1.0,
            now.tmem_used_pages / capacity,
            target / capacity,
            risen("puts_failed") / max(risen("puts"), 1),
            risen("gets_hit") / max(risen("gets"), 1),
            risen("guest_stall_ns") / (self.scenario.interval_ms * NS_PER_MS),
            max(now.guest_idle_permille, 0) / 1000,
            risen("guest_swap_ins") / max(risen("guest_faults"), 1),
        )
        return [min(max(value, 0.0), 1.0) for value in values]
