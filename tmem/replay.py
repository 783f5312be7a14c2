"""An embedded pool driven by a stream of operations: a line in, its answer out.

Owns: the form of a stream, and the execution of its lines; ``memcoord tmem-replay`` is the command.
Each line is a JSON value. The first line is the configuration, with these defaults; any key may be
left out. Every further line is answered at once by one JSON array on one line.

    {"total_pages":65536,"reserve_pages":256,"dedup":false,"compression":false}

The further lines are rows. ``c`` is a client (0 to 32751, made by the first row that names it),
``p`` a pool, ``i`` an index, ``oid`` three u64, ``seed`` stands for the content of a page
(``page_of``). Codes, flags and pools are Xen's (``tmem.codes``). Where the table has no answer, it
is ``[code]``:

    ["new_pool",c,flags,uuid_lo,uuid_hi]   [slot] or [code]
    ["destroy_pool",c,p]                   [1], [0] when there is none
    ["put",c,p,[o0,o1,o2],i,seed]          [1] or [code]
    ["get",c,p,oid,i]                      [1,seed] after a look at all 4096 bytes, [0] or [code]
    ["put_fault",c,p,oid,i]                as put; the page cannot be read; a seed may follow
    ["get_fault",c,p,oid,i]                as get; the page cannot be written
    ["flush_page",c,p,oid,i]  ["flush_object",c,p,oid]
    ["auth",c,on,uuid_lo,uuid_hi]          may c join shared pools of this uuid
    ["set_quota",c,n]                      [0]; most persistent pages of c, -1 for no limit
    ["freeze",c]  ["thaw",c]  ["set_weight",c,w]    c 65535: every client
    ["flush_kb",65535,kb]                  [KiB that went back to the host's heap]
    ["freeable_mb",0]                      [MiB]
    ["relinquish",0,order]                 [1] when one page went to the host's heap, else [0]
    ["host_take",0,n]  ["host_give",0,n]   [pages that the host took from its heap, or put back]
    ["kill_client",c]                      [0]
    ["get_pools",c]                        [number of pools] or [-22]
    ["lru",0]                              [[owner,slot,oid,i,seed],...], the next victim first

Any other line is answered by ``["error","what is wrong"]`` and changes nothing; the stream goes on.
After a wrong configuration the defaults hold. Blank lines are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tmem import Code, Tmem, TmemError

Page = npt.NDArray[np.uint64]
Row = list[Any]
Oid = tuple[int, int, int]

LINE_BYTES_MAX = 4096
TOTAL_PAGES_MAX = 1 << 24
#: Xen's DOMID_FIRST_RESERVED, and the number that means every client.
DOMIDS, ALL = 0x7FF0, 0xFFFF
GOLDEN = 0x9E3779B97F4A7C15
#: With compression on, this many pages may be compressed after every so many rows.
COMPRESS_ROWS, COMPRESS_PAGES = 64, 64

_U64 = 1 << 64
_COUNT = np.arange(512, dtype=np.uint64)


class BadRow(Exception):
    """A line is not a row; the message says why."""


@dataclass(frozen=True)
class ReplayConfig:
    """The first line of a stream."""

    total_pages: int = 65536  # host memory, 4 KiB pages
    reserve_pages: int = 256  # free before every put
    dedup: bool = False  # one copy of pages of the same content
    compression: bool = False  # compress pages that were not used lately


def page_of(seed: int) -> Page:
    """The page of a seed: word 0 is the seed, word k is (seed * GOLDEN + k) modulo 2^64."""
    page = _COUNT + np.uint64(seed * GOLDEN % _U64)
    page[0] = seed
    return page


class Number:
    """A field that is an integer from ``least`` to ``most``; a boolean is no integer."""

    def __init__(self, name: str, least: int, most: int) -> None:
        self.name, self.least, self.most = name, least, most

    def check(self, value: Any) -> int:
        """The value; BadRow when it is no such integer."""
        if type(value) is not int:
            raise BadRow(f"{self.name} must be an integer")
        if not self.least <= value <= self.most:
            raise BadRow(f"{self.name} must be {self.least} to {self.most}")
        return value


class Uuid(Number):
    """Half a uuid; -1 may stand for all ones."""

    def check(self, value: Any) -> int:
        """The value as a u64; BadRow when it is out of range."""
        return super().check(value) % _U64


class Switch(Number):
    """0 or 1, or a boolean."""

    def check(self, value: Any) -> int:
        """0 or 1; BadRow for anything else."""
        return super().check(int(value) if type(value) is bool else value)


class ObjectId(Number):
    """An array of three u64."""

    def check(self, value: Any) -> Any:
        """The three as a tuple; BadRow when they are not three u64."""
        if type(value) is not list or len(value) != 3:
            raise BadRow(f"{self.name} must be an array of three integers")
        return tuple([Number.check(self, word) for word in value])


_CLIENT, _ANY = Number("client", 0, DOMIDS - 1), Number("client", 0, ALL)
_POOL, _INDEX = Number("pool", -(1 << 31), (1 << 32) - 1), Number("index", 0, (1 << 32) - 1)
_OID, _SEED = ObjectId("oid", 0, _U64 - 1), Number("seed", 0, _U64 - 1)
_LOW, _HIGH = Uuid("uuid_lo", -(1 << 63), _U64 - 1), Uuid("uuid_hi", -(1 << 63), _U64 - 1)
_U32 = Number("number", 0, (1 << 32) - 1)
_HANDLE = (_CLIENT, _POOL, _OID, _INDEX)

#: The fields after the name; of those in ``_OPTIONAL`` the last may be left out.
_FIELDS: dict[str, tuple[Number, ...]] = {
    "new_pool": (_CLIENT, Number("flags", 0, (1 << 32) - 1), _LOW, _HIGH),
    "destroy_pool": (_CLIENT, _POOL),
    "put": (*_HANDLE, _SEED),
    "get": _HANDLE,
    "put_fault": (*_HANDLE, _SEED),
    "get_fault": _HANDLE,
    "flush_page": _HANDLE,
    "flush_object": (_CLIENT, _POOL, _OID),
    "set_quota": (_CLIENT, Number("pages", -1, (1 << 32) - 1)),
    "auth": (_ANY, Switch("on", 0, 1), _LOW, _HIGH),
    "freeze": (_ANY,),
    "thaw": (_ANY,),
    "set_weight": (_ANY, _U32),
    "flush_kb": (_ANY, _U32),
    "freeable_mb": (_ANY,),
    "relinquish": (_ANY, _U32),
    "host_take": (_ANY, _U32),
    "host_give": (_ANY, _U32),
    "kill_client": (_CLIENT,),
    "get_pools": (_CLIENT,),
    "lru": (_ANY,),
}
_OPTIONAL = frozenset(["put_fault"])


class Replay:
    """A pool driven by rows. ``pool`` is a ``Tmem``, or an object with the methods of one."""

    def __init__(self, config: ReplayConfig, pool: Any = None) -> None:
        self.pool: Any = pool or Tmem(
            pages=config.total_pages,
            reserve_pages=config.reserve_pages,
            dedup=config.dedup,
            compression=config.compression,
        )
        self.damaged = 0  # pages that came back with other content
        self._compression = config.compression
        self._rows = 0
        self._page: Page = np.empty(512, np.uint64)
        self._clients: dict[int, int] = {}  # domain -> the pool's number of it
        #: by domain: a quota may be set before the domain is a client, and it outlives the client
        self._quotas: dict[int, int] = {}

    def answer(self, row: Any) -> Row:
        """Carry out a row: its answer. BadRow when ``row`` is none; then nothing is done."""
        name, values = _checked(row)
        self._rows += 1
        if self._compression and self._rows % COMPRESS_ROWS == 0:
            self.pool.compress_step(COMPRESS_PAGES)
        operation: Callable[..., int | Row] = getattr(self, f"_{name}")
        try:
            result = operation(*values)
        except _NoMoreClients:
            result = int(Code.ENOMEM)
        return result if type(result) is list else [result]

    def _client(self, domid: int) -> int:
        """The pool's number of a domain; a domain's first call makes it a client."""
        number = self._clients.get(domid)
        if number is None:
            used = set(self._clients.values())
            number = next(n for n in range(len(used) + 1) if n not in used)
            if self.pool.open_client(number) < 0:
                raise _NoMoreClients
            self._clients[domid] = number
            if domid in self._quotas:
                self.pool.set_quota(number, self._quotas[domid])
        return number

    def _new_pool(self, c: int, flags: int, low: int, high: int) -> int:
        code: int = self.pool.new_pool(self._client(c), flags, (low, high))
        return code

    def _destroy_pool(self, c: int, p: int) -> int:
        code: int = self.pool.destroy_pool(self._client(c), p)
        return code

    def _put(self, c: int, p: int, oid: Oid, i: int, seed: int) -> int:
        code: int = self.pool.put(self._client(c), p, oid, i, page_of(seed))
        return code

    def _get(self, c: int, p: int, oid: Oid, i: int) -> Row:
        code = self.pool.get(self._client(c), p, oid, i, self._page)
        return [code, self._seed()] if code == Code.DONE else [code]

    def _seed(self) -> int:
        """The seed of the page just read; BadRow when the page is not the seed's."""
        seed = int(self._page[0])
        if self._page.tobytes() != page_of(seed).tobytes():
            self.damaged += 1
            raise BadRow(f"damaged page: it begins as the page of seed {seed} does, and differs")
        return seed

    def _put_fault(self, c: int, p: int, oid: Oid, i: int, _: int = 0) -> int:
        code: int = self.pool.put_fault(self._client(c), p, oid, i)
        return code

    def _get_fault(self, c: int, p: int, oid: Oid, i: int) -> int:
        code: int = self.pool.get_fault(self._client(c), p, oid, i)
        return code

    def _flush_page(self, c: int, p: int, oid: Oid, i: int) -> int:
        code: int = self.pool.flush_page(self._client(c), p, oid, i)
        return code

    def _flush_object(self, c: int, p: int, oid: Oid) -> int:
        code: int = self.pool.flush_object(self._client(c), p, oid)
        return code

    def _set_quota(self, c: int, pages: int) -> int:
        self._quotas[c] = pages
        if c in self._clients:
            self.pool.set_quota(self._clients[c], pages)
        return 0

    def _auth(self, c: int, on: int, low: int, high: int) -> int:
        if c == ALL:
            return int(Code.ENOMEM)
        code: int = self.pool.authorise(self._client(c), (low, high), bool(on))
        return code

    def _each(self, c: int, none: int, operation: Callable[[int], int]) -> int:
        """Do ``operation`` to one client or to all: the least code; ``none`` for an unknown one."""
        named = self._clients.values() if c == ALL else [self._clients.get(c, -1)]
        codes = [none if number < 0 else operation(number) for number in named]
        return min(codes, default=none)

    def _freeze(self, c: int) -> int:
        return self._each(c, 0 if c == ALL else int(Code.EPERM), self.pool.freeze)

    def _thaw(self, c: int) -> int:
        return self._each(c, 0 if c == ALL else int(Code.EPERM), self.pool.thaw)

    def _set_weight(self, c: int, weight: int) -> int:
        return self._each(c, int(Code.ENOENT), lambda n: int(self.pool.set_weight(n, weight)))

    def _flush_kb(self, c: int, kib: int) -> int:
        return int(self.pool.flush_kb(kib)) if c == ALL else int(Code.EPERM)

    def _freeable_mb(self, _: int) -> int:
        return int(self.pool.freeable_mb())

    def _relinquish(self, _: int, order: int) -> int:
        return int(self.pool.relinquish(order))

    def _host_take(self, _: int, pages: int) -> int:
        return int(self.pool.host_take(pages))

    def _host_give(self, _: int, pages: int) -> int:
        return int(self.pool.host_give(pages))

    def _kill_client(self, c: int) -> int:
        if c in self._clients:
            self.pool.close_client(self._clients.pop(c))
        return 0

    def _get_pools(self, c: int) -> int:
        if c not in self._clients:
            return int(Code.EINVAL)
        return int(self.pool.get_pools(self._clients[c])[0])

    def _lru(self, _: int) -> Row:
        domids = {number: domid for domid, number in self._clients.items()}
        found = []
        for number, slot, oid, index in self.pool.eviction_order():
            self.pool.peek(number, slot, oid, index, self._page)
            found.append([domids[number], slot, [*oid], index, self._seed()])
        return found


