/* bench_replay.c: see bench_replay.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench_replay.h"

#include "bell.h"
#include "layout.h"

#include <stdlib.h>
#include <sys/mman.h>

static void touch(uint8_t *block, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += MC_FRAME_BYTES)
        ((volatile uint8_t *)block)[at] = 1;
}

/* One call; the block that is in the place afterwards. 0, or MC_ENOMEM. */
static int call(enum mcb_call what, void **place, uint64_t bytes)
{
    if (what == MCB_FREE) {
        free(*place);
        *place = NULL;
        return MC_OK;
    }
    if (what == MCB_REALLOC)
        *place = realloc(*place, bytes);
    else
        *place = what == MCB_CALLOC ? calloc(1, bytes) : malloc(bytes);
    if (!*place)
        return MC_ENOMEM;
    touch(*place, bytes);
    return MC_OK;
}

static int replay_copy(const struct mcb_trace *trace, void **held, uint32_t *samples,
                       uint64_t *sum_ns)
{
    for (uint64_t k = 0; k < trace->count; k++) {
        if (trace->places[k] >= trace->held || trace->calls[k] > MCB_CALLOC)
            return MC_EINDEX;
        uint64_t bytes = trace->sizes[k] ? trace->sizes[k] : 1;
        uint64_t start_ns = mc_clock_ns();
        int status = call((enum mcb_call)trace->calls[k], &held[trace->places[k]], bytes);
        uint64_t took_ns = mc_clock_ns() - start_ns;
        if (status < 0)
            return status;
        samples[k] = took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX;
        *sum_ns += took_ns;
    }
    return MC_OK;
}

int mcb_replay(const struct mcb_trace *trace, uint32_t *samples, uint64_t *sum_ns)
{
    uint64_t bytes = trace->copies * trace->held * sizeof(void *);
    /* Not the allocator's: its blocks alone are measured. */
    void **held = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int status = held == MAP_FAILED ? MC_ENOMEM : MC_OK;
    *sum_ns = 0;
    for (uint64_t copy = 0; copy < trace->copies && status >= 0; copy++)
        status = replay_copy(trace, held + copy * trace->held, samples + copy * trace->count,
                             sum_ns);
    return status;      /* the blocks go with the process */
}
