/* search.h: finding memory in the shared structure, one area at a time.
 *
 * Owns:  how a row for a slot, a run inside a row, whole rows and whole areas are claimed, prepared
 *        and, when that fails, given back; and the order in which areas are tried. Private to
 *        frames.c.
 * Rules: a try changes nothing unless it succeeds. Frames are packed: a search stays in the area of
 *        the slot's cursor until that has nothing left, so that whole areas stay free for the
 *        hypervisor to take. One search looks at each area at most twice.
 */
#ifndef MC_SEARCH_H
#define MC_SEARCH_H

#include "claims.h"

/* What a try at one area answers, besides a frame (or 0): look on, or prepare() failed there. */
#define NOT_HERE MC_ENOMEM
#define NOT_READY MC_ESTATE

/* Look at `area` for a block; evicted areas only if asked. */
typedef int64_t (*try_fn)(struct mc_frames *frames, struct mc_slot *slot, uint32_t area, int size,
                          int evicted);

static inline uint64_t slot_free(const struct mc_slot *slot)
{
    return atomic_load_explicit(&slot->free, memory_order_relaxed);
}

static inline void slot_set_free(struct mc_slot *slot, uint64_t bits)
{
    atomic_store_explicit(&slot->free, bits, memory_order_release);
}

static inline uint32_t slot_row(const struct mc_slot *slot)
{
    return atomic_load_explicit(&slot->row, memory_order_relaxed);
}

static inline void slot_hold(struct mc_slot *slot, uint32_t row, uint64_t bits)
{
    atomic_store_explicit(&slot->row, row, memory_order_relaxed);
    slot_set_free(slot, bits);
}

static int prepare(struct mc_frames *frames, struct mc_slot *own, uint32_t area, uint32_t word)
{
    if (frames->prepare == NULL)
        return MC_OK;
    int status = frames->prepare(frames->prepare_context, area, word);
    if (status < 0)
        return NOT_READY;
    own->prepares += status > 0 || (word & MC_AREA_EVICTED);
    return MC_OK;
}

/* Into the slot: up to a row of single frames, from the emptiest row. The slot must be empty. */
static int64_t try_refill(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int size,
                          int evicted)
{
    uint32_t word;
    uint32_t claimed = mc_claim(frames, area, 1, MC_ROW_FRAMES, &word);
    (void)size, (void)evicted;
    if (claimed == 0)
        return NOT_HERE;
    for (int tries = 0; tries < MC_TAKE_TRIES_MAX; tries++) {
        uint32_t row = 0, most = 0;
        uint64_t bits = 0;
        for (uint32_t k = 0; k < MC_AREA_ROWS && most < MC_ROW_FRAMES; k++) {
            uint64_t seen = mc_row(frames, area * MC_AREA_ROWS + k);
            uint32_t zeros = (uint32_t)__builtin_popcountll(~seen);
            if (zeros > most)
                most = zeros, bits = ~seen, row = area * MC_AREA_ROWS + k;
        }
        if (most == 0)
            break;
        uint64_t before = ~bits;
        for (; most > claimed; most--)      /* never more than was claimed */
            bits &= bits - 1;
        if (!mc_row_swap(frames, row, before, before | bits))
            continue;
        if (most < claimed)
            mc_unclaim(frames, area, claimed - most);
        if (prepare(frames, own, area, word) < 0) {
            mc_row_give(frames, row, bits);
            return NOT_READY;
        }
        slot_hold(own, row, bits);
        own->refills++;
        return 0;
    }
    mc_unclaim(frames, area, claimed);
    return NOT_HERE;
}

/* Orders 1..6: an aligned run inside one row. */
static int64_t try_run(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int order,
                       int evicted)
{
    uint32_t word, count = 1u << order;
    (void)evicted;
    if (mc_claim(frames, area, count, count, &word) == 0)
        return NOT_HERE;
    for (uint32_t k = 0; k < MC_AREA_ROWS; k++) {
        uint32_t row = area * MC_AREA_ROWS + k;
        for (int tries = 0; tries < MC_TAKE_TRIES_MAX; tries++) {
            uint64_t seen = mc_row(frames, row);
            uint64_t starts = mc_run_starts(~seen, order);
            if (starts == 0)
                break;
            int bit = __builtin_ctzll(starts);
            uint64_t bits = mc_run_mask(order) << bit;
            if (!mc_row_swap(frames, row, seen, seen | bits))
                continue;
            if (prepare(frames, own, area, word) < 0) {
                mc_row_give(frames, row, bits);
                return NOT_READY;
            }
            return (int64_t)row * MC_ROW_FRAMES + bit;
        }
    }
    mc_unclaim(frames, area, count);
    return NOT_HERE;
}

