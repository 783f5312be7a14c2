"""``memcoord run --record FILE``: the tmem operations of a live run, as a stream to replay.

Owns: the writing of rows (``tmem.replay`` says what they mean) between the hypervisor's
service and its pool. ``Recorder.entries`` stands in for ``tmem.serve.entry_points``: the service
calls into Python here, which costs microseconds a call, and from here the pool.

Where a stream has no word for an operation, rows with the same effect are written. The seed of a
page is a hash of its content, so equal pages have equal seeds and a page of zeroes is stored like
any other. A put that
``mm_target`` refused changed nothing and is left out. An area the pool gets or gives up is host
memory: ``host_give`` and ``host_take``, with a ``relinquish`` for every page evicted for it. At the
end every client is killed and the host takes its memory back, so that the next hypervisor of the
same run may go on in the same file.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

from tmem import Code, Tmem
from tmem.codes import Op
from tmem.layout import AREA_PAGES
from tmem.replay import ALL
from tmem.serve import Entries, entry_points

Row = list[Any]

PAGE_BYTES = 4096
RECORD_WORDS = 8
ARGUMENTS = 3  # first word of ``struct mc_record`` that is an argument
OP_MASK, LOW = 0xFFFF, 0xFFFFFFFF

_I64, _U64 = ctypes.c_int64, ctypes.c_uint64
_EXECUTE = ctypes.CFUNCTYPE(_I64, _U64, _U64, _U64, _I64, _I64)
_AREA = ctypes.CFUNCTYPE(_I64, _U64, _I64)
_PLAIN = ctypes.CFUNCTYPE(_I64, _U64)
#: Answers after which the pool is as it was, and which a replay would not give.
_UNTOLD = (int(Code.NEED_SLAB), int(Code.TARGET))


class Recorder:
    """Appends to ``path`` what happens to the pool of a host of ``total_pages``.

    Made and closed by the hypervisor's main thread; in between every call comes under the service's
    lock. A context manager.
    """

    def __init__(self, path: Path, total_pages: int) -> None:
        self._file = path.open("a", encoding="ascii")
        if self._file.tell() == 0:
            self._write({"total_pages": total_pages, "reserve_pages": 0})
            self._write(["host_take", 0, total_pages])
        self._clients: set[int] = set()
        self._held_pages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self, tmem: Tmem) -> Entries:
        """The entries the service calls instead of the pool's own; valid until ``close``."""
        self._tmem = tmem
        inner = entry_points(tmem.state_address)
        self._inner = inner
        self._execute = _EXECUTE(inner.execute)
        self._grow, self._open = _AREA(inner.grow), _AREA(inner.open_client)
        self._shrink, self._close = _PLAIN(inner.shrink), _AREA(inner.close_client)
        self._callbacks = {
            "execute": _EXECUTE(self._on_execute),
            "grow": _AREA(self._on_grow),
            "shrink": _PLAIN(self._on_shrink),
            "open_client": _AREA(self._on_open),
            "close_client": _AREA(self._on_close),
        }
        for name in _CONTROLS:
            setattr(tmem, name, self._control(name, getattr(tmem, name)))
        addresses = {
            name: int(ctypes.cast(function, ctypes.c_void_p).value or 0)
            for name, function in self._callbacks.items()
        }
        return dataclasses.replace(inner, **addresses)

    def close(self) -> None:
        """End the stream as the docstring of the module says. Idempotent."""
        if self._file.closed:
            return
        for client in sorted(self._clients):
            self._write(["kill_client", client])
        if self._held_pages:
            self._write(["flush_kb", ALL, 0])
            self._write(["host_take", 0, self._held_pages])
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, line: Row | dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop the memory
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _on_execute(self, state: int, record: int, page: int, client: int, may_ask: int) -> int:
        words = (_U64 * RECORD_WORDS).from_address(record)[:]
        op, arguments = words[0] & OP_MASK, words[ARGUMENTS:]
        data = ctypes.string_at(page, PAGE_BYTES) if op == Op.PUT and page else b""
        code = int(self._execute(state, record, page, client, may_ask))
        row = row_of(op, client, arguments, data)
        if row is not None and code not in _UNTOLD:
            self._write(row)
        return code

    def _on_grow(self, state: int, area: int) -> int:
        code = int(self._grow(state, area))
        if code == 0:
            self._held_pages += AREA_PAGES
            self._write(["host_give", 0, AREA_PAGES])
        return code

    def _on_shrink(self, state: int) -> int:
        before = self._tmem.statistics().evicted
        area = int(self._shrink(state))
        if area >= 0:
            self._held_pages -= AREA_PAGES
            self._write(["flush_kb", ALL, 0])
            for _ in range(self._tmem.statistics().evicted - before):
                self._write(["relinquish", 0, 0])
            self._write(["host_take", 0, AREA_PAGES])
        return area

    def _on_open(self, state: int, client: int) -> int:
        code = int(self._open(state, client))
        if code == 0:
            self._clients.add(client)
            self._write(["destroy_pool", client, 0])  # it has none; a call makes the client
        return code

    def _on_close(self, state: int, client: int) -> int:
        code = int(self._close(state, client))
        if code >= 0:
            self._clients.discard(client)
            self._write(["kill_client", client])
        return code

    def _control(self, name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self._write(_CONTROLS[name](*arguments))
            return method(*arguments)

        return call


def row_of(op: int, client: int, arguments: list[int], page: bytes) -> Row | None:
    """The row of a ring record; None when there is no such operation or a word is out of range."""
    word, oid = arguments[0], arguments[1:4]
    handle = [client, word & LOW, oid, word >> 32]
    if op == Op.PUT:
        return ["put", *handle, int.from_bytes(hashlib.blake2b(page, digest_size=8).digest())]
    if op == Op.GET:
        return ["get", *handle]
    if op == Op.FLUSH_PAGE:
        return ["flush_page", *handle]
    if word > LOW:
        return None
    if op == Op.FLUSH_OBJECT:
        return ["flush_object", client, word, oid]
    if op == Op.NEW_POOL:
        return ["new_pool", client, word, *arguments[1:3]]
    return ["destroy_pool", client, word] if op == Op.DESTROY_POOL else None


def _named(client: int | None) -> int:
    return ALL if client is None else client


_CONTROLS: dict[str, Any] = {
    "freeze": lambda client=None: ["freeze", _named(client)],
    "thaw": lambda client=None: ["thaw", _named(client)],
    "set_weight": lambda client, weight: ["set_weight", client, weight],
    "set_quota": lambda client, pages: ["set_quota", client, pages],
    "authorise": lambda client, uuid, allow=True: ["auth", client, int(allow), *uuid],
}
