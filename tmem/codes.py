"""What a tmem operation answers: Xen's values, and the few of our own.

Owns: the status codes, operation numbers, pool flags and exceptions of tmem. Operations answer with
an integer, never an exception: 0 and above is success, below is one of ``Code``. Exceptions are
for wrong use of the Python interface. Pure constants; anybody may import it.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Code(IntEnum):
    """The status of one operation. Values above -1002 are Xen's (``xen/errno.h``, ``tmem.h``)."""

    #: put: stored; get: found; flush: done, whether or not anything was there; destroy: destroyed.
    DONE = 1
    #: get: no such page; destroy: no such pool (not an error there).
    ABSENT = 0
    #: new pool: bad flags or version, or no free slot; grow: not an absent area of this pool.
    EPERM = -1
    #: set weight, save: no such client, or it has no pool.
    ENOENT = -2
    #: put: no memory left, and nothing ephemeral to evict; or the client has its quota of
    #: persistent pages. authorise: the client has sixteen uuids already.
    ENOMEM = -12
    #: the guest page cannot be read or written. put: the old page is gone; get: it stays.
    EFAULT = -14
    #: open, restore: the client is open already.
    EEXIST = -17
    #: no such client, or no such pool of this client.
    ENODEV = -19
    #: get pools: no such client.
    EINVAL = -22
    #: duplicate put: no memory for the new data (none left, above the quota, or the client is
    #: being saved), and the old data has been dropped.
    ENOSPC = -28
    #: unknown operation on a valid pool.
    ENOSYS = -38
    #: the client is frozen. put: nothing new was stored; flush: carried out all the same.
    EFROZEN = -1000
    #: get: the whole pool is empty; not counted as a get.
    EEMPTY = -1001
    #: put of a new page: the client already uses its ``mm_target`` pages (SmarTmem; ours). Inside
    #: the range a ring response may carry (>= -1001), outside what Xen ever returns.
    TARGET = -999
    #: put: there is no free page; nothing was changed, grow the pool and ask again. Between the
    #: service and the pool only, never a guest's answer.
    NEED_SLAB = -3000
    #: Python only: the index is not a u32; raised as OverflowError.
    BAD_INDEX = -3001
    #: Python only: the buffer is not one page; raised as ``TmemError``.
    BAD_BUFFER = -3002


class Op(IntEnum):
    """The operation field of a ring record (``enum mc_op``)."""

    PUT = 16
    GET = 17
    FLUSH_PAGE = 18
    FLUSH_OBJECT = 19
    NEW_POOL = 20
    DESTROY_POOL = 21


class PoolFlag(IntFlag):
    """Flags of a new pool, Xen's bits. A pool request must carry ``VERSION``."""

    EPHEMERAL = 0
    PERSISTENT = 1
    SHARED = 2
    VERSION = 1 << 24


class TmemError(Exception):
    """tmem was used wrongly: a bad argument or a buffer that is not a page."""


class TmemBroken(TmemError):
    """``validate()`` found a violated invariant. A bug of ours; please report it."""
