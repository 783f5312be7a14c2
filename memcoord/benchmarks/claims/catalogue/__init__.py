"""Every claim of the five works this project builds on, as its authors state it, a file for each.

Owns: the list. A file of the room holds a work's claims, the figures they are judged by, and the
values that were expected before anything was measured. None is left out because it fails. Key names
are those of the benches.
"""

from memcoord.benchmarks.claims.catalogue import (
    hyperalloc,
    mohapatra,
    sections,
    smartmem,
    virtio_mem,
)
from memcoord.benchmarks.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *mohapatra.CLAIMS,
    *smartmem.CLAIMS,
    *virtio_mem.CLAIMS,
    *hyperalloc.CLAIMS,
    *sections.CLAIMS,
)
