"""Goal: a cost set says what a simulated machine costs, and processors and the disk are shared."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from sim_scenarios import domain, loop, scenario

from hypervisor.public.errors import ConfigError
from memcoord.commands.calibrate import calibrate_command
from memcoord.simulation.costs import QUANTILES, CostSet, costs_of, quantiles, shipped
from memcoord.simulation.world import simulate
from memcoord.testbed.scenarios.schema import Scenario


class Of:
    """A scenario that names a cost set and says no more."""

    def __init__(self, cost_set: str) -> None:
        self.cost_set = cost_set


def in_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "costs.toml"
    file.write_text(text)
    return str(file)


def test_the_shipped_sets_are_whole() -> None:
    assert shipped() == ["kernel-like", "testbed"]
    kernel = costs_of(Of("kernel-like")).costs
    assert (kernel.fault_ns, kernel.tmem_get_ns, kernel.tmem_put_ns) == (1000, 1000, 1000)
    for name in shipped():
        found = costs_of(Of(name))
        assert found.costs.cpus > 0
        assert found.costs.disk_shared
        assert len(set(found.reads_ns)) > 1


def test_a_file_gives_every_constant_and_what_it_omits_has_its_default(tmp_path: Path) -> None:
    file = in_file(tmp_path, "fault_us = 2.5\ncpus = 3\ndisk_read_us = [1, 3]\n")
    found = costs_of(Of(file))
    assert found.costs.fault_ns == 2500
    assert found.costs.cpus == 3
    assert found.reads_ns == (1000,) * 8 + (3000,) * 8
    assert found.costs.disk_read_ns == 2000
    assert found.writes_ns == CostSet().writes_ns


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fault_us = -1", "fault_us"),
        ("fault_us = true", "fault_us"),
        ("disk_read_us = []", "disk_read_us"),
        ("disk_read_us = [1, 'x']", "disk_read_us"),
        ("cpus = 65", "cpus"),
        ("quantum_us = 0", "quantum_us"),
        ("walls = 3", "walls"),
        ("cpus = ", "costs.toml"),
    ],
)
def test_a_wrong_set_is_told_by_its_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        costs_of(Of(in_file(tmp_path, text)))


def test_a_set_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="kernel-like, testbed"):
        costs_of(Of("no-such-set"))


def test_quantiles_keep_the_mean_and_the_order() -> None:
    found = quantiles(list(range(100)), "disk_read_us")
    assert len(found) == QUANTILES
    assert list(found) == sorted(found)
    assert sum(found) / QUANTILES == pytest.approx(49.5, abs=0.5)


def busy(cost_set: str, domains: int) -> Scenario:
    """So many equal domains that only compute: all they touch fits."""
    names = [f"vm{number}" for number in range(domains)]
    return scenario(*(domain(name, loop(100, 400)) for name in names), cost_set=cost_set)


def times(what: Any) -> list[float]:
    return [domain.run_s for domain in simulate(what, "greedy").domains]


def test_domains_share_the_processors(tmp_path: Path) -> None:
    single = in_file(tmp_path, "cpus = 1\nquantum_us = 10\n")
    (alone,) = times(busy(single, 1))
    one = times(busy(single, 4))
    assert min(one) > 3.8 * alone  # all take turns, so all are late
    assert max(one) == pytest.approx(4 * alone, rel=0.05)
    two = times(busy(in_file(tmp_path, "cpus = 2\nquantum_us = 10\n"), 4))
    assert max(two) == pytest.approx(2 * alone, rel=0.05)
    many = times(busy(in_file(tmp_path, "cpus = 4\nquantum_us = 10\n"), 4))
    assert max(many) == pytest.approx(alone, rel=0.05)


def test_calibrate_writes_a_set_that_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    told, lines = calibrate_command(str(out))
    found = costs_of(Of(str(out)))
    assert found.costs.cpus == told["cpus"] > 0
    assert found.costs.tmem_put_ns > 0
    assert len(tomllib.loads(out.read_text())["disk_read_us"]) == QUANTILES
    assert str(out) in lines[-1]
    with pytest.raises(ConfigError, match="--out"):
        calibrate_command(str(tmp_path / "none" / "mine.toml"))
