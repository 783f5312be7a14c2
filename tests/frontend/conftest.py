"""A hypervisor for tests of the frontend: one domain, served by a Python thread, ill on request."""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frontend._guest import ffi, lib
from hypervisor.public.messages import ATTACH_SOCKET, VERSION, Attached, decode, encode

AREA_BYTES = lib.MC_AREA_BYTES
JOIN_S = 60.0

Answer = Callable[["FakeHypervisor", socket.socket], None]


class FakeHypervisor:
    """Formats one domain, grants ``boot`` areas, attaches one guest, serves its two rings.

    ``spare_areas`` is what GROW may still give. ``ill`` names what goes wrong: "mute" answers
    nothing, "runaway" and "torn" spoil the ring, "late" keeps answers back until it is cleared.
    """

    def __init__(self, directory: Path, areas: int, boot: int, spare_areas: int) -> None:
        self.path, self.areas, self.spare_areas = directory, areas, spare_areas
        self._lock = threading.RLock()
        self._ill = ""
        self.grow_status: int | None = None
        self.install_status = 0
        self.requests: list[tuple[int, int]] = []  # op and first argument
        self.pages: dict[tuple[int, ...], bytes] = {}
        self.tmem_capacity = 1 << 30
        self.pools = 0
        self.ephemeral: set[int] = set()
        self.asked_flags: list[int] = []  # of the pools asked for
        self.generations = [0] * areas
        self._kept: list[Any] = []
        self._map(areas)
        for area in range(boot):
            self.grant(area)
        self.control.target_frames = self.control.current_frames
        self.control.state = lib.MC_STATE_OPEN
        self.bell_fd = lib.mc_eventfd(1)
        self.rung = 0  # times that the guest rang it
        self._stop_fd = lib.mc_eventfd(1)
        self.connection: socket.socket | None = None
        self.answer: Answer = FakeHypervisor.accept
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / ATTACH_SOCKET))
        self._listener.listen(4)
        self._threads = [
            threading.Thread(target=self._attach_loop, daemon=True),
            threading.Thread(target=self._serve_loop, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _map(self, areas: int) -> None:
        self.ram_bytes = areas * AREA_BYTES
        self.meta_bytes = lib.mc_meta_bytes(areas)
        self.ram_fd = lib.mc_memfd(b"ram", self.ram_bytes)
        self.meta_fd = lib.mc_memfd(b"meta", self.meta_bytes)
        self.ram = lib.mc_map(self.ram_fd, self.ram_bytes)
        meta = lib.mc_map(self.meta_fd, self.meta_bytes)
        assert min(self.ram_fd, self.meta_fd, self.ram, meta) > 0
        self._meta = meta
        pointer = ffi.cast("char *", meta)
        assert lib.mc_meta_format(pointer, self.meta_bytes, 7, areas) == 0
        self.control = ffi.cast("struct mc_control *", pointer)
        self.frames = ffi.new("struct mc_frames *")
        assert lib.mc_frames_bind(self.frames, pointer) == 0
        self.backs = ffi.new("struct mc_back[2]")
        for index, offset in enumerate(
            (self.control.memory_ring_offset, self.control.tmem_ring_offset)
        ):
            ring = ffi.cast("struct mc_ring *", pointer + offset)
            lib.mc_back_bind(ffi.addressof(self.backs, index), ring)
        self.memory = ffi.buffer(ffi.cast("char *", self.ram), self.ram_bytes)

    @property
    def ill(self) -> str:
        """What goes wrong; set, it is true of every request not yet taken from a ring."""
        return self._ill

    @ill.setter
    def ill(self, what: str) -> None:
        with self._lock:
            self._ill = what

    # What a hypervisor does with areas

    def grant(self, area: int) -> None:
        """Populate an area that is with the hypervisor, and give it."""
        assert lib.mc_populate_write(self.ram + area * AREA_BYTES, AREA_BYTES) == 0
        assert lib.mc_area_grant(self.frames, area, self.generations[area]) == 0
        self.control.current_frames += lib.MC_AREA_FRAMES

    def evict(self, area: int) -> bool:
        """Take the backing of a free area, leaving the area to the guest (soft reclaim)."""
        if lib.mc_area_soft_reclaim(self.frames, area, self.generations[area] + 1) != 0:
            return False
        self.generations[area] += 1
        lib.mc_punch(self.ram_fd, area * AREA_BYTES, AREA_BYTES)
        return True

    def reclaim(self, area: int) -> bool:
        """Take a free area away (hard reclaim)."""
        if lib.mc_area_hard_reclaim(self.frames, area, self.generations[area] + 1) != 0:
            return False
        self.generations[area] += 1
        lib.mc_punch(self.ram_fd, area * AREA_BYTES, AREA_BYTES)
        self.control.current_frames -= lib.MC_AREA_FRAMES
        return True

    def ring_credit(self) -> None:
        """Say that areas were granted ahead of need."""
        address = ffi.addressof(self.control, "credit_bell")
        lib.mc_bell_ring(address, ffi.addressof(self.control, "credit_waiters"))

    def reclaimed(self, area: int) -> bool:
        """Whether the area is with the hypervisor."""
        return bool(lib.mc_area_word(self.frames, area) & lib.MC_AREA_RECLAIMED)

    # Attaching

    def accept(self, connection: socket.socket, **changes: Any) -> None:
        """Attach as a hypervisor should; ``changes`` replace fields of the answer."""
        fields = {
            "version": VERSION,
            "domid": 7,
            "name": "vm1",
            "ram_bytes": self.ram_bytes,
            "meta_bytes": self.meta_bytes,
            "spin_ns": 0,
        } | changes
        fds = [self.ram_fd, self.meta_fd, self.bell_fd]
        socket.send_fds(connection, [encode(Attached(**fields))], fds)

    def die(self) -> None:
        """As SIGKILL would: the connection ends, nothing is answered, states stay as they are."""
        self.ill = "mute"
        assert self.connection is not None
        self.connection.close()

    def _attach_loop(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.connection is not None:
                self.connection.close()
            self.request = decode(connection.recv(65536))
            self.connection = connection
            try:
                self.answer(self, connection)
            except OSError:
                connection.close()

    # Serving

    def _serve_loop(self) -> None:
        poll = select.poll()
        for fd in (self.bell_fd, self._stop_fd):
            poll.register(fd, select.POLLIN)
        while True:
            with self._lock:
                worked = [self._serve(ring) for ring in (0, 1)]
            armed = [lib.mc_back_arm(ffi.addressof(self.backs, ring)) for ring in (0, 1)]
            if any(worked) or (any(armed) and not self.ill):
                continue
            ready = dict(poll.poll(20))
            if self._stop_fd in ready:
                return
            if self.bell_fd in ready:
                self.rung += os.eventfd_read(self.bell_fd)

    def _serve(self, ring: int) -> bool:
        back = ffi.addressof(self.backs, ring)
        if self.ill == "mute":
            return False
        if self.ill in ("runaway", "torn"):
            return self._spoil(back)
        record = ffi.new("struct mc_record *")
        got = lib.mc_back_pop(back, record)
        if got != 1:
            return False
        self.requests.append((record.op, record.arg[0]))
        record.status = self._memory(record) if ring == 0 else self._tmem(record)
        if self.ill == "late":
            self._kept.append((back, record))
            return True
        for old_back, old in self._kept:
            lib.mc_back_push(old_back, old)
            self._publish(old_back)
        self._kept.clear()
        lib.mc_back_push(back, record)
        self._publish(back)
        return True

    def _publish(self, back: Any) -> None:
        if lib.mc_back_publish(back):
            self.ring_guest()

    def ring_guest(self) -> None:
        """The guest's bell."""
        address = ffi.addressof(self.control, "guest_bell")
        lib.mc_bell_ring(address, ffi.addressof(self.control, "guest_waiters"))

    def _spoil(self, back: Any) -> bool:
        if not lib.mc_back_pending(back):
            return False
        if self.ill == "runaway":
            back.ring.rsp_prod += 1000
        else:
            back.ring.slots[back.rsp_prod & 63].seq += 5
            back.ring.rsp_prod += 1
        self.ill = "mute"
        self.ring_guest()
        return True

    def _memory(self, record: Any) -> int:
        op, arg = record.op, int(record.arg[0])
        if op == lib.MC_OP_GROW:
            return self._grow(record, arg)
        if op == lib.MC_OP_RELEASE:
            taken = (area for area in range(self.areas) if self.reclaim(area))
            return len(list(itertools.islice(taken, arg)))
        if op == lib.MC_OP_INSTALL:
            if self.install_status:
                return self.install_status
            lib.mc_populate_write(self.ram + arg * AREA_BYTES, AREA_BYTES)
            return int(lib.mc_area_install(self.frames, arg, self.generations[arg]))
        return 0 if op == lib.MC_OP_NOP else int(lib.MC_EOP)

    def _grow(self, record: Any, wanted: int) -> int:
        if self.grow_status is not None:
            return self.grow_status
        free = [area for area in range(self.areas) if self.reclaimed(area)]
        given = free[: min(wanted, self.spare_areas)]
        for area in given:
            self.grant(area)
        self.spare_areas -= len(given)
        record.arg[0] = lib.MC_PATH_RING
        return len(given) or int(lib.MC_ENOMEM)

    def _tmem(self, record: Any) -> int:
        op, args = record.op, [int(value) for value in record.arg]
        key, start = tuple(args[:4]), args[4] * lib.MC_FRAME_BYTES
        if op == lib.MC_OP_NEW_POOL:
            self.asked_flags.append(args[0])
            self.pools += 1
            if not args[0] & 1:
                self.ephemeral.add(self.pools - 1)
            return self.pools - 1 if args[0] >> 24 == 1 else -1
        if op == lib.MC_OP_DESTROY_POOL:
            return self._forget(lambda page: page[0] & 0xFFFFFFFF == args[0])
        if op == lib.MC_OP_FLUSH_OBJECT:
            whole = key[0] & 0xFFFFFFFF, *key[1:]
            return self._forget(lambda page: (page[0] & 0xFFFFFFFF, *page[1:]) == whole)
        if op == lib.MC_OP_FLUSH_PAGE:
            self.pages.pop(key, None)
            return 1
        if op == lib.MC_OP_GET and key in self.pages:
            self.memory[start : start + lib.MC_FRAME_BYTES] = self.pages[key]
            if key[0] & 0xFFFFFFFF in self.ephemeral:
                del self.pages[key]
            return 1
        if op == lib.MC_OP_PUT:
            return self._put(key, start)
        return 0 if op == lib.MC_OP_GET else int(lib.MC_TMEM_BAD + lib.MC_EOP)

    def _put(self, key: tuple[int, ...], start: int) -> int:
        if not 0 <= start < self.ram_bytes:
            return int(lib.MC_TMEM_BAD + lib.MC_EINDEX)
        self.pages.pop(key, None)  # a refused duplicate put drops the old copy
        if len(self.pages) >= self.tmem_capacity:
            return -12
        self.pages[key] = bytes(self.memory[start : start + lib.MC_FRAME_BYTES])
        return 1

    def _forget(self, chosen: Callable[[tuple[int, ...]], bool]) -> int:
        doomed = [key for key in self.pages if chosen(key)]
        for key in doomed:
            del self.pages[key]
        return 1

    def stop(self) -> None:
        """End the threads and give everything back."""
        lib.mc_eventfd_ring(self._stop_fd)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive()
        if self.connection is not None:
            self.connection.close()
        lib.mc_unmap(self.ram, self.ram_bytes)
        lib.mc_unmap(self._meta, self.meta_bytes)
        for fd in (self.ram_fd, self.meta_fd, self.bell_fd, self._stop_fd):
            os.close(fd)


MakeHypervisor = Callable[..., FakeHypervisor]


@pytest.fixture
def make_hypervisor(tmp_path: Path) -> Iterator[MakeHypervisor]:
    """``make_hypervisor(areas=4, boot=2, spare_areas=1)``: a running fake, stopped at the end."""
    made: list[FakeHypervisor] = []

    def make(areas: int = 4, boot: int = 2, spare_areas: int = 1) -> FakeHypervisor:
        directory = tmp_path / f"hv{len(made)}"
        directory.mkdir()
        made.append(FakeHypervisor(directory, areas, boot, spare_areas))
        return made[-1]

    yield make
    for hypervisor in made:
        hypervisor.stop()


@pytest.fixture
def settle() -> Callable[[Any], None]:
    """Wait until a domain's mapper has mapped, and given back, every free area."""

    def wait(domain: Any) -> None:
        deadline = time.monotonic() + JOIN_S
        while True:
            counted = domain.statistics()
            areas = counted.current_frames // lib.MC_AREA_FRAMES
            if counted.mapped_areas >= areas and counted.free_frames == counted.current_frames:
                return
            assert time.monotonic() < deadline, counted
            time.sleep(0.001)

    return wait


@pytest.fixture
def open_fds() -> Callable[[], int]:
    """How many fds this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))
