"""Turn the project's C headers into cffi modules: one source of truth for both languages.

Owns: the rule that everything between ``/* cdef-begin */`` and ``/* cdef-end */`` in a header is
what Python sees, and the compiler flags. Used by the ``_build_*.py`` scripts only, at build time.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
ABI = ROOT / "hypervisor" / "public" / "abi"
ABI_HEADERS = ("layout", "ops", "frames", "reclaim", "ring", "bell", "backing")
#: Sources whose header declares nothing for Python.
PRIVATE_SOURCES = ("check",)
COMPILE_ARGS = ["-std=gnu11", "-O2", "-fno-math-errno", "-pthread", "-Wall", "-Wextra"]
#: Calls between the sources of a module need no detour; only its init function is seen outside.
HIDDEN = "-fvisibility=hidden"
LINK_ARGS = ["-pthread"]

_REGION = re.compile(r"/\* cdef-begin \*/(.*?)/\* cdef-end \*/", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def cdef_of(header: Path) -> str:
    """The declarations of ``header`` that Python may use, without comments and ``_Atomic``."""
    text = "\n".join(_REGION.findall(header.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{header}: no cdef-begin region")
    return _COMMENT.sub("", text).replace("_Atomic ", "")


def make_ffi(
    module: str,
    headers: list[Path],
    sources: list[Path],
    *,
    abi_headers: tuple[str, ...] = ABI_HEADERS,
    preamble: str = "",
) -> FFI:
    """An FFI that compiles ``module`` from the ABI plus the given headers and sources.

    No C file of the project has global state, so the ABI sources are compiled into every module
    that calls them; modules exchange structures by address.
    """
    ffi = FFI()
    all_headers = [ABI / f"{name}.h" for name in abi_headers] + headers
    abi_sources = [ABI / f"{name}.c" for name in (*abi_headers, *PRIVATE_SOURCES) if abi_headers]
    all_sources = [path for path in abi_sources if path.exists()] + sources
    for header in all_headers:
        ffi.cdef(cdef_of(header))
    includes = "\n".join(f'#include "{header.name}"' for header in all_headers)
    directories = sorted(
        {str(path.parent.relative_to(ROOT)) for path in [ABI / "layout.h", *headers]}
    )
    ffi.set_source(
        module,
        includes + "\n" + preamble,
        sources=[str(path.relative_to(ROOT)) for path in all_sources],
        include_dirs=directories,
        depends=[str(path.relative_to(ROOT)) for path in all_headers],
        extra_compile_args=[*COMPILE_ARGS, HIDDEN],
        extra_link_args=LINK_ARGS,
        define_macros=[("_CFFI_NO_LIMITED_API", None), ("_GNU_SOURCE", None)],
        py_limited_api=False,
    )
    return ffi
