"""The stores a user could keep pages in instead of tmem, each used as fast as it can be.

Owns: the clients of the rivals and the command lines of their servers. Every rival is used page by
page from Python: one call, one page, an answer. Servers get no disk, no second thread and no TCP.
Their clients get no library between Python and the socket, which would be slower than the server.
Keys are made before the clock runs, in the order in which they will be used, as tmem's keys are:
position 0 of a store is the page that is put first.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

PAGE_BYTES = 4096
LMDB_MAP_BYTES = 1 << 29
SERVER_BYTES = 1 << 28
CONNECT_S = 10.0
ANSWER_BYTES = 64
POLL_S = 0.02
LINE = b"\r\n"

Pages = Sequence[memoryview]


class Store(Protocol):
    """Something pages can be put into and got back from."""

    def put(self, start: int, stop: int) -> None:
        """Store the pages at these positions, one by one."""

    def get(self, start: int, stop: int) -> None:
        """Fetch them, one by one; KeyError when one is not there."""

    def fetch(self, position: int) -> bytes:
        """One page, to look at."""

    def close(self) -> None:
        """Let go of it."""


class DictStore:
    """A dict of bytes. A get hands out a reference: nothing is copied."""

    def __init__(self, pages: Pages) -> None:
        self._work = [(b"%08d" % number, page) for number, page in enumerate(pages)]
        self._store: dict[bytes, bytes] = {}

    def put(self, start: int, stop: int) -> None:
        """Store copies."""
        store = self._store
        for key, page in self._work[start:stop]:
            store[key] = bytes(page)

    def get(self, start: int, stop: int) -> None:
        """Look up."""
        store = self._store
        for key, _ in self._work[start:stop]:
            store[key]

    def fetch(self, position: int) -> bytes:
        """One page."""
        return self._store[self._work[position][0]]

    def close(self) -> None:
        """Forget all."""
        self._store.clear()


class LmdbStore:
    """LMDB without any sync; a transaction for each page, so that a killed process loses none."""

    def __init__(self, pages: Pages, directory: Path) -> None:
        import lmdb  # here only: it may not be installed

        self._work = [(b"%08d" % number, page) for number, page in enumerate(pages)]
        self._env: Any = lmdb.open(
            str(directory), map_size=LMDB_MAP_BYTES, sync=False, metasync=False, writemap=True
        )

    def put(self, start: int, stop: int) -> None:
        """One write transaction a page."""
        begin = self._env.begin
        for key, page in self._work[start:stop]:
            with begin(write=True) as transaction:
                transaction.put(key, page)

    def get(self, start: int, stop: int) -> None:
        """One read transaction a page."""
        begin = self._env.begin
        for key, _ in self._work[start:stop]:
            with begin() as transaction:
                if transaction.get(key) is None:
                    raise KeyError(key)

    def fetch(self, position: int) -> bytes:
        """One page."""
        with self._env.begin() as transaction:
            return bytes(transaction.get(self._work[position][0]))

    def close(self) -> None:
        """Close the file."""
        self._env.close()


class SocketStore:
    """The common part of Redis and memcached: a request and its answer over a unix socket."""

    put_head = b""  # precedes the page in a put; KEY stands for the key
    put_tail = LINE
    stored = b""  # the answer to a put
    get_request = b""
    get_head = b""  # precedes the page in the answer to a get
    get_tail = b""

    def __init__(self, pages: Pages, path: Path) -> None:
        named = [(b"%08d" % number, page) for number, page in enumerate(pages)]
        tail = self.put_tail
        self._puts = [(self.put_head.replace(b"KEY", key), page, tail) for key, page in named]
        self._gets = [self.get_request.replace(b"KEY", key) for key, _ in named]
        self._start = len(self.get_head.replace(b"KEY", named[0][0]))
        self._whole = self._start + PAGE_BYTES + len(self.get_tail)
        self._answer = bytearray(self._whole)
        self._view = memoryview(self._answer)
        self._socket = connect(path)

    def put(self, start: int, stop: int) -> None:
        """One request a page."""
        send, receive, stored = self._socket.sendmsg, self._socket.recv, self.stored
        whole = sum(map(len, self._puts[0]))
        for parts in self._puts[start:stop]:
            if send(parts) != whole:
                raise OSError("the socket did not take a whole page")
            answer = receive(ANSWER_BYTES)
            if answer != stored:
                raise OSError(f"a put was answered {answer!r}")

    def get(self, start: int, stop: int) -> None:
        """One request a page, the answers into one buffer."""
        send, receive, view = self._socket.sendall, self._socket.recv_into, self._view
        whole, head = self._whole, self.get_head[:1]
        for request in self._gets[start:stop]:
            send(request)
            at = 0
            while at < whole:
                more = receive(view[at:])
                at += more
                if more == 0 or (at < whole and (view[:1] != head or at < self._start)):
                    raise KeyError(request)

    def fetch(self, position: int) -> bytes:
        """One page."""
        self.get(position, position + 1)
        return bytes(self._view[self._start : self._start + PAGE_BYTES])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class RedisStore(SocketStore):
    """Redis."""

    put_head = b"*3\r\n$3\r\nSET\r\n$8\r\nKEY\r\n$4096\r\n"
    stored = b"+OK\r\n"
    get_request = b"*2\r\n$3\r\nGET\r\n$8\r\nKEY\r\n"
    get_head = b"$4096\r\n"
    get_tail = LINE


class MemcachedStore(SocketStore):
    """memcached."""

    put_head = b"set KEY 0 0 4096\r\n"
    stored = b"STORED\r\n"
    get_request = b"get KEY\r\n"
    get_head = b"VALUE KEY 0 4096\r\n"
    get_tail = b"\r\nEND\r\n"


def connect(path: Path) -> socket.socket:
    """A connection to a server that is just starting; OSError after CONNECT_S."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
        except OSError:
            made.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
            continue
        made.settimeout(None)  # a time limit costs a poll per call; the bench has its own
        return made


def redis_command(path: Path) -> list[str]:
    """The server at a unix socket, nothing kept on disk."""
    limits = ["--maxmemory", str(SERVER_BYTES), "--dir", str(path.parent)]
    disk = ["--save", "", "--appendonly", "no"]
    return ["redis-server", "--port", "0", "--unixsocket", str(path), *disk, *limits]


def memcached_command(path: Path) -> list[str]:
    """The server at a unix socket, one thread."""
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return ["memcached", "-s", str(path), "-t", "1", "-m", str(SERVER_BYTES >> 20), *user]


#: servers by name: the store that asks them, and their command
SERVERS: dict[str, tuple[type[SocketStore], Callable[[Path], list[str]]]] = {
    "redis": (RedisStore, redis_command),
    "memcached": (MemcachedStore, memcached_command),
}


def why_missing(name: str) -> str:
    """Why this rival cannot take part here; empty when it can."""
    if name == "lmdb":
        return "" if importlib.util.find_spec("lmdb") else "the Python package is not installed"
    program = SERVERS[name][1](Path("."))[0]
    return "" if shutil.which(program) else f"{program} is not installed"
