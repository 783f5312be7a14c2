"""The environment for agents: Gymnasium's contract, and an agent that learns something."""

import numpy as np
import pytest
from sim_scenarios import contest

import memcoord
from hypervisor.public.errors import ConfigError
from memcoord.simulation import Env
from memcoord.simulation.env import FEATURES


def total_reward(env: Env, shares: list[float]) -> float:
    env.reset()
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(shares)
        total += reward
        over = terminated or truncated
    return total


def test_it_keeps_the_contract() -> None:
    env = Env(contest(), seed=3)
    rng = np.random.default_rng(0)
    for _ in range(2):
        observation, info = env.reset(seed=3)
        assert env.observation_space.contains(observation)
        assert info == {}
        terminated = truncated = False
        while not (terminated or truncated):
            action = env.action_space.sample(rng)
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, info = env.step(action)
            assert env.observation_space.contains(observation)
            assert observation.dtype == np.float32
            assert -1.0 <= reward <= 0.0
            assert type(reward) is float
            assert (type(terminated), type(truncated)) == (bool, bool)
        assert terminated
        assert info["result"].good


def test_the_same_actions_give_the_same_run() -> None:
    env = Env(contest())
    runs = []
    for _ in range(2):
        rows = [env.reset(seed=5)[0]]
        rows += [env.step([0.2, 0.3, 0.5])[0] for _ in range(6)]
        runs.append(np.array(rows))
    assert (runs[0] == runs[1]).all()


def test_an_action_is_in_force_in_the_interval_it_is_given_for() -> None:
    env = Env(contest())
    env.reset()
    observation, _, _, _, _ = env.step([0.25, 0.5, 0.25])
    targets = observation[:, FEATURES.index("tmem_target")]
    assert targets[:2] == pytest.approx([0.25, 0.5], abs=0.01)
    observation, _, _, _, _ = env.step([1, 1, 0])
    assert observation[:2, FEATURES.index("tmem_target")] == pytest.approx([0.5, 0.5], abs=0.01)


def test_it_is_truncated_after_so_many_steps() -> None:
    env = Env(contest(), steps_max=2)
    env.reset()
    assert env.step([0, 0, 0])[3] is False
    assert env.step([0, 0, 0])[3] is True


def test_wrong_use_is_told() -> None:
    env = Env(contest())
    with pytest.raises(ConfigError, match="reset"):
        env.step([0, 0, 0])
    env.reset()
    for wrong in ([0, 0], [0, 0, 1.5], [0, 0, float("nan")]):
        with pytest.raises(ConfigError, match="action"):
            env.step(wrong)


def test_an_agent_that_climbs_finds_who_needs_memory() -> None:
    """Goal: an agent improves. Method: move a quarter to whom it helps, as long as it helps."""
    env = Env(contest())
    shares = [0.8, 0.1, 0.1]
    best = first = total_reward(env, shares)
    for _ in range(2):
        tries = []
        for giver in range(3):
            for taker in range(3):
                moved = list(shares)
                part = min(0.25, moved[giver])
                moved[giver] -= part
                moved[taker] = min(moved[taker] + part, 1.0)
                tries.append((total_reward(env, moved), moved))
        found, moved = max(tries)
        if found <= best:
            break
        best, shares = found, moved
    assert best > 0.9 * first  # rewards are negative
    assert best > first


def test_gymnasium_itself_takes_it_for_an_environment() -> None:
    checker = pytest.importorskip("gymnasium.utils.env_checker")
    environment = memcoord.Env(contest(), seed=3)
    checker.check_env(environment, skip_render_check=True)
    plain = Env(contest(), seed=3)
    assert (environment.reset(seed=5)[0] == plain.reset(seed=5)[0]).all()
    shares = np.array([0.2, 0.3, 0.5], np.float32)
    for ours, theirs in zip(environment.step(shares), plain.step(shares), strict=True):
        np.testing.assert_equal(ours, theirs)
    environment.close()
