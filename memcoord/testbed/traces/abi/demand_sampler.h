/* demand_sampler.h: the memory that a program and all its children hold, sampled over time.
 *
 * Owns:  reading /proc of a tree of processes, at a fixed period. Anonymous memory is what statm
 *        says beyond files and shared memory; shared memory is RssShmem of status, which costs five
 *        times as much to make and is read every `shared_every` samples. Memory that two processes
 *        of the tree share is counted for each.
 * Rules: on a thread of its own until `stop`. The tree is `root`, whatever descends from it, and
 *        whatever is of its session. New processes are looked for every `look_every` samples: one
 *        that lives shorter may be missed. A row is written when a number has changed. The clock is
 *        CLOCK_MONOTONIC; a sample that comes a period late is counted and none is made up for it.
 * Called by: memcoord/testbed/traces/sampling.py.
 */
#ifndef MC_DEMAND_SAMPLER_H
#define MC_DEMAND_SAMPLER_H

#include "layout.h"

/* cdef-begin */
#define MC_SAMPLED_PROCESSES_MAX 256

struct mc_demand_row {
    uint64_t t_ns;              /* since the first sample */
    uint64_t since_ns;          /* since the sample before */
    uint64_t anonymous_kib;
    uint64_t shared_kib;
    uint64_t processes;         /* that are counted in it */
};

struct mc_demand_sampling {
    int32_t root;               /* a child of the caller, which leads a session */
    uint32_t period_ns;
    uint32_t look_every;
    uint32_t shared_every;
    struct mc_demand_row *rows;
    uint64_t room;              /* rows that fit; then sampling ends */
    uint32_t stop;              /* set by anybody */
    uint32_t is_full;           /* out: 1 when `rows` ended it */
    uint64_t count;             /* out: rows */
    uint64_t samples;           /* out: from here on too */
    uint64_t late;
    uint64_t elapsed_ns;
    uint64_t cpu_ns;            /* of the sampling thread */
    uint32_t processes;         /* seen in all */
    uint32_t left_out;          /* beyond MC_SAMPLED_PROCESSES_MAX at a time */
};

/* Sample until stopped. 0, or MC_EKERNEL where /proc cannot be read. */
int mc_demand_sample(struct mc_demand_sampling *sampling);
/* cdef-end */

#endif
