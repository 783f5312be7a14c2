"""Hosts of banks, domains of sections, and a driver on bare records that obeys or refuses."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backend_steps import AREA
from guest_double import GuestDouble

from backend.host import HostBackend
from frontend._guest import lib
from hypervisor.public.backend import BankSpec, DomainSpec
from hypervisor.public.errors import Status
from hypervisor.public.units import DomId

NEXT, OFFLINED, KEPT = (lib.MC_OP_SECTIONS + index for index in range(3))
NOTHING, ONLINED, OFFLINE, STUCK = range(4)

#: Areas of a section in these tests: 4 MiB.
N = 2
SECTION = N * AREA
VM1 = DomId(0)


def host(*banks: int, remote: Sequence[int] = (), node: int = -1, slack: int = 0) -> HostBackend:
    """Banks of so many sections each, some of them remote; no slack unless asked."""
    made = [BankSpec(n * SECTION, node, i in remote) for i, n in enumerate(banks)]
    return HostBackend(
        total_frames=sum(banks) * SECTION,
        slack_frames=slack * SECTION,
        tmem_max_frames=0,
        spin_ns=0,
        banks=made,
    )


def spec(maxmem: int, boot: int, target: int = -1, **options: int) -> DomainSpec:
    """A domain, sizes in sections."""
    return DomainSpec(
        "vm1",
        maxmem * SECTION,
        boot * SECTION,
        (boot if target < 0 else target) * SECTION,
        mechanism="sections",
        options={"section_areas": N, **options},
    )


def used(backend: HostBackend, domid: DomId = VM1) -> list[int]:
    """Sections a domain has of each bank."""
    return [bank.domain_frames.get(domid, 0) // SECTION for bank in backend.banks.all()]


def claim(guest: GuestDouble, section: int, areas: int) -> bool:
    """Take every area of a section out of use, or none; whether they were all free."""
    held = [a for a in range(section * areas, (section + 1) * areas) if not _reclaimed(guest, a)]
    if any(guest.word(area) & lib.MC_AREA_FREE_MASK != lib.MC_AREA_FRAMES for area in held):
        return False
    for area in held:
        guest.frames.trees[area // lib.MC_TREE_AREAS].free_frames -= lib.MC_AREA_FRAMES
        guest.frames.areas[area] = guest.word(area) - lib.MC_AREA_FRAMES + lib.MC_AREA_HUGE
    return True


def unclaim(guest: GuestDouble, section: int, areas: int) -> None:
    """Undo ``claim``."""
    for area in range(section * areas, (section + 1) * areas):
        if not _reclaimed(guest, area):
            guest.frames.areas[area] = guest.word(area) - lib.MC_AREA_HUGE + lib.MC_AREA_FRAMES
            guest.frames.trees[area // lib.MC_TREE_AREAS].free_frames += lib.MC_AREA_FRAMES


def _reclaimed(guest: GuestDouble, area: int) -> bool:
    return bool(guest.word(area) & lib.MC_AREA_RECLAIMED)


def drive(guest: GuestDouble, areas: int, unmovable: Collection[int] = ()) -> list[tuple[int, int]]:
    """Ask and act until there is nothing to be done; (what, section), then the last answer."""
    done = []
    bell = guest.control.config_bell
    while True:
        todo, args = guest.send(NEXT)
        done.append((todo, args[0]))
        if todo not in (ONLINED, OFFLINE):
            break
        if todo == OFFLINE:
            obey(guest, args[0], areas, unmovable)
        assert len(done) < 200, done
    status = -args[0] if todo == STUCK else todo
    guest.control.driver_status, guest.control.config_seen = status, bell
    return done


def obey(guest: GuestDouble, section: int, areas: int, unmovable: Collection[int] = ()) -> None:
    """Put a section offline, or keep it."""
    if section in unmovable or not claim(guest, section, areas):
        assert guest.send(KEPT, section, -Status.ESTATE)[0] == Status.OK
        return
    if guest.send(OFFLINED, section)[0] != Status.OK:
        unclaim(guest, section, areas)
