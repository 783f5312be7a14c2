"""Files of domains that were closed, which another process may still have mapped.

Owns: one fd per file, of the last ``GHOSTS_MAX`` domains that were closed; where the host has books
they are kept for the next process, each under a name that says all there is to know of it. If
memory appears in the file of a closed domain, some process still has the file mapped. The next tick
reports it and frees the memory. Nothing here bounds how much that process writes between two ticks:
on a machine where that matters, domains belong into a cgroup.
Rules: the main thread only, which never waits here. A punch may wait for a lock that the other
process holds on the file, so it runs on a thread of its own, one per file, and the fd of a file
is closed by whoever uses it last.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
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
    """A file that a thread empties now and then. The fd is closed once nobody uses it any more.

    ``key``: the name under which another process may find it, "NUMBER/DOMAIN".
    """

    def __init__(self, file: Leaver, key: str) -> None:
        self.file, self.key = file, key
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


def _nothing(*_: object) -> None:
    pass


class Ghosts:
    """The files of the domains that were closed last; ``kept``, by key, by a process before.

    ``keep(key, fd)`` is called for each new one, ``drop(key)`` when it is watched no more.
    """

    def __init__(
        self,
        kept: Mapping[str, int] | None = None,
        *,
        keep: Callable[[str, int], None] = _nothing,
        drop: Callable[[str], None] = _nothing,
    ) -> None:
        self._keep, self._drop = keep, drop
        self._ghosts: deque[Ghost] = deque()
        self._number = 0
        for key in sorted(kept or {}, key=_number_of):
            fd = (kept or {})[key]
            file = Leaver(key.partition("/")[2], fd, os.fstat(fd).st_size)
            self._ghosts.append(Ghost(file, key))
            self._number = _number_of(key)

    def adopt(self, file: Leaver) -> None:
        """Keep an eye on the file of a domain whose memory was taken back."""
        if file.fd < 0:
            return
        self._number += 1
        ghost = Ghost(file, f"{self._number}/{file.name}")
        self._keep(ghost.key, file.fd)
        self._ghosts.append(ghost)
        if len(self._ghosts) > GHOSTS_MAX:
            oldest = self._ghosts.popleft()
            self._drop(oldest.key)
            oldest.drop()

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


def _number_of(key: str) -> int:
    return int(key.partition("/")[0])
