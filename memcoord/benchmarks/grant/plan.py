"""What ``memcoord bench grant`` reports: the names of its rows, their notes, ratios and targets.

Owns: the names, so that the bench, its tables and its tests agree on them. Pure.
A ratio of transfers back to back is of means, because what counts there is the rate; every other
one is of medians.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from memcoord.benchmarks.grant.malloc_guest import ALLOCATORS
from memcoord.benchmarks.harness import BenchPlan, Formula, Row, Sheet, Target

NAMES = tuple(allocator.name for allocator in ALLOCATORS)
SMALL, HUGE = "4k", "2m"  # sizes of pages
LIVE = (1, 4096)
THREADS = (1, 2, 4)
CELLS = tuple(itertools.product(THREADS, LIVE))
PAUSES_MS = (0.0, 0.5, 2.0, 10.0, 50.0)
#: Shares of its memory that a donor's program uses while the rest is taken from it.
BUSY_SHARES = (0.5, 0.9, 1.0)
#: The malloc of fresh memory that has pages of this size.
FRESH = {SMALL: "glibc", HUGE: "glibc thp"}


def recycled(who: str, threads: int, live: int) -> str:
    """The row of recycled frames or blocks of 4 KiB."""
    return f"{who}_4k {threads} threads {live} live"


def _recycled_malloc(cell: tuple[int, int], name: str) -> str:
    return recycled(f"malloc {name}", *cell)


def malloc(what: str, name: str) -> str:
    """A row of one allocator."""
    return f"malloc_{what} {name}"


def transfer(pages: str, pause_ms: float = 0.0, share: float = 0.0) -> str:
    """The row of 2 MiB from another domain."""
    pause = f"{pause_ms:g} ms apart" if pause_ms else "back to back"
    donor = f" donor uses {share:.0%}" if share else ""
    return f"transfer_2m {pages} {pause}{donor}"


def _best(rows: Iterable[Row]) -> Row:
    return min(rows, key=Row.median_ns)


def _beside_best(ours: str, theirs: Callable[[str], str]) -> Formula:
    """Our median over that of the quickest allocator found."""

    def formula(sheet: Sheet) -> float | None:
        rivals = [sheet.rows[theirs(name)] for name in NAMES if theirs(name) in sheet.rows]
        mine = sheet.rows.get(ours)
        if mine is None or not rivals:
            return None
        return mine.median_ns() / _best(rivals).median_ns()

    return formula


def _of_means(over: str, under: str) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(over, under)
        if rows is None:
            return None
        means = [float(np.median(row.round_means())) for row in rows]
        return means[0] / means[1]

    return formula


def _of_medians(over: str, under: str) -> Formula:
    def formula(sheet: Sheet) -> float | None:
        rows = sheet.rows_of(over, under)
        return None if rows is None else rows[0].median_ns() / rows[1].median_ns()

    return formula


def _formulas() -> dict[str, Formula]:
    local = "grant_local"
    found: dict[str, Formula] = {}
    for pages in (SMALL, HUGE):
        fresh = malloc("fresh_2m", FRESH[pages])
        key = f"transfer_2m_back_to_back/malloc_fresh_2m {pages}"
        found[key] = _of_means(transfer(pages), fresh)
        for pause_ms in PAUSES_MS[1:]:
            key = f"transfer_2m_{pause_ms:g}_ms_apart/malloc_fresh_2m {pages}"
            found[key] = _of_medians(transfer(pages, pause_ms), fresh)
        for share in BUSY_SHARES[:-1]:
            key = f"transfer_2m_back_to_back_donor_uses_{share:.0%}/malloc_fresh_2m {pages}"
            found[key] = _of_means(transfer(pages, share=share), fresh)
        found[f"host_2m_back_to_back/malloc_fresh_2m {pages}"] = _of_means(
            f"host_2m {pages}", fresh
        )
    found["grant_credit_4k/malloc_prefaulted_4k"] = _of_medians(
        "grant_credit_4k", malloc("prefaulted_4k", "glibc")
    )
    found["grant_credit_4k/malloc_best_prefaulted_4k"] = _beside_best(
        "grant_credit_4k", lambda name: malloc("prefaulted_4k", name)
    )
    for cell in CELLS:
        more = "" if cell == CELLS[0] else f" {cell[0]} threads {cell[1]} live"
        rivals = partial(_recycled_malloc, cell)
        found[f"grant_local_4k/malloc_best_4k{more}"] = _beside_best(recycled(local, *cell), rivals)
    found["grant_cpu_4k/malloc_fresh_cpu_4k"] = _of_medians("grant_cpu_4k", "malloc_fresh_cpu_4k")
    found["grant_batch64_4k/malloc_best_256k"] = _beside_best(
        "grant_batch64_4k", lambda name: malloc("256k", name)
    )
    found["grant_local_2m/malloc_best_2m"] = _beside_best(
        f"grant_local_2m {SMALL}", lambda name: malloc("recycled_2m", name)
    )
    return found


PLAN = BenchPlan(
    bench="grant",
    targets={
        "transfer_2m_back_to_back/malloc_fresh_2m 4k": Target(1.4, 1.0),
        "transfer_2m_back_to_back/malloc_fresh_2m 2m": Target(0.8, 0.4),
        "grant_credit_4k/malloc_prefaulted_4k": Target(1.0, 0.7),
        "grant_local_4k/malloc_best_4k": Target(1.0, 0.8),
        "grant_cpu_4k/malloc_fresh_cpu_4k": Target(1.2, 1.0),
        "python_grant_4k/python_free_list_4k": Target(1.0, 0.6),
        "import_frontend/import_zmq_msgpack": Target(1.5, 1.1),
    },
    also=("python_grant_4k/python_bytearray_4k", "python_grant_4k/python_numpy_4k"),
    formulas=_formulas(),
    skippable=(*NAMES, HUGE),
    notes={
        "clock": "one read of the clock, which every sample of one operation contains",
        "malloc_256k": "one block of 64 pages, per page",
        "grant_batch64_4k": "64 frames at a time, per page",
        "grant_credit_4k": "of 16 areas granted ahead of need, never touched before, held",
        "grant_cpu_4k": "CPU of all threads of domain and hypervisor, per page of credit",
        "malloc_fresh_cpu_4k": "CPU of the process, per page of fresh memory",
        "kernel_populate_2m": "the kernel's part of a transfer: giving pages (MADV_POPULATE_WRITE)",
        "kernel_map_2m": "the same: mapping them a second time",
        "kernel_punch_2m": "the same: taking them back",
        "import_nothing": "whole: python -c 'pass'",
        "import_frontend": "whole: python -c 'import frontend'",
        "import_zmq_msgpack": "whole: python -c 'import zmq, msgpack'",
    },
)
