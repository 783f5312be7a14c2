"""Files of domains that were closed, which another process may still have mapped.

Owns: one fd per file, of the last ``GHOSTS_MAX`` domains that were closed. If memory appears in the
file of a closed domain, some process still has the file mapped. The next tick reports it and frees
the memory. Nothing here bounds how much that process writes between two ticks: on a machine where
that matters, domains belong into a cgroup.
Rules: the main thread only, which never waits here. A punch may wait for a lock that the other
process holds on the file, so it runs on a thread of its own, one per file, and the fd of a file
is closed by whoever uses it last.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from dataclasses import dataclass

from backend._service import lib

GHOSTS_MAX = 64


@dataclass(frozen=True)
class Leaver:
    """The file of a domain that is being closed: an fd of our own, -1 when there was none left."""

    name: str
    fd: int
    bytes: int

    @classmethod
    def of(cls, name: str, ram_fd: int, ram_bytes: int) -> Leaver:
        """Of a domain that still has its file. Without a free fd nobody watches the file."""
        try:
            fd = os.dup(ram_fd)
        except OSError:
            fd = -1
        return cls(name, fd, ram_bytes)


class Ghost:
    """A file that a thread empties now and then. The fd is closed once nobody uses it any more."""

    def __init__(self, file: Leaver) -> None:
        self.file = file
        self._lock = threading.Lock()  # held for a moment only
        self._is_busy = self._is_dropped = False

    @property
    def is_busy(self) -> bool:
        """The punch has not returned yet."""
        return self._is_busy

    def empty(self) -> None:
        """Begin to punch, on a thread; RuntimeError when there is none to be had."""
        punch = threading.Thread(target=self._punch, daemon=True)
        self._is_busy = True
        try:
            punch.start()
        except RuntimeError:
            self._is_busy = False
            raise

    def _punch(self) -> None:
        lib.mc_punch(self.file.fd, 0, self.file.bytes)
        with self._lock:
            self._is_busy = False
            if self._is_dropped:
                os.close(self.file.fd)

    def drop(self) -> None:
        """Let go of the file, now or when the punch returns: until then the fd must stay."""
        with self._lock:
            self._is_dropped = True
            if not self._is_busy:
                os.close(self.file.fd)


class Ghosts:
    """The files of the domains that were closed last."""

    def __init__(self) -> None:
        self._ghosts: deque[Ghost] = deque()

    def adopt(self, file: Leaver) -> None:
        """Keep an eye on the file of a domain whose memory was taken back."""
        if file.fd < 0:
            return
        self._ghosts.append(Ghost(file))
        if len(self._ghosts) > GHOSTS_MAX:
            self._ghosts.popleft().drop()

    def look(self) -> list[str]:
        """Free the memory of files that have any; the names of the domains they were of."""
        found = []
        for ghost in self._ghosts:
            file = ghost.file
            if ghost.is_busy or lib.mc_resident_bytes(file.fd) <= 0:
                continue
            found.append(file.name)
            with contextlib.suppress(RuntimeError):  # no thread to be had: at the next look
                ghost.empty()
        return found

    def close(self) -> None:
        """Let go of all files."""
        while self._ghosts:
            self._ghosts.popleft().drop()
