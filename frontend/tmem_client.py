"""tmem from inside a domain: put, get and flush pages, one by one or many for one doorbell.

Owns: turning calls into records of the tmem ring (``hypervisor/public/abi/ops.h``). The bytes of a
page never pass through Python: a record names a frame, and the hypervisor copies it.
A page is named by (pool, oid, index): ``oid`` three integers of 64 bits, ``index`` one of 32.

Answers are tmem's own numbers (``tmem/codes.py``): 1 for a page stored, found or flushed, 0 for a
page that is absent, below 0 the reason of a refusal. A refused put of a page that was there already
has dropped the old copy.
Rules: every call raises ValueError for a number that fits no record, BadFrame for a frame that the
domain does not hold, and PeerGone when the hypervisor is dead.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from frontend._guest import ffi, lib
from hypervisor.public.constants import (
    RECORD_BYTES,
    RECORD_FORMAT,
    RECORD_STATUS_OFFSET,
    TMEM_BAD,
    Op,
    PoolFlag,
)
from hypervisor.public.errors import BadFrame, MemcoordError, NoMemory, Status, error_of
from hypervisor.public.units import RING_SLOTS, PoolId

Oid = tuple[int, int, int]

#: tmem's answer to a put that stored, a get that found.
DONE = 1
#: Indices are numbers of 32 bits; the last one is INDEX_MAX.
INDEX_MAX = (1 << 32) - 1

_RECORD = struct.Struct(RECORD_FORMAT)
_STATUS_WORD, _RECORD_WORDS = RECORD_STATUS_OFFSET // 8, RECORD_BYTES // 8
_RING = lib.MC_RING_TMEM
#: Plain ints: an enum member would cost each request an attribute look-up and a conversion.
_PUT, _GET = int(Op.PUT), int(Op.GET)
_FLUSH_PAGE, _FLUSH_OBJECT = int(Op.FLUSH_PAGE), int(Op.FLUSH_OBJECT)


class Rings(Protocol):
    """What sends the records: a ``Domain``."""

    def call(self, ring: int, records: Any, count: int) -> None:
        """Send ``count`` records of ``struct mc_record[]``; the responses replace them."""


class TmemClient:
    """The domain's tmem. Threads may share it; their requests are sent one after the other."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings
        self._lock = threading.Lock()
        self._records: Any = ffi.new("struct mc_record[1]")
        self._bytes = ffi.buffer(self._records)
        self._words = memoryview(self._bytes).cast("B").cast("q")

    def new_pool(
        self, persistent: bool, uuid: tuple[int, int] = (0, 0), *, shared: bool = False
    ) -> PoolId:
        """A pool: persistent (frontswap) or ephemeral (cleancache); NoMemory when none is left.

        ``shared`` asks for the pool that all domains with the same ``uuid`` share. A domain that is
        not authorised for it gets a private one and is not told. Only an ephemeral pool can be
        shared.
        """
        flags = PoolFlag.PERSISTENT * persistent | PoolFlag.SHARED * shared | PoolFlag.VERSION
        pool = self._send(Op.NEW_POOL, flags, *uuid)
        if pool < 0:
            raise NoMemory(f"no new tmem pool: tmem answered {pool}")
        return PoolId(pool)

    def destroy_pool(self, pool: int) -> bool:
        """Forget a pool and its pages; False when there was none."""
        return self._send(Op.DESTROY_POOL, pool) == 1

    def put(self, pool: int, oid: Oid, index: int, frame: int) -> int:
        """Store a copy of ``frame``; 1 stored, otherwise refused."""
        return self._send(_PUT, pool | index << 32, *oid, frame)

    def get(self, pool: int, oid: Oid, index: int, frame: int) -> int:
        """Copy a page into ``frame``; 1 found. From an ephemeral pool the page is gone then."""
        return self._send(_GET, pool | index << 32, *oid, frame)

    def flush_page(self, pool: int, oid: Oid, index: int) -> int:
        """Forget a page, which need not be there; 1."""
        return self._send(_FLUSH_PAGE, pool | index << 32, *oid)

    def flush_object(self, pool: int, oid: Oid) -> int:
        """Forget every page of an object; 1."""
        return self._send(_FLUSH_OBJECT, pool, *oid)

    def put_many(
        self, pool: int, oid: Oid, indices: Sequence[int], frames: Sequence[int]
    ) -> list[int]:
        """Put pages of one object, page ``indices[k]`` from ``frames[k]``; their answers, in order.

        One doorbell per RING_SLOTS pages. Nothing is put when one of them fits no record.
        """
        return self._many(TmemBatch.put, pool, oid, indices, frames)

    def get_many(
        self, pool: int, oid: Oid, indices: Sequence[int], frames: Sequence[int]
    ) -> list[int]:
        """Get pages of one object, each into its frame; as ``put_many``."""
        return self._many(TmemBatch.get, pool, oid, indices, frames)

    def get_ahead(self, pool: int, oid: Oid, index: int, frames: Sequence[int]) -> list[int]:
        """Read ahead: the page at ``index`` into ``frames[0]``, those that follow into the others.

        One doorbell, at most RING_SLOTS frames. Beyond INDEX_MAX every page is absent. From an
        ephemeral pool each page found is gone then, wanted or not.
        """
        if len(frames) > RING_SLOTS:
            raise ValueError(f"{len(frames)} frames: a doorbell fetches at most {RING_SLOTS}")
        indices = range(index, min(index + len(frames), INDEX_MAX + 1))
        answers = self.get_many(pool, oid, indices, frames[: len(indices)])
        return answers + [0] * (len(frames) - len(answers))

    def batch(self) -> TmemBatch:
        """A batch to fill and submit, again and again, by one thread."""
        return TmemBatch(self._rings)

    def _many(
        self,
        add: Callable[..., int],
        pool: int,
        oid: Oid,
        indices: Sequence[int],
        frames: Sequence[int],
    ) -> list[int]:
        # All are filled before one is sent: a name that fits no record must not leave half a job.
        batches: list[TmemBatch] = []
        for place, (index, frame) in enumerate(zip(indices, frames, strict=True)):
            if place % RING_SLOTS == 0:
                batches.append(self.batch())
            add(batches[-1], pool, oid, index, frame)
        return [answer for batch in batches for answer in batch.submit()]

    def _send(
        self, op: int, arg0: int, arg1: int = 0, arg2: int = 0, arg3: int = 0, arg4: int = 0
    ) -> int:
        with self._lock:
            try:
                _RECORD.pack_into(self._bytes, 0, op, 0, 0, 0, 0, arg0, arg1, arg2, arg3, arg4)
            except struct.error as error:
                raise ValueError(f"out of range for a tmem record: {error}") from None
            self._rings.call(_RING, self._records, 1)
            status: int = self._words[_STATUS_WORD]
        check_record(status, arg4)
        return status


