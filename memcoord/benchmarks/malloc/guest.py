"""The neighbour of ``memcoord bench malloc``: a domain that has memory it can do without.

Owns: its one operation. Its memory has really been used, so the kernel must take it back before
another domain may have it.
"""

from __future__ import annotations

from memcoord.benchmarks import measured
from memcoord.benchmarks.measured import Measured
from memcoord.testbed.runs.remote import operation

MODULE = "memcoord.benchmarks.malloc.guest"


class Neighbour(Measured):
    """The operations."""

    @operation
    def use_all(self, key: str) -> int:
        """Touch every free frame and leave all free; how many there were."""
        domain = self._attached[key].domain
        frames = domain.alloc_many(domain.statistics().free_frames)
        for frame in frames:
            domain.view(frame)[0] = 1
        domain.free_many(frames)
        domain.drain()
        return len(frames)


if __name__ == "__main__":
    measured.run(Neighbour)
