/* search.c: see search.h. Each try_* looks at one area. */
#include "search.h"

/* The failures of a try at one area: there is nothing here, or prepare() failed. */
#define NOT_HERE MC_ENOMEM
#define NOT_READY MC_ESTATE

/* Look at `area` for `size` (an order, or areas); take an evicted area only when `evicted` is 1. */
typedef int64_t (*try_fn)(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int size,
                          int evicted);

static int area_prepare(struct mc_frames *frames, struct mc_slot *own, uint32_t area,
                        union mc_area_word word)
{
    if (frames->prepare == NULL)
        return MC_OK;
    uint64_t held = mc_slot_free(own);
    int status = frames->prepare(frames->prepare_context, area, word.bits);
    MC_CHECK(status <= 1, "area %u: prepare answered %d", area, status);
    MC_CHECK(mc_slot_free(own) == held, "area %u: prepare used the slot of the allocation: %#lx, "
             "was %#lx", area, mc_slot_free(own), held);
    if (status < 0)
        return NOT_READY;
    own->prepares += status > 0 || word.evicted;
    return MC_OK;
}

/* The row of an area with the fewest frames taken: its zero bits, 0 when it has none. */
static uint64_t emptiest_row(const struct mc_frames *frames, uint32_t area, uint32_t *row)
{
    uint32_t most = 0;
    uint64_t bits = 0;
    for (uint32_t k = 0; k < MC_AREA_ROWS && most < MC_ROW_FRAMES; k++) {
        uint64_t zeros = ~mc_row(frames, area * MC_AREA_ROWS + k);
        uint32_t count = (uint32_t)__builtin_popcountll(zeros);
        if (count > most)
            most = count, bits = zeros, *row = area * MC_AREA_ROWS + k;
    }
    return bits;
}

/* The frames of a row are handed out next, one after the other: have their first lines fetched
 * together, for writing. Memory that was granted ahead of need is in no cache of this CPU. */
static void row_warm(const struct mc_frames *frames, uint32_t row, uint64_t bits)
{
    if (frames->ram == NULL)
        return;
    for (; bits != 0; bits &= bits - 1) {
        uint64_t frame = (uint64_t)row * MC_ROW_FRAMES + (uint64_t)__builtin_ctzll(bits);
        __builtin_prefetch(frames->ram + (frame << MC_FRAME_SHIFT), 1);
    }
}

static int64_t try_refill(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int size,
                          int evicted)
{
    union mc_area_word word;
    uint32_t claimed = mc_claim(frames, area, 1, MC_ROW_FRAMES, &word);
    (void)size, (void)evicted;
    if (claimed == 0)
        return NOT_HERE;
    for (int tries = 0; tries < MC_TAKE_TRIES_MAX; tries++) {
        uint32_t row = 0;
        uint64_t bits = emptiest_row(frames, area, &row), before = ~bits;
        uint32_t most = (uint32_t)__builtin_popcountll(bits);
        if (most == 0)
            break;
        for (; most > claimed; most--)      /* never more than was claimed */
            bits &= bits - 1;
        if (!mc_row_swap(frames, row, before, before | bits))
            continue;
        if (most < claimed)
            mc_area_give(frames, area, claimed - most);
        if (area_prepare(frames, own, area, word) < 0) {
            mc_row_give(frames, row, bits);
            return NOT_READY;
        }
        mc_slot_hold(own, row, bits);
        row_warm(frames, row, bits);
        own->refills++;
        return 0;
    }
    mc_area_give(frames, area, claimed);
    return NOT_HERE;
}

/* Orders 1 to 6: an aligned run inside one row. */
static int64_t try_run(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int order,
                       int evicted)
{
    union mc_area_word word;
    uint32_t count = 1u << order;
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
            if (area_prepare(frames, own, area, word) < 0) {
                mc_row_give(frames, row, bits);
                return NOT_READY;
            }
            return (int64_t)row * MC_ROW_FRAMES + bit;
        }
    }
    mc_area_give(frames, area, count);
    return NOT_HERE;
}

/* Orders 7 and 8: two or four whole rows. */
static int64_t try_rows(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int order,
                        int evicted)
{
    union mc_area_word word;
    uint32_t count = 1u << order, wanted = count / MC_ROW_FRAMES;
    (void)evicted;
    if (mc_claim(frames, area, count, count, &word) == 0)
        return NOT_HERE;
    for (uint32_t k = 0; k < MC_AREA_ROWS; k += wanted) {
        uint32_t row = area * MC_AREA_ROWS + k, got = 0;
        while (got < wanted && mc_row_swap(frames, row + got, 0, MC_ROW_FULL))
            got++;
        if (got == wanted && area_prepare(frames, own, area, word) == MC_OK)
            return (int64_t)row * MC_ROW_FRAMES;
        mc_rows_clear(frames, row, got);
        if (got < wanted)
            continue;
        mc_area_give(frames, area, count);
        return NOT_READY;
    }
    mc_area_give(frames, area, count);
    return NOT_HERE;
}

