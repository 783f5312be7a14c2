"""The host's memory in areas, for the kernels: who gets one, and who gives it.

Owns: the ledger's rules, those of ``backend/abi/supply.c``: RAM grows out of free memory beyond
slack and promises, else out of another domain's spare area, else out of tmem; tmem grows out of
free memory only. And the way to the pool: its compiled entries, called by address, so that it is
the same code that the C service calls. Used by ``testbed.sim.guest``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import int64, types
from numba.extending import intrinsic

from testbed.sim import layout as L
from tmem.raw_memory import kernel, words_at

AREA_FRAMES = 512
NOBODY = -1

_I64 = ir.IntType(64)


def _caller(count: int) -> Any:
    """An intrinsic that calls a C function of ``count`` u64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * count)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, list(arguments[1:]))

    return generate


@intrinsic
def call_1(typing_context: Any, address: Any, a: Any) -> Any:
    """``((int64_t (*)(uint64_t))address)(a)``."""
    return types.int64(types.int64, types.int64), _caller(1)


@intrinsic
def call_2(typing_context: Any, address: Any, a: Any, b: Any) -> Any:
    """The same with two arguments."""
    return types.int64(*(types.int64,) * 3), _caller(2)


@intrinsic
def call_5(typing_context: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """The same with five arguments."""
    return types.int64(*(types.int64,) * 6), _caller(5)


@kernel
def has_free(w):
    """Whether the host has more than its slack and what it has promised."""
    return w[L.W_FREE_AREAS] > w[L.W_SLACK_AREAS] + w[L.W_PROMISED_AREAS]


@kernel
def grow_tmem(w):
    """One more area for the pool, out of free memory, if it may have one."""
    if not has_free(w) or w[L.W_TMEM_AREAS] >= w[L.W_TMEM_AREAS_MAX]:
        return
    used = words_at(w[L.W_SLAB_USED])
    for area in range(w[L.W_TMEM_AREAS_MAX]):
        if not used[area]:
            if call_2(w[L.W_GROW], w[L.W_TMEM_STATE], area) >= 0:
                used[area] = 1
                w[L.W_TMEM_AREAS] += 1
                w[L.W_FREE_AREAS] -= 1
            return


@kernel
def shrink_tmem(w):
    """One area of the pool back to free memory; whether there was one."""
    if w[L.W_TMEM_AREAS] == 0:
        return False
    area = call_1(w[L.W_SHRINK], w[L.W_TMEM_STATE])
    if area < 0:
        return False
    words_at(w[L.W_SLAB_USED])[area] = 0
    w[L.W_TMEM_AREAS] -= 1
    w[L.W_FREE_AREAS] += 1
    return True


@kernel
def spare_areas(w, d):
    """Areas a domain has and does not use."""
    frames = w[d + L.D_RESIDENT] + w[d + L.D_SPARES]
    return w[d + L.D_CURRENT_AREAS] - (frames + AREA_FRAMES - 1) // AREA_FRAMES


@kernel
def release(w, d, areas):
    """``areas`` of a domain become free memory."""
    w[d + L.D_CURRENT_AREAS] -= areas
    w[d + L.D_RECLAIMED] += areas
    w[L.W_FREE_AREAS] += areas


@kernel
def take_spare(w, receiver):
    """An area of another domain: first of one above its target, then of who can spare most."""
    best, most = int64(NOBODY), 0
    for slot in range(L.SLOTS):
        d = L.DOMAINS + slot * L.DOMAIN_WORDS
        if w[d + L.D_STATE] != L.RUNNING or d == receiver:
            continue
        spare = spare_areas(w, d)
        if spare > 0 and w[d + L.D_CURRENT_AREAS] > w[d + L.D_TARGET_AREAS]:
            release(w, d, 1)
            return True
        if spare > most:
            best, most = d, spare
    if best == NOBODY:
        return False
    release(w, best, 1)
    return True


@kernel
def grow_ram(w, d):
    """One more area for a domain; whether there was one."""
    if w[d + L.D_CURRENT_AREAS] >= w[d + L.D_TARGET_AREAS]:
        return False
    if has_free(w):
        w[d + L.D_GRANTS] += 1
    elif take_spare(w, d) or shrink_tmem(w):
        w[d + L.D_TRANSFERS] += 1
    else:
        return False
    w[L.W_FREE_AREAS] -= 1
    w[d + L.D_CURRENT_AREAS] += 1
    return True
