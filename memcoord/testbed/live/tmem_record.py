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

A hypervisor that was killed is followed by one that goes on with the stream: every row that counted
is in it (``row_buffer.py``), and an operation that is executed again has one row. What the restart
did to the pool is told by rows, too: ephemeral pages are gone, areas may be.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, Self

from memcoord.testbed.live.row_buffer import RowBuffer
from tmem import Code, Tmem
from tmem.codes import Op
from tmem.layout import AREA_PAGES, MAX_CLIENTS
from tmem.replay import ALL
from tmem.serve import AGAIN, Entries, entry_points

Row = list[Any]

PAGE_BYTES = 4096
RECORD_WORDS = 8
ARGUMENTS = 3  # first word of ``struct mc_record`` that is an argument
OP_MASK, LOW = 0xFFFF, 0xFFFFFFFF
SEQ_SHIFT = 32  # of the record's number, in its first word
#: Words of the stream: pages that the pool holds, open clients (bits), and per client the number of
#: its record that has the last row, plus 1.
_HELD, _CLIENTS, _LAST = range(3)

_I64, _U64 = ctypes.c_int64, ctypes.c_uint64
_EXECUTE = ctypes.CFUNCTYPE(_I64, _U64, _U64, _U64, _I64, _I64)
_AREA = ctypes.CFUNCTYPE(_I64, _U64, _I64)
_PLAIN = ctypes.CFUNCTYPE(_I64, _U64)
#: Answers after which the pool is as it was, and which a replay would not give.
_UNTOLD = (int(Code.NEED_SLAB), int(Code.TARGET))


class Recorder:
    """Appends to ``path`` what happens to the pool of a host of ``total_pages``.

    ``kept_fd``: what a recorder before this one, which was not closed, had as ``fd``.
    Made and closed by the hypervisor's main thread; in between every call comes under the service's
    lock. A context manager.
    """

    def __init__(self, path: Path, total_pages: int, kept_fd: int = -1) -> None:
        self._buffer: RowBuffer | None = RowBuffer(path, _LAST + MAX_CLIENTS, kept_fd)
        self.fd = self._buffer.fd
        if self._buffer.is_empty:
            begin = {"total_pages": total_pages, "reserve_pages": 0}
            self._write(begin, ["host_take", 0, total_pages])

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
        self._tell_restart(tmem)
        methods = {name: self._control(name, getattr(tmem, name)) for name in _CONTROLS}
        methods["close_client"] = partial(self._on_close, tmem.state_address)
        for name, method in methods.items():
            setattr(tmem, name, method)
        addresses = {
            name: int(ctypes.cast(function, ctypes.c_void_p).value or 0)
            for name, function in self._callbacks.items()
        }
        return dataclasses.replace(inner, **addresses)

    def close(self) -> None:
        """End the stream as the docstring of the module says. Idempotent."""
        if self._buffer is None:
            return
        rows: list[Row] = [["kill_client", client] for client in self._clients()]
        if held := self._word(_HELD):
            rows += [["flush_kb", ALL, 0], ["host_take", 0, held]]
        self._write(*rows)
        self._buffer.close()
        self._buffer = None

    def _tell_restart(self, tmem: Tmem) -> None:
        """What became of the pool that the stream knows of."""
        found, held = tmem.recovered, self._word(_HELD)
        now = 0 if found is None else len(found.areas) * AREA_PAGES
        open_now = () if found is None else found.clients
        if found is None and not held and not self._clients():
            return
        dropped = AREA_PAGES if found is None else found.ephemeral_pages + AREA_PAGES
        # Of the area that was being given up nobody knows how much was: one page too many is none.
        rows: list[Row] = [["kill_client", c] for c in self._clients() if c not in open_now]
        self._write(*rows, ["flush_kb", ALL, 0])
        for begin in range(0, dropped, AREA_PAGES):  # killed in between, the next one begins anew
            self._write(*[["relinquish", 0, 0]] * min(AREA_PAGES, dropped - begin))
        rows = [["host_give" if now > held else "host_take", 0, abs(now - held)]]
        rows += [["destroy_pool", c, 0] for c in open_now if c not in self._clients()]
        bits = sum(1 << client for client in open_now)
        self._write(*rows, words={_HELD: now, _CLIENTS: bits})

    def _word(self, number: int) -> int:
        assert self._buffer is not None
        return int(self._buffer.words[number])

    def _clients(self) -> list[int]:
        bits = self._word(_CLIENTS)
        return [client for client in range(MAX_CLIENTS) if bits >> client & 1]

    def _write(self, *lines: Row | dict[str, Any], words: dict[int, int] | None = None) -> None:
        """All of these lines and words, or, when the process is killed, none."""
        if self._buffer is not None:
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            self._buffer.append(text.encode("ascii"), words or {})

    def _on_execute(self, state: int, record: int, page: int, client: int, may_ask: int) -> int:
        words = (_U64 * RECORD_WORDS).from_address(record)[:]
        op, arguments, seq = words[0] & OP_MASK, words[ARGUMENTS:], words[0] >> SEQ_SHIFT
        data = ctypes.string_at(page, PAGE_BYTES) if op == Op.PUT and page else b""
        code = int(self._execute(state, record, page, client, may_ask))
        row = row_of(op, client, arguments, data)
        is_told = bool(may_ask & AGAIN) and self._word(_LAST + client) == seq + 1
        if row is not None and code not in _UNTOLD and not is_told:
            self._write(row, words={_LAST + client: seq + 1})
        return code

    def _on_grow(self, state: int, area: int) -> int:
        code = int(self._grow(state, area))
        if code == 0:
            held = self._word(_HELD) + AREA_PAGES
            self._write(["host_give", 0, AREA_PAGES], words={_HELD: held})
        return code

    def _on_shrink(self, state: int) -> int:
        before = self._tmem.statistics().evicted
        area = int(self._shrink(state))
        if area >= 0:
            held = self._word(_HELD) - AREA_PAGES
            gone = [["relinquish", 0, 0]] * (self._tmem.statistics().evicted - before)
            rows = [["flush_kb", ALL, 0], *gone, ["host_take", 0, AREA_PAGES]]
            self._write(*rows, words={_HELD: held})
        return area

    def _on_open(self, state: int, client: int) -> int:
        code = int(self._open(state, client))
        if code == 0:
            # It has no pool; a call makes the client.
            words = {_CLIENTS: self._word(_CLIENTS) | 1 << client, _LAST + client: 0}
            self._write(["destroy_pool", client, 0], words=words)
        return code

    def _on_close(self, state: int, client: int) -> int:
        code = int(self._close(state, client))
        if code >= 0:
            words = {_CLIENTS: self._word(_CLIENTS) & ~(1 << client)}
            self._write(["kill_client", client], words=words)
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
