/* claims.h: the words a claim goes through, and how each is given back.
 *
 * Owns:  every read-modify-write of trees, areas and rows. Private to frames.c, layout.c and
 *        reclaim.c; nothing here is seen by Python.
 * Rules: take in the order tree, area, row; give in the order row, area, tree. Then a counter never
 *        promises a frame that the level below does not have. A take that loses its races
 *        MC_TAKE_TRIES_MAX times says "none here": the caller looks elsewhere. A give is one
 *        fetch-and-add and cannot fail.
 */
#ifndef MC_CLAIMS_H
#define MC_CLAIMS_H

#include "frames.h"

#define MC_TAKE_TRIES_MAX 64
#define MC_ROW_FULL UINT64_MAX
#define MC_NO_ROW UINT32_MAX

static inline uint32_t mc_word(const struct mc_frames *frames, uint32_t area)
{
    return __atomic_load_n(&frames->areas[area], __ATOMIC_ACQUIRE);
}

static inline int mc_word_swap(struct mc_frames *frames, uint32_t area, uint32_t *seen,
                               uint32_t word)
{
    return __atomic_compare_exchange_n(&frames->areas[area], seen, word, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static inline uint64_t mc_row(const struct mc_frames *frames, uint32_t row)
{
    return __atomic_load_n(&frames->rows[row], __ATOMIC_ACQUIRE);
}

static inline int mc_row_swap(struct mc_frames *frames, uint32_t row, uint64_t seen, uint64_t bits)
{
    return __atomic_compare_exchange_n(&frames->rows[row], &seen, bits, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

static inline uint8_t mc_head(const struct mc_frames *frames, uint64_t frame)
{
    return __atomic_load_n(&frames->heads[frame], __ATOMIC_RELAXED);
}

static inline int mc_head_taken(uint8_t head)
{
    return head != MC_HEAD_NEVER && head != MC_HEAD_FREED;
}

static inline uint64_t mc_frame_limit(const struct mc_frames *frames)
{
    return (uint64_t)frames->area_count * MC_AREA_FRAMES;
}

/* Free, whole, and the guest's to take; evicted or not. */
static inline int mc_word_whole(uint32_t word)
{
    const uint32_t flags = MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_ISOLATED;

    return (word & (MC_AREA_FREE_MASK | flags)) == MC_AREA_FRAMES;
}

/* One bit per frame, for 2^order frames; order 0..6. */
static inline uint64_t mc_run_mask(int order)
{
    return MC_ROW_FULL >> (MC_ROW_FRAMES - (1 << order));
}

/* Where in `free` an aligned run of 2^order ones starts; order 0..6. */
static inline uint64_t mc_run_starts(uint64_t free, int order)
{
    for (int k = 0; k < order; k++)
        free &= free >> (1 << k);
    return free & (MC_ROW_FULL / mc_run_mask(order));
}

/* Take `least` to `most` frames; returns how many, 0 when there are fewer than `least`. */
static inline uint32_t mc_tree_take(struct mc_frames *frames, uint32_t area, uint32_t least,
                                    uint32_t most)
{
    _Atomic uint32_t *word = &frames->trees[area / MC_TREE_AREAS].free_frames;
    uint32_t seen = atomic_load_explicit(word, memory_order_relaxed);
    for (int tries = 0; tries < MC_TAKE_TRIES_MAX && seen >= least; tries++) {
        uint32_t taken = seen < most ? seen : most;
        if (atomic_compare_exchange_weak_explicit(word, &seen, seen - taken, memory_order_acquire,
                                                  memory_order_relaxed))
            return taken;
    }
    return 0;
}

static inline void mc_tree_give(struct mc_frames *frames, uint32_t area, uint32_t count)
{
    atomic_fetch_add_explicit(&frames->trees[area / MC_TREE_AREAS].free_frames, count,
                              memory_order_release);
}

/* As mc_tree_take; *word is the area word the claim left behind. */
static inline uint32_t mc_area_take(struct mc_frames *frames, uint32_t area, uint32_t least,
                                    uint32_t most, uint32_t *word)
{
    uint32_t seen = mc_word(frames, area);
    for (int tries = 0; tries < MC_TAKE_TRIES_MAX; tries++) {
        uint32_t free = seen & MC_AREA_FREE_MASK;
        uint32_t taken = free < most ? free : most;
        if (free < least || (seen & (MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_ISOLATED)))
            return 0;
        *word = seen - taken;
        if (mc_word_swap(frames, area, &seen, *word))
            return taken;
    }
    return 0;
}

/* Give claimed frames back to the counters; their bits are clear already. */
static inline void mc_unclaim(struct mc_frames *frames, uint32_t area, uint32_t count)
{
    __atomic_fetch_add(&frames->areas[area], count, __ATOMIC_RELEASE);
    mc_tree_give(frames, area, count);
}

/* Take `least` to `most` frames of one area from tree and area; returns how many. */
static inline uint32_t mc_claim(struct mc_frames *frames, uint32_t area, uint32_t least,
                                uint32_t most, uint32_t *word)
{
    uint32_t promised = mc_tree_take(frames, area, least, most);
    if (promised == 0)
        return 0;
    uint32_t taken = mc_area_take(frames, area, least, promised, word);
    if (taken < promised)
        mc_tree_give(frames, area, promised - taken);
    return taken;
}

/* Clear bits of a row and credit the counters; 0, or MC_EDOUBLE when some were clear already. */
static inline int mc_row_give(struct mc_frames *frames, uint32_t row, uint64_t bits)
{
    uint64_t seen = __atomic_fetch_and(&frames->rows[row], ~bits, __ATOMIC_ACQ_REL) & bits;
    mc_unclaim(frames, row / MC_AREA_ROWS, (uint32_t)__builtin_popcountll(seen));
    return seen == bits ? MC_OK : MC_EDOUBLE;
}

/* (0, huge) -> (512, not huge) in one addition, so that a concurrent install is not lost. */
static inline void mc_area_unhuge(struct mc_frames *frames, uint32_t area)
{
    __atomic_fetch_sub(&frames->areas[area], MC_AREA_HUGE - MC_AREA_FRAMES, __ATOMIC_RELEASE);
}

#endif
