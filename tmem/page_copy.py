"""Copies into frames, past the cache when the frame is not in it.

Owns: that choice. A page that is put is mostly one that nobody will ask for soon, and writing it
through the cache first reads what is overwritten: for a frame in memory, three times the time. So
the frames written last are remembered, about as many as a level 2 cache holds, and only they are
written through the cache. A wrong guess costs time, nothing else.
Used by the kernels.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmem.layout import H_WARM, PAGE_BYTES, WARM_FRAMES
from tmem.raw_memory import cells_at, copy_page, kernel
from tmem.slab import frame_address

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_LINE = ir.VectorType(_I64, 8)
LINE_BYTES = 64


@intrinsic
def stream_page(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy one page with stores that pass the cache by; ``target`` is aligned to a page.

    No fence, which would wait for the memory: another thread may look at the pool only after a lock
    has changed hands (the GIL, the service's), and that locked instruction is the fence.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(a, _LINE.as_pointer()) for a in arguments)
        past = builder.module.add_metadata([ir.Constant(_I32, 1)])
        for line in range(PAGE_BYTES // LINE_BYTES):
            value = builder.load(builder.gep(source, [ir.Constant(_I64, line)]))
            value.align = 1
            store = builder.store(value, builder.gep(target, [ir.Constant(_I64, line)]), align=64)
            store.set_metadata("nontemporal", past)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@kernel
def is_warm(s, frame):
    """Whether a frame was written lately; from now on it was."""
    warm = cells_at(s[H_WARM])
    place = frame & (WARM_FRAMES - 1)
    seen = warm[place] == frame
    warm[place] = frame
    return seen


@kernel
def write_frame(s, frame, data):
    """Fill a frame from a guest's page."""
    if is_warm(s, frame):
        copy_page(frame_address(s, frame), data)
    else:
        stream_page(frame_address(s, frame), data)
