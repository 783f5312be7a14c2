"""A driver of `sections` on bare ring records: it does what it is told, or refuses to."""

from __future__ import annotations

from collections.abc import Collection

from guest_double import GuestDouble

from hypervisor.public._abi import lib
from hypervisor.public.errors import Status

NEXT, OFFLINED, KEPT = (lib.MC_OP_SECTIONS + index for index in range(3))
NOTHING, ONLINED, OFFLINE, STUCK = range(4)


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