/* 1 when `count` areas from `area` on lie in one tree and their words say that all are free. */
static int areas_are_whole(const struct mc_frames *frames, uint32_t area, uint32_t count,
                           int evicted)
{
    if (area % MC_TREE_AREAS + count > MC_TREE_AREAS || area + count > frames->area_count)
        return 0;
    for (uint32_t k = 0; k < count; k++) {
        union mc_area_word word = mc_word(frames, area + k);
        if (!mc_word_is_whole(word) || (!evicted && word.evicted))
            return 0;
    }
    return 1;
}

/* `count` consecutive whole areas of one tree. */
static int64_t try_areas(struct mc_frames *frames, struct mc_slot *own, uint32_t area, int count,
                         int evicted)
{
    uint32_t wanted = (uint32_t)count, total = wanted * MC_AREA_FRAMES, got = 0;
    union mc_area_word words[MC_TREE_AREAS];
    if (!areas_are_whole(frames, area, wanted, evicted)
        || mc_tree_take(frames, area, total, total) == 0)
        return NOT_HERE;
    for (; got < wanted; got++) {
        union mc_area_word seen = mc_word(frames, area + got);
        words[got] = mc_word_claimed(seen);
        if (!mc_word_is_whole(seen) || !mc_word_swap(frames, area + got, &seen, words[got]))
            break;
    }
    int64_t result = got < wanted ? NOT_HERE : (int64_t)area * MC_AREA_FRAMES;
    for (uint32_t k = 0; k < wanted && result >= 0; k++)
        if (area_prepare(frames, own, area + k, words[k]) < 0)
            result = NOT_READY;
    if (result >= 0)
        return result;
    while (got > 0)
        mc_word_unclaim(frames, area + --got);
    mc_tree_give(frames, area, total);
    return result;
}

/* Try areas from the slot's cursor, all round. `least` frames must be free in a tree, and, up to a
 * whole area, in an area, for a try to be worth it. */
static inline __attribute__((always_inline)) int64_t search(struct mc_frames *frames,
                                                            struct mc_slot *own, try_fn try,
                                                            int size, uint32_t least)
{
    uint32_t count = frames->area_count;
    uint32_t here = least < MC_AREA_FRAMES ? least : MC_AREA_FRAMES;
    int unready = 0;
    MC_CHECK(least > 0 && least <= MC_TREE_AREAS * MC_AREA_FRAMES, "a search for %u frames", least);
    MC_CHECK(own >= frames->slots && own < frames->slots + MC_SLOTS, "a slot at %p, slots at %p",
             (void *)own, (void *)frames->slots);
    MC_CHECK(count > 0 && count <= frames->tree_count * MC_TREE_AREAS, "%u areas in %u trees",
             count, frames->tree_count);
    for (int evicted = 0; evicted <= 1; evicted++) {
        uint32_t area = own->cursor < count ? own->cursor : 0;
        for (uint32_t seen = 0; seen < count && unready < MC_PREPARE_TRIES_MAX;) {
            uint32_t tree = area / MC_TREE_AREAS, step = 1;
            union mc_area_word word = mc_word(frames, area);
            if (atomic_load_explicit(&frames->trees[tree].free_frames, memory_order_relaxed)
                < least) {
                step = MC_TREE_AREAS - area % MC_TREE_AREAS;
                step = step < count - area ? step : count - area;
            } else if (word.free >= here && (evicted || !word.evicted)) {
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

int64_t mc_search_refill(struct mc_frames *frames, struct mc_slot *own)
{
    MC_CHECK(mc_slot_free(own) == 0, "refill of a slot that holds %#lx", mc_slot_free(own));
    return search(frames, own, try_refill, 0, 1);
}

int64_t mc_search_block(struct mc_frames *frames, struct mc_slot *own, int order)
{
    MC_CHECK(order >= 1 && order <= MC_MAX_ROW_ORDER, "order %d inside an area", order);
    return search(frames, own, order <= MC_ROW_ORDER ? try_run : try_rows, order, 1u << order);
}

int64_t mc_search_areas(struct mc_frames *frames, struct mc_slot *own, uint32_t count)
{
    MC_CHECK(count >= 1 && count <= MC_TREE_AREAS, "a run of %u areas", count);
    return search(frames, own, try_areas, (int)count, count * MC_AREA_FRAMES);
}
