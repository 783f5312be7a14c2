"""What a domain counts about itself.

Owns: ``DomainStatistics``, a frozen copy taken by ``Domain.statistics()``. Counters only rise.
"""

from __future__ import annotations

import msgspec

from hypervisor.public.units import Frames


class DomainStatistics(msgspec.Struct, frozen=True):
    """One domain at one instant, as its own process sees it. Frames are of 4 KiB."""

    current_frames: Frames  # what the domain holds
    target_frames: Frames  # what the policy wants it to hold
    used_frames: Frames  # what it last reported to use; -1: nothing
    free_frames: Frames  # held and not handed out, those in slots included
    allocs: int  # frames handed out, by any path
    frees: int
    refills: int  # rows taken from the shared bitfield; every other allocation was local
    calls: int  # requests sent over the rings
    sleeps: int  # times a call had to sleep for its answers
    mapped_areas: int  # areas mapped in bulk
    credit_areas: int  # areas used for which nobody had to ask: granted at boot or ahead of need
    ring_areas: int  # areas asked for and given out of free host memory
    transfer_areas: int  # areas asked for and taken from another domain
    credit_dry: int  # allocations that found nothing and had to ask
