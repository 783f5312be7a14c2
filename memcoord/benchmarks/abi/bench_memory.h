/* bench_memory.h: compiled loops of `memcoord bench grant`: the work that is timed.
 *
 * Owns:  the loops behind the rows of malloc and of our own allocator, sample by sample.
 * Rules: one sample is the time of `ops` operations, because a single warm one is shorter than the
 *        clock. Both sides of a ratio take the same `ops`. Loops that recycle touch a cache line
 *        that rotates with the operation, so that no side suffers from pages that all fall into
 *        one set of the L1 cache. Loops on fresh memory touch the first byte, which in a block of
 *        malloc is sure to lie in a page of its own. Memory that a row holds is given back outside
 *        its samples.
 * Each returns 0 or a negative enum mc_status; samples are nanoseconds, not divided by ops.
 */
#ifndef MC_BENCH_MEMORY_H
#define MC_BENCH_MEMORY_H

#include "guest.h"

/* cdef-begin */
#define MCB_BATCH_FRAMES 64

/* The floor: the same loop and the same two clock reads around nothing. */
int mcb_empty(uint64_t *samples, uint32_t count, uint32_t ops);

/* malloc(bytes), touch one byte, free: the allocator recycles one block. */
int mcb_malloc_warm(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes);
/* malloc(bytes), touch every page; all blocks of the call are held to its end, then freed and the
 * heap trimmed, so that the next call begins on fresh pages again. *faults: the page faults the
 * kernel counted inside the samples, which prove it. */
int mcb_malloc_fresh(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes,
                     uint64_t *faults);

/* alloc, touch one byte, free, of memory the slot holds. */
int mcb_grant_local(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint32_t ops);
/* alloc_many(64), touch one byte of each, free_many(64); one sample per batch. */
int mcb_grant_batch(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint8_t *touched);
/* One sample: `ops` (at most 512) times alloc and first touch, held. `touched` has a byte per frame
 * of the domain; *recycled counts frames marked before, which make the sample worthless. */
int mcb_grant_fresh(struct mc_guest *guest, int slot, uint64_t *sample, uint32_t ops,
                    uint8_t *touched, uint32_t *recycled);
/* Mark the row the slot holds: a loop that recycles has touched some of it. */
void mcb_mark_slot(const struct mc_guest *guest, int slot, uint8_t *touched);
/* Take and hold frames, at most `limit`, until an area's worth in sequence had no mark. Then no
 * free frame has been touched before, and samples of first touches can follow. Returns how many. */
int mcb_hold_touched(struct mc_guest *guest, int slot, uint32_t limit, uint8_t *touched);

/* Areas that are whole, free, backed and mapped: credit that an allocation meets. */
int mcb_credit_areas(const struct mc_guest *guest);

/* One sample: GROW one area on the ring, take a whole area, touch its 512 frames; held.
 * *path: enum mc_path of the grant. */
int mcb_grant_area(struct mc_guest *guest, int slot, uint64_t *sample, int *path);
/* Donor: take and touch every area there is (at most `limit`), then free them. Returns how many. */
int mcb_touch_and_free(struct mc_guest *guest, int slot, uint32_t limit);

/* One sample each: populate 2 MiB of a memfd, then map them through a second mapping. */
int mcb_populate(uint64_t *write_sample, uint64_t *read_sample);
/* cdef-end */

#endif
