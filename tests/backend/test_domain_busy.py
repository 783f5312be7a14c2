"""A domain on which a thread still works: closing it waits for nothing, and it is gone later."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backend_steps import AREA, WAIT_S, ledger, spec

from backend.host import HostBackend
from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.domains import DomainEntry
from hypervisor.loop import Hypervisor
from hypervisor.public.units import DomId

VM1 = DomId(0)


def test_a_busy_domain_keeps_its_memory_until_it_is_let_go(backend: HostBackend) -> None:
    backend.open(VM1, spec("vm1", boot=3))
    domain = backend._host.domains[VM1]
    domain.users += 1
    for _ in range(2):
        backend.close(VM1)
        assert backend.leaving() == {VM1: "vm1"}
    now = backend.snapshot()
    assert now.installed_frames == 3 * AREA
    assert ledger(now) == now.total_frames
    backend.validate()
    domain.users -= 1
    assert backend.wait_closed(WAIT_S)
    assert backend.snapshot().free_frames == now.total_frames


def test_a_domain_that_is_not_busy_reboots(backend: HostBackend) -> None:
    backend.open(VM1, spec("vm1", boot=1))
    backend.reboot(VM1)
    assert backend.snapshot().domains[0].current_frames == AREA


def test_the_hypervisor_goes_on_and_the_domid_is_free_later(
    backend: HostBackend, short_path: Path
) -> None:
    events: list[str] = []
    report = SimpleNamespace(fault=None, violations=(), time_ns=0, deeds=(), decisions=())
    coordinator: Any = SimpleNamespace(
        domain_closed=lambda _: None,
        tick=lambda: report,
        statistics=lambda: SimpleNamespace(faults=0),
    )
    config = HypervisorConfig(total_frames=16 * AREA, slack_frames=2 * AREA)
    host = Hypervisor(
        config, short_path, backend, coordinator, lambda event, _: events.append(event)
    )
    backend.open(VM1, spec("vm1", boot=3))
    connection: Any = SimpleNamespace(close=lambda: None, shutdown=lambda _: None)
    vm1 = DomainConfig("vm1", 8 * AREA, 3 * AREA, 8 * AREA)
    entry = DomainEntry(VM1, vm1, 1, "futex", connection)
    host._domains.add(entry)
    domain = backend._host.domains[VM1]
    domain.users += 1
    host._detach(entry, "ended")
    host._tick()
    assert events == ["detached"]
    assert host._domains.next_domid("vm2") != VM1
    domain.users -= 1
    assert backend.wait_closed(WAIT_S)
    host._tick()
    assert host._domains.next_domid("vm2") == VM1
    assert backend.snapshot().domains == ()
    host.close()
