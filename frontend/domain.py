"""A domain, seen from inside: its memory, and what it may ask of the hypervisor.

Owns: the one object a guest program holds, and the life of its mapping, fds and threads.
Rules: any thread may use a domain. ``close`` it once no other thread is inside one of its calls;
afterwards ``alloc`` and the like raise ValueError, and views of its memory stay readable and
writable but hold zeroes and reach nobody.
A domain is its process's alone. In a child made by ``os.fork`` its calls raise WrongProcess, its
memory holds zeroes, and nothing the child does reaches the domain of the parent.
A call that needs the hypervisor raises PeerGone within a bounded time when that is dead; what the
domain holds stays usable. When the hypervisor closes the domain instead, calls raise PeerGone, and
the memory is gone a moment later: touching that memory then ends the process by SIGSEGV, unless the
program has called ``close``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from frontend._guest import ffi, lib
from frontend.statistics import DomainStatistics
from frontend.tmem_client import TmemClient
from hypervisor.public.errors import InternalError, NoMemory, Status, WrongProcess, error_of
from hypervisor.public.units import FRAME_BYTES, DomId, Frame, Frames

if TYPE_CHECKING:
    import socket

    from frontend.relay import ZmqRelay
    from hypervisor.public.messages import Attached


#: MAP_FIXED and MAP_NORESERVE, which the module lacks.
MAP_FIXED_NORESERVE = 0x4010
#: Exit status of a forked child whose kernel does not let go of the parent's memory.
EXIT_SHARED = 71


class Handles(NamedTuple):
    """The fds handed over at attach. The domain owns them once its constructor has returned."""

    ram: int
    meta: int
    bell: int


class Domain:
    """An attached domain; ``frontend.attach`` makes it. A context manager that closes it.

    ``alloc(order=0)`` gives the first of ``2**order`` frames (order 0 to 9); it raises NoMemory
    when the hypervisor has none for this domain. ``free(frame, order=0)`` takes them back; it
    raises BadFrame for a block that the domain was not given. Both cost about as much as calling
    an empty function.
    """

    alloc: Callable[..., Frame]
    free: Callable[..., None]

    def __init__(
        self,
        attached: Attached,
        handles: Handles,
        connection: socket.socket,
        relay: ZmqRelay | None = None,
    ) -> None:
        out = ffi.new("struct mc_guest **")
        status = lib.mc_guest_open(
            out, handles.ram, handles.meta, handles.bell, connection.fileno(),
            attached.ram_bytes, attached.meta_bytes, attached.spin_ns,
        )  # fmt: skip
        if status < 0:
            raise error_of(status, f"domain {attached.name}")
        self._guest: Any = out[0]
        functions: list[Any] = []
        self._binding: Any = lib.mc_python_bind(self._guest, id(functions), id(_raise))
        if self._binding == ffi.NULL:
            lib.mc_guest_close(self._guest)
            raise NoMemory("the process has no memory for a domain")
        self.alloc, self.free, self._slot_call = functions
        self._connection, self._bell_fd = connection, handles.bell
        self.name = attached.name
        self.domid = DomId(attached.domid)
        self.maxmem_frames = Frames(attached.ram_bytes // FRAME_BYTES)
        self.closed = False
        self._users: list[Callable[[], None]] = []
        self._drop: Any = ffi.NULL
        self._relay = relay
        if relay is not None:
            relay.start(self._ring_guest)
        self._ram = ffi.buffer(self._guest.ram, attached.ram_bytes)
        #: The bytes of all of the domain's RAM, writable; frame f at ``f * FRAME_BYTES``. Touch
        #: only frames that are allocated: any other may have no memory that the domain may use.
        self.memory = memoryview(self._ram).cast("B")
        self.tmem = TmemClient(self)
        os.close(handles.ram)  # the mappings stay
        os.close(handles.meta)
        self._pid, self._meta_bytes = os.getpid(), attached.meta_bytes
        _DOMAINS.add(self)

    def __enter__(self) -> Domain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Frames

    def alloc_many(self, count: int) -> array[int]:
        """``count`` single frames as ``array('I')``: all of them, or NoMemory and none.

        API: cheaper per frame than ``alloc``.
        """
        frames = array("I", bytes(4 * count))
        given = self._slot_call(lib.MC_SLOT_ALLOC_MANY, frames.buffer_info()[0], count)
        if given == count:
            return frames
        if given > 0:
            self.free_many(frames[:given])
        what = f"{count} frames, of which there were {max(given, 0)}"
        # The count does not say why there are too few; without a hypervisor there is no more.
        reason = lib.MC_ENOMEM if self.alive else lib.MC_EGONE
        raise error_of(given if given < 0 else reason, what)

    def free_many(self, frames: Iterable[int]) -> None:
        """Free single frames, in order; BadFrame names the first that cannot be freed."""
        wanted = frames if isinstance(frames, array) and frames.typecode == "I" else None
        if wanted is None:
            wanted = array("I", frames)
        status = ffi.new("int *")
        with memoryview(wanted):  # while it is held nobody can resize, and so move, the array
            address = wanted.buffer_info()[0]
            freed = self._slot_call(lib.MC_SLOT_FREE_MANY, address, len(wanted), _address(status))
        if freed < 0:
            raise error_of(freed, "free_many")
        if freed < len(wanted):
            raise error_of(status[0], "free_many", wanted[freed])

    def alloc_areas(self, count: int) -> Frame:
        """The first frame of ``count`` (1 to 16) consecutive areas of 2 MiB, or NoMemory."""
        return Frame(self._checked(f"{count} areas", lib.MC_SLOT_ALLOC_AREAS, count))

    def free_areas(self, frame: int, count: int) -> None:
        """Free the areas that ``alloc_areas(count)`` gave; BadFrame for any other."""
        status = self._slot_call(lib.MC_SLOT_FREE_AREAS, frame, count)
        if status < 0:
            raise error_of(status, "free_areas", frame, lib.MC_AREA_ORDER)

    def view(self, frame: int) -> memoryview:
        """The 4096 bytes of ``frame``, writable; BadFrame beyond ``maxmem_frames``.

        Keep the view: making one costs more than ``alloc``.
        """
        if not 0 <= frame < self.maxmem_frames:
            raise error_of(lib.MC_EINDEX, "view", frame)
        try:
            return self.memory[frame * FRAME_BYTES : (frame + 1) * FRAME_BYTES]
        except ValueError:  # released
            self._open_guest()
            raise

    # Frames that may be moved

    def alloc_movable(self) -> int:
        """The handle of a new frame that the domain's driver may move, or NoMemory."""
        return self._checked("a movable frame", lib.MC_SLOT_ALLOC_MOVABLE)

    def free_movable(self, handle: int) -> None:
        """Free the frame of a handle; BadFrame for a handle that is not held."""
        self._checked(f"movable frame {handle}", lib.MC_SLOT_FREE_MOVABLE, handle)

    @contextlib.contextmanager
    def pinned(self, handle: int) -> Iterator[memoryview]:
        """The 4096 bytes of a movable frame, which does not move within the ``with`` block.

        BadFrame for a handle that is not held.
        """
        frame = lib.mc_movable_pin(self._open_guest(), handle)
        if frame < 0:
            raise error_of(frame, "pin", handle)
        try:
            yield self.view(frame)
        finally:
            lib.mc_movable_unpin(self._guest, handle)

    def on_pressure(self, drop: Callable[[int], int] | None) -> None:
        """Have ``drop(frames)`` called, on a thread of its own, when page cache should be dropped.

        ``drop`` answers how many frames it freed. ``report(file_frames=...)`` says beforehand how
        many it could free. None: no more calls.
        """
        callback = ffi.NULL
        if drop is not None:
            callback = ffi.callback("mc_drop_fn", lambda _, frames: drop(frames))
        lib.mc_guest_set_drop(self._open_guest(), callback, ffi.NULL)
        self._drop = callback

    # What the hypervisor gives and takes

    def request(self, frames: int) -> Frames:
        """Ask for ``frames`` more, in whole areas; how many frames came, or NoMemory."""
        path = ffi.new("int *")
        gained = lib.mc_guest_request(self._open_guest(), frames, path)
        if gained < 0:
            raise error_of(gained, f"request of {frames} frames")
        return Frames(gained)

    def release(self, frames: int) -> Frames:
        """Give back at most ``frames``, in whole free areas; how many frames were taken."""
        return Frames(self._checked(f"release of {frames}", lib.MC_SLOT_RELEASE, frames))

    def drain(self) -> None:
        """Give the free frames of the Python threads' slot to all, so that areas get whole."""
        self._checked("drain", lib.MC_SLOT_DRAIN)

    @property
    def current_frames(self) -> Frames:
        """Frames that the domain holds, as the hypervisor counts."""
        return Frames(self._open_control().current_frames)

    @property
    def target_frames(self) -> Frames:
        """Frames that the policy wants the domain to hold."""
        return Frames(self._open_control().target_frames)

    @property
    def granule_frames(self) -> Frames:
        """The smallest step of the target: memory comes and goes in blocks of so many frames."""
        return Frames(self._open_control().granule_frames)

    @property
    def heartbeat(self) -> int:
        """Rises with every tick of the coordinator."""
        return int(self._open_control().heartbeat)

    @property
    def alive(self) -> bool:
        """Whether the hypervisor lives and serves this domain."""
        return bool(lib.mc_guest_alive(self._open_guest()))

    def report(
        self,
        *,
        used_frames: int | None = None,
        faults: int | None = None,
        swap_ins: int | None = None,
        swap_outs: int | None = None,
        references: int | None = None,
        committed_frames: int | None = None,
        stall_ns: int | None = None,
        idle_permille: int | None = None,
        file_frames: int | None = None,
    ) -> None:
        """Publish the frames in use and the counters, for the policy and the reports.

        A figure that is not given stays as it was reported last. One that was never reported is
        unknown to the policy, which is not 0; -1, of any but ``file_frames``, makes it so again.
        """
        control = self._open_control()
        for name, value in {
            "used_frames": used_frames,
            "faults": faults,
            "swap_ins": swap_ins,
            "swap_outs": swap_outs,
            "references": references,
            "committed_frames": committed_frames,
            "stall_ns": stall_ns,
            "idle_permille": idle_permille,
            "file_frames": file_frames,
        }.items():
            if value is not None:
                setattr(control, name, value)

    def statistics(self) -> DomainStatistics:
        """Every counter, now."""
        guest, control = self._open_guest(), self._open_control()
        counted = ffi.new("struct mc_frames_statistics *")
        lib.mc_frames_statistics(ffi.addressof(guest.frames), counted)
        ring, transfer = (guest.grown_areas[p] for p in (lib.MC_PATH_RING, lib.MC_PATH_TRANSFER))
        return DomainStatistics(
            current_frames=self.current_frames,
            target_frames=self.target_frames,
            used_frames=Frames(control.used_frames),
            free_frames=Frames(counted.free_frames + counted.slot_frames),
            allocs=counted.allocs,
            frees=counted.frees,
            refills=counted.refills,
            calls=guest.calls,
            sleeps=guest.sleeps,
            mapped_areas=guest.mapped_areas,
            credit_areas=max(control.credit_taken - ring - transfer, 0),
            ring_areas=ring,
            transfer_areas=transfer,
            credit_dry=control.credit_dry,
        )

    # For compiled loops

    @property
    def guest_address(self) -> int:
        """Address of the ``struct mc_guest``."""
        return _address(self._open_guest())

    @property
    def address(self) -> int:
        """Address of frame 0."""
        return _address(self._open_guest().ram)

    def claim_slot(self) -> int:
        """Claim a slot for a thread that allocates without the GIL; InternalError: none is left."""
        frames = ffi.addressof(self._open_guest().frames)
        slot = lib.mc_slot_claim(frames, threading.get_native_id())
        if slot < 0:
            raise error_of(slot, "no slot left: every thread that allocates by itself needs one")
        return int(slot)

    def release_slot(self, slot: int) -> None:
        """Give a slot back; the frames that it held become free to all.

        API: for a program that ends a thread of its own which claimed a slot.
        """
        status = lib.mc_slot_release(ffi.addressof(self._open_guest().frames), slot)
        if status < 0:
            raise error_of(status, f"slot {slot}")

    def call(self, ring: int, records: Any, count: int) -> None:
        """Send ``count`` records of ``struct mc_record[]``; the responses replace them.

        PeerGone when no answer comes, RingBroken when the ring holds nonsense.
        """
        status = lib.mc_guest_call(self._open_guest(), ring, records, count)
        if status < 0:
            raise error_of(status, "ring call")

    def before_close(self, end: Callable[[], None]) -> None:
        """Have ``end`` called first when the domain is closed: it ends a thread that uses it."""
        self._users.append(end)

    def close(self) -> None:
        """Leave the hypervisor, which takes back all memory. May be called twice.

        InternalError, with the domain still open, when a thread does not come back from a call.
        """
        if self.closed:
            return
        while self._users:
            self._users.pop()()
        if lib.mc_python_unbind(self._binding) < 0:
            raise InternalError(f"domain {self.name}: a thread does not come back from a call")
        self.closed = True
        if self._relay is not None:
            self._relay.stop()
        # A view of the memory may still exist: the mapping stays until the last view is gone.
        if lib.mc_guest_keep_ram(self._guest) == 0:
            finalizer = weakref.finalize(
                self._ram, lib.mc_unmap, _address(self._guest.ram), len(self._ram)
            )
            finalizer.atexit = False
        self.memory.release()
        del self._ram
        lib.mc_guest_close(self._guest)
        self._connection.close()
        os.close(self._bell_fd)

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of all that is shared with the parent's domain."""
        import ctypes

        if self.closed:
            return
        self.closed = True
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        size, offset = ctypes.c_size_t, ctypes.c_long
        for pointer, length in (
            (self._guest.ram, len(self._ram)),
            (self._guest.control, self._meta_bytes),
        ):
            start = ctypes.c_void_p(_address(pointer))
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NORESERVE
            access = mmap.PROT_READ | mmap.PROT_WRITE
            if libc.mmap(start, size(length), access, flags, -1, offset(0)) != start.value:
                os._exit(EXIT_SHARED)  # it would go on in the parent's memory
        self.alloc = self.free = self._slot_call = self._wrong_process
        self.memory.release()
        self._connection.close()
        os.close(self._bell_fd)

    def _wrong_process(self, *_: object) -> NoReturn:
        raise WrongProcess(f"domain {self.name} is process {self._pid}'s: {_FORKED}")

    def _ring_guest(self) -> None:
        control = self._guest.control
        bell = ffi.addressof(control, "guest_bell"), ffi.addressof(control, "guest_waiters")
        lib.mc_bell_ring(*bell)

    def _checked(self, what: str, op: int, *args: int) -> int:
        result: int = self._slot_call(op, *args)
        if result < 0:
            raise error_of(result, what)
        return result

    def _raise_closed(self) -> NoReturn:
        if os.getpid() != self._pid:
            self._wrong_process()
        raise ValueError("the domain is closed")

    def _open_guest(self) -> Any:
        if self.closed:
            self._raise_closed()
        return self._guest

    def _open_control(self) -> Any:
        return self._open_guest().control


#: Every domain of this process that somebody still holds.
_DOMAINS: weakref.WeakSet[Domain] = weakref.WeakSet()
_is_forked = False
_FORKED = "a forked child must attach by itself"


def _leave_all_to_parent() -> None:
    global _is_forked
    _is_forked = True
    for domain in list(_DOMAINS):
        domain._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def _raise(status: int, frame: int, order: int) -> NoReturn:
    if _is_forked and status == Status.ESLOT:  # the slot was the parent's
        raise WrongProcess(_FORKED)
    what = f"2**{order} frames" if frame < 0 else f"frame {frame}"
    raise error_of(status, what, frame, order)


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))