class TmemBatch:
    """Up to ``RING_SLOTS`` records, served in the order they were added, for one doorbell.

    Adding one returns its place: where ``submit`` will have its answer.
    """

    def __init__(self, rings: Rings) -> None:
        self._rings = rings
        self._records: Any = ffi.new("struct mc_record[]", RING_SLOTS)
        self._bytes = ffi.buffer(self._records)
        self._words = memoryview(self._bytes).cast("B").cast("q")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, pool: int, oid: Oid, index: int, frame: int) -> int:
        """Add a put of ``frame``."""
        return self._add(_PUT, pool | index << 32, oid, frame)

    def get(self, pool: int, oid: Oid, index: int, frame: int) -> int:
        """Add a get into ``frame``."""
        return self._add(_GET, pool | index << 32, oid, frame)

    def flush_page(self, pool: int, oid: Oid, index: int) -> int:
        """Add the flush of a page."""
        return self._add(_FLUSH_PAGE, pool | index << 32, oid, 0)

    def flush_object(self, pool: int, oid: Oid) -> int:
        """Add the flush of an object."""
        return self._add(_FLUSH_OBJECT, pool, oid, 0)

    def submit(self) -> list[int]:
        """Send everything added; the answers, in order. The batch is empty afterwards.

        A malformed record does not stop the others: see ``refused_record`` for its answer.
        """
        count, self._count = self._count, 0
        if count:
            self._rings.call(_RING, self._records, count)
        return self._words[_STATUS_WORD : count * _RECORD_WORDS : _RECORD_WORDS].tolist()

    def _add(self, op: int, arg0: int, oid: Oid, frame: int) -> int:
        place = self._count
        if place == RING_SLOTS:
            raise ValueError(f"a batch holds at most {RING_SLOTS} records")
        try:
            _RECORD.pack_into(self._bytes, place * RECORD_BYTES, op, 0, 0, 0, 0, arg0, *oid, frame)
        except struct.error as error:
            raise ValueError(f"out of range for a tmem record: {error}") from None
        self._count = place + 1
        return place


def check_record(status: int, frame: int) -> None:
    """Raise ``refused_record`` when an answer says that the record was wrong."""
    if status < TMEM_BAD:
        raise refused_record(status, frame)


def refused_record(status: int, frame: int) -> MemcoordError:
    """The error for an answer at or below MC_TMEM_BAD: the record itself was wrong."""
    code = status - TMEM_BAD
    if code == Status.EFOREIGN:
        return BadFrame(frame, 0, Status.EFOREIGN)
    return error_of(code, "tmem request", frame)
