"""An agent that drives a simulated host: it hands tmem to whoever stood still longest."""

import numpy as np

import memcoord
from memcoord.simulation.env import FEATURES

environment = memcoord.Env("usemem", seed=1, steps_max=200)
observation, _ = environment.reset(seed=1)
total, over = 0.0, False
while not over:
    pressure = observation[:, FEATURES.index("pressure")] + 0.05
    shares = (pressure / pressure.sum()).astype(np.float32)
    observation, reward, terminated, truncated, _ = environment.step(shares)
    total += reward
    over = terminated or truncated
print(f"the sum of its rewards, minus the time that domains stood still: {total:.1f}")
