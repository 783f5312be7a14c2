/* search.h: finding memory in the shared structure, one area at a time.
 *
 * Owns:  how a row for a slot, a run inside a row, whole rows and whole areas are claimed, prepared
 *        and, when the preparation fails, given back; and the order in which areas are tried.
 * Rules: a try changes nothing unless it succeeds. Frames are packed: a search stays in the area of
 *        the slot's cursor until that has nothing left, so that whole areas stay free for the
 *        hypervisor to take. One search looks at each area at most twice: first the areas with
 *        backing, then any.
 * Who may call: frames.c, with a slot that the calling thread owns. Each function returns MC_ENOMEM
 *        when nothing was found, or when prepare() failed in MC_PREPARE_TRIES_MAX areas.
 */
#ifndef MC_SEARCH_H
#define MC_SEARCH_H

#include "claims.h"

/* Fill an empty slot with up to a row of single frames, from the emptiest row of an area; 0. */
int64_t mc_search_refill(struct mc_frames *frames, struct mc_slot *own);
/* A block of 2^order frames, order 1 to 8; its first frame. */
int64_t mc_search_block(struct mc_frames *frames, struct mc_slot *own, int order);
/* 1 to 16 consecutive whole areas of one tree; the first frame. */
int64_t mc_search_areas(struct mc_frames *frames, struct mc_slot *own, uint32_t count);

#endif
