/* movable.h: frames that may be moved under their owner, and taking areas out of use.
 *
 * Owns:  the handles of movable frames, migration, and the life of an area that the guest gives up:
 *
 *   online ──isolate──► isolated ──(migrate, drain)──► empty ──claim──► claimed ──► the host's
 *      ▲                    │                                              │   (MC_PULL_CLAIMED)
 *      └────────────────────┴──────────── mc_online ◄──────────────────────┘
 *
 * As Linux' memory offlining: nothing is handed out of an isolated area any more; its movable
 * frames are copied elsewhere; free frames that slots hold are drained. A frame that is left is
 * unmovable, because a program holds its number, or pinned at the moment.
 * Rules: a program holds a handle, and knows the frame only between pin and unpin. Any thread may
 *        call. Migration waits for nobody: a pinned frame stays in its place. A slot belongs to one
 *        thread, so migration drains only guest->slot, under the GIL.
 */
#ifndef MC_MOVABLE_H
#define MC_MOVABLE_H

#include "guest.h"

/* cdef-begin */
#define MC_PIN_TRIES_MAX 1000000

/* Allocate a movable frame, as mc_guest_alloc; its handle, or a status. */
int64_t mc_movable_alloc(struct mc_guest *guest, int slot);
/* The frame of a handle, which does not move before the unpin. MC_ENEVER for a handle that is not
 * held; MC_ETIMEOUT when a move of the frame does not end. */
int64_t mc_movable_pin(struct mc_guest *guest, uint32_t handle);
/* 0, or MC_ENEVER when the handle is not pinned. */
int mc_movable_unpin(struct mc_guest *guest, uint32_t handle);
/* Free the frame of a handle: 0, MC_ESTATE while it is pinned, or as mc_movable_pin. */
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

/* 1 when no frame is taken of `count` areas from `first` on, and not all of them are the host's. A
 * hint: it may be otherwise a moment later. */
int mc_all_free(const struct mc_guest *guest, uint32_t first, uint32_t count);

#endif
