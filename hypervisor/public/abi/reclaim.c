/* reclaim.c: the host half. Each transition is one compare-and-swap of the area word.
 *
 * An area that goes away is subtracted from its tree first, and added back when the word refuses;
 * an area that comes is added to its tree last. The guest can corrupt the word of the tree: a take
 * then gives up after MC_TAKE_TRIES_MAX and an addition wraps. Both hurt that guest alone.
 */
#include "reclaim.h"
#include "claims.h"

#include <sched.h>

_Static_assert(MC_TAKE_TRIES_MAX <= MC_RECLAIM_RETRIES_MAX, "one bound for the host half");

#define HOST_WORD(number) {.huge = 1, .reclaimed = 1, .evicted = 1, .generation = (number)}

static int word_is_reclaimed(union mc_area_word word)
{
    return word.free == 0 && word.huge && word.reclaimed;
}

static int word_is_whole_backed(union mc_area_word word)
{
    return mc_word_is_whole(word) && !word.evicted;
}

static int word_is_evicted(union mc_area_word word)
{
    return word.evicted && !word.reclaimed;
}

/* Swap a word that `allows` into `next`; its free and huge fields stay when `keep` is 1. */
static inline int word_transition(struct mc_frames *frames, uint32_t area,
                           int (*allows)(union mc_area_word), int keep, union mc_area_word next)
{
    union mc_area_word seen = mc_word(frames, area);
    MC_CHECK(area / MC_TREE_AREAS < frames->tree_count, "area %u in %u trees", area,
             frames->tree_count);
    MC_CHECK(!keep || (next.free == 0 && !next.huge), "area %u: %#x has fields that are to stay",
             area, next.bits);
    MC_CHECK(next.reclaimed == (next.huge && next.evicted), "area %u: %#x is no state of an area",
             area, next.bits);
    for (int tries = 0; tries < MC_RECLAIM_RETRIES_MAX && allows(seen); tries++) {
        if (keep)
            next.free = seen.free, next.huge = seen.huge;
        if (mc_word_swap(frames, area, &seen, next))
            return MC_OK;
    }
    return MC_ESTATE;
}

/* As word_transition, for an area that comes to the guest: its tree counts it last. */
static int area_give(struct mc_frames *frames, uint32_t area, union mc_area_word next)
{
    MC_CHECK(next.free == MC_AREA_FRAMES && !next.reclaimed, "area %u comes as %#x", area,
             next.bits);
    if (area >= frames->area_count)
        return MC_EINDEX;
    int status = word_transition(frames, area, word_is_reclaimed, 0, next);
    if (status == MC_OK)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
    return status;
}

int mc_area_hard_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word host = HOST_WORD(generation);
    MC_CHECK(frames->area_count <= frames->tree_count * MC_TREE_AREAS, "%u areas in %u trees",
             frames->area_count, frames->tree_count);
    if (area >= frames->area_count)
        return MC_EINDEX;
    if (!mc_word_is_whole(mc_word(frames, area))
        || mc_tree_take(frames, area, MC_AREA_FRAMES, MC_AREA_FRAMES) == 0)
        return MC_ESTATE;
    int status = word_transition(frames, area, mc_word_is_whole, 0, host);
    if (status < 0)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
    return status;
}

int mc_area_soft_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word soft = {
        .free = MC_AREA_FRAMES, .evicted = 1, .generation = generation};
    if (area >= frames->area_count)
        return MC_EINDEX;
    return word_transition(frames, area, word_is_whole_backed, 0, soft);
}

int mc_area_return(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word soft = {
        .free = MC_AREA_FRAMES, .evicted = 1, .generation = generation};
    return area_give(frames, area, soft);
}

int mc_area_grant(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word backed = {.free = MC_AREA_FRAMES, .generation = generation};
    return area_give(frames, area, backed);
}

int mc_area_install(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word backed = {.generation = generation};
    if (area >= frames->area_count)
        return MC_EINDEX;
    return word_transition(frames, area, word_is_evicted, 1, backed);
}

int mc_area_surrender(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const union mc_area_word host = HOST_WORD(generation);
    if (area >= frames->area_count)
        return MC_EINDEX;
    return word_transition(frames, area, mc_word_is_claimed, 0, host);
}

/* What the areas of a tree have more than its counter, or -1 when the counter changed meanwhile. A
 * guest that claims or gives frames right now makes it more, never less: it takes from the counter
 * first, and gives to it last. */
static int64_t tree_lack(const struct mc_frames *frames, uint32_t tree)
{
    uint32_t counted = atomic_load(&frames->trees[tree].free_frames);
    int64_t lack = -(int64_t)counted;
    for (uint32_t k = 0, area = tree * MC_TREE_AREAS; k < MC_TREE_AREAS; k++, area++)
        lack += area < frames->area_count ? mc_word(frames, area).free : 0;
    return atomic_load(&frames->trees[tree].free_frames) == counted && lack >= 0 ? lack : -1;
}

/* The guest goes on meanwhile. One look that shows less than an area is enough to know that none is
 * missing. */
void mc_tree_mend(struct mc_frames *frames, uint32_t area)
{
    uint32_t tree = area / MC_TREE_AREAS;
    int lacking = 0;
    MC_CHECK(tree < frames->tree_count, "area %u in %u trees", area, frames->tree_count);
    for (int looks = 0; looks < MC_MEND_LOOKS_MAX; looks++) {
        int64_t lack = tree_lack(frames, tree);
        if (lack >= 0 && lack < MC_AREA_FRAMES)
            return;
        lacking |= lack >= 0;
        sched_yield();
    }
    if (lacking)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
}

int64_t mc_area_word(const struct mc_frames *frames, uint32_t area)
{
    return area < frames->area_count ? (int64_t)mc_word(frames, area).bits : MC_EINDEX;
}
