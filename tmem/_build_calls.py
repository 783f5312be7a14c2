"""Build ``tmem._calls``: tmem's compiled entries as functions for Python."""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[1]
_HEADER = ROOT / "tmem" / "calls.h"

ffi = FFI()
ffi.cdef(_HEADER.read_text("utf-8").partition("/* cdef-begin */")[2].partition("/* cdef-end */")[0])
ffi.set_source(
    "tmem._calls",
    f'#include "{_HEADER.name}"\n',
    sources=[f"tmem/{name}" for name in ("calls.c",)],
    include_dirs=["tmem"],
    depends=["tmem/calls.h"],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    define_macros=[("_CFFI_NO_LIMITED_API", None)],
    py_limited_api=False,
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffi.compile(tmpdir=str(ROOT), verbose=True)
