/* reclaim.h: the frame allocator, host half. The hypervisor works on the guest's area words.
 *
 * Source: HyperAlloc (Wrenger et al., EuroSys 2025). Two records per area: the area word, which
 * the guest can corrupt, and the hypervisor's private state, from which alone it decides.
 *
 *   private state   meaning                         area word while the guest behaves
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
 * Surrender is for what the guest itself took out of use and offers: it holds the area claimed,
 * without a head, and its tree does not count it.
 *
 * The generation rises whenever backing is taken away, so the guest knows that its mapping of the
 * area is stale. Each transition is one compare-and-swap of the area word; a guest allocation that
 * races with it wins or loses on that word alone. The tree is corrected around it so that counters
 * never promise too much (subtract before, add after).
 *
 * Who may call: the process that owns the host memory, one caller at a time per domain. Words are
 * the guest's to corrupt: every function bounds-checks and gives up after MC_RECLAIM_RETRIES_MAX.
 */
#ifndef MC_RECLAIM_H
#define MC_RECLAIM_H

#include "frames.h"

/* cdef-begin */
#define MC_RECLAIM_RETRIES_MAX 64

enum mc_backing { MC_HARD = 0, MC_READY = 1, MC_SOFT = 2, MC_INSTALLED = 3 };

/* Each returns 0, MC_EINDEX, or MC_ESTATE when the word does not allow it now. `generation` is the
 * hypervisor's own count for the area; it is written into the word, never read from it. */
int mc_area_hard_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_soft_reclaim(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_return(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_grant(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_install(struct mc_frames *frames, uint32_t area, uint16_t generation);
int mc_area_surrender(struct mc_frames *frames, uint32_t area, uint16_t generation);
/* A copy of the area word, or MC_EINDEX. A hint: the guest writes it. */
int64_t mc_area_word(const struct mc_frames *frames, uint32_t area);
/* cdef-end */

#endif
