"""A virtual machine in a scenario: its keys, the machine they make, what is said before a start."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from hypervisor.public.errors import ConfigError
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.live import machine_start
from memcoord.testbed.machines.spec import SwapFile
from memcoord.testbed.scenarios import virtual_machines
from memcoord.testbed.scenarios.schema import check_simulable, parse, to_hypervisor_config
from memcoord.testbed.scenarios.virtual_machines import MachineWorkload
from memcoord.testbed.scenarios.workloads import title_of

MIB = 1 << 20


def raw(work: dict[str, Any] | None = None, **domain: Any) -> dict[str, Any]:
    workload = {"kind": "qemu", "run": ["usemem", "1", "1", "2", "3"]} | (work or {})
    one = {"name": "vm1", "maxmem": "384 MiB", "ram": "256 MiB", "ram_min": "128 MiB"}
    return {
        "name": "machines",
        "memory": "640 MiB",
        "domain": [one | domain | {"workload": workload}],
    }


def made(work: MachineWorkload, nodes: int = 1) -> Any:
    return virtual_machines.spec_of(
        work, 256 * MIB, 128 * MIB, 384 * MIB, kernel="k", initrd="i", swap=SwapFile("/swap")
    )


def test_a_machine_is_booked_and_its_proxy_is_declared() -> None:
    config = to_hypervisor_config(parse(raw()), "greedy")
    (domain,) = config.domains
    assert domain.booked_only
    assert domain.failed_puts == "swap-outs"
    assert domain.ram_limits() == (128 * MIB // FRAME_BYTES, 384 * MIB // FRAME_BYTES)
    (tmem,) = to_hypervisor_config(parse(raw({"swap": "tmem"})), "greedy").domains
    assert tmem.failed_puts == "tmem"


@pytest.mark.parametrize("resize", ["fixed", "reporting"])
def test_a_machine_of_fixed_size_has_that_size_for_the_policy(resize: str) -> None:
    (domain,) = to_hypervisor_config(parse(raw({"resize": resize})), "greedy").domains
    assert domain.ram_limits() == (256 * MIB // FRAME_BYTES,) * 2


def test_virtio_mem_boots_with_the_minimum_and_plugs_the_rest_on_every_node() -> None:
    spec = made(MachineWorkload(run=("x",), nodes=2))
    assert spec.memory_bytes == 128 * MIB
    assert [one.max_bytes // MIB for one in spec.plugged] == [128, 128]
    assert [one.requested_bytes // MIB for one in spec.plugged] == [64, 64]
    assert [one.node for one in spec.plugged] == [0, 1]


def test_a_balloon_boots_with_all_it_may_have() -> None:
    spec = made(MachineWorkload(run=("x",), resize="balloon"))
    assert (spec.memory_bytes, spec.plugged) == (384 * MIB, ())


def test_reporting_is_a_property_of_the_balloon() -> None:
    assert made(MachineWorkload(run=("x",), resize="reporting")).balloon.free_page_reporting
    assert not made(MachineWorkload(run=("x",))).balloon.free_page_reporting


@pytest.mark.parametrize(
    ("work", "domain", "key"),
    [
        ({"run": []}, {}, "domain[0].workload.run"),
        ({"nodes": 0}, {}, "domain[0].workload.nodes"),
        ({"nodes": 2, "resize": "balloon"}, {}, "domain[0].workload.nodes"),
        ({"resize": "magic"}, {}, "domain[0].workload.resize"),
        ({"swap": "floppy"}, {}, "domain[0].workload.swap"),
        ({"swap_size": "0 MiB"}, {}, "domain[0].workload.swap_size"),
        ({"block": "3 MiB"}, {}, "domain[0].workload.block"),
        ({"kernel": "/dev/null"}, {}, "domain[0].workload.kernel"),
        ({"disk": "/no/such/disk"}, {}, "domain[0].workload.disk"),
        ({"total": 5}, {}, "domain[0].workload.total"),
        ({"argv": ["x"]}, {}, "domain[0].workload.argv"),
        ({}, {"mechanism": "balloon"}, "domain[0].mechanism"),
        ({}, {"crash_at": 0.5}, "domain[0].crash_at"),
        ({}, {"ram_min": "64 MiB", "maxmem": "320 MiB"}, "domain[0].ram_min"),
        ({"resize": "fixed"}, {"ram": "64 MiB", "ram_min": "64 MiB"}, "domain[0].ram"),
        ({}, {"maxmem": "511 MiB"}, "domain[0].maxmem"),
        ({}, {"maxmem": "448 MiB"}, "domain[0].maxmem"),
        ({"nodes": 3}, {"maxmem": "384 MiB"}, "domain[0].ram"),
        ({"block": "64 MiB"}, {"ram": "250 MiB"}, "domain[0].ram"),
        ({}, {"booked_only": True}, "domain[0].booked_only"),
    ],
)
def test_a_mistake_is_named_by_its_key(
    work: dict[str, Any], domain: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw(work, **domain))
    assert caught.value.key == key


def test_a_machine_cannot_be_simulated_and_is_called_by_its_command() -> None:
    scenario = parse(raw())
    with pytest.raises(ConfigError, match="memcoord run"):
        check_simulable(scenario)
    assert title_of(scenario.domain[0].workload) == "usemem"


def test_what_is_missing_is_said_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"apt-get install .*qemu-system-x86"):
        machine_start.check(parse(raw()))
    plain = {"kind": "loop", "size": "4 MiB", "resident": "2 MiB"}
    machine_start.check(
        parse(
            {
                "name": "none",
                "memory": "64 MiB",
                "domain": [{"name": "a", "maxmem": "8 MiB", "ram": "4 MiB", "workload": plain}],
            }
        )
    )
