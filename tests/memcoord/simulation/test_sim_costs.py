"""Goal: a cost set says what a simulated machine costs, and processors and the disk are shared."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from sim_scenarios import FOREVER, domain, loop, make_host, make_stream, open_domain, scenario

from hypervisor.public.errors import ConfigError
from memcoord.benchmarks.agreement import guest_costs
from memcoord.commands.calibrate import calibrate_command
from memcoord.simulation.costs import (
    QUANTILES,
    Costs,
    CostSet,
    constant,
    costs_of,
    quantiles,
    shipped,
)
from memcoord.simulation.host import Paging
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


class Simulated:
    """A machine whose domain is simulated, with costs that calibrate cannot know."""

    COSTS = Costs(
        hit_ns=50, fault_ns=400, first_touch_ns=900, call_ns=3000, switch_ns=2000,
        tmem_get_ns=500, tmem_put_ns=700, tmem_shared=True, cpus=2,
    )  # fmt: skip

    def _run_ns(
        self, pages: int, resident: int, depth: int, rounds: int, *, crowded: bool = False
    ) -> int:
        host = make_host(100, tmem=40, costs=constant(self.COSTS))
        work = make_stream(np.tile(np.arange(pages), rounds), compute_ns=0)
        paging = Paging(depth=depth)
        domid = open_domain(host, work, ram=40, resident=resident, paging=paging)
        if crowded:
            computing = make_stream(np.zeros(1 << 20, int), compute_ns=1000)
            open_domain(host, computing, ram=2, resident=400, domid=1)
        host.run(FOREVER)
        return host.counters(domid)["clock_ns"]

    def round_ns(self, pages: int, resident: int, depth: int, *, crowded: bool = False) -> float:
        """Without what the first rounds cost."""
        few, many = (
            self._run_ns(pages, resident, depth, rounds, crowded=crowded) for rounds in (3, 8)
        )
        return (many - few) / (5 * pages)

    def first_ns(self, pages: int) -> float:
        """All of it fits."""
        return self._run_ns(pages, 2 * pages, 1, 1) / pages


def test_calibrate_finds_what_a_guest_costs() -> None:
    done: list[int] = []
    found = guest_costs.measure(Simulated(), 700, 500, lambda one, _: done.append(one))
    assert done == list(range(1, guest_costs.PROBES + 1))
    assert found == pytest.approx((50, 400, 900, 3000, 2000, 700, 500), rel=0.03)
    # A pool that is slower by itself than in the service leaves the guest its part all the same.
    slow = guest_costs.measure(Simulated(), 7000, 5000, lambda *_: None)
    assert slow.put_ns / slow.get_ns == pytest.approx(7 / 5)
    assert slow.fault_ns == pytest.approx(0.2 * 1600, rel=0.03)


@pytest.mark.process
def test_a_real_domain_is_measured(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(short_path))
    monkeypatch.setattr(guest_costs, "SLICES", 20)
    monkeypatch.setattr(guest_costs, "FIRST_ATTEMPTS", 1)
    with guest_costs.real_machine() as machine:
        hit_ns, batched_ns = (machine.round_ns(pages, 1024, 16) for pages in (400, 2000))
        assert 0 < hit_ns < batched_ns
        assert machine.first_ns(1024) > hit_ns


def test_calibrate_writes_a_set_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    told, lines = calibrate_command(str(out), Simulated())
    found = costs_of(Of(str(out)))
    assert found.costs.cpus == told["cpus"] > 0
    assert found.costs.tmem_put_ns > found.costs.tmem_refused_ns >= 0
    assert found.costs.disk_depth >= 1
    raw = tomllib.loads(out.read_text())
    assert len(raw["disk_read_us"]) == QUANTILES
    assert raw["description"] == "memcoord calibrate"
    assert "cores, Linux" in out.read_text()
    assert "# load average" in out.read_text()
    assert str(out) in lines[-1]
    assert capsys.readouterr().err.startswith("calibrate: about")
    with pytest.raises(ConfigError, match="--out"):
        calibrate_command(str(tmp_path / "none" / "mine.toml"), Simulated())


def test_every_constant_can_be_set_in_a_scenario() -> None:
    told = {"cpus": 3, "quantum_us": 7.0, "hit_us": 1.0, "fault_us": 2.0, "first_touch_us": 3.0,
            "call_us": 4.0, "switch_us": 13.0, "tmem_get_us": 5.0, "tmem_put_us": 6.0,
            "tmem_refused_us": 8.0, "tmem_shared": False}  # fmt: skip
    disk = {"read_us": 9.0, "write_us": 10.0, "read_page_us": 11.0, "write_page_us": 12.0,
            "shared": False, "depth": 5}  # fmt: skip
    found = costs_of(scenario(domain("vm1", loop(10, 1)), costs=told, disk=disk)).costs
    expected = {key.replace("_us", "_ns"): value for key, value in told.items()}
    expected |= {f"disk_{key.replace('_us', '_ns')}": value for key, value in disk.items()}
    plain = structs.asdict(found)
    assert set(plain) == set(expected)
    in_ns = {k: v * 1000 if k.endswith("_ns") else v for k, v in expected.items()}
    assert plain == in_ns
