/* bench_load.h: a guest that goes on working while memory is asked back of it.
 *
 * Owns:  the load of `memcoord bench unplug`. The guest's memory is of three kinds, as a kernel's:
 *        movable frames that programs refer to (a pin, a write, an unpin; some are given back and
 *        taken anew), frames that stay for good in clusters, and frames that live shortly, which
 *        nobody can move. What is not to be had is done without.
 * Rules: mcb_load_fill once, then mcb_load_run on a thread with the same slot, until `stop`.
 *        `references` may be read meanwhile.
 */
#ifndef MC_BENCH_LOAD_H
#define MC_BENCH_LOAD_H

#include "bench_mechanism.h"
#include "movable.h"

/* cdef-begin */
#define MCB_LOAD_BATCH 256
#define MCB_LOAD_BRIEF 2048             /* short-lived frames at a time */

struct mcb_load {
    uint64_t fill;              /* movable frames taken at first */
    uint64_t keep_every;        /* one of so many of them is kept */
    uint64_t clusters;          /* of frames that stay, spread evenly over what is filled */
    uint64_t cluster_frames;
    uint64_t seed;
    uint32_t *handles;          /* room for `fill` */
    uint64_t handle_count;      /* out */
    uint64_t stayed;            /* out: frames that stay */
    uint64_t references;        /* out, atomic */
    uint64_t refused;           /* out: frames that were not to be had */
    uint64_t stalled;           /* out: references given up, as a move did not end */
    uint32_t brief[MCB_LOAD_BRIEF];
    uint64_t brief_first;
    uint64_t brief_count;
    uint32_t stop;              /* atomic */
};

/* Each 0, or a negative enum mc_status. */
int mcb_load_fill(struct mc_guest *guest, int slot, struct mcb_load *load);
int mcb_load_run(struct mc_guest *guest, int slot, struct mcb_load *load);
/* cdef-end */

#endif
