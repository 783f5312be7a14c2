/* claims.h: the words a claim goes through, and how each is given back.
 *
 * Owns:  every read and change of trees, rows, heads and slots, and the claims that go through an
 *        area word (frames.h). Private to frames.c, search.c, layout.c and reclaim.c, and to the
 *        guest's guest.c, mapping.c and movable.c; Python sees nothing of it.
 * Rules: take in the order tree, area, row. Give in the order row, area, tree. Then a counter never
 *        promises a frame that the level below does not have. A take that loses its races
 *        MC_TAKE_TRIES_MAX times answers that there is nothing, and the caller looks elsewhere. A
 *        give is one addition and cannot fail.
 *        The functions that a single frame goes through have no check, and a check here looks at
 *        arguments only, or at rows: the hypervisor's half uses some of these functions too, and a
 *        guest can write every word.
 */
#ifndef MC_CLAIMS_H
#define MC_CLAIMS_H

#include "check.h"
#include "frames.h"

#define MC_TAKE_TRIES_MAX 64
#define MC_ROW_FULL UINT64_MAX
#define MC_NO_ROW UINT32_MAX
#define MC_ROW_ORDER 6          /* a row is a block of this order */
#define MC_HEAD_SINGLE 1

/* ---- rows, heads and slots ---- */

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

static inline void mc_head_set(struct mc_frames *frames, uint64_t frame, uint8_t head)
{
    __atomic_store_n(&frames->heads[frame], head, __ATOMIC_RELAXED);
}

static inline int mc_head_taken(uint8_t head)
{
    return head != MC_HEAD_NEVER && head != MC_HEAD_FREED;
}

static inline uint64_t mc_frame_limit(const struct mc_frames *frames)
{
    return (uint64_t)frames->area_count * MC_AREA_FRAMES;
}

static inline uint64_t mc_slot_free(const struct mc_slot *slot)
{
    return atomic_load_explicit(&slot->free, memory_order_relaxed);
}

static inline void mc_slot_set_free(struct mc_slot *slot, uint64_t bits)
{
    atomic_store_explicit(&slot->free, bits, memory_order_release);
}

static inline uint32_t mc_slot_row(const struct mc_slot *slot)
{
    return atomic_load_explicit(&slot->row, memory_order_relaxed);
}

static inline void mc_slot_hold(struct mc_slot *slot, uint32_t row, uint64_t bits)
{
    atomic_store_explicit(&slot->row, row, memory_order_relaxed);
    mc_slot_set_free(slot, bits);
}

/* Hand out a single frame of the slot: MC_ENOMEM when it holds none, and for other blocks. */
static inline int64_t mc_slot_pop(struct mc_frames *frames, int slot, int order)
{
    if (__builtin_expect(order != 0 || (uint32_t)slot >= MC_SLOTS, 0))
        return MC_ENOMEM;
    struct mc_slot *own = &frames->slots[slot];
    uint64_t free = mc_slot_free(own), frame;
    if (__builtin_expect(free == 0, 0))
        return MC_ENOMEM;
    frame = (uint64_t)mc_slot_row(own) * MC_ROW_FRAMES + (uint32_t)__builtin_ctzll(free);
    mc_head_set(frames, frame, MC_HEAD_SINGLE);
    mc_slot_set_free(own, free & (free - 1));
    own->allocs++;
    return (int64_t)frame;
}

/* One bit per frame, for 2^order frames; order 0 to 6. */
static inline uint64_t mc_run_mask(int order)
{
    return MC_ROW_FULL >> (MC_ROW_FRAMES - (1 << order));
}

/* Where in `free` an aligned run of 2^order ones starts; order 0 to 6. */
static inline uint64_t mc_run_starts(uint64_t free, int order)
{
    for (int k = 0; k < order; k++)
        free &= free >> (1 << k);
    return free & (MC_ROW_FULL / mc_run_mask(order));
}

/* ---- claims ---- */

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

/* As mc_tree_take, of one area; *word is the area word that the claim left behind. */
static inline uint32_t mc_area_take(struct mc_frames *frames, uint32_t area, uint32_t least,
                                    uint32_t most, union mc_area_word *word)
{
    union mc_area_word seen = mc_word(frames, area);
    for (int tries = 0; tries < MC_TAKE_TRIES_MAX; tries++) {
        uint32_t taken = seen.free < most ? seen.free : most;
        if (seen.free < least || seen.huge || seen.reclaimed || seen.isolated)
            return 0;
        *word = seen;
        word->bits -= taken;        /* free is the lowest field, and has as many */
        if (mc_word_swap(frames, area, &seen, *word))
            return taken;
    }
    return 0;
}

/* Give claimed frames back to the counters; their bits are clear already. */
static inline void mc_area_give(struct mc_frames *frames, uint32_t area, uint32_t count)
{
    __atomic_fetch_add(&frames->areas[area], count, __ATOMIC_RELEASE);
    mc_tree_give(frames, area, count);
}

/* Take `least` to `most` frames of one area from tree and area; returns how many. */
static inline uint32_t mc_claim(struct mc_frames *frames, uint32_t area, uint32_t least,
                                uint32_t most, union mc_area_word *word)
{
    MC_CHECK(area < frames->area_count, "area %u of %u", area, frames->area_count);
    MC_CHECK(least <= most && most <= MC_AREA_FRAMES, "area %u: claim %u to %u frames", area, least,
             most);
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
    mc_area_give(frames, row / MC_AREA_ROWS, (uint32_t)__builtin_popcountll(seen));
    return seen == bits ? MC_OK : MC_EDOUBLE;
}

/* Clear whole rows of a block; the caller gives the counters. Only the guest writes rows. */
static inline void mc_rows_clear(struct mc_frames *frames, uint32_t row, uint32_t count)
{
    MC_CHECK(row % MC_AREA_ROWS + count <= MC_AREA_ROWS, "%u rows from row %u", count, row);
    for (uint32_t k = 0; k < count; k++) {
        uint64_t seen = __atomic_exchange_n(&frames->rows[row + k], 0, __ATOMIC_ACQ_REL);
        MC_CHECK(seen == MC_ROW_FULL, "row %u of a block has the bits %#lx", row + k, seen);
    }
}

#endif
