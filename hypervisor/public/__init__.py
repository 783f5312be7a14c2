"""The ABI every side shares: layouts, ring, frame allocator, messages, errors.

The only part of ``hypervisor`` a frontend may import. Importing it loads nothing compiled; it makes
the import of a compiled module say what to do in a checkout where nothing is compiled.
"""

from __future__ import annotations

import sys

#: Every module that is compiled at installation.
COMPILED = (
    "hypervisor.public._abi",
    "frontend._guest",
    "backend._service",
    "memcoord.testbed.guests._content",
    "memcoord.benchmarks._loops",
)


class _NotCompiled:
    """The last finder of modules, asked for what no other finder has found."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Nothing; ImportError, with what to do, for one of ``COMPILED``."""
        if name in COMPILED:
            do = "run 'python -m pip install -e .' in the checkout, or leave its directory"
            raise ImportError(f"{name} is not compiled here: {do}", name=name)


sys.meta_path.append(_NotCompiled)
