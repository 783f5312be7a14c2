"""Files of domains that were closed, which another process may still have mapped.

Owns: one fd per file, of the last ``GHOSTS_MAX`` domains that were closed. If memory appears in the
file of a closed domain, some process still has the file mapped. The next tick reports it and frees
the memory. Nothing here bounds how much that process writes between two ticks: on a machine where
that matters, domains belong into a cgroup.
Rules: the main thread only. A punch may wait for a lock that the other process holds on the file,
so it runs on a thread of its own, one per file.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass

from backend._service import lib

GHOSTS_MAX = 64


@dataclass
class Ghost:
    """A file, and the thread that empties it now or emptied it last."""

    name: str
    fd: int
    bytes: int
    punch: threading.Thread | None = None


class Ghosts:
    """The files of the domains that were closed last."""

    def __init__(self) -> None:
        self._ghosts: deque[Ghost] = deque()

    def adopt(self, name: str, ram_fd: int, ram_bytes: int) -> None:
        """Keep an eye on the file of a domain that is about to be closed."""
        self._ghosts.append(Ghost(name, os.dup(ram_fd), ram_bytes))
        if len(self._ghosts) > GHOSTS_MAX:
            self._drop(self._ghosts.popleft())

    def look(self) -> list[str]:
        """Free the memory of files that have any; the names of the domains they were of."""
        found = []
        for ghost in self._ghosts:
            is_busy = ghost.punch is not None and ghost.punch.is_alive()
            if is_busy or lib.mc_resident_bytes(ghost.fd) <= 0:
                continue
            found.append(ghost.name)
            arguments = (ghost.fd, 0, ghost.bytes)
            ghost.punch = threading.Thread(target=lib.mc_punch, args=arguments, daemon=True)
            ghost.punch.start()
        return found

    def close(self) -> None:
        """Let go of all files; waits for their threads."""
        while self._ghosts:
            self._drop(self._ghosts.popleft())

    @staticmethod
    def _drop(ghost: Ghost) -> None:
        if ghost.punch is not None:
            ghost.punch.join()  # the fd must stay what it is until then
        os.close(ghost.fd)
