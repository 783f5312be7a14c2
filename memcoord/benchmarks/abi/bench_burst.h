/* bench_burst.h: a guest whose need of memory rises and falls by a schedule.
 *
 * Owns:  the compiled loop of `memcoord bench bursts` and `bench interference`: requests for the
 *        frames of whole areas, one by one, releases, and the wait of each request.
 * Rules: a request is timed from the moment it is due, or from the moment the guest woke for it if
 *        that is later. If the request before was still waiting at that moment, the time is taken
 *        from when the request was due: queueing counts. The frames held last are given back first.
 *        A request that is not served within `missed_ns` is given up, and the release that belongs
 *        to it is left out. Times are CLOCK_MONOTONIC.
 */
#ifndef MC_BENCH_BURST_H
#define MC_BENCH_BURST_H

#include "bench_mechanism.h"

/* cdef-begin */
#define MCB_DEMAND_POLL_NS 2000

struct mcb_step {
    uint64_t at_ns;             /* after the start, or the end of the step before */
    int64_t areas;              /* wanted; negative: given back */
    uint64_t granted_ns;        /* out: until all were granted and one of each area was touched; 0:
                                 * not within missed_ns */
    uint64_t touched_ns;        /* out: until every frame was touched */
};

struct mcb_demand {
    struct mcb_step *steps;
    uint64_t count;
    uint32_t *frames;           /* the frames held: `held` of at most `room` */
    uint64_t room;
    uint64_t held;
    uint64_t base_frames;       /* in use besides; control.used_frames is told the sum */
    uint64_t missed_ns;
    int asks;                   /* as in struct mcb_wait */
    int plea_fd;
    int is_apart;               /* times count from the end of the step before: nothing queues */
    int pad;
};

/* Go through the steps. 0, or a negative enum mc_status. */
int mcb_demand_run(struct mc_guest *guest, int slot, struct mcb_demand *demand);
/* cdef-end */

#endif
