"""A view on its way to the process that runs a policy, and the plan on its way back.

Owns: the two rooms, files in memory that both processes map, and the headers that say what is in
them. Arrays cross as raw bytes, one after the other, headers as MessagePack; nothing is pickled.
What comes back is copied before it is looked at, and no length or type in it is believed. The
hypervisor (``hypervisor.coordination.policy_process``) calls ``show`` and ``taken``, the other side
(``policies.host_process``) ``seen`` and ``give``.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.base import CARRY_COLUMNS_MAX, Plan, View
from policies.checked import WHY_CHARACTERS_MAX, PlanError, Reasons, check_plan

#: Of one domain, in a room: every column and grid of a view, or of a plan, fits.
BYTES_PER_DOMAIN = 8192
HEADER_BYTES_MAX = 8192
TEXT_CHARACTERS_MAX = 300
ALIGNMENT = 8
_MFD_NOEXEC_SEAL = 8  # Linux 6.3: no program can be run from the file
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
#: What a plan may be made of, and the numpy types of it.
_PARTS = {
    name: re.compile(kind)
    for name, kind in {"tmem": "<f8", "ram": "<f8", "carry": "<f8", "why": r"<U[1-9]\d?\d?"}.items()
}
_UNICODE_MAX = 0x10FFFF

Room = NDArray[np.uint8]
Extent = tuple[str, str, tuple[int, ...]]  # name, numpy type, shape


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A view is in the room: plan."""

    number: int
    scalars: dict[str, int | float]
    extents: tuple[Extent, ...]
    names_bytes: int  # of a MessagePack list after the arrays; -1: the names of the call before


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What became of call ``number``; 0 is the start.

    ``kind``: "ready", "refused", "plan", "nonsense" (``check_plan`` says so), "raised", "printed".
    """

    number: int
    kind: str
    text: str = ""
    extents: tuple[Extent, ...] = ()
    needs: tuple[str, ...] = ()  # of "ready"
    lacks: tuple[str, ...] = ()  # of "ready": what ``confine`` could not take away


def room_bytes(domains: int) -> int:
    """Bytes of a room for views, or plans, of up to ``domains``."""
    return max(domains, 1) * BYTES_PER_DOMAIN


def make_room(name: str, length: int) -> int:
    """A file in memory of ``length`` bytes that nobody can make smaller or larger; its fd."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(name, flags)
    os.ftruncate(fd, length)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def map_room(fd: int, *, writable: bool) -> Room:
    """The room behind ``fd``, mapped for as long as the array lives."""
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    return np.frombuffer(mmap.mmap(fd, 0, access=access), dtype=np.uint8)


def show(room: Room, number: int, view: View, known: tuple[str, ...] | None) -> Call:
    """Put ``view`` into ``room``; ``known``: the names the other side has seen last.

    PlanError when it does not fit.
    """
    values = [(item.name, getattr(view, item.name)) for item in fields(view)]
    arrays = [(name, value) for name, value in values if isinstance(value, np.ndarray)]
    scalars = {name: value for name, value in values if isinstance(value, int | float)}
    extents, end = _put(room, [(name, np.float64, value) for name, value in arrays])
    if known == view.names:
        return Call(number, scalars, extents, -1)
    names = msgspec.msgpack.encode(view.names)
    if end + len(names) > len(room):
        raise PlanError("length", f"a view of {len(view)} domains does not fit")
    room[end : end + len(names)] = np.frombuffer(names, dtype=np.uint8)
    return Call(number, scalars, extents, len(names))


def seen(room: Room, call: Call, known: tuple[str, ...]) -> View:
    """The view of ``call``: its columns are the room itself, and last until the next call."""
    arrays, end = _get(room, call.extents)
    names = known
    if call.names_bytes >= 0:
        packed = room[end : end + call.names_bytes].tobytes()
        names = msgspec.msgpack.decode(packed, type=tuple[str, ...])
    return View(names=names, **call.scalars, **arrays)  # type: ignore[arg-type]


