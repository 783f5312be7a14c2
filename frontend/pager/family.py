"""The programs of one domain, seen from the command that started the first of them.

Owns: the memory that they share (``abi/family.h``), the socket at which each becomes a process of
the domain, the rows, and the domain's frames as licences: a page that a program holds is backed by
a frame that the domain was granted and does not touch. Only the staging frames are touched.
Rules: one thread. ``step`` often: programs that start wait for it. A row is a connection; when it
hangs up, its process has ended or executes another program, and what it had is freed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import socket
import struct
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from frontend.domain import Domain, Handles
from frontend.pager import library, meeting
from hypervisor.public.errors import MemcoordError, NoMemory

ROWS = 63
REFUSED_ROW = -1
STAGING_ORDER = 6  # 64 frames
#: Frames that become licences, or are given up, by one call.
CHUNK_FRAMES = 16384
#: Frames of a domain that never become licences: room for what the allocator keeps to itself.
SPARE_FRAMES = 64
SWAP_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
_ROW = struct.Struct("i")


class Lent(NamedTuple):
    """Copies of a domain's descriptors, for its programs."""

    ram: int
    meta: int
    bell: int

    @classmethod
    def of(cls, handles: Handles) -> Lent:
        """Duplicates, which the caller closes."""
        return cls(*(os.dup(fd) for fd in (handles.ram, handles.meta, handles.bell)))


class Helper(NamedTuple):
    """What programs of a sandbox are helped with: they lack the right to be told of their forks.

    ``enable`` enables a userfaultfd and gives 0, or minus errno; ``device`` makes userfaultfds.
    """

    enable: Callable[[int], int]
    device: int


