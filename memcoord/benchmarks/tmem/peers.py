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
from typing import Any

PAGE_BYTES = 4096
LMDB_MAP_BYTES = 1 << 29
SERVER_BYTES = 1 << 28
CONNECT_S = 10.0
ANSWER_BYTES = 64
POLL_S = 0.02
LINE = b"\r\n"

Pages = Sequence[memoryview]


class Store:
    """Something pages can be put into and got back from; ``where``: its directory or socket."""

    def __init__(self, pages: Pages, where: Path) -> None:
        self._work = [(b"%08d" % number, page) for number, page in enumerate(pages)]

    def put(self, start: int, stop: int) -> None:
        """Store the pages at these positions, one by one."""
        raise NotImplementedError

    def get(self, start: int, stop: int) -> bytes | bytearray | memoryview:
        """Fetch them, one by one, and return the last; KeyError when one is not there."""
        raise NotImplementedError

    def fetch(self, position: int) -> bytes:
        """A copy of one page, to look at."""
        return bytes(self.get(position, position + 1))

    def close(self) -> None:
        """Let go of it."""


class DictStore(Store):
    """A dict of bytes. A get hands out a reference: nothing is copied."""

    def __init__(self, pages: Pages, where: Path) -> None:
        super().__init__(pages, where)
        self._store: dict[bytes, bytes] = {}

    def put(self, start: int, stop: int) -> None:
        """Store copies."""
        store = self._store
        for key, page in self._work[start:stop]:
            store[key] = bytes(page)

    def get(self, start: int, stop: int) -> bytes:
        """Look up."""
        store, found = self._store, b""
        for key, _ in self._work[start:stop]:
            found = store[key]
        return found


class LmdbStore(Store):
    """LMDB without any sync; the pages of a call are put in one transaction."""

    def __init__(self, pages: Pages, where: Path) -> None:
        import lmdb  # here only: it may not be installed

        super().__init__(pages, where)
        unsafe = {"sync": False, "metasync": False, "writemap": True}
        self._env: Any = lmdb.open(str(where), map_size=LMDB_MAP_BYTES, **unsafe)

    def put(self, start: int, stop: int) -> None:
        """One write transaction for all of them."""
        with self._env.begin(write=True) as transaction:
            for key, page in self._work[start:stop]:
                transaction.put(key, page)

    def get(self, start: int, stop: int) -> bytes:
        """One read transaction a page."""
        begin, found = self._env.begin, b""
        for key, _ in self._work[start:stop]:
            with begin() as transaction:
                found = transaction.get(key)
                if found is None:
                    raise KeyError(key)
        return found

    def close(self) -> None:
        """Close the file."""
        self._env.close()


class SocketStore(Store):
    """The common part of Redis and memcached: a request and its answer over a unix socket."""

    put_head = b""  # precedes the page in a put; KEY stands for the key
    stored = b""  # the answer to a put
    get_request = b""
    get_head = b""  # precedes the page in the answer to a get
    get_tail = b""

    def __init__(self, pages: Pages, where: Path) -> None:
        super().__init__(pages, where)
        self._puts = [(self.put_head.replace(b"KEY", key), page, LINE) for key, page in self._work]
        self._gets = [self.get_request.replace(b"KEY", key) for key, _ in self._work]
        self._start = len(self.get_head.replace(b"KEY", self._work[0][0]))
        self._view = memoryview(bytearray(self._start + PAGE_BYTES + len(self.get_tail)))
        self._socket = connect(where)

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

    def get(self, start: int, stop: int) -> memoryview:
        """One request a page, the answers into one buffer."""
        send, receive, view = self._socket.sendall, self._socket.recv_into, self._view
        whole, head = len(view), self.get_head[:1]
        for request in self._gets[start:stop]:
            send(request)
            at = 0
            while at < whole:
                more = receive(view[at:])
                at += more
                if more == 0 or (at < whole and (view[:1] != head or at < self._start)):
                    raise KeyError(request)
        return view[self._start : self._start + PAGE_BYTES]

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
        made = socket.socket(socket.AF_UNIX)  # without a time limit, which costs a poll per call
        try:
            made.connect(str(path))
            return made
        except OSError:
            made.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


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
#: by name, every store that is not ours
STORES: dict[str, type[Store]] = {
    "dict": DictStore,
    "lmdb": LmdbStore,
    **{name: store for name, (store, _) in SERVERS.items()},
}


def why_missing(name: str) -> str:
    """Why this rival cannot take part here; empty when it can."""
    if name == "lmdb":
        return "" if importlib.util.find_spec("lmdb") else "the Python package is not installed"
    program = SERVERS[name][1](Path("."))[0]
    return "" if shutil.which(program) else f"{program} is not installed"
