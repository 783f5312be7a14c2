/* balloon_array.h: one array of frame numbers told to the host. Private to the balloon's driver.
 *
 * Who may call: the driver's thread and allocations that deflate, one at a time, because there is
 *        one array.
 */
#ifndef MC_BALLOON_ARRAY_H
#define MC_BALLOON_ARRAY_H

#include "driver.h"

#include "balloon.h"

#define MC_BALLOON_BITS (MC_BALLOON_ARRAY_PFNS_MAX / 64)

/* Tell the host by operation `op` and wait for its answer: how many frames are as asked for, or a
 * status. Then not_done has one bit for each frame that is not. */
int64_t mc_balloon_tell(struct mc_guest *guest, int op, const uint32_t *frames, uint32_t count,
                        uint64_t not_done[MC_BALLOON_BITS]);
int mc_balloon_is_set(const uint64_t *bits, uint32_t index);

#endif
