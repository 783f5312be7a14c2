"""The answers of tmem's operations: Xen's values, and a few that Xen lacks.

Owns: the status codes, operation numbers, pool flags and exceptions of tmem. An operation answers
with an integer and never raises for what a guest did: 0 and above is success, below 0 is one of
``Code``. Exceptions are for wrong use of the Python interface. Pure constants; any module may
import it.
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
    #: the guest's page cannot be read or written. put: the old page is dropped; get: it stays.
    EFAULT = -14
    #: open, restore: the client is open already.
    EEXIST = -17
    #: no such client, or no such pool of this client.
    ENODEV = -19
    #: get pools: no such client.
    EINVAL = -22
    #: duplicate put (of a page that is there): no memory for the new data (none left, above the
    #: quota, or the client is being saved), and the old data has been dropped.
    ENOSPC = -28
    #: unknown operation on a valid pool.
    ENOSYS = -38
    #: the client is frozen. put: nothing new was stored; flush: carried out all the same.
    EFROZEN = -1000
    #: get: the whole pool is empty; not counted as a get.
    EEMPTY = -1001
    #: put of a new page: the client already uses its ``mm_target`` pages, a limit that SmarTmem
    #: added to Xen's. A ring response can carry the value (>= -1001) and Xen never returns it.
    TARGET = -999
    #: put: there is no free page, and nothing was changed; the service thread grows the pool and
    #: asks again. No guest ever gets this answer.
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


RELINQUISH, FLUSH_TO_HOST = range(2)  # what dom0 asks of a pool
#: How a request is executed, a sum; ``tmem.serve.Entries`` says what each means.
MAY_ASK, AGAIN = 1, 2
INDEX_MAX = (1 << 32) - 1


class TmemError(Exception):
    """tmem was used wrongly: a bad argument or a buffer that is not a page."""


class TmemBroken(TmemError):
    """``validate()`` found a violated invariant. A bug of ours; please report it."""
