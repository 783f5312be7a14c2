/* hyperalloc.h: what the two halves of `hyperalloc` say to each other.
 *
 * Source: HyperAlloc (Wrenger et al., EuroSys 2025). Shrinking, growing and soft reclaim need no
 * message: the hypervisor works on the area words (reclaim.h). What is left:
 *
 *   INSTALL (ops.h)       guest -> host, when an allocation got an evicted area; it returns after.
 *   config[DROP]          host -> guest: frames of page cache to drop; counts up, so that the
 *                         difference to what was seen last is what is asked.
 *   CACHE_DROPPED         guest -> host: arg0 config[DROP] as acted upon, arg1 frames dropped -> 0.
 *                         The host tries once more to reach its target.
 *   control.file_frames   the guest's count of page cache: a hint, nothing is asked when it is 0.
 *
 * Options: [0] period_ms of automatic soft reclaim, 0 for none.
 */
#ifndef MC_HYPERALLOC_H
#define MC_HYPERALLOC_H

#include "ops.h"

#define MC_OP_CACHE_DROPPED MC_OP_HYPERALLOC
#define MC_HYPERALLOC_DROP 0
#define MC_HYPERALLOC_PERIOD 0

#endif