class _NoMoreClients(Exception):
    """The pool has as many clients as it can have."""


def _checked(row: Any) -> tuple[str, list[Any]]:
    if type(row) is not list or not row or type(row[0]) is not str:
        raise BadRow("a row is an array that begins with the name of an operation")
    name, *values = row
    wanted = _FIELDS.get(name)
    if wanted is None:
        raise BadRow(f"there is no operation {name[:32]!r}")
    if len(values) != len(wanted) and not (name in _OPTIONAL and len(values) == len(wanted) - 1):
        raise BadRow(f"{name} has {len(wanted)} fields, not {len(values)}")
    return name, [kind.check(value) for kind, value in zip(wanted, values, strict=False)]


def config_of(value: Any) -> ReplayConfig:
    """The configuration in a decoded first line; BadRow when it is none."""
    if type(value) is not dict:
        raise BadRow('the first line is the configuration, such as {"total_pages":1024}')
    kinds = {field.name: field.type for field in fields(ReplayConfig)}
    if unknown := sorted(set(value) - set(kinds)):
        raise BadRow(f"the configuration has no key {unknown[0][:32]!r}")
    for key, given in value.items():
        if kinds[key] == "int":
            Number(key, 0, TOTAL_PAGES_MAX).check(given)
        elif type(given) is not bool:
            raise BadRow(f"{key} must be true or false")
    return ReplayConfig(**value)


