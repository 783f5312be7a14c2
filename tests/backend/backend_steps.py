"""What several tests of the backend do: describe a domain, wait for the keepers, add up the host."""

from __future__ import annotations

import time
from collections.abc import Callable

from backend.host import HostBackend
from hypervisor.public.backend import DomainSpec, HostSnapshot
from hypervisor.public.units import AREA_FRAMES, DomId

AREA = AREA_FRAMES
WAIT_S = 60.0


def spec(
    name: str, maxmem: int = 8, boot: int = 0, target: int | None = None, credit: int = 0
) -> DomainSpec:
    """A domain, sizes in areas."""
    wanted = maxmem if target is None else target
    return DomainSpec(name, maxmem * AREA, boot * AREA, wanted * AREA, credit_areas=credit)


def settle(backend: HostBackend, done: Callable[[HostSnapshot], bool]) -> HostSnapshot:
    """Wait (bounded) until the keepers have brought the ledger where the test expects it."""
    until = time.monotonic() + WAIT_S
    while not done(backend.snapshot()):
        assert time.monotonic() < until, backend.snapshot()
        time.sleep(0.002)
    return backend.snapshot()


def close_domain(backend: HostBackend, domid: DomId) -> None:
    """Close a domain and wait (bounded) until its memory is back."""
    backend.close(domid)
    assert backend.wait_closed(WAIT_S), backend.leaving()


def ledger(snapshot: HostSnapshot) -> int:
    """Frames by all accounts; the total, at any time."""
    return (
        snapshot.free_frames
        + snapshot.installed_frames
        + snapshot.ready_frames
        + snapshot.tmem_frames
    )
