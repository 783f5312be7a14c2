"""tmem: transcendent memory, a page pool that guests put pages into and may get back.

Owns: nothing but the names. ``import tmem`` is cheap; numba is imported when ``tmem.Tmem`` is first
used. Embedded use needs no process: ``Tmem(pages=1024)``, then ``new_pool``, ``put``, ``get``. The
hypervisor's service thread uses the same object through ``tmem.serve``. Anybody may import this;
the package itself imports nothing of the project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmem.codes import Code, PoolFlag, TmemBroken, TmemError

if TYPE_CHECKING:
    from tmem.pool import Tmem

__all__ = ["Code", "PoolFlag", "Tmem", "TmemBroken", "TmemError"]


def __getattr__(name: str) -> object:
    """Import the pool, and numba with it, at first use."""
    if name == "Tmem":
        from tmem.pool import Tmem

        return Tmem
    raise AttributeError(f"module 'tmem' has no attribute {name!r}")
