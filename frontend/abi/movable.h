/* movable.h: frames that may be moved under their owner, and taking areas out of use.
 *
 * Owns:  the handles of movable frames, migration, and the life of an area that the guest gives up:
 *
 *   online ──isolate──► isolated ──(migrate, drain)──► empty ──claim──► claimed ──► the host's
 *      ▲                    │                                              │   (MC_PULL_CLAIMED)
 *      └────────────────────┴──────────── mc_online ◄──────────────────────┘
 *
 * As Linux' memory offlining: nothing is handed out of an isolated area any more; its movable
 * frames are copied elsewhere; frames the threads keep for themselves are drained; what is left is
 * used by somebody who was given frame numbers (unmovable), or pinned at the moment.
 * Rules: a program holds a handle, and knows the frame only between pin and unpin. Any thread may
 *        call; migration waits for nobody: a frame that is pinned stays where it is. A slot is its
 *        thread's alone, so only the slot of the Python side is drained from here.
 */
#ifndef MC_MOVABLE_H
#define MC_MOVABLE_H

#include "guest.h"

/* cdef-begin */
#define MC_PIN_TRIES_MAX 1000000

/* A movable frame; `slot` as for mc_guest_alloc. Its handle, or a status. */
int64_t mc_movable_alloc(struct mc_guest *guest, int slot);
/* Its frame, which stays until unpin; MC_ENEVER for a handle that is not held, MC_ETIMEOUT. */
int64_t mc_movable_pin(struct mc_guest *guest, uint32_t handle);
int mc_movable_unpin(struct mc_guest *guest, uint32_t handle);
/* MC_ESTATE when it is pinned. */
int mc_movable_free(struct mc_guest *guest, int slot, uint32_t handle);

/* Nothing is handed out of the area from now on; MC_ESTATE when it is not the guest's. */
int mc_isolate(struct mc_guest *guest, uint32_t area);
/* Copy the movable frames of an isolated area elsewhere, in areas that are not isolated. 0 when it
 * is empty now; MC_ESTATE: unmovable or pinned frames are left; MC_ENOMEM: no room elsewhere. */
int mc_migrate(struct mc_guest *guest, uint32_t area);
/* Isolated and empty -> claimed, ready for MC_PULL_CLAIMED; MC_ESTATE. */
int mc_claim_area(struct mc_guest *guest, uint32_t area);
/* Isolated or claimed -> online. */
void mc_online(struct mc_guest *guest, uint32_t area);
/* Isolate and claim an area, between the two migrate it when `move` is 1. On a failure the area is
 * online again, and the status says why. */
int mc_offline(struct mc_guest *guest, uint32_t area, int move);
/* cdef-end */

/* 1 when nothing is handed out of `count` areas from `first` on, or being claimed, and not all of
 * them are the host's. By their words: it may be otherwise a moment later. */
int mc_all_free(const struct mc_guest *guest, uint32_t first, uint32_t count);

#endif
