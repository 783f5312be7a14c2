"""Build ``memcoord.testbed.streams._table``: what reads the columns of traces."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from hypervisor.public._cdef import ROOT, make_ffi

_ABI = ROOT / "memcoord" / "testbed" / "streams" / "abi"

ffi = make_ffi(
    "memcoord.testbed.streams._table", [_ABI / "table.h"], [_ABI / "table.c"], abi_headers=()
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
