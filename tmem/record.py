"""The layout of a request of the tmem ring; written by ``python -m hypervisor.public._cdef``.

Owns: nothing. ``struct mc_record`` stands in ``hypervisor/public/abi/layout.h``, what
its arguments mean in ``ops.h`` beside it.
Rules: do not edit; anybody may import it.
"""

from __future__ import annotations

import numpy as np

RECORD = np.dtype(
    [
        ("op", np.uint16),
        ("flags", np.uint16),
        ("seq", np.uint32),
        ("id", np.uint64),
        ("status", np.int64),
        ("arg", np.uint64, (5,)),
    ]
)
