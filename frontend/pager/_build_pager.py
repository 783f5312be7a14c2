"""What ``setup.py`` builds as ``frontend.pager._pager``: a library that is loaded into programs.

Owns: its sources and flags. It is an extension module by its file's name only, so that it is built
and shipped as one: it is C that needs nothing but libc, and Python cannot import it.

API: ``PAGER``, for ``setup.py``.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension

_ROOT = Path(__file__).resolve().parents[2]
_ABI = Path(__file__).resolve().parent / "abi"
_SHARED = _ROOT / "hypervisor" / "public" / "abi"

PAGER = Extension(
    "frontend.pager._pager",
    sources=[
        str(path.relative_to(_ROOT))
        for path in (
            *sorted(_ABI.glob("*.c")),
            *(_SHARED / f"{name}.c" for name in ("bell", "check", "ring")),
        )
    ],
    depends=[str(path.relative_to(_ROOT)) for path in sorted(_ABI.glob("*.h"))],
    include_dirs=[str(path.relative_to(_ROOT)) for path in (_ABI, _SHARED)],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)
