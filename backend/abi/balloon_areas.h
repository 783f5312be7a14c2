/* balloon_areas.h: a balloon of whole areas (option huge of `balloon`). Private to the mechanism.
 *
 * Owns:  what an entry of an array means then: the first frame of an area, for all of it. An area
 *        is in the balloon wholly or not at all.
 * Rules: keeper, under the lock, which all but the choice of a bank release.
 */
#ifndef MC_BALLOON_AREAS_H
#define MC_BALLOON_AREAS_H

#include "mechanism.h"

/* cdef-begin */
void mc_balloon_frames_of(uint32_t area, uint32_t *frames);
/* Make holes of these areas: how many name none that may go (not the guest's, a hole, pinned). */
uint32_t mc_balloon_make_areas(struct mc_host *host, struct mc_domain *domain,
                               const uint32_t *firsts, uint32_t count);
/* Fill them, until no more may be charged: how many name none that is in the balloon. */
uint32_t mc_balloon_fill_areas(struct mc_host *host, struct mc_domain *domain,
                               const uint32_t *firsts, uint32_t count);
/* Punch those that are in the balloon once more. */
void mc_balloon_punch_areas(struct mc_host *host, struct mc_domain *domain,
                            const uint32_t *firsts, uint32_t count);
/* An area that is wholly in the balloon has no bank: choose one with so many free frames. 0, or
 * MC_ENOMEM. */
int mc_balloon_choose_bank(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                           uint32_t frames);
/* cdef-end */

#endif
