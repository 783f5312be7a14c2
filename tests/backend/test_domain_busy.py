"""A domain on which a thread still works: closing it is refused by name, and succeeds later."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backend_steps import AREA, ledger, spec

from backend._service import lib
from backend.host import HostBackend
from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.domains import DomainEntry
from hypervisor.loop import Hypervisor
from hypervisor.public.errors import DomainBusy
from hypervisor.public.units import DomId

VM1 = DomId(0)


def make_busy(backend: HostBackend) -> Any:
    """As when a close of vm1 has timed out: a user never let go. The next close looks once."""
    domain = backend._host.domains[VM1]
    domain.users, domain.phase = 1, lib.MC_CLOSING
    return domain


def test_a_busy_domain_is_named_keeps_its_memory_and_can_be_closed_later(
    backend: HostBackend,
) -> None:
    backend.open(VM1, spec("vm1", boot=3))
    domain = make_busy(backend)
    for _ in range(2):
        with pytest.raises(DomainBusy, match=r"^vm1 \(domain 0\)") as caught:
            backend.close(VM1)
        assert caught.value.domid == VM1
    now = backend.snapshot()
    assert now.domains[0].current_frames == 3 * AREA
    assert ledger(now) == now.total_frames
    domain.users = 0
    backend.close(VM1)
    assert backend.snapshot().free_frames == now.total_frames


def test_a_domain_that_is_not_busy_reboots(backend: HostBackend) -> None:
    backend.open(VM1, spec("vm1", boot=1))
    backend.reboot(VM1)
    assert backend.snapshot().domains[0].current_frames == AREA


def test_the_hypervisor_goes_on_and_closes_a_busy_domain_at_a_later_tick(
    backend: HostBackend, short_path: Path
) -> None:
    events: list[str] = []
    report = SimpleNamespace(fault=None, violations=())
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
    connection: Any = SimpleNamespace(close=lambda: None)
    vm1 = DomainConfig("vm1", 8 * AREA, 3 * AREA, 8 * AREA)
    entry = DomainEntry(VM1, vm1, 1, "futex", connection)
    host._domains.add(entry)
    domain = make_busy(backend)
    host._detach(entry, "ended")
    host._tick()
    assert events == ["domain-busy", "detached"]
    assert host._domains.next_domid("vm2") != VM1
    domain.users = 0
    host._tick()
    assert host._domains.next_domid("vm2") == VM1
    assert backend.snapshot().domains == ()
    host.close()