def decode(line: bytes) -> Any:
    """The JSON value of a line; BadRow when it is too long or no JSON."""
    if len(line) > LINE_BYTES_MAX:
        raise BadRow(f"the line is longer than {LINE_BYTES_MAX} bytes")
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        raise BadRow("the line is not JSON") from None


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Every line that is not blank; of one longer than LINE_BYTES_MAX only the beginning."""
    while line := stream.readline(LINE_BYTES_MAX + 1):
        rest = line
        while len(rest) > LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_BYTES_MAX + 1)
        if line.strip():
            yield line


def replay(lines: Iterator[bytes], tell: Callable[[Row], object]) -> Replay | None:
    """Tell the answer to every line of a stream but the configuration.

    Returns the ``Replay`` as it is at the end, None when there was no line.
    """
    running: Replay | None = None
    for line in lines:
        try:
            if running is None:
                running, wrong = _started(line)
                if wrong:
                    tell(["error", wrong])
            else:
                tell(running.answer(decode(line)))
        except BadRow as bad:
            tell(["error", str(bad)])
    return running


def _started(line: bytes) -> tuple[Replay, str]:
    """A replay with the configuration in ``line``, or with the defaults and what is wrong."""
    try:
        return Replay(config_of(decode(line))), ""
    except (BadRow, OSError, MemoryError, TmemError) as error:
        return Replay(ReplayConfig()), str(error) or type(error).__name__
