/* bench_burst.h: a guest whose need of memory rises and falls by a schedule.
 *
 * Owns:  the compiled loop of `memcoord bench bursts` and `bench interference`: requests for whole
 *        areas' worth of single frames, releases, and what each request had to wait.
 * Rules: a request is timed from when it is due, or from when the guest woke for it: whichever is
 *        later, unless the one before was still waiting then; that wait counts. What is held is
 *        given back last come, first gone. A request that is not served within `missed_ns` is given
 *        up, and what would have been released of it is not. Times are CLOCK_MONOTONIC.
 */
#ifndef MC_BENCH_BURST_H
#define MC_BENCH_BURST_H

#include "guest.h"

/* cdef-begin */
#define MCB_DEMAND_POLL_NS 2000

struct mcb_step {
    uint64_t at_ns;             /* after the start, or the end of the step before */
    int64_t areas;              /* wanted; negative: given back */
    uint64_t granted_ns;        /* out: until all was there, a frame of each area touched; 0: never
                                 * within missed_ns */
    uint64_t touched_ns;        /* out: until every frame was touched */
};

struct mcb_demand {
    struct mcb_step *steps;
    uint64_t count;
    uint32_t *frames;           /* what is held, `held` of at most `room` */
    uint64_t room;
    uint64_t held;
    uint64_t base_frames;       /* in use besides: control.used_frames is the sum */
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
