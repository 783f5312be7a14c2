/* latency.h: times counted in buckets, so that a running system tells what a grant costs.
 *
 * Owns:  which bucket a time is counted in: four to each power of two, from 2^MC_LATENCY_LOW_SHIFT
 *        ns on. The first bucket has all that is shorter, the last all that is longer.
 * Rules: a counter has any number of writers, who add to it and do nothing else, and no order among
 *        them. An allocation that asks nobody is never timed: its clock would cost more than it.
 * Who may use it: whoever waits for a grant, or gives it. Python reads the buckets with
 * hypervisor/public/latency.py.
 */
#ifndef MC_LATENCY_H
#define MC_LATENCY_H

#include "ops.h"

static inline uint32_t mc_latency_bucket(uint64_t ns)
{
    uint32_t power, bucket;
    if (ns < 1ull << MC_LATENCY_LOW_SHIFT)
        return 0;
    power = 63 - (uint32_t)__builtin_clzll(ns);
    bucket = (power - MC_LATENCY_LOW_SHIFT) * 4 + (uint32_t)(ns >> (power - 2) & 3);
    return bucket < MC_LATENCY_BUCKETS ? bucket : MC_LATENCY_BUCKETS - 1;
}

/* Count a grant by `path` (enum mc_path) that took so long. Of a path that nobody waits for, and of
 * a number that is no path, nothing. */
static inline void mc_latency_note(uint32_t *counts, uint64_t path, uint64_t ns)
{
    if (path >= MC_PATH_RING && path <= MC_PATH_TRANSFER)
        __atomic_fetch_add(&counts[(path - MC_PATH_RING) * MC_LATENCY_BUCKETS +
                                   mc_latency_bucket(ns)], 1, __ATOMIC_RELAXED);
}

#endif