class Family:
    """A context manager; leaving it ends every program of the domain that still runs.

    Every frame of the domain becomes a licence, so a mechanism that moves single frames is needed.
    A subclass may hold frames otherwise: it has a ``follow_target`` of its own, made of
    ``held_pages`` and ``set_limit``, and says so with ``needs_single_frames``.
    ``directory``: where the socket is, an empty one of the caller's; without, one is made.
    """

    needs_single_frames = True

    def __init__(
        self,
        domain: Domain,
        lent: Lent,
        slots: int,
        swap_dir: str,
        *,
        directory: str = "",
        helper: Helper | None = None,
    ) -> None:
        self._domain, self._lent, self._helper = domain, lent, helper
        self._lib: Any = library.load()
        self._licences = array("I")
        self._rows: dict[int, int] = {}  # connection's fd -> row
        self._connections: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as undo:
            self._directory = directory or meeting.fresh()
            undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
            #: A name without blanks and colons, which LD_PRELOAD takes for ends of names.
            self.preload = os.path.join(self._directory, meeting.PRELOAD)
            os.symlink(library.path(), self.preload)
            self._swap = _swap_file(swap_dir)
            undo.callback(os.close, self._swap)
            self._memfd = os.memfd_create("memcoord-family", os.MFD_CLOEXEC)
            undo.callback(os.close, self._memfd)
            os.ftruncate(self._memfd, self._lib.mcp_command_family_bytes(slots))
            self._staging = domain.alloc(STAGING_ORDER)
            pool = domain.tmem.new_pool(persistent=True)
            status = self._lib.mcp_command_open(
                self._memfd, lent.ram, lent.meta, lent.bell,
                os.fstat(lent.meta).st_size, slots, self._staging, pool,
            )  # fmt: skip
            if status < 0:
                raise NoMemory(f"the memory that programs share: {os.strerror(-status)}")
            undo.callback(self._lib.mcp_command_close)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._listener.close)
            self.address = os.path.join(self._directory, meeting.SOCKET)
            self._listener.bind(self.address)
            self._listener.listen(ROWS)
            self._listener.setblocking(False)
            self._poll = select.poll()
            self._poll.register(self._listener, select.POLLIN)
            self._undo = undo.pop_all()

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for connection in self._connections.values():
            connection.close()
        self._undo.close()

    def end(self) -> int:
        """Have every program that still runs end at once; how many there were."""
        self._lib.mcp_command_gone()
        return len(self._rows)

    @property
    def processes(self) -> int:
        """Processes of the domain now."""
        return len(self._rows)

    @contextlib.contextmanager
    def watching(self, fd: int) -> Iterator[None]:
        """Have ``step`` return when ``fd`` can be read, within the ``with`` block."""
        self._poll.register(fd, select.POLLIN)
        try:
            yield
        finally:
            self._poll.unregister(fd)

    def step(self, timeout_s: float) -> None:
        """Serve those who come and go, waiting at most that long for the first."""
        for fd, _ in self._poll.poll(timeout_s * 1000):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._rows and not self._helped(fd):
                self._leave(fd)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the other end is gone already, or is not ours
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            free = set(range(ROWS)) - set(self._rows.values())
            if _user_of(connection) != os.getuid() or not free:
                with contextlib.suppress(OSError):
                    connection.send(_ROW.pack(REFUSED_ROW))  # a mere end says: the domain has gone
                connection.close()
                return
            row = min(free)
            device = self._helper.device if self._helper else self._swap  # which makes none
            fds = [
                self._memfd,
                self._lent.ram,
                self._lent.meta,
                self._lent.bell,
                self._swap,
                device,
            ]
            try:
                socket.send_fds(connection, [_ROW.pack(row)], fds)
            except OSError:
                connection.close()
                return
            self._rows[connection.fileno()] = row
            self._connections[connection.fileno()] = connection
            # A hang-up is told unasked.
            self._poll.register(connection, select.POLLIN if self._helper else 0)

    def _helped(self, fd: int) -> bool:
        """Enable the userfaultfd that a program sends; False when it has hung up."""
        if self._helper is None:
            return False
        fds: list[int] = []
        try:
            said, fds, _, _ = socket.recv_fds(self._connections[fd], _ROW.size, 1)
            if said and fds:
                self._connections[fd].send(_ROW.pack(self._helper.enable(fds[0])))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            for one in fds:
                os.close(one)
        return bool(said)

    def _leave(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._connections.pop(fd).close()
        self._lib.mcp_command_bury(self._rows.pop(fd))

    # The domain's frames

    def follow_target(self) -> bool:
        """Have what the programs may hold follow what the domain was granted, and its target.

        When the target falls the limit falls first; licences are freed, for the driver to give
        back, as far as the programs have come down. Whether the domain is still above its target.
        """
        domain = self._domain
        excess = domain.current_frames - domain.target_frames
        if excess > 0:
            used = self.figures()["used_pages"]
            free = domain.statistics().free_frames
            limit = max(len(self._licences) - max(excess - free, 0), 0)
            self.set_limit(limit)
            surplus = min(len(self._licences) - max(limit, used), CHUNK_FRAMES)
            if surplus > 0:
                # Between the look and the release a program may charge no more than `limit`.
                given = self._licences[-surplus:]
                del self._licences[-surplus:]
                domain.free_many(given)
                domain.drain()
            return True
        while (wanted := domain.statistics().free_frames - SPARE_FRAMES) > 0:
            try:
                self._licences.extend(domain.alloc_many(min(wanted, CHUNK_FRAMES)))
            except NoMemory:
                break
        self.set_limit(len(self._licences))
        return False

    def set_limit(self, pages: int) -> None:
        """What all programs together may hold from now on."""
        self._lib.mcp_command_limit(max(pages, 0))

    def held_pages(self) -> dict[int, int]:
        """Per row of a process that runs, the pages that it is charged for."""
        return {row: int(self._lib.mcp_command_row_pages(row)) for row in self._rows.values()}

    # What there is to tell

    def _counted(self) -> Iterator[tuple[str, int]]:
        name = ctypes.c_char_p()
        for index in range(1 << 10):
            value = self._lib.mcp_command_figure(index, ctypes.byref(name))
            if name.value is None:
                return
            yield name.value.decode(), value

    def figures(self) -> dict[str, int]:
        """Every counter of ``enum mcp_figure``, and what is held, was held at most, and is out."""
        return dict(self._counted())

    def wait_ns(self, permille: int) -> int:
        """What a fault waited at most, in that many of 1000 cases."""
        return int(self._lib.mcp_command_wait_ns(permille))

    def report(self, work: int | None = None) -> None:
        """Publish the figures for the policy; ``work``: units of the program's, where known."""
        now = self.figures()
        self._domain.report(
            used_frames=now["used_pages"] + (1 << STAGING_ORDER),
            committed_frames=now["used_pages"] + now["outside_pages"],
            faults=now["faults"],
            swap_ins=now["disk_pages_in"],
            swap_outs=now["disk_pages_out"],
            stall_ns=now["wait_ns"],
            references=work,
        )


def _user_of(connection: socket.socket) -> int:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def _swap_file(directory: str) -> int:
    """A new file there without a name, past the page cache where the file system can do that."""
    name = os.path.join(directory, f".memcoord-swap-{os.getpid()}")
    for flags in (SWAP_FLAGS | os.O_DIRECT, SWAP_FLAGS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        try:
            fd = os.open(name, flags, 0o600)
        except OSError as error:
            failed = error
            continue
        os.unlink(name)
        return fd
    raise MemcoordError(f"no swap file in {directory}: {failed.strerror}")
