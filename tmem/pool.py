"""``Tmem``: a pool of 4 KiB pages, as Python sees it.

Owns: the state block, the slab of an embedded pool, and the Python face of every operation.
Operations answer with Xen's codes (``tmem.Code``) as plain integers; exceptions mean wrong use:
TypeError or OverflowError for an argument that is no integer of its range, BufferError or
ValueError for a buffer that is not contiguous or not writable, TmemError for one that is not 4096
bytes. Clients are numbered 0 to 63, pools 0 to 15 within a client.

Embedded, any thread may call (the GIL serialises). Once the C service runs on this pool (see
``tmem.serve``), call methods only under the service's lock; ``clients`` may be used at any time.
"""

from __future__ import annotations

import mmap
import random
import secrets
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tmem import batch, curves, layout, serve, statistics, validate
from tmem.codes import Code, Op, PoolFlag, TmemError
from tmem.content_hash import hash_address
from tmem.control import Control
from tmem.record import RECORD
from tmem.recount import Recount
from tmem.recovery import Recovered, recover_state
from tmem.state import State, bytes_needed

RESERVE_PAGES = 256  # Xen's: 1 MiB
SMALLER = 2  # pages per frame expected of same-content pages and of compression

#: name of an object: three u64
Oid = tuple[int, int, int]

# Looking up a member of an enumeration costs as much as a flush.
_WRONG_USE = int(Code.BAD_INDEX)  # it and what lies below is raised, not answered
_FLUSH_PAGE, _FLUSH_OBJECT = int(Op.FLUSH_PAGE), int(Op.FLUSH_OBJECT)
_NEW_POOL, _DESTROY_POOL = int(Op.NEW_POOL), int(Op.DESTROY_POOL)


def _mapped(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size)
    except OSError as error:
        raise TmemError(f"{size} bytes for pages: {error.strerror}; ask for less") from None


