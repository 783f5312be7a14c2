"""Build ``memcoord.testbed.guests._content``: what fills and checks the pages of a workload."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from hypervisor.public._cdef import ROOT, make_ffi

_ABI = ROOT / "memcoord" / "testbed" / "guests" / "abi"

ffi = make_ffi(
    "memcoord.testbed.guests._content",
    [_ABI / "content.h", _ABI / "program.h"],
    [_ABI / "content.c", _ABI / "program.c"],
    abi_headers=(),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
