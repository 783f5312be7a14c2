"""Record the allocations of a program: the first calls of the process that makes most of them.

``python -m memcoord.benchmarks.malloc.record OUT.xz CALLS PROGRAM ARGUMENTS...``

Owns: a library that is loaded before the program and notes each call of malloc, and the turn of
addresses into places. API: the shipped traces were made with it. Needs a C compiler and glibc.
Calls before the first noted block of an address, and of memalign, become mallocs; a free of what
was never seen is left out.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from memcoord.benchmarks.malloc.traces import CALLOC, FREE, MALLOC, REALLOC, Trace, write

RECORDER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);
struct entry { uint64_t call, block, before, bytes; };
static struct entry *entries;
static _Atomic uint64_t next;
static uint64_t most;
__attribute__((constructor)) static void begin(void)
{
    char path[4096];
    const char *words = getenv("MALLOC_TRACE_DIR"), *count = getenv("MALLOC_TRACE_CALLS");
    if (!words || !count) return;
    most = strtoull(count, 0, 10);
    snprintf(path, sizeof path, "%s/%d", words, getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(most * sizeof *entries))) return;
    void *at = mmap(0, most * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) entries = at;
}
static void note(uint64_t call, void *block, void *before, size_t bytes)
{
    if (!entries) return;
    uint64_t k = atomic_fetch_add(&next, 1);
    if (k < most)
        entries[k] = (struct entry){call + 1, (uintptr_t)block, (uintptr_t)before, bytes};
}
void *malloc(size_t n) { void *p = __libc_malloc(n); note(0, p, 0, n); return p; }
void *calloc(size_t a, size_t b) { void *p = __libc_calloc(a, b); note(3, p, 0, a * b); return p; }
void *realloc(void *o, size_t n) { void *p = __libc_realloc(o, n); note(2, p, o, n); return p; }
void free(void *p) { if (p) note(1, p, 0, 0); __libc_free(p); }
void *memalign(size_t a, size_t n) { void *p = __libc_memalign(a, n); note(0, p, 0, n); return p; }
void *aligned_alloc(size_t a, size_t n) { return memalign(a, n); }
int posix_memalign(void **out, size_t a, size_t n)
{
    void *p = memalign(a, n);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}
"""
ENTRY = np.dtype([("call", "<u8"), ("block", "<u8"), ("before", "<u8"), ("bytes", "<u8")])


def main(words: list[str]) -> None:
    """Record; CalledProcessError when the compiler or the program fails."""
    out, calls, *argv = words
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory)
        source, library = found / "recorder.c", found / "recorder.so"
        source.write_text(RECORDER, encoding="ascii")
        build = ["cc", "-O2", "-shared", "-fPIC", "-w", str(source), "-o", str(library)]
        subprocess.run(build, check=True)
        traces = found / "traces"
        traces.mkdir()
        told = {"MALLOC_TRACE_DIR": str(traces), "MALLOC_TRACE_CALLS": calls}
        subprocess.run(argv, check=True, env={**os.environ, **told, "LD_PRELOAD": str(library)})
        largest = max(map(entries_of, traces.iterdir()), key=len)
    write(Path(out), places_of(largest))


def entries_of(path: Path) -> np.ndarray:
    """What one process has noted."""
    entries = np.fromfile(path, ENTRY)
    return entries[entries["call"] > 0]


def places_of(entries: np.ndarray) -> Trace:
    """The trace: addresses become places, the lowest free one first."""
    at: dict[int, int] = {}
    free: list[int] = []
    calls, places, sizes = [], [], []
    most = 0
    for call, block, before, size in entries.tolist():
        kind = call - 1
        old = block if kind == FREE else before
        place = at.pop(old, None) if old else None
        if kind == FREE and place is None:
            continue
        if kind == REALLOC and place is None:
            kind = MALLOC
        if place is None:
            place = heapq.heappop(free) if free else most
            most = max(most, place + 1)
        if kind == FREE:
            heapq.heappush(free, place)
        else:
            at[block] = place
        calls.append(kind)
        places.append(place)
        sizes.append(size)
    assert {*calls} <= {MALLOC, FREE, REALLOC, CALLOC}
    return Trace(np.array(calls, np.uint8), np.array(places, np.uint32), np.array(sizes, np.uint32))


if __name__ == "__main__":
    main(sys.argv[1:])
