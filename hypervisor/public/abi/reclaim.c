/* reclaim.c: the host half. Each transition is one compare-and-swap of the area word.
 *
 * An area that goes away is subtracted from its tree first and added back if the word refuses; an
 * area that comes is added to its tree last. The tree word is the guest's to corrupt: a take gives
 * up after MC_TAKE_TRIES_MAX, an addition wraps, and both hurt that guest alone.
 */
#include "reclaim.h"
#include "claims.h"

_Static_assert(MC_TAKE_TRIES_MAX <= MC_RECLAIM_RETRIES_MAX, "one bound for the host half");

static uint32_t word_of(uint32_t low, uint16_t generation)
{
    return low | (uint32_t)generation << MC_AREA_GENERATION_SHIFT;
}

static int is_reclaimed(uint32_t word)
{
    const uint32_t flags = MC_AREA_HUGE | MC_AREA_RECLAIMED;
    return (word & (flags | MC_AREA_FREE_MASK)) == flags;
}

static int is_whole_backed(uint32_t word)
{
    return mc_word_whole(word) && !(word & MC_AREA_EVICTED);
}

static int is_claimed(uint32_t word)
{
    return (word & (MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_FREE_MASK)) == MC_AREA_HUGE;
}

static int is_evicted(uint32_t word)
{
    return (word & (MC_AREA_EVICTED | MC_AREA_RECLAIMED)) == MC_AREA_EVICTED;
}

/* Swap a word that `allows` into `fixed`, keeping its bits under `keep`. */
static int transition(struct mc_frames *frames, uint32_t area, int (*allows)(uint32_t),
                      uint32_t keep, uint32_t fixed)
{
    uint32_t seen = mc_word(frames, area);
    for (int tries = 0; tries < MC_RECLAIM_RETRIES_MAX && allows(seen); tries++)
        if (mc_word_swap(frames, area, &seen, (seen & keep) | fixed))
            return MC_OK;
    return MC_ESTATE;
}

int mc_area_hard_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    const uint32_t low = MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_EVICTED;
    if (area >= frames->area_count)
        return MC_EINDEX;
    if (!mc_word_whole(mc_word(frames, area))
        || mc_tree_take(frames, area, MC_AREA_FRAMES, MC_AREA_FRAMES) == 0)
        return MC_ESTATE;
    int status = transition(frames, area, mc_word_whole, 0, word_of(low, generation));
    if (status < 0)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
    return status;
}

int mc_area_soft_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    if (area >= frames->area_count)
        return MC_EINDEX;
    return transition(frames, area, is_whole_backed, 0,
                      word_of(MC_AREA_FRAMES | MC_AREA_EVICTED, generation));
}

int mc_area_return(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    if (area >= frames->area_count)
        return MC_EINDEX;
    int status = transition(frames, area, is_reclaimed, 0,
                            word_of(MC_AREA_FRAMES | MC_AREA_EVICTED, generation));
    if (status == MC_OK)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
    return status;
}

int mc_area_grant(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    if (area >= frames->area_count)
        return MC_EINDEX;
    int status = transition(frames, area, is_reclaimed, 0, word_of(MC_AREA_FRAMES, generation));
    if (status == MC_OK)
        mc_tree_give(frames, area, MC_AREA_FRAMES);
    return status;
}

int mc_area_install(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    if (area >= frames->area_count)
        return MC_EINDEX;
    return transition(frames, area, is_evicted, MC_AREA_FREE_MASK | MC_AREA_HUGE,
                      word_of(0, generation));
}

int mc_area_surrender(struct mc_frames *frames, uint32_t area, uint16_t generation)
{
    if (area >= frames->area_count)
        return MC_EINDEX;
    return transition(frames, area, is_claimed, 0,
                      word_of(MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_EVICTED, generation));
}

int64_t mc_area_word(const struct mc_frames *frames, uint32_t area)
{
    return area < frames->area_count ? (int64_t)mc_word(frames, area) : MC_EINDEX;
}
