"""Who uses what was not granted: found by the kernel's word, whatever the guest says."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from backend_steps import WAIT_S, close_domain, spec
from guest_double import GuestDouble

from backend import snapshots
from backend.ghosts import GHOSTS_MAX, Ghosts, Leaver
from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.config import DomainConfig
from hypervisor.coordination.snapshot_view import Member
from hypervisor.coordination.violations import Violation, find_violations
from hypervisor.public.backend import EXCESS, DomainSnapshot
from hypervisor.public.units import AREA_FRAMES, DomId

AREA = AREA_FRAMES
SLOW_S, TICKS = 0.01, 30


@pytest.fixture
def strict() -> Iterator[HostBackend]:
    made = HostBackend(
        total_frames=32 * AREA, slack_frames=2 * AREA, tmem_max_frames=0, stop_excess=True
    )
    yield made
    made.validate()
    made.stop()


def wait(done: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_domain_that_takes_what_nobody_granted_is_broken(strict: HostBackend) -> None:
    thief = GuestDouble(strict.open(DomId(0), spec("thief", boot=2)))
    GuestDouble(strict.open(DomId(1), spec("honest", boot=2))).close()
    for frame in range(2 * AREA, 4 * AREA):
        thief.bytes_of(frame)[0] = b"\x01"
    wait(strict.broken)
    assert strict.broken() == [(DomId(0), EXCESS)]
    thief.close()


def test_a_domain_that_grows_and_shrinks_at_full_speed_is_not(strict: HostBackend) -> None:
    guest = GuestDouble(strict.open(DomId(0), spec("honest", maxmem=16)))
    for _ in range(40):
        assert guest.grow(8)[0] > 0
        assert guest.send(lib.MC_OP_RELEASE, 8)[0] > 0
    strict.reboot(DomId(0))
    assert strict.broken() == []
    guest.close()


def test_who_grows_while_it_is_looked_at_is_no_violator(
    strict: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that is slow between the ledger and the rest reads both of one instant."""
    guest = GuestDouble(strict.open(DomId(0), spec("honest", maxmem=16)))
    real, done = snapshots._domain, threading.Event()

    def slow(*args: Any) -> DomainSnapshot:
        time.sleep(SLOW_S)
        return real(*args)

    def churn() -> None:
        while not done.is_set():
            guest.grow(8)
            guest.send(lib.MC_OP_RELEASE, 8)

    monkeypatch.setattr(snapshots, "_domain", slow)
    churning = threading.Thread(target=churn)
    churning.start()
    one = Member(DomId(0), DomainConfig("honest", 16 * AREA, 0, 16 * AREA))
    found: list[Violation] = []
    for _ in range(TICKS):
        found += find_violations([(one, strict.snapshot().domains[0])])
    done.set()
    churning.join()
    assert found == []
    assert strict.broken() == []
    guest.close()


def test_memory_of_a_domain_that_is_gone_is_taken_back(strict: HostBackend) -> None:
    guest = GuestDouble(strict.open(DomId(0), spec("gone", boot=2)))
    close_domain(strict, DomId(0))
    assert strict.haunted() == []
    guest.bytes_of(5)[0] = b"\x01"
    assert strict.haunted() == ["gone"]
    wait(lambda: guest.bytes_of(5)[0] == b"\x00")  # which brings a page again
    wait(strict.haunted)
    guest.close()


def test_the_next_process_watches_what_was_kept() -> None:
    kept: dict[str, int] = {}

    def keep(key: str, fd: int) -> None:
        kept[key] = os.dup(fd)

    files = [lib.mc_memfd(b"ghost", 4096) for _ in range(2)]
    before = Ghosts(keep=keep)
    for number, fd in enumerate(files):
        before.adopt(Leaver.of(f"vm{number}", fd, 4096))
    before.close()  # as the kernel closes the fds of a killed process
    assert [key.partition("/")[2] for key in kept] == ["vm0", "vm1"]
    ghosts, dropped = Ghosts(kept, keep=keep, drop=lambda key: dropped.append(key)), list[str]()
    ghosts.adopt(Leaver.of("vm1", files[1], 4096))  # killed before it had said that this is done
    for fd in files:
        os.pwrite(fd, b"x", 0)
    assert ghosts.look() == ["vm0", "vm1"]
    assert len(kept) == 2
    oldest = next(iter(kept))
    more = [lib.mc_memfd(b"ghost", 4096) for _ in range(GHOSTS_MAX - 1)]
    for fd in more:
        ghosts.adopt(Leaver.of("more", fd, 4096))
    assert dropped == [oldest]
    ghosts.close()
    for key, fd in kept.items():
        if key.endswith("more"):
            os.close(fd)
    for fd in (*files, *more):
        os.close(fd)


def test_only_the_last_files_are_kept() -> None:
    ghosts = Ghosts()
    fds = [lib.mc_memfd(b"ghost", 4096) for _ in range(GHOSTS_MAX + 1)]
    for number, fd in enumerate(fds):
        ghosts.adopt(Leaver.of(f"vm{number}", fd, 4096))
        address = lib.mc_map(fd, 4096)
        assert lib.mc_populate_write(address, 4096) == 0
        lib.mc_unmap(address, 4096)
    found = ghosts.look()
    assert len(found) == GHOSTS_MAX
    assert "vm0" not in found
    ghosts.close()
    for fd in fds:
        os.close(fd)
