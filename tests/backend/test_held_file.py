"""A guest whose file cannot be punched, because a process keeps its lock, stops nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from backend_steps import AREA, WAIT_S, ledger, spec
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import STUCK
from hypervisor.public.units import DomId
from memcoord.benchmarks.hostile.held_file import HOWS, Holder, NotHere

pytestmark = pytest.mark.process
THIEF, NEIGHBOUR = DomId(0), DomId(1)
TOTAL = 32
#: A thread that waits for the file for longer than this is caught in the same time again.
MOMENT_S = 0.5


@pytest.fixture
def host() -> Iterator[HostBackend]:
    made = HostBackend(total_frames=TOTAL * AREA, slack_frames=2 * AREA, tmem_max_frames=0)
    yield made
    made.validate()
    assert made.stop() == []


@pytest.fixture(params=HOWS)
def hold(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Holder]]:
    holders: list[Holder] = []

    def make(fd: int) -> Holder:
        try:
            holders.append(Holder(request.param, fd))
        except NotHere as error:
            pytest.skip(str(error))
        return holders[-1]

    yield make
    for holder in holders:
        holder.close()


def wait(done: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.005)


def served(host: HostBackend, neighbour: GuestDouble, rounds: int = 20) -> None:
    """The neighbour grows and gives back, and the ledger adds up."""
    for _ in range(rounds):
        assert neighbour.grow(1)[0] == 1
        assert neighbour.send(lib.MC_OP_RELEASE, 1)[0] == 1
        assert neighbour.send(lib.MC_OP_NOP)[0] == 0
    now = host.snapshot()
    assert ledger(now) == now.total_frames
    host.validate()


@pytest.mark.parametrize("deed", ["release", "leave", "both"])
def test_who_keeps_its_file_from_being_punched_stops_nobody(
    host: HostBackend, hold: Callable[[int], Holder], deed: str
) -> None:
    thief = GuestDouble(host.open(THIEF, spec("thief", boot=4)))
    neighbour = GuestDouble(host.open(NEIGHBOUR, spec("neighbour", boot=2)))
    holder = hold(thief.handles.ram_fd)
    if deed != "leave":
        assert thief.send(lib.MC_OP_RELEASE, 1)[0] == 1
        time.sleep(MOMENT_S)
    if deed != "release":
        host.close(THIEF)
        assert host.leaving() == {THIEF: "thief"}
    served(host, neighbour)
    now = host.snapshot()
    assert now.free_frames <= (TOTAL - 4) * AREA  # what the file still has stays charged
    if deed == "release":
        wait(host.broken)
        assert host.broken() == [(THIEF, STUCK)]
        host.close(THIEF)
        served(host, neighbour)
    holder.close()
    assert host.wait_closed(WAIT_S)
    wait(
        lambda: (
            host.snapshot().domains[0].current_frames
            + host.snapshot().free_frames
            + host.snapshot().ready_frames
            == TOTAL * AREA
        )
    )
    thief.close()
    neighbour.close()


def test_a_donor_that_keeps_its_file_is_followed_by_another(
    host: HostBackend, hold: Callable[[int], Holder]
) -> None:
    """steal: the host is full, and the thief has most to give."""
    thief = GuestDouble(host.open(THIEF, spec("thief", maxmem=16, boot=16)))
    donor = GuestDouble(host.open(DomId(2), spec("donor", maxmem=12, boot=12)))
    neighbour = GuestDouble(host.open(NEIGHBOUR, spec("neighbour", maxmem=10, boot=2)))
    hold(thief.handles.ram_fd)
    got = sum(neighbour.grow(1)[0] == 1 for _ in range(8))
    assert got >= 4
    assert neighbour.send(lib.MC_OP_NOP)[0] == 0
    host.validate()
    host.close(THIEF)
    assert donor.send(lib.MC_OP_NOP)[0] == 0
    for guest in (thief, donor, neighbour):
        guest.close()


def test_a_host_stops_although_a_file_does_not_let_go(hold: Callable[[int], Holder]) -> None:
    host = HostBackend(total_frames=TOTAL * AREA, slack_frames=2 * AREA, tmem_max_frames=0)
    thief = GuestDouble(host.open(THIEF, spec("thief", boot=4)))
    holder = hold(thief.handles.ram_fd)
    assert host.stop() == ["thief"]
    holder.close()
    thief.close()
