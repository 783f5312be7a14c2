/* area_run.h: runs of neighbouring areas, for the mechanisms whose blocks or sections are such.
 *
 * Rules: under mc_host.lock. An area, a block and a section are numbered apart; what holds areas is
 *        turned into a run by one function per mechanism, and only a run is walked by area.
 */
#ifndef MC_AREA_RUN_H
#define MC_AREA_RUN_H

#include "ledger.h"

struct mc_area_run {            /* areas first .. end - 1 */
    uint32_t first;
    uint32_t end;
};

static inline struct mc_area_run mc_area_run_of(const struct mc_domain *domain, uint32_t first,
                                                uint32_t count)
{
    MC_CHECK_IN(domain, count && count <= domain->areas && first <= domain->areas - count,
                "%u areas from %u, of %u", count, first, domain->areas);
    return (struct mc_area_run){first, first + count};
}

static inline uint64_t mc_area_run_frames(struct mc_area_run run)
{
    MC_CHECK(run.first <= run.end, "areas %u to %u", run.first, run.end);
    return (uint64_t)(run.end - run.first) * MC_AREA_FRAMES;
}

/* 1 when the guest's word says that the guest has claimed the area, to give it up. A hint: only
 * mc_pull takes the area. */
static inline int mc_area_is_claimed(const struct mc_domain *domain, uint32_t area)
{
    return mc_word_is_claimed(mc_word(&domain->frames, area));
}

#endif
