"""Build ``backend._service``: the host half, compiled for the hypervisor process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypervisor.public._cdef import ROOT, make_ffi

_ABI = ROOT / "backend" / "abi"
_HEADERS = (
    "host", "books", "ledger", "banks", "mechanism", "recover", "keeper", "reap", "excess",
    "balloon_areas",
)  # fmt: skip

ffi = make_ffi(
    "backend._service",
    [_ABI / f"{name}.h" for name in _HEADERS],
    sorted(_ABI.glob("*.c")),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
