"""How many pages of tmem a wanted page would have taken to still be there, exactly.

Owns: the reuse distance of a domain's evicted pages. Every eviction gets a number; when a page is
wanted again, the pages evicted after it and not wanted since are those that tmem, kept in order of
eviction, would have held besides it. They are counted by a Fenwick tree over the numbers (Mattson
et al. 1970; Olken 1981), which are given out anew, in the same order, when they run out.
Kernels, called by ``testbed.sim.guest``.
"""

# Kernel arguments are typed by numba; annotations would only repeat "int".
# ruff: noqa: ANN001, ANN201
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, attr-defined, call-arg, no-any-return, var-annotated"

from __future__ import annotations

from testbed.sim import layout as L
from tmem.machine import kernel


@kernel
def add(c, number, value):
    """Change what is counted at ``number``, 1 and above."""
    size = c[L.CURVE_SIZE]
    while number <= size:
        c[L.CURVE_TREE + number] += value
        number += number & -number


@kernel
def count_up_to(c, number):
    """How many there are at numbers up to this one."""
    total = 0
    while number > 0:
        total += c[L.CURVE_TREE + number]
        number -= number & -number
    return total


@kernel
def renumber(c, pages):
    """Number the evicted pages 1, 2, ... in the order they have."""
    size = c[L.CURVE_SIZE]
    numbers = L.CURVE_TREE + size + 1
    for page in range(pages):
        if c[numbers + page]:
            c[numbers + page] = count_up_to(c, c[numbers + page])
    evicted = c[L.CURVE_LIVE]
    for number in range(1, size + 1):
        c[L.CURVE_TREE + number] = 0
    for number in range(1, evicted + 1):
        add(c, number, 1)
    c[L.CURVE_NEXT] = evicted + 1


@kernel
def note_evicted(c, page, pages):
    """A page leaves its frame."""
    if c[L.CURVE_NEXT] > c[L.CURVE_SIZE]:
        renumber(c, pages)
    number = c[L.CURVE_NEXT]
    c[L.CURVE_NEXT] = number + 1
    c[L.CURVE_LIVE] += 1
    c[L.CURVE_TREE + c[L.CURVE_SIZE] + 1 + page] = number
    add(c, number, 1)


@kernel
def note_wanted(c, page, pages):
    """A page that was evicted is wanted: its distance goes into the histogram."""
    at = L.CURVE_TREE + c[L.CURVE_SIZE] + 1 + page
    number = c[at]
    if number == 0:
        return
    distance = c[L.CURVE_LIVE] - count_up_to(c, number - 1)
    c[L.CURVE_HISTOGRAM + min((distance - 1) // c[L.CURVE_WIDTH], L.CURVE_BUCKETS)] += 1
    add(c, number, -1)
    c[L.CURVE_LIVE] -= 1
    c[at] = 0
