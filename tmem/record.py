"""The record of a request as it lies on a ring: ``struct mc_record``, as a numpy dtype.

Owns: the layout alone, with the names of the header's fields. Used by ``tmem.serve`` and by whoever
makes such records in Python.
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
        ("arg", np.uint64, 5),
    ]
)
