"""A simulated host as an environment for learning agents: ``reset`` and ``step``.

Owns: an agent's observations, actions and rewards. ``Env`` has the methods, returns and spaces of
Gymnasium's ``Env`` without importing Gymnasium, so that its agents, or a few lines of numpy, can
drive a scenario::

    import numpy as np
    from memcoord.simulation import Env

    env = Env("usemem")
    observation, info = env.reset(seed=1)
    over = False
    while not over:
        shares = np.ones(len(env.names)) / len(env.names)  # of tmem, per domain
        observation, reward, terminated, truncated, info = env.step(shares)
        over = terminated or truncated
    print(info["result"])

One step is one interval: the real coordinator applies the action, then the guests run.
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

#: Columns of an observation, each 0 to 1; all are 0 for a domain that is not present.
FEATURES = (
    "present",
    "tmem_used",  # as a part of the capacity of tmem
    "tmem_target",  # the same
    "failed_puts",  # as a part of the puts of this interval
    "tmem_hits",  # as a part of the gets of this interval
    "pressure",  # the part of this interval that it stood still for want of memory
    "idle",  # the part of its resident pages that was not used lately
    "swap_ins",  # as a part of its faults of this interval
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
        """A random array of the space."""
        return rng.uniform(self.low, self.high, self.shape).astype(self.dtype)

    def contains(self, value: ArrayLike) -> bool:
        """Whether ``value`` is an array of the space."""
        found = np.asarray(value)
        if found.shape != self.shape or found.dtype.kind not in "iuf":
            return False
        return bool(((found >= self.low) & (found <= self.high)).all())


class _AgentPolicy:
    """The policy that answers the shares that the agent chose."""

    name = "agent"

    def __init__(self, names: list[str]) -> None:
        self._row = {name: row for row, name in enumerate(names)}
        self.shares = np.zeros(len(names))

    def plan(self, view: View) -> Plan:
        rows = [self._row[name] for name in view.names]
        return Plan(tmem=self.shares[rows] * view.capacity)


class Env:
    """``scenario`` (a name, a file or a ``Scenario``) driven by an agent.

    An action is one number from 0 to 1 per domain of the scenario: its share of tmem. Shares that
    add up to more than 1 are scaled down. The reward of a step is minus the mean pressure of the
    domains that are present. ``terminated`` is True when all domains have ended, ``truncated``
    after ``steps_max`` steps. ConfigError when there is no such scenario.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as in Gymnasium

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
        """Start a new run: the first observation, and {}. The same seed gives the same run."""
        if seed is not None:
            self._seed = seed
        self._policy = _AgentPolicy(self.names)
        self._world = World(self.scenario, self._policy, seed=self._seed)
        self._seen: dict[str, DomainSnapshot] = {}
        self._steps = 0
        observation, _ = self._look()
        return observation, {}

    def step(self, action: ArrayLike) -> tuple[Table, float, bool, bool, dict[str, Any]]:
        """Run one interval under ``action``: observation, reward, terminated, truncated, info.

        ``info`` has ``time_s``, and ``result`` at the end. ConfigError for an action outside of
        ``action_space``, and before ``reset``.
        """
        if self._world is None or self._world.over:
            raise ConfigError("step", "reset the environment first")
        shares = np.asarray(action, dtype=np.float64)
        if not self.action_space.contains(shares):
            raise ConfigError("action", f"wants {self.action_space.shape} numbers of 0 to 1")
        self._policy.shares = shares / max(shares.sum(), 1.0)
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
        """The observation of the interval since the last look, and its reward."""
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
