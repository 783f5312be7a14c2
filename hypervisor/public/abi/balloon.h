/* balloon.h: what the two halves of `balloon` say to each other; virtio 1.2, section 5.5.
 *
 * Owns:  its operations, its array of frame numbers, the words it uses of the control page.
 *
 *   config[0]     num_pages: frames the balloon is to hold (hypervisor)
 *   config[1]     frames whose pages went by REPORT since the domain booted (hypervisor)
 *   config[2]     times pages were found in the balloon, and taken away (hypervisor)
 *   driver[0]     actual: frames it holds, by the driver's word
 *   driver[1..8]  statistics, by virtio's tags: bytes, and counts of faults. Reported only.
 *   array         in the tail of the control page, written by the guest, copied before it is looked
 *                 at: frame numbers of 32 bits. One array for all queues, as Linux' driver has; it
 *                 is the guest's again when the answer has come.
 *
 *   operation (arg[0]: how many, 1..256)    ->  status: how many are as asked for now;
 *                                               arg[1..4]: one bit for each that is not
 *   INFLATE   frames taken out of use           pinned for DMA; not the guest's to give
 *   DEFLATE   frames wanted back                none free. ETARGET: above the target, and the
 *                                               domain may not deflate on OOM
 *   REPORT    first frames of free areas,       pinned for DMA. They stay the guest's to touch, and
 *             at most 32                        charged to it: only their pages go
 *   EINDEX for a count out of range, ESTATE while an earlier array is being worked on.
 */
#ifndef MC_BALLOON_H
#define MC_BALLOON_H

#include "ops.h"
#include "layout.h"

#define MC_BALLOON_ARRAY_OFFSET 2048
#define MC_BALLOON_ARRAY_PFNS_MAX 256
#define MC_BALLOON_REPORT_MAX 32        /* Linux' PAGE_REPORTING_CAPACITY */

enum mc_balloon_op {
    MC_OP_BALLOON_INFLATE = MC_OP_BALLOON,
    MC_OP_BALLOON_DEFLATE,
    MC_OP_BALLOON_REPORT
};

enum mc_balloon_option {
    MC_BALLOON_MERGE = 0,               /* punch neighbours of an array in one call */
    MC_BALLOON_OOM = 1,                 /* VIRTIO_BALLOON_F_DEFLATE_ON_OOM */
    MC_BALLOON_REPORT_MS = 2,           /* VIRTIO_BALLOON_F_REPORTING: its delay; 0: off */
    MC_BALLOON_STATS_MS = 3             /* between statistics; 0: when it was resized only */
};

enum mc_balloon_config {
    MC_BALLOON_NUM_PAGES = 0,
    MC_BALLOON_REPORTED = 1,
    MC_BALLOON_SWEEPS = 2
};
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
