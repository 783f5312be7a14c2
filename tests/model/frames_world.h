/* frames_world.h: a domain of two areas whose frames guest threads take while the host reclaims.
 *
 * Owns:  the truth against which the allocator is held: who has each frame, the backing of each
 *        area, and what the guest has mapped of it.
 * Promises it checks: no frame is handed out twice, none without backing; the host never takes an
 *        area of which a frame is in use; at the end no frame is lost and mc_frames_validate holds.
 * Who may call: check_frames.c and check_mapping.c, each with a mc_prepare_fn of its own.
 */
#ifndef FRAMES_WORLD_H
#define FRAMES_WORLD_H

#include "frames.h"

#define WORLD_AREAS 2

extern struct mc_frames world_frames;
extern int world_backed[WORLD_AREAS];   /* the area is installed */
extern int world_mapped[WORLD_AREAS];   /* and the guest has mapped what is there now */
extern int world_must_be_mapped;        /* before a frame of it is handed out */

/* Make the region once, with `prepare` as the allocator's. `reset`, when it is not NULL, begins
 * each execution. */
void world_make(mc_prepare_fn prepare, void *context, void (*reset)(void));
/* Serve INSTALL of an area as the ring brings it: 0, or MC_ETIMEOUT while the host is busy. */
int world_install(uint32_t area);
/* Explore every scenario with `guests` guest threads and, when it is not NULL, a `mapper`; stops
 * at the first failure with 0. */
int world_explore(int guests, void (*mapper)(void *), int preemptions_max,
                  uint64_t executions_max);

#endif