static void clear_rows(struct mc_frames *frames, uint32_t row, uint32_t count)
{
    for (uint32_t k = 0; k < count; k++)
        __atomic_store_n(&frames->rows[row + k], 0, __ATOMIC_RELEASE);
}

/* Orders 7 and 8: two or four whole rows. */
static int64_t try_rows(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int order,
                        int evicted)
{
    uint32_t word, count = 1u << order, wanted = count / MC_ROW_FRAMES;
    (void)evicted;
    if (mc_claim(frames, area, count, count, &word) == 0)
        return NOT_HERE;
    for (uint32_t k = 0; k < MC_AREA_ROWS; k += wanted) {
        uint32_t row = area * MC_AREA_ROWS + k, got = 0;
        while (got < wanted && mc_row_swap(frames, row + got, 0, MC_ROW_FULL))
            got++;
        if (got == wanted && prepare(frames, own, area, word) == MC_OK)
            return (int64_t)row * MC_ROW_FRAMES;
        clear_rows(frames, row, got);
        if (got < wanted)
            continue;
        mc_unclaim(frames, area, count);
        return NOT_READY;
    }
    mc_unclaim(frames, area, count);
    return NOT_HERE;
}

static int areas_wanted(const struct mc_frames *frames, uint32_t area, uint32_t count, int evicted)
{
    if (area % MC_TREE_AREAS + count > MC_TREE_AREAS || area + count > frames->area_count)
        return 0;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t word = mc_word(frames, area + k);
        if (!mc_word_whole(word) || (!evicted && (word & MC_AREA_EVICTED)))
            return 0;
    }
    return 1;
}

/* Order 9 and runs: `count` consecutive whole areas of one tree. */
static int64_t try_areas(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int count,
                         int evicted)
{
    uint32_t wanted = (uint32_t)count, total = wanted * MC_AREA_FRAMES, got = 0;
    uint32_t words[MC_TREE_AREAS];
    if (!areas_wanted(frames, area, wanted, evicted)
        || mc_tree_take(frames, area, total, total) == 0)
        return NOT_HERE;
    for (; got < wanted; got++) {
        uint32_t seen = mc_word(frames, area + got);
        words[got] = seen - MC_AREA_FRAMES + MC_AREA_HUGE;
        if (!mc_word_whole(seen) || !mc_word_swap(frames, area + got, &seen, words[got]))
            break;
    }
    int64_t result = got < wanted ? NOT_HERE : (int64_t)area * MC_AREA_FRAMES;
    for (uint32_t k = 0; k < wanted && result >= 0; k++)
        if (prepare(frames, own, area + k, words[k]) < 0)
            result = NOT_READY;
    if (result >= 0)
        return result;
    while (got > 0)
        mc_area_unhuge(frames, area + --got);
    mc_tree_give(frames, area, total);
    return result;
}

/* Try areas from the slot's cursor, all round; first those with backing, then any. */
static int64_t search(struct mc_frames *frames, struct mc_slot *own, try_fn try, int size,
                      uint32_t least)
{
    uint32_t count = frames->area_count;
    uint32_t here = least < MC_AREA_FRAMES ? least : MC_AREA_FRAMES;
    int unready = 0;
    for (int evicted = 0; evicted <= 1; evicted++) {
        uint32_t area = own->cursor < count ? own->cursor : 0;
        for (uint32_t seen = 0; seen < count && unready < MC_PREPARE_TRIES_MAX;) {
            uint32_t tree = area / MC_TREE_AREAS, step = 1;
            uint32_t word = mc_word(frames, area);
            if (atomic_load_explicit(&frames->trees[tree].free_frames, memory_order_relaxed)
                < least) {
                step = MC_TREE_AREAS - area % MC_TREE_AREAS;
                step = step < count - area ? step : count - area;
            } else if ((word & MC_AREA_FREE_MASK) >= here
                       && (evicted || !(word & MC_AREA_EVICTED))) {
                int64_t result = try(frames, own, area, size, evicted);
                if (result >= 0) {
                    own->cursor = area;
                    return result;
                }
                unready += result == NOT_READY;
            }
            seen += step;
            area = area + step < count ? area + step : 0;
        }
    }
    return MC_ENOMEM;
}

#endif
