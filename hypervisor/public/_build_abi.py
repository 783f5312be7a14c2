"""Build ``hypervisor.public._abi``: the shared ABI, for the hypervisor, the tests and tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hypervisor.public._cdef import ROOT, make_ffi

ffi = make_ffi("hypervisor.public._abi", [], [])

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