def give(room: Room, number: int, plan: object, view: View) -> Answer:
    """Put ``plan`` into ``room``; PlanError, as ``check_plan`` would word it, when it is none."""
    if not isinstance(plan, Plan):
        raise PlanError("type", f"answered {type(plan).__name__}, not Plan")
    arrays: list[tuple[str, Any, NDArray[Any]]] = []
    for name, shape in (("tmem", (len(view),)), ("ram", (len(view),))):
        if (raw := getattr(plan, name)) is not None:
            arrays.append((name, np.float64, _plain(plan, view, raw, shape, "iuf")))
    if plan.carry is not None:
        grid = _plain(plan, view, plan.carry, (len(view), CARRY_COLUMNS_MAX), "iufb")
        arrays.append(("carry", np.float64, grid))
    if plan.why is not None:
        texts = _texts(plan, view)
        arrays.append(("why", texts.dtype, texts))
    extents, _ = _put(room, arrays)
    return Answer(number, "plan", extents=extents)


def taken(room: Room, answer: Answer, view: View) -> Plan:
    """The plan of ``answer``, copied out of ``room``; ValueError when that is no answer at all."""
    for name, kind, shape in answer.extents:
        if name not in _PARTS or not _PARTS[name].fullmatch(kind) or shape[:1] != (len(view),):
            raise ValueError(f"no plan has a {name[:TEXT_CHARACTERS_MAX]!r} like this")
    found, _ = _get(room, answer.extents)
    parts: dict[str, Any] = {name: part.copy() for name, part in found.items()}
    why = parts.get("why")
    if why is not None and why.size and int(why.view(np.uint32).max()) > _UNICODE_MAX:
        raise ValueError("its why is no text")
    return Plan(**parts)


def _plain(
    plan: Plan, view: View, raw: ArrayLike, shape: tuple[int, ...], kinds: str
) -> NDArray[Any]:
    """``raw`` as an array of numbers of at most ``shape``; PlanError when it is not."""
    try:
        values = np.asarray(raw)
        good = values.dtype.kind in kinds or not values.size
    except (TypeError, ValueError):
        good = False
    if good and values.ndim == len(shape) and len(values) == shape[0] and values.shape <= shape:
        return values
    check_plan(plan, view)  # says what is wrong
    raise PlanError("number", "cannot be sent")


def _texts(plan: Plan, view: View) -> NDArray[np.str_]:
    why = plan.why
    if not isinstance(why, list | tuple | np.ndarray) or len(why) != len(view):
        check_plan(plan, view)
        raise PlanError("length", "why cannot be sent")
    if not (isinstance(why, np.ndarray) and why.dtype.kind == "U" and why.ndim == 1):
        why = np.array(list(Reasons(tuple(why))), dtype=np.str_)
    width = min(max(why.dtype.itemsize // 4, 1), WHY_CHARACTERS_MAX)
    return why.astype(f"<U{width}", copy=False)


def _put(
    room: Room, arrays: Iterable[tuple[str, Any, NDArray[Any]]]
) -> tuple[tuple[Extent, ...], int]:
    """Copy ``arrays``, each as its type, to the front of ``room``; where they are, and the end."""
    at, extents = 0, []
    for name, kind, array in arrays:
        dtype = np.dtype(kind).newbyteorder("<")
        end = at + array.size * dtype.itemsize
        if end > len(room):
            raise PlanError("length", f"{len(room)} bytes cannot hold {name}")
        room[at:end].view(dtype).reshape(array.shape)[...] = array
        extents.append((name, dtype.str, array.shape))
        at = -(-end // ALIGNMENT) * ALIGNMENT
    return tuple(extents), at


def _get(room: Room, extents: Iterable[Extent]) -> tuple[dict[str, NDArray[Any]], int]:
    """The arrays that ``_put`` copied, in place; ValueError when they are not all within."""
    at, arrays = 0, {}
    for name, kind, shape in extents:
        try:
            dtype = np.dtype(kind)
        except TypeError:
            raise ValueError(f"{kind!r} is no type") from None
        end = at + math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or end > len(room) or dtype.kind not in "fU":
            raise ValueError(f"its {name} is not within")
        arrays[name] = room[at:end].view(dtype).reshape(shape)
        at = -(-end // ALIGNMENT) * ALIGNMENT
    return arrays, at
