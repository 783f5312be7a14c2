/* bench_orchestra.h: the one who resizes by hand, compiled: donor down, asker up, at each plea.
 *
 * Owns:  the loop between a guest's plea for memory and the target that gives it, in the process of
 *        the bench, which has the host. A mechanism whose guest cannot ask is resized by it, so
 *        that nothing but the mechanism stands between plea and memory.
 * Rules: the backend is another module: its functions come as addresses. The thread that calls this
 *        is the host's main thread meanwhile: nobody else calls what only that may call.
 */
#ifndef MC_BENCH_ORCHESTRA_H
#define MC_BENCH_ORCHESTRA_H

#include "guest.h"

/* cdef-begin */
#define MCB_REACH_MOVING 1          /* enum mc_reach of the backend */
#define MCB_PLEA_POLL_MS 20
#define MCB_REACH_POLL_NS 1000
#define MCB_REACH_NS_MAX 20000000000

struct mcb_orchestra {
    void *host;
    uint64_t set_target;            /* int (host, domid, frames) */
    uint64_t reach;                 /* int (host, domid, int *reach, int *why) */
    int plea_fd;                    /* eventfd that the asker rings */
    uint32_t donor;                 /* domids */
    uint32_t asker;
    uint64_t donor_frames;          /* targets now; the loop moves them */
    uint64_t asker_frames;
    uint64_t step_frames;
    uint32_t answered;              /* out */
    uint32_t stop;                  /* atomic: 1 ends the loop within MCB_PLEA_POLL_MS */
};

/* Until `stop`. 0, or the status of a target that could not be set; MC_ETIMEOUT for a donor that
 * was not done within MCB_REACH_NS_MAX. */
int mcb_orchestrate(struct mcb_orchestra *orchestra);
/* cdef-end */

#endif
