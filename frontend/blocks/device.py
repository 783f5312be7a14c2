"""A block device whose blocks are pages in tmem, and the NBD server for it.

Owns: the life of the C that does the work (``frontend/abi/blocks.h`` and ``nbd.h``, which say what
reads, writes, discards and clients mean), its pool, its frames, its file, its socket.
The pages are a persistent pool of the domain: ``mm_target``, quota, freeze, sharing of equal pages,
compression and the restart of a hypervisor are what they are for any domain. Everything the device
holds is gone with the process: it is for swap, and for what may be lost.

Rules: ``serve`` once, from the thread that made the device. ``close`` it, or close the domain,
which closes the device first. No call waits for a client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

from frontend._guest import ffi, lib
from frontend.blocks.statistics import BlockStatistics
from frontend.domain import Domain
from frontend.paging.swapfile import SwapFile
from hypervisor.public.errors import ConfigError, NoMemory, PeerGone, error_of
from hypervisor.public.units import FRAME_BYTES, PoolId

#: Blocks of a device at most: 1 TiB. A block costs a byte besides its content.
BLOCKS_MAX = 1 << 28
#: Clients at a time, by default. QEMU makes one connection, nbdcopy four.
CONNECTIONS = 4
#: log2 of the frames through which a connection's bytes pass.
STAGING_ORDER = 6
BACKLOG = 16


class BlockDevice:
    """A device of ``size_bytes``, whole blocks of 4 KiB, all zeroes at first.

    ``file`` is the path at which the file for refused pages is made, on a filesystem with
    room for them; it must not exist, and has no name from then on, so that a process that is
    killed leaves nothing. Each of ``connections`` clients, and one more, costs 64 frames of the
    domain's. ConfigError for a wrong argument, NoMemory when the domain or tmem has no room,
    SwapError when the file cannot be made.
    """

    def __init__(
        self,
        domain: Domain,
        size_bytes: int,
        file: str | os.PathLike[str],
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        blocks, rest = divmod(size_bytes, FRAME_BYTES)
        if rest or not 1 <= blocks <= BLOCKS_MAX:
            raise ConfigError("size", f"{size_bytes}: must be 1 to {BLOCKS_MAX} times 4096 bytes")
        if not 1 <= connections <= lib.MC_NBD_CONNECTIONS_MAX:
            most = lib.MC_NBD_CONNECTIONS_MAX
            raise ConfigError("connections", f"{connections}: must be 1 to {most}")
        if os.path.lexists(file):
            raise ConfigError("file", f"{file}: exists; name one that may be made and removed")
        self.size_bytes, self.connections = size_bytes, connections
        self._domain, self._pid = domain, os.getpid()
        self._blocks = self._nbd = ffi.NULL
        self._pool: PoolId | None = None
        self._stagings: list[int] = []
        self._listener: socket.socket | None = None
        self._closed: BlockStatistics | None = None
        self._file = SwapFile(file, blocks)
        try:
            self._file.path.unlink()
            self._open(blocks)
        except BaseException:
            self.close()
            raise
        domain.before_close(self.close)

    def __enter__(self) -> BlockDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def direct(self) -> bool:
        """Whether the file is written past the host's page cache."""
        return self._file.direct

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called, or the domain's."""
        return self._closed is not None

    def serve(
        self,
        path: str | os.PathLike[str],
        *,
        greeting_ns: int = lib.MC_NBD_GREETING_NS,
    ) -> None:
        """Listen on a Unix socket at ``path``, which this user alone may open.

        A socket at which nobody listens any more is replaced. ConfigError when there is
        anything else, or no socket can be made there.
        """
        if self.closed or self._listener is not None:
            raise ValueError("the device is closed, or served already")
        listener = _listen(Path(path))
        self._listener, self._path = listener, Path(path)
        self._socket_id = _identity(self._path)
        options = ffi.new("struct mc_nbd_options *")
        options.blocks, options.listen_fd = self._blocks, listener.fileno()
        options.connections = self.connections
        stagings = ffi.new("uint32_t[]", self._stagings)
        options.stagings = stagings
        options.name = self._domain.name.encode()[: lib.MC_NBD_NAME_BYTES - 1]
        options.greeting_ns = greeting_ns
        out = ffi.new("struct mc_nbd **")
        status = lib.mc_nbd_start(out, options)
        if status < 0:
            self._stop_listening()
            raise error_of(status, f"NBD server at {path}")
        self._nbd = out[0]

    def statistics(self) -> BlockStatistics:
        """Every counter, now; after ``close`` those of its end."""
        if self._closed is not None:
            return self._closed
        served = ffi.new("struct mc_nbd_statistics *")
        if self._nbd != ffi.NULL:
            lib.mc_nbd_statistics(self._nbd, served)
        return self._statistics(served)

    def _statistics(self, served: Any) -> BlockStatistics:
        stored = ffi.new("struct mc_blocks_statistics *")
        if self._blocks != ffi.NULL:
            lib.mc_blocks_statistics(self._blocks, stored)
        return BlockStatistics(
            **{
                name: int(getattr(counted, name))
                for counted in (served, stored)
                for name, _ in ffi.typeof(counted).item.fields
            }
        )

    def close(self) -> None:
        """End every connection; the content is gone. May be called twice."""
        if self.closed:
            return
        if os.getpid() != self._pid:  # a forked child: the thread and the domain are the parent's
            self._closed = _NOTHING
            return
        served = ffi.new("struct mc_nbd_statistics *")
        lib.mc_nbd_stop(self._nbd, served)
        self._nbd = ffi.NULL
        self._stop_listening()
        statistics = self._statistics(served)
        lib.mc_blocks_close(self._blocks)
        self._blocks = ffi.NULL
        self._closed = statistics
        self._file.close()
        self._give_back()

    def _open(self, blocks: int) -> None:
        for _ in range(self.connections + 1):
            self._stagings.append(self._domain.alloc(STAGING_ORDER))
        self._pool = self._domain.tmem.new_pool(persistent=True)
        options = ffi.new("struct mc_blocks_options *")
        options.guest = ffi.cast("struct mc_guest *", self._domain.guest_address)
        options.blocks, options.pool = blocks, self._pool
        options.file_fd = self._file.fileno()
        out = ffi.new("struct mc_blocks **")
        if lib.mc_blocks_open(out, options) < 0:
            raise NoMemory(f"the process has no memory for a device of {blocks} blocks")
        self._blocks = out[0]

    def _stop_listening(self) -> None:
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        if _identity(self._path) == self._socket_id:  # and not a successor's
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _give_back(self) -> None:
        """The pool, then the frames: a pool that is gone says that tmem copies to none of them."""
        try:
            if self._pool is not None:
                self._domain.tmem.destroy_pool(self._pool)
        except PeerGone:
            return
        for frame in self._stagings:
            self._domain.free(frame, STAGING_ORDER)


_NOTHING = BlockStatistics(*[0] * len(BlockStatistics.__dataclass_fields__))


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
            path.unlink()
        os.fchmod(listener.fileno(), 0o600)  # the socket's file gets this mode at bind
        listener.bind(str(path))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError("socket", f"{path}: {error}; name a path of at most 107 bytes") from None
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
