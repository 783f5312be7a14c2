"""Build ``testbed._loops``: page contents of the workloads, and the compiled bench loops."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypervisor.public._cdef import ROOT, make_ffi

GUEST = ROOT / "frontend" / "abi"
LOOPS = ROOT / "testbed" / "abi"

ffi = make_ffi(
    "testbed._loops",
    [GUEST / "guest.h", *sorted(LOOPS.glob("*.h"))],
    [*sorted(GUEST.glob("*.c")), *sorted(LOOPS.glob("*.c"))],
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
