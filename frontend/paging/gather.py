"""Moving a guest's pages together, so that whole blocks of its RAM become free.

Owns: ``gather``, the choice of the blocks to empty and the copying. A block is as many frames as a
mechanism takes at once: a granule, at least an area. Used by ``frontend.paging.manager`` only.
"""

from __future__ import annotations

import contextlib
from collections import Counter

from frontend.domain import Domain
from hypervisor.public.errors import NoMemory
from hypervisor.public.units import AREA_FRAMES


def gather(
    domain: Domain,
    resident: dict[int, int],
    table: dict[int, int],
    spares: list[int],
    frames: int,
) -> int:
    """Empty enough blocks to free ``frames`` frames. Returns how many frames were moved.

    ``resident`` and ``table``, page -> frame, and ``spares`` get the new frames. Blocks are kept in
    the order of how many frames of theirs are used. A frame stays when there is no room to move it.
    """
    block = max(domain.granule_frames, AREA_FRAMES)
    held = Counter(frame // block for frame in resident.values())
    held.update(frame // block for frame in spares)
    keep = domain.current_frames // block - frames // block
    if len(held) <= keep:
        return 0
    kept = {number for number, _ in held.most_common(keep)}
    unsuited: list[int] = []
    left: list[int] = []

    def moved(frame: int) -> int:
        """Another frame with the same bytes, in one of the blocks kept; NoMemory."""
        while True:  # at most as often as the domain has free frames elsewhere
            other = domain.alloc()
            if other // block in kept:
                break
            unsuited.append(other)
        domain.view(other)[:] = domain.view(frame)
        left.append(frame)
        return other

    with contextlib.suppress(NoMemory):  # the rest is given back when pages leave
        for page, frame in list(resident.items()):
            if frame // block not in kept:
                resident[page] = table[page] = moved(frame)
        for index, frame in enumerate(spares):
            if frame // block not in kept:
                spares[index] = moved(frame)
    domain.free_many(unsuited + left)
    return len(left)
