"""The record of a request, ``struct mc_record`` of the ABI, as a numpy dtype."""

from __future__ import annotations

import numpy as np

from tmem.layout import I64, U16, U32, U64

RECORD = np.dtype(
    [("op", U16), ("flags", U16), ("seq", U32), ("id", U64), ("status", I64), ("arg", U64, 5)]
)
