"""Files of domains that are gone, which somebody may still have mapped.

Owns: one fd per file, of the last ``GHOSTS_MAX`` domains that were closed, and what is done when
memory appears in one: its holder was a domain, or was given the file by one. It is told and taken
back at the next tick. How fast the holder writes between two ticks is bounded by nothing here: on a
machine where that matters, domains belong into a cgroup.
Rules: the main thread only. A punch may wait for its file, which the holder can lock, so it runs on
a thread of its own, one per file.
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
    """A file, and the thread that empties it now or did so last."""

    name: str
    fd: int
    bytes: int
    punch: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it is being emptied."""
        return self.punch is not None and self.punch.is_alive()


class Ghosts:
    """The files of the domains that went last."""

    def __init__(self) -> None:
        self._ghosts: deque[Ghost] = deque()

    def adopt(self, name: str, ram_fd: int, ram_bytes: int) -> None:
        """Keep an eye on the file of a domain that is about to be closed."""
        self._ghosts.append(Ghost(name, os.dup(ram_fd), ram_bytes))
        if len(self._ghosts) > GHOSTS_MAX:
            self._drop(self._ghosts.popleft())

    def look(self) -> list[str]:
        """Take back what is used; the names of the domains whose files these were."""
        found = []
        for ghost in self._ghosts:
            if ghost.is_busy or lib.mc_resident_bytes(ghost.fd) <= 0:
                continue
            found.append(ghost.name)
            arguments = (ghost.fd, 0, ghost.bytes)
            ghost.punch = threading.Thread(target=lib.mc_punch, args=arguments, daemon=True)
            ghost.punch.start()
        return found

    def close(self) -> None:
        """Let go of all of them."""
        while self._ghosts:
            self._drop(self._ghosts.popleft())

    @staticmethod
    def _drop(ghost: Ghost) -> None:
        if ghost.punch is not None:
            ghost.punch.join()  # the fd must stay what it is until then
        os.close(ghost.fd)
