/* balloon_watch.h: finding pages that lie in the balloon. Private to mech_balloon.c.
 *
 * Nothing keeps a guest from touching a frame in its balloon. An honest guest does it unknowingly:
 * a touch next to a ballooned frame may make the kernel allocate a whole 2 MiB page, which
 * re-populates frames in the balloon. Then the domain's file has more pages than the ledger
 * granted, and the worker punches the holes again. QEMU does not look.
 * Rules: under the lock, on the worker. Nobody may fill a hole of the domain during a sweep.
 */
#ifndef MC_BALLOON_WATCH_H
#define MC_BALLOON_WATCH_H

#include "ledger.h"

/* 1 when the domain's file has more pages than the domain has frames. */
int mc_balloon_leaks(const struct mc_domain *domain);
/* Punch the holes of area `area` and of those above it, for SWEEP_NS_MAX. Returns the area where
 * the next sweep is to begin: 0 when the last area was reached. Releases the lock. */
uint32_t mc_balloon_sweep(struct mc_host *host, struct mc_domain *domain, uint32_t area);

#endif