class Tmem(Control):
    """A page pool. Embedded: ``Tmem(pages=1024)``. In a hypervisor: ``Tmem(slab=a, max_areas=n)``.

    ``pages`` may be used at once; ``max_areas`` (2 MiB each) bounds what ``grow`` may add. With
    ``slab``, a host address, pages live in the caller's memory from there on, which must outlive
    the pool; otherwise the pool maps its own. ``seed`` fixes the secret keys of the hash; it is for
    repeatable runs only.

    ``reserve_pages`` must be free before any put, so all but ``reserve_pages - 1`` of ``pages`` can
    hold data: 256 by default, as in Xen; 0 with ``slab``, where the host keeps its own slack.

    ``dedup`` keeps pages of the same content of one client once, ``dedup_across_clients`` those of
    all clients: a client can then find out what others have. ``compression`` lets
    ``compress_step`` work. ``mrc`` keeps for each client a sampled estimate of its
    ``miss_ratios``. ``max_pages`` is how many pages there is room to describe, zero, same and
    compressed ones included: with ``dedup`` or ``compression`` twice as many as fit raw, at 64
    bytes each.

    ``state_memory``, address and size of memory of zeroes (``state_bytes`` says how much), makes
    the pool in memory of the caller. When that and the slab outlive this process, even one that
    is killed in the middle of an operation, another process makes the pool from them again with
    ``recover`` and the same options. ``recovered`` then says what it found: every persistent page
    whose put was answered is there, ephemeral pages are not. Whatever was asked and not answered
    must be asked again.

    TmemError for numbers that do not fit together, and for ``dedup`` without a usable xxHash;
    TmemBroken for a state to recover that contradicts itself.
    """

    def __init__(
        self,
        pages: int = 0,
        *,
        max_areas: int | None = None,
        slab: int | None = None,
        seed: int | None = None,
        reserve_pages: int | None = None,
        dedup: bool = False,
        dedup_across_clients: bool = False,
        compression: bool = False,
        max_pages: int | None = None,
        mrc: bool = False,
        state_memory: tuple[int, int] | None = None,
        recover: bool = False,
    ) -> None:
        hashed = dedup or dedup_across_clients
        frames, max_pages = _room(pages, max_areas, dedup or compression, max_pages)
        if reserve_pages is None:
            reserve_pages = RESERVE_PAGES if slab is None else 0
        if reserve_pages < 0:
            raise TmemError(f"a reserve of {reserve_pages} pages cannot be")
        if recover and (slab is None or state_memory is None):
            raise TmemError("to recover a pool, give the slab and the state_memory it left")
        self._memory: mmap.mmap | None = None
        if slab is None:
            self._memory = _mapped(max(frames * layout.PAGE_BYTES, layout.AREA_BYTES))
            slab = int(np.frombuffer(self._memory, np.uint8).ctypes.data)
        elif slab % layout.PAGE_BYTES:
            raise TmemError(f"the slab is at {slab:#x}: it must begin on a page of 4096 bytes")
        self._state = State(
            frames,
            slab,
            _hash_keys(seed),
            max_pages=max_pages,
            reserve_pages=reserve_pages,
            hash_page=hash_address() if hashed else 0,
            memory=state_memory,
            recover=recover,
        )
        #: the state as the compiled entries want it; alive as long as this object
        self.state_address = self._state.address
        #: what was found, when this pool was recovered
        self.recovered: Recovered | None = None
        if recover:
            self.recovered = recover_state(self._state)
        self._state.header["dedup_across"] = dedup_across_clients
        self._state.header["compression"] = compression
        self._estimators: npt.NDArray[np.void] | None = None
        if mrc:
            self._estimators = curves.estimators(max_pages)
            self._state.header["shards"] = self._estimators.ctypes.data
            self._state.header["note"] = curves.note_address()
        for area in range(-(-pages // layout.AREA_PAGES)):
            self.grow(area)
        self._state.header["heap_free"] = self._state.header["free_frames"]

    @staticmethod
    def state_bytes(
        pages: int = 0,
        *,
        max_areas: int | None = None,
        dedup: bool = False,
        dedup_across_clients: bool = False,
        compression: bool = False,
        max_pages: int | None = None,
    ) -> int:
        """How large ``state_memory`` must be for a pool of these options; TmemError as there."""
        room = _room(pages, max_areas, dedup or compression, max_pages)
        return bytes_needed(*room, dedup or dedup_across_clients)

    @property
    def clients(self) -> npt.NDArray[np.void]:
        """Live counters, shape (64,), named fields (``layout.CLIENT``).

        ``clients["mm_target"][c] = pages`` sets a target at any time; everything else is read only
        by agreement, and may be read at any time.
        """
        return self._state.clients

    def miss_ratios(self, client: int, sizes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The part of a client's requests that would miss if it had each of ``sizes`` pages.

        ``tmem.shards`` says what counts as a request and how the part is estimated. ``sizes`` must
        ascend; the ratios, float64 of the same shape, never rise. Ones for a client that has asked
        for nothing. TmemError for a pool made without ``mrc``.
        """
        if self._estimators is None:
            raise TmemError("a pool made without mrc=True has no miss ratios")
        return curves.miss_ratios(self._estimators[client], np.asarray(sizes, dtype=np.float64))

    def open_client(self, client: int) -> int:
        """Make a client: 0; EEXIST when it is open already, EPERM for a number beyond 0 to 63."""
        if not 0 <= client < layout.MAX_CLIENTS:
            return int(Code.EPERM)
        return int(serve.py_open_client(self.state_address, client))

    def close_client(self, client: int) -> int:
        """Free all that a client has: the number of pages freed; ENODEV when it is not open.

        A pool that the client shared goes on with its other sharers.
        """
        if not 0 <= client < layout.MAX_CLIENTS:
            return int(Code.ENODEV)
        return int(serve.py_close_client(self.state_address, client))

    def new_pool(
        self, client: int, flags: int = PoolFlag.VERSION, uuid: tuple[int, int] = (0, 0)
    ) -> int:
        """Make a pool: its slot, the lowest free; EPERM, ENODEV.

        ``flags`` are Xen's (``tmem.PoolFlag``) and must carry ``VERSION``; ephemeral unless
        ``PERSISTENT``. ``uuid``: two u64, low first.
        """
        words = int(flags), uuid[0], uuid[1], 0, 0
        return int(serve.control(self.state_address, _NEW_POOL, client, *words))

    def destroy_pool(self, client: int, pool: int) -> int:
        """Free a pool and its pages: DONE, or ABSENT (no error) when there is none."""
        return int(serve.control(self.state_address, _DESTROY_POOL, client, pool, 0, 0, 0, 0))

    def put(self, client: int, pool: int, oid: Oid, index: int, page: Any) -> int:
        """Store a copy of ``page``, 4096 contiguous bytes of any kind of buffer.

        Returns DONE, TARGET, EFROZEN, ENOMEM, ENODEV, or ENOSPC (duplicate put: the old page is
        gone). ``index`` is a u32. Raises as the module's docstring says.
        """
        code: int = serve.put_buffer(
            self.state_address, client, pool, oid[0], oid[1], oid[2], index, page
        )
        return code if code > _WRONG_USE else _refuse(code, index, page)

    def get(self, client: int, pool: int, oid: Oid, index: int, page: Any) -> int:
        """Fill ``page``, a writable buffer of 4096 bytes. The page leaves a private ephemeral pool,
        and is put last in the eviction order of a shared one.

        Returns DONE, or with ``page`` untouched ABSENT, EEMPTY or ENODEV. Raises as the module's
        docstring says.
        """
        code: int = serve.get_buffer(
            self.state_address, client, pool, oid[0], oid[1], oid[2], index, page
        )
        return code if code > _WRONG_USE else _refuse(code, index, page)

    def put_many(self, client: int, pool: int, oid: Any, indices: Any, pages: Any) -> batch.Codes:
        """Put page k of ``pages`` at index k of ``indices``: the codes, int64 of shape (n,).

        ``pages``: one contiguous buffer or array of n * 4096 bytes, used where it is. ``oid``: one
        for all, or an array of u64 of shape (n, 3).
        """
        return batch.run(self.state_address, serve.PUT, client, pool, oid, indices, pages)

    def get_many(self, client: int, pool: int, oid: Any, indices: Any, pages: Any) -> batch.Codes:
        """Fill page k of ``pages``, a writable buffer, from index k of ``indices``: the codes.

        As ``put_many``. A page that is not found leaves its place in ``pages`` as it was.
        """
        return batch.run(self.state_address, serve.GET, client, pool, oid, indices, pages)

    def put_fault(self, client: int, pool: int, oid: Oid, index: int) -> int:
        """A put whose page cannot be read: EFAULT, or what fails before. An old page is gone."""
        return self._without_page(Op.PUT, client, pool, oid, index)

    def get_fault(self, client: int, pool: int, oid: Oid, index: int) -> int:
        """A get whose page cannot be written: EFAULT when there is a page, which stays; as get."""
        return self._without_page(Op.GET, client, pool, oid, index)

    def peek(self, client: int, pool: int, oid: Oid, index: int, page: Any) -> int:
        """Fill ``page`` and change nothing, not even a counter: DONE, ABSENT or ENODEV.

        Raises as ``get``.
        """
        data = np.frombuffer(page, np.uint8)
        if data.nbytes != layout.PAGE_BYTES:
            _refuse(int(Code.BAD_BUFFER), index, page)
        if not data.flags.writeable:
            raise BufferError("a page to be filled must be writable")
        client, record = self._record(0, client, pool, oid, index)
        address, target = int(record.ctypes.data), int(data.ctypes.data)
        return int(serve.py_peek(self.state_address, address, target, client))

    def _without_page(self, op: Op, client: int, pool: int, oid: Oid, index: int) -> int:
        """Execute a record as the C service does, without a page."""
        client, record = self._record(op, client, pool, oid, index)
        address = int(record.ctypes.data)
        return int(serve.py_execute(self.state_address, address, 0, client, 0))

    def _record(
        self, op: int, client: int, pool: int, oid: Oid, index: int
    ) -> tuple[int, npt.NDArray[np.void]]:
        """A client and one ``RECORD`` as the C service would pass them."""
        if not 0 <= index <= serve.INDEX_MAX:
            _refuse(int(Code.BAD_INDEX), index)
        client = client if 0 <= client < layout.MAX_CLIENTS else layout.MAX_CLIENTS
        pool = pool if 0 <= pool < layout.POOLS_PER_CLIENT else layout.POOLS_PER_CLIENT
        record = np.zeros(1, RECORD)
        record["op"] = op
        record["arg"] = (pool | index << 32, *oid, 0)
        return client, record

    def flush_page(self, client: int, pool: int, oid: Oid, index: int) -> int:
        """Forget a page: DONE whether or not it was there; ENODEV without such a pool."""
        code: int = serve.control(self.state_address, _FLUSH_PAGE, client, pool, *oid, index)
        return code if code > _WRONG_USE else _refuse(code, index)

    def flush_object(self, client: int, pool: int, oid: Oid) -> int:
        """Forget every page of an object: DONE whether or not it was there; ENODEV."""
        return int(serve.control(self.state_address, _FLUSH_OBJECT, client, pool, *oid, 0))

    def grow(self, area: int) -> int:
        """Take area number ``area`` of the slab into use: 0; EPERM when out of range or held."""
        if not 0 <= area < layout.MAX_AREAS:
            return int(Code.EPERM)
        return int(serve.py_grow(self.state_address, area))

    def shrink(self) -> int:
        """Give up one whole area: its number, free for other use now.

        Evicts ephemeral pages in put order, as few as it takes. -1, with nothing changed, when the
        persistent pages do not fit in one area less.
        """
        return int(serve.py_shrink(self.state_address))

    def statistics(self) -> statistics.Statistics:
        """A frozen snapshot of every counter."""
        return statistics.snapshot(self._state)

    def eviction_order(self) -> list[validate.Handle]:
        """Every ephemeral page as (owner, its slot, oid, index), the next victim first.

        Pages of zeroes come last: they hold no memory and go only when descriptors run out.
        """
        return validate.eviction_order(self._state)

    def recount(self) -> Recount:
        """A check of the pool in steps, between which others may use the pool."""
        return Recount(self._state)

    def validate(self) -> None:
        """Check every invariant; TmemBroken names the first that does not hold. Slow."""
        validate.validate(self._state)


def _room(pages: int, max_areas: int | None, small: bool, max_pages: int | None) -> tuple[int, int]:
    """The frames a pool may ever have, and the pages it can describe."""
    areas = -(-pages // layout.AREA_PAGES)
    most = areas if max_areas is None else max_areas
    if pages < 0 or not areas <= most <= layout.MAX_AREAS:
        raise TmemError(f"{pages} pages do not fit in {most} areas of at most {layout.MAX_AREAS}")
    if areas < most and pages % layout.AREA_PAGES:
        raise TmemError(f"a pool that can grow starts with whole areas, not {pages} pages")
    if max_pages is None:
        max_pages = most * layout.AREA_PAGES * (SMALLER if small else 1)
    if not 0 <= max_pages <= layout.MAX_PAGES:
        raise TmemError(f"a pool has room for 0 to {layout.MAX_PAGES} pages, not {max_pages}")
    return (pages if areas == most else most * layout.AREA_PAGES), max_pages


def _hash_keys(seed: int | None) -> list[int]:
    source = secrets.SystemRandom() if seed is None else random.Random(seed)
    return [source.getrandbits(64) for _ in range(layout.KEY_COUNT)]


def _refuse(code: int, index: int, page: Any = b"") -> NoReturn:
    if code == Code.BAD_INDEX:
        raise OverflowError(f"an index is a u32, not {index}")
    raise TmemError(f"a page is 4096 bytes, this buffer has {memoryview(page).nbytes}")
