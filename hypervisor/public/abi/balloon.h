/* balloon.h: the protocol between the two halves of `balloon`; virtio 1.2, section 5.5.
 *
 * Owns:  the mechanism's operations, its array of frame numbers and its words of the control page.
 *
 *   config[0]     num_pages: frames that the balloon shall hold (hypervisor writes)
 *   config[1]     frames whose pages REPORT freed since the domain booted (hypervisor writes)
 *   config[2]     times that it found pages in the balloon and freed them (hypervisor writes)
 *   driver[0]     actual: frames that the balloon holds, as the driver counts (guest writes)
 *   driver[1..8]  statistics, by virtio's tags: bytes, and counts of faults (guest writes)
 *   array         in the tail of the control page: frame numbers of 32 bits. The guest writes the
 *                 array, the hypervisor copies it before it looks at it. All operations share one
 *                 array, as in Linux' driver; the guest may write it again after the answer.
 *
 *   operation (arg[0]: how many frames, 1..256)   answer: status, how many are as asked for;
 *                                                 arg[1..4], a bit for each frame that is not
 *   INFLATE   frames taken out of use             not done: pinned for DMA, or not the guest's
 *   DEFLATE   frames wanted back                  not done: the host has none free. ETARGET: the
 *                                                 domain is at its target, and may not deflate on
 *                                                 OOM
 *   REPORT    first frames of free areas,         not done: pinned for DMA. The guest may touch the
 *             at most 32                          areas and is charged for them; their pages go
 *   With option huge the numbers are first frames of areas, and stand for the whole area (as the
 *   balloon of 2 MiB pages in the artifact of Wrenger et al., EuroSys 2025).
 *   EINDEX for a count out of range, ESTATE while the host works on an earlier array.
 */
#ifndef MC_BALLOON_H
#define MC_BALLOON_H

#include "ops.h"
#include "layout.h"

#define MC_BALLOON_ARRAY_OFFSET 2048
#define MC_BALLOON_ARRAY_PFNS_MAX 256
#define MC_BALLOON_REPORT_MAX 32        /* Linux' PAGE_REPORTING_CAPACITY */

enum mc_balloon_op {
    MC_OP_BALLOON_INFLATE = MC_OP_BALLOON, MC_OP_BALLOON_DEFLATE, MC_OP_BALLOON_REPORT
};

enum mc_balloon_option {
    MC_BALLOON_MERGE = 0,               /* punch neighbours of an array in one call */
    MC_BALLOON_OOM = 1,                 /* VIRTIO_BALLOON_F_DEFLATE_ON_OOM */
    MC_BALLOON_REPORT_MS = 2,           /* delay of VIRTIO_BALLOON_F_REPORTING; 0: off */
    MC_BALLOON_STATS_MS = 3,            /* between two statistics; 0: after a resize only */
    MC_BALLOON_HUGE = 4                 /* 1: arrays of whole areas */
};

enum mc_balloon_config { MC_BALLOON_NUM_PAGES = 0, MC_BALLOON_REPORTED = 1, MC_BALLOON_SWEEPS = 2 };
enum mc_balloon_driver { MC_BALLOON_ACTUAL = 0, MC_BALLOON_STATS = 1 };

enum mc_balloon_stat {                  /* VIRTIO_BALLOON_S_* */
    MC_BALLOON_S_SWAP_IN = 0,
    MC_BALLOON_S_SWAP_OUT = 1,
    MC_BALLOON_S_MAJFLT = 2,
    MC_BALLOON_S_MINFLT = 3,
    MC_BALLOON_S_MEMFREE = 4,
    MC_BALLOON_S_MEMTOT = 5,
    MC_BALLOON_S_AVAIL = 6,
    MC_BALLOON_S_CACHES = 7
};

_Static_assert(sizeof(struct mc_control) <= MC_BALLOON_ARRAY_OFFSET, "the array is in the tail");
_Static_assert(MC_BALLOON_ARRAY_OFFSET + 4 * MC_BALLOON_ARRAY_PFNS_MAX <= MC_FRAME_BYTES,
               "of the control page");

static inline uint32_t *mc_balloon_array(struct mc_control *control)
{
    return (uint32_t *)((uint8_t *)control + MC_BALLOON_ARRAY_OFFSET);
}

#endif
