"""The simulated host as a real ``gymnasium.Env``, for the extra ``gym``.

Owns: the dress. What an observation, an action and a reward are stands in
``memcoord.simulation.env``, which needs no Gymnasium and can be used without this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hypervisor.public.errors import MemcoordError
from memcoord.simulation.env import STEPS_MAX, Table
from memcoord.simulation.env import Env as Simulated

if TYPE_CHECKING:
    from memcoord.testbed.scenarios.schema import Scenario

try:
    import gymnasium
except ImportError:
    raise MemcoordError(
        "the environment needs Gymnasium: pip install 'memcoord[gym]'; "
        "memcoord.simulation.Env is the same without it"
    ) from None


class Env(gymnasium.Env[Table, Table]):
    """A scenario driven by an agent: one number of 0 to 1 per domain, its share of tmem.

    An observation has a row per domain and the columns ``memcoord.simulation.env.FEATURES``; the
    reward is minus the mean share of time that the domains stood still for want of memory.
    ``memcoord.simulation.env.Env`` says all of it. ConfigError when there is no such scenario.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self, scenario: Scenario | str = "main", seed: int | None = None, steps_max: int = STEPS_MAX
    ) -> None:
        self._simulated = Simulated(scenario, seed, steps_max)
        self.names = self._simulated.names
        for name in ("action_space", "observation_space"):
            own = getattr(self._simulated, name)
            setattr(self, name, gymnasium.spaces.Box(own.low, own.high, own.shape, np.float32))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Table, dict[str, Any]]:
        """Start a new run; the same seed gives the same run."""
        super().reset(seed=seed)
        return self._simulated.reset(seed=seed, options=options)

    def step(self, action: Table) -> tuple[Table, float, bool, bool, dict[str, Any]]:
        """Run one interval; ConfigError for an action outside of ``action_space``."""
        return self._simulated.step(action)

    def close(self) -> None:
        """Forget the run."""
        self._simulated.close()
