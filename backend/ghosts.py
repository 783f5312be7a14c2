"""Files of domains that were closed, which another process may still have mapped.

Owns: one fd per file, of the last ``GHOSTS_MAX`` domains that were closed. If memory appears in the
file of a closed domain, some process still has the file mapped. The next tick reports it and frees
the memory. Nothing here bounds how much that process writes between two ticks: on a machine where
that matters, domains belong into a cgroup.
Rules: the main thread only, which never waits here. A punch may wait for a lock that the other
process holds on the file, so it runs on a thread of its own, one per file, and the fd of a file
whose punch does not return is left open.
"""

from __future__ import annotations

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


@dataclass
class Ghost:
    """A file, and the thread that empties it now or emptied it last."""

    file: Leaver
    punch: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """The punch has not returned yet."""
        return self.punch is not None and self.punch.is_alive()


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
            self._drop(self._ghosts.popleft())

    def look(self) -> list[str]:
        """Free the memory of files that have any; the names of the domains they were of."""
        found = []
        for ghost in self._ghosts:
            file = ghost.file
            if ghost.is_busy or lib.mc_resident_bytes(file.fd) <= 0:
                continue
            found.append(file.name)
            arguments = (file.fd, 0, file.bytes)
            punch = threading.Thread(target=lib.mc_punch, args=arguments, daemon=True)
            try:
                punch.start()
            except RuntimeError:  # no thread to be had: at the next look
                continue
            ghost.punch = punch
        return found

    def close(self) -> None:
        """Let go of all files."""
        while self._ghosts:
            self._drop(self._ghosts.popleft())

    @staticmethod
    def _drop(ghost: Ghost) -> None:
        if not ghost.is_busy:  # the fd must stay what it is until then
            os.close(ghost.file.fd)
