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

/* alloc_many(64), touch one byte of each, free_many(64); one sample per batch. */
int mcb_grant_batch(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint8_t *touched);
/* One malloc of as many pages, touch one byte of each, free. */
int mcb_malloc_batch(uint64_t *samples, uint32_t count);
/* `ops` times alloc and first touch a sample, held; count * ops at most 512. `touched` has a byte
 * per frame of the domain; *recycled counts frames marked before, which make the samples
 * worthless. */
int mcb_grant_fresh(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint32_t ops, uint8_t *touched, uint32_t *recycled);
/* Mark the row the slot holds: a loop that recycles has touched some of it. */
void mcb_mark_slot(const struct mc_guest *guest, int slot, uint8_t *touched);
/* Take and hold frames, at most `limit`, until an area's worth in sequence had no mark. Then no
 * free frame has been touched before, and samples of first touches can follow. Returns how many. */
int mcb_hold_touched(struct mc_guest *guest, int slot, uint32_t limit, uint8_t *touched);

/* Areas that are whole, free, backed and mapped: credit that an allocation meets. */
int mcb_credit_areas(const struct mc_guest *guest);

struct mcb_growth {
    uint32_t count;
    uint64_t pause_ns;          /* before each; 0: back to back */
};

/* A sample each: GROW one area on the ring, take a whole area, touch its 512 frames; held. paths[]:
 * enum mc_path of each. How many were granted; fewer when one was refused, whose time is the sample
 * after the last that is counted. */
int64_t mcb_grant_areas(struct mc_guest *guest, int slot, const struct mcb_growth *how,
                        uint64_t *samples, int *paths);
/* Take and touch up to `limit` areas, asking for more if `asks`, and hold them: how many. */
int mcb_hold_areas(struct mc_guest *guest, int slot, uint32_t limit, int64_t *firsts, int asks);
int mcb_free_areas(struct mc_guest *guest, int slot, const int64_t *firsts, uint32_t count);
/* Be busy: touch these areas, rest, and again, until *stop. How often. */
int64_t mcb_use_areas(struct mc_guest *guest, const int64_t *firsts, uint32_t count,
                      uint64_t rest_ns, const uint32_t *stop);
/* Free every frame and every single area that is handed out, whoever holds it. */
int mcb_free_held(struct mc_guest *guest, int slot);
/* Frames of the domain that have pages, by the kernel's word (mincore). */
int64_t mcb_resident(const struct mc_guest *guest);
/* Give every free area back to the host: how many. */
int mcb_give_back(struct mc_guest *guest, int slot);

/* One sample each, of 2 MiB of a memfd in small pages: have the kernel give them, map them through
 * a second mapping, have the kernel take them back. What the kernel alone needs. */
int mcb_populate(uint64_t *write_sample, uint64_t *read_sample, uint64_t *punch_sample);
/* cdef-end */

#endif
