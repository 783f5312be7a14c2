/* hyperalloc.h: the protocol between the two halves of `hyperalloc`.
 *
 * Source: HyperAlloc (Wrenger et al., EuroSys 2025). Shrinking, growing and soft reclaim need no
 * message: the hypervisor works on the area words (reclaim.h). These messages remain:
 *
 *   INSTALL (ops.h)       guest -> host: an allocation got an evicted area, and waits.
 *   config[DROP]          host -> guest: frames of page cache to drop. The word counts up; the
 *                         guest drops the difference to the value that it saw last.
 *   CACHE_DROPPED         guest -> host: arg0 the config[DROP] it acted upon, arg1 frames dropped
 *                         -> 0. The host tries once more to bring the domain to its target.
 *   control.file_frames   the guest's count of page cache, a hint: the host asks nothing while it
 *                         is 0.
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
