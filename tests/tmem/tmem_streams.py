"""Random streams of ``tmem-replay`` rows, and comparing whoever answers them.

A universe small enough that most handles exist most of the time, and a host small enough that
pages are evicted all the time. The same seed makes the same stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Row = list[Any]
ALL = 65535
VERSION = 1 << 24
#: Halves of the uuids of shared pools; the last is that of none.
UUIDS = [(7, 0), (7, 1), (8, 2**63), (-1, -1)]


@dataclass(frozen=True)
class Mix:
    """How often which kind of row comes, and over what."""

    clients: tuple[int, ...] = (0, 1, 2)
    objects: int = 24
    indices: int = 6
    guest: int = 400  # put, get, flush
    put_part: float = 0.55  # of those, puts
    faults: int = 10
    shape: int = 6  # pools come and go
    host: int = 4  # freeze, weigh, limit, take memory
    take_pages_max: int = 64
    private_only: bool = False


def beginning(mix: Mix) -> Iterator[Row]:
    """Pools of every kind for every client."""
    for c in mix.clients:
        for low, high in UUIDS[:2]:
            yield ["auth", c, 0 if mix.private_only else 1, low, high]
        for kind, uuid in zip((0, 1, 2, 2), (*UUIDS[2:], *UUIDS[:2]), strict=True):
            yield ["new_pool", c, VERSION | kind, *uuid]


def stream(seed: int, rows: int, mix: Mix) -> Iterator[Row]:
    """The beginning, and ``rows`` random rows."""
    yield from beginning(mix)
    random_ = random.Random(seed)
    makers: list[Callable[[random.Random, Mix], Row]] = [_guest, _fault, _shape, _host]
    weights = [mix.guest, mix.faults, mix.shape, mix.host]
    for maker in random_.choices(makers, weights, k=rows):
        yield maker(random_, mix)


def _handle(r: random.Random, mix: Mix) -> Row:
    oid = [int(mix.objects * r.random() ** 3), 0, r.choice((0, 0, 2**64 - 1))]
    index = r.randrange(mix.indices) if r.random() < 0.98 else 2**32 - 1
    return [r.choice(mix.clients), _slot(r), oid, index]


def _slot(r: random.Random) -> int:
    return r.randrange(4) if r.random() < 0.98 else r.choice((4, 5, 15, 16, -1, 2**31))


def _guest(r: random.Random, mix: Mix) -> Row:
    handle, kind = _handle(r, mix), r.random()
    if kind < mix.put_part:
        return ["put", *handle, r.choice((0, 1, 2**64 - 1, r.getrandbits(64)))]
    if kind < 0.90:
        return ["get", *handle]
    if kind < 0.98:
        return ["flush_page", *handle]
    return ["flush_object", *handle[:3]]


def _fault(r: random.Random, mix: Mix) -> Row:
    return [r.choice(("put_fault", "get_fault")), *_handle(r, mix)]


def _shape(r: random.Random, mix: Mix) -> Row:
    c, kind = r.choice(mix.clients), r.random()
    low, high = r.choice(UUIDS)
    if kind < 0.65:
        flags = r.choice((0, 1, 2, 2, 2, 3, 4, 8, 16))
        return ["new_pool", c, flags | (VERSION if r.random() < 0.98 else 0), low, high]
    if kind < 0.92:
        return ["destroy_pool", c, _slot(r)]
    if kind < 0.99:
        return ["auth", c, 0 if mix.private_only else r.randrange(2), low, high]
    return ["kill_client", c]


def _host(r: random.Random, mix: Mix) -> Row:
    c = r.choice((*mix.clients, *mix.clients, ALL, 99))
    n = r.randrange(mix.take_pages_max)
    return r.choice(
        [
            ["freeze", c],
            ["thaw", ALL],
            ["thaw", ALL],
            ["set_weight", c, r.choice((0, 1, 50, 100, 10_000))],
            ["set_weight", r.choice(mix.clients), r.choice((0, 1, 2, 3))],
            ["set_quota", r.choice(mix.clients), r.choice((-1, -1, 0, 3, 40, 100))],
            ["flush_kb", r.choice((ALL, ALL, 0)), r.choice((0, 1, 4, 17, 4 * n))],
            ["freeable_mb", 0],
            ["relinquish", 0, r.choice((0, 0, 0, 1))],
            ["host_take", 0, n],
            ["host_give", 0, 2 * n],
            ["get_pools", r.choice((*mix.clients, 99))],
            ["lru", 0],
        ]
    )


def first_difference(
    rows: Iterator[Row],
    answers: dict[str, Callable[[Row], Row]],
    check: Callable[[], None],
    check_every: int,
) -> str:
    """Empty when all give the same answer to every row; else the row, its number, the answers."""
    for number, row in enumerate(rows):
        given = {name: answer(row) for name, answer in answers.items()}
        if len({str(answer) for answer in given.values()}) > 1:
            return f"row {number}, {row}: {given}"
        if number % check_every == 0:
            check()
    check()
    return ""
