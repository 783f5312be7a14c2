"""tmem: transcendent memory, a page pool that guests put pages into and may get back.

Owns: the public names. ``import tmem`` is cheap; numba is imported when ``tmem.Tmem`` is first
used. Embedded use needs no process: ``Tmem(pages=1024)``, then ``open_client``, ``new_pool``,
``put``, ``get``. The hypervisor's service thread works on the same object through the addresses of
``tmem.serve``. ``tmem.migrate`` moves a client to another pool. Any package may import tmem; tmem
imports no other package of this project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmem.codes import Code, PoolFlag, TmemBroken, TmemError

if TYPE_CHECKING:
    from tmem.pool import Tmem

__all__ = ["Code", "PoolFlag", "Tmem", "TmemBroken", "TmemError"]


def __getattr__(name: str) -> object:
    """Import the pool, and numba with it, at first use; AttributeError for any other name."""
    if name == "Tmem":
        from tmem.pool import Tmem

        return Tmem
    raise AttributeError(f"module 'tmem' has no attribute {name!r}")
