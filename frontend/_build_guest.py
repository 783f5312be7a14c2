"""Build ``frontend._guest``: the guest half of a domain, and its functions for Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypervisor.public._cdef import ROOT, make_ffi

_ABI = ROOT / "frontend" / "abi"

ffi = make_ffi(
    "frontend._guest",
    [_ABI / f"{name}.h" for name in ("guest", "fastcall", "movable", "paging", "blocks", "nbd")],
    sorted(_ABI.glob("*.c")),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
