"""What is said of the compiling that the first start on a machine does.

Owns: the sentence. Called, before the kernels are needed, by whoever has somebody to tell: a run,
``memcoord exec``, and a hypervisor, which tells its standard error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from tmem import TmemError
from tmem.compiled import prepare
from tmem.units import ALL


def compile_first(tell: Callable[[str], object]) -> None:
    """Have every kernel compiled that no cache has, and ``tell`` of each in a line.

    Where that fails nothing is raised: the hypervisor will fail, and say why.
    """

    def count(done: int, total: int) -> None:
        tell(f"compiling kernels, once on this machine: {done} of {total}")

    with contextlib.suppress(TmemError):
        prepare(ALL, count)
