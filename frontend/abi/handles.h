/* handles.h: the table of a guest's movable frames. Private to handles.c and movable.c.
 *
 * Owns:  the frame that each handle stands for, the handle of each frame, and who is pinned.
 * Rules: there are as many handles as frames, so that a frame that was allocated always finds one.
 *        The table is made by the first thread that needs it. A frame moves only while its state is
 *        MC_HANDLE_MOVING; a pin waits for the end of a move, a move never waits for a pin.
 */
#ifndef MC_HANDLES_H
#define MC_HANDLES_H

#include "guest_private.h"

/* Of a state: the frame is being copied. Else a state is pins + 1, or 0 for a free handle. */
#define MC_HANDLE_MOVING 0x80000000u

struct mc_handles {
    pthread_mutex_t lock;       /* free handles */
    uint32_t *frames;           /* by handle */
    uint32_t *states;           /* by handle, atomic */
    uint32_t *owners;           /* by frame: handle + 1, or 0; atomic */
    uint32_t *next_free;
    uint32_t first_free;
    int slot;                   /* of the thread that migrates; -1 before it has one */
};

/* The table of a guest; it is made when there is none. NULL: no memory. */
struct mc_handles *mc_handles_of(struct mc_guest *guest);
void mc_handles_close(struct mc_guest *guest);

/* Take a free handle for a frame, which is in nobody's hands yet. */
uint32_t mc_handle_take(struct mc_handles *table, uint32_t frame);
/* Give back a handle whose state is MC_HANDLE_MOVING; its frame. */
uint32_t mc_handle_give(struct mc_handles *table, uint32_t handle);
/* The state of a handle; NULL when the guest has no such handle. */
uint32_t *mc_handle_state(struct mc_guest *guest, uint32_t handle);
/* 1 when the state went from held and unpinned to MC_HANDLE_MOVING. */
int mc_handle_lock(uint32_t *state);
/* From MC_HANDLE_MOVING to held and unpinned. */
void mc_handle_unlock(uint32_t *state);

#endif
