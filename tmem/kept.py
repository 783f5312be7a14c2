"""What of a pool outlives its process, and the order of the stores that makes it so.

Owns: the byte ``kept`` of each cell, and ``barrier``. A process may be killed between any two
instructions. When the state and the slab lie in memory that outlives it (``tmem.pool``), the next
process rebuilds every list, chain and counter (``tmem.rebuild``) from these words alone:

  page       kept, object, index, store      content  frame, scope
  object     pool, oid                       frame    its class, and its slots, when it is packed
  client, slot and pool: the settings; not the counters

Rules, for whoever changes one of these words:
- A page is kept (``keep``) after all of its words and its data are written, and is kept no longer
  (``let_go``) before anything of it is given up. Only pages of persistent pools are kept.
- Data of a kept page moves in this order: copy, barrier, the one word that leads to it (``store``,
  or a content's ``frame``), and only then may the old place be used again. Where there is no second
  place, ``packing`` names the page and the scratch pages hold its data meanwhile.
- An operation that was not answered is executed again, so it may leave the page it names as it
  likes: absent, or with half of the new data.

The memory is that of one machine and the kernel, not this process, keeps it. So the order of the
program is enough: the compiler may not change it, the processor may. Used by the kernels.
"""

from __future__ import annotations

from typing import Any

from numba import types

from tmem.raw_memory import inline, kernel


@inline(types.void)
def barrier(builder: Any) -> None:
    """Every store before is made before every store behind, as seen by a process that comes after
    this one. It compiles to no instruction."""
    builder.fence("seq_cst", "singlethread")


@kernel
def keep(state, pool, page):
    """A page is complete: from now on it outlives the process, if its pool is persistent."""
    if state.pools[pool].is_persistent:
        barrier()
        state.kept[page] = 1


@kernel
def let_go(state, pool, page):
    """A page is about to be given up, or to be written anew."""
    if state.pools[pool].is_persistent:
        state.kept[page] = 0
        barrier()
