"""What the coordinator knows and the coordinator of the next hypervisor must know as well.

Owns: ``KeptCoordination`` and how it is made of members and targets. Called by the coordinator.
Of the journal behind ``why``, what an operator did is kept, and no more. Not kept: the snapshot
that differences are taken from; the next coordinator begins with one of its own.
"""

from __future__ import annotations

import msgspec
import numpy as np

from hypervisor.config import DomainConfig
from hypervisor.coordination.decisions import Decision
from hypervisor.coordination.snapshot_view import Member
from hypervisor.public.units import DomId


class KeptMember(msgspec.Struct):
    """A coordinated domain. ``tmem`` and ``ram`` are its targets in the last valid plan."""

    domid: int
    age: int
    pinned_tmem_pages: int | None
    pinned_ram_frames: int | None
    waiting_frames: int
    carried: list[float] | None
    by_hand: list[Decision]
    tmem: int | None
    ram: int | None
    is_provisional: bool = False


class KeptCoordination(msgspec.Struct):
    """All of it. ``counts`` are the coordinator's statistics, by name; ``needs`` the policy's."""

    counts: dict[str, int]
    members: list[KeptMember]
    fault: str
    needs: tuple[str, ...]


def kept_of(member: Member, tmem: int | None, ram: int | None) -> KeptMember:
    """A member and its targets in the last valid plan, as they are kept."""
    return KeptMember(
        domid=member.domid,
        age=member.age,
        pinned_tmem_pages=member.pinned_tmem_pages,
        pinned_ram_frames=member.pinned_ram_frames,
        waiting_frames=member.waiting_frames,
        carried=None if member.carried is None else member.carried.tolist(),
        by_hand=member.by_hand,
        tmem=tmem,
        ram=ram,
        is_provisional=member.is_provisional,
    )


def member_of(kept: KeptMember, config: DomainConfig) -> Member:
    """The member that ``kept`` was made of."""
    return Member(
        domid=DomId(kept.domid),
        config=config,
        age=kept.age,
        is_provisional=kept.is_provisional,
        pinned_tmem_pages=kept.pinned_tmem_pages,
        pinned_ram_frames=kept.pinned_ram_frames,
        waiting_frames=kept.waiting_frames,
        carried=None if kept.carried is None else np.array(kept.carried, dtype=np.float64),
        by_hand=kept.by_hand,
    )
