/* bench_malloc.h: compiled loops of malloc, whichever malloc the process has been started with.
 *
 * Owns:  the rivals of `memcoord bench grant`, and the loops of our own rows of the same shape.
 * Rules: as in bench_memory.h. Blocks that are held between samples lie in arrays which are touched
 *        before the clock starts. One thread records `count` samples; with several, all begin
 *        together and their samples follow each other in the array. `ops` of 1 times single
 *        operations: such a sample contains a read of the clock (mcb_empty shows how long).
 * Each returns 0 or a negative enum mc_status; samples are nanoseconds, not divided by ops.
 */
#ifndef MC_BENCH_MALLOC_H
#define MC_BENCH_MALLOC_H

#include "guest.h"

/* cdef-begin */
#define MCB_THREADS_MAX 8

/* How memory was had. */
struct mcb_cost {
    uint64_t faults;            /* minor faults inside the samples */
    uint64_t cpu_ns;            /* of all threads of the process, first to last sample */
};

/* The loop of recycled memory. `live` blocks are held by each thread. An operation frees one of
 * them, takes another block and touches one byte of each of its pages. */
struct mcb_recycling {
    uint32_t count;             /* samples of each thread */
    uint32_t ops;
    uint32_t live;
    uint32_t threads;
    uint64_t bytes;             /* of a block; of a frame, or of an area */
};

int mcb_malloc_recycled(uint64_t *samples, const struct mcb_recycling *how);
/* The same of frames (order 0) or areas of a domain that holds enough of them. */
int mcb_grant_recycled(struct mc_guest *guest, uint64_t *samples,
                       const struct mcb_recycling *how);

/* malloc(bytes), touch every page; all blocks of the call are held to its end. Then they are freed
 * and the heap trimmed, so that the next call begins on fresh pages again; with `keeps` they are
 * never freed, for an allocator that gives nothing back. cost->faults proves that it was fresh. */
int mcb_malloc_fresh(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes, int keeps,
                     struct mcb_cost *cost);
/* The same from a heap whose pages have all been touched and freed before; glibc is told not to
 * trim meanwhile. */
int mcb_malloc_prefaulted(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes,
                          struct mcb_cost *cost);
/* Have the kernel find, and give back at once, this much memory: in a virtual machine a page that
 * its own host must find first costs several times as much. */
int mcb_warm_memory(uint64_t bytes);
/* CPU time of another process, all threads of it: nanoseconds, or a status. */
int64_t mcb_cpu_of(int pid);
/* cdef-end */

#endif
