/* excess.h: guests that really use more memory than they were granted, seen within milliseconds.
 *
 * Owns:  a thread that compares what the kernel gave to each domain's file with what the ledger
 *        grants. The coordinator does the same at every tick and reports; this one is for hosts
 *        that stop such a domain: a tick would be too late, a guest writes a GiB in a second.
 * Rules: mc_excess_run on a thread of its own until mc_host_stop. It takes the host lock for
 *        microseconds and never waits for a guest: fstat takes no lock that a guest can hold.
 *        A domain in excess is marked BROKEN with MC_EFOREIGN; the main thread is told and closes
 *        it. Under the lock the ledger is exact, so a single look is enough, but for a balloon's
 *        (MC_EXCESS_BALLOON_NS: mech_balloon.c sweeps first); one area of tolerance is left for
 *        frames that a guest moved while they were counted.
 */
#ifndef MC_EXCESS_H
#define MC_EXCESS_H

#include "host.h"

/* cdef-begin */
#define MC_EXCESS_PERIOD_NS 1000000
#define MC_EXCESS_BALLOON_NS 1000000000
#define MC_EXCESS_TOLERANCE_FRAMES 512

int mc_excess_run(struct mc_host *host);
/* cdef-end */

#endif
