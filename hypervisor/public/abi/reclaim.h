/* reclaim.h: the frame allocator, host half. The hypervisor works on the guest's area words.
 *
 * Source: HyperAlloc (Wrenger et al., EuroSys 2025). There are two records per area: the area word,
 * which the guest can corrupt, and a private state, from which alone the hypervisor decides.
 *
 *   private state   meaning                         area word as a correct guest leaves it
 *   HARD  (H)       taken from the guest            free 0, huge, reclaimed, evicted
 *   READY (P)       as HARD, and populated          as HARD
 *   SOFT  (S)       guest may take it, no backing   evicted, else as the guest likes
 *   INSTALLED (I)   guest may take it, backed       not evicted
 *
 *   hard reclaim  I,S -> H   word (512 free, not huge) -> (0, huge, reclaimed, evicted), gen + 1
 *   soft reclaim  I -> S     word (512 free, not huge, not evicted) -> same | evicted, gen + 1
 *   return        H -> S     word (0, huge, reclaimed) -> (512, evicted)
 *   grant         P -> I     word (0, huge, reclaimed) -> (512, not evicted)
 *   install       S -> I     word: evicted cleared, after populating
 *   surrender     I -> H     word (0, huge, not reclaimed) -> (0, huge, reclaimed, evicted), gen+1
 *
 * Surrender is for an area that the guest has taken out of use and offers: the guest has claimed
 * the area, the area has no head, and the tree does not count it.
 *
 * The generation rises whenever backing is taken away. By it the guest knows that its mapping of
 * the area is stale. Each transition is one compare-and-swap of the area word; that word alone
 * decides a race with an allocation of the guest. The tree is corrected around the swap, subtracted
 * from before and added to after, so that its counter never promises too much.
 *
 * Who may call: the process that owns the host memory, one caller at a time per domain. A guest can
 * corrupt every word, so each function checks its bounds and gives up after MC_RECLAIM_RETRIES_MAX.
 */
#ifndef MC_RECLAIM_H
#define MC_RECLAIM_H

#include "frames.h"

/* cdef-begin */
#define MC_RECLAIM_RETRIES_MAX 64
#define MC_MEND_LOOKS_MAX 256

/* Each returns 0, MC_EINDEX for no such area, or MC_ESTATE when the word does not allow it now.
 * `generation` is the hypervisor's own count for the area: written into the word, never read from
 * it. */
int mc_area_hard_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_soft_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_return(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_grant(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_install(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_surrender(struct mc_frames *frames, uint32_t area, uint16_t generation);
/* After the caller before was killed within a reclaim, return or grant of this area: its frames may
 * be missing in the counter of its tree, though the guest's word counts them. Add them if so. */
void mc_tree_mend(struct mc_frames *frames, uint32_t area);
/* A copy of the bits of the area word, or MC_EINDEX. It is a hint: the guest writes the word. */
int64_t mc_area_word(const struct mc_frames *frames, uint32_t area);
/* cdef-end */

#endif
