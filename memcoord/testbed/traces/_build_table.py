"""Build ``memcoord.testbed.traces._table``: what reads and shortens traces, and records demand."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from hypervisor.public._cdef import ROOT, make_ffi

_ABI = ROOT / "memcoord" / "testbed" / "traces" / "abi"
_NAMES = ("table", "tracer", "phases", "demand_sampler")

ffi = make_ffi(
    "memcoord.testbed.traces._table",
    [_ABI / f"{name}.h" for name in _NAMES],
    [_ABI / f"{name}.c" for name in _NAMES],
    abi_headers=(),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
