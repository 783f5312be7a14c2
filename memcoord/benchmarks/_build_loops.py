"""Build ``memcoord.benchmarks._loops``: the compiled loops of the benches, and the cheats."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hypervisor.public._cdef import ROOT, make_ffi

_GUEST = ROOT / "frontend" / "abi"
_LOOPS = ROOT / "memcoord" / "benchmarks" / "abi"
_CONTENT = ROOT / "memcoord" / "testbed" / "guests" / "abi"

ffi = make_ffi(
    "memcoord.benchmarks._loops",
    [_GUEST / "guest.h", _GUEST / "paging.h", _CONTENT / "content.h", *sorted(_LOOPS.glob("*.h"))],
    [*sorted(_GUEST.glob("*.c")), _CONTENT / "content.c", *sorted(_LOOPS.glob("*.c"))],
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
