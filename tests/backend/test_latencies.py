"""What grants cost, counted by the host and by the guest, by the path that they came on."""

from __future__ import annotations

from backend_steps import close_domain, spec
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.errors import Status
from hypervisor.public.latency import BUCKETS
from hypervisor.public.units import AREA_FRAMES, DomId


def counted(backend: HostBackend) -> dict[tuple[str, str, str], int]:
    rows = backend.latencies()
    assert all(0 <= bucket < BUCKETS for row in rows for bucket in row.counts)
    return {(row.domain, row.path, row.word): sum(row.counts.values()) for row in rows}


def test_the_host_counts_each_grant_and_no_refusal(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1", maxmem=4)))
    assert counted(backend) == {}
    assert [guest.grow()[0] for _ in range(5)] == [1, 1, 1, 1, Status.ETARGET]
    assert guest.send(lib.MC_OP_GROW, 0)[0] == Status.EINDEX
    assert counted(backend) == {("vm1", "ring", "host"): 4}
    guest.close()


def test_a_transfer_has_buckets_of_its_own(backend: HostBackend) -> None:
    """Of a host with no free memory, from a domain that has some and does not use it."""
    donor = GuestDouble(backend.open(DomId(0), spec("vm1", maxmem=14)))
    granted = 0
    while (status := donor.grow(16)[0]) > 0:
        granted += status
    assert granted == 14
    taker = GuestDouble(backend.open(DomId(1), spec("vm2", maxmem=4)))
    backend.set_target(DomId(0), 10 * AREA_FRAMES)
    answers = [taker.grow() for _ in range(8)]
    paths = [path for status, path in answers if status == 1]
    assert paths
    found = counted(backend)
    for path, name in ((lib.MC_PATH_RING, "ring"), (lib.MC_PATH_TRANSFER, "transfer")):
        assert found.get(("vm2", name, "host"), 0) == paths.count(path)
    for made in (donor, taker):
        made.close()


def test_what_a_guest_writes_is_told_as_its_word_alone(backend: HostBackend) -> None:
    guest = GuestDouble(backend.open(DomId(0), spec("vm1")))
    guest.control.waits[3] = (1 << 32) - 1
    guest.control.waits[BUCKETS + 5] = 7
    assert counted(backend) == {
        ("vm1", "ring", "guest"): (1 << 32) - 1,
        ("vm1", "transfer", "guest"): 7,
    }
    guest.close()
    close_domain(backend, DomId(0))
    assert counted(backend) == {}
