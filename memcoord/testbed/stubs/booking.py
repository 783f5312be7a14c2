"""The frames that a virtual machine's domain has booked for its machine.

Owns: ``Booking``: whole areas of a domain that is booked only, taken and given back by the
frontend's ordinary calls. The frames have no memory and are never touched. Rules: calls wait for
the hypervisor, so a program with a machine to look after makes them on a thread of their own. A
host that has no more to give is no error: what is missing is asked for again at the next look.
Called by ``memcoord.testbed.stubs.stub``.
"""

from __future__ import annotations

from frontend.domain import Domain
from hypervisor.public.errors import NoMemory
from hypervisor.public.units import AREA_BYTES, AREA_FRAMES, Frame

#: Areas that are asked for in one call of ``grow``, so that a look at the machine comes in between.
GROW_AREAS_MAX = 128


class Booking:
    """What is booked of ``domain``; it ends with the domain.

    ``own_areas``: of the domain's memory, what is not the machine's but the program's own.
    """

    def __init__(self, domain: Domain, own_areas: int = 0) -> None:
        self._domain, self._own_bytes = domain, own_areas * AREA_BYTES
        self._areas: list[Frame] = []

    @property
    def size_bytes(self) -> int:
        """What the machine may use."""
        return len(self._areas) * AREA_BYTES

    @property
    def target_bytes(self) -> int:
        """What the policy wants the machine to have."""
        target = self._domain.target_frames // AREA_FRAMES * AREA_BYTES
        return max(target - self._own_bytes, 0)

    def grow(self, size_bytes: int) -> int:
        """Book up to so much more; the bytes that were booked. PeerGone without a hypervisor."""
        before = len(self._areas)
        for _ in range(min(size_bytes // AREA_BYTES, GROW_AREAS_MAX)):
            try:
                self._areas.append(self._domain.alloc_areas(1))
            except NoMemory:
                break
        return (len(self._areas) - before) * AREA_BYTES

    def shrink(self, size_bytes: int) -> None:
        """Give so much back: the host takes what is above the domain's target."""
        for _ in range(min(size_bytes // AREA_BYTES, len(self._areas))):
            self._domain.free_areas(self._areas.pop(), 1)
