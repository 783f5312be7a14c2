/* balloon_watch.h: pages that a guest has in its balloon after all. Private to mech_balloon.c.
 *
 * Nothing keeps a guest from touching a frame in its balloon, and a kernel that gives it 2 MiB at
 * the first touch beside one fills the holes around it. The host sees more pages than it granted
 * and takes away what lies in holes. The original does not look.
 * Under the lock, on the worker; nobody fills a hole of the domain while it is swept.
 */
#ifndef MC_BALLOON_WATCH_H
#define MC_BALLOON_WATCH_H

#include "ledger.h"

/* 1 when the domain has more pages than frames. */
int mc_balloon_leaks(const struct mc_domain *domain);
/* Punch every hole again, from an area on; where to go on later, or 0 when that was all. Releases
 * the lock. */
uint32_t mc_balloon_sweep(struct mc_host *host, struct mc_domain *domain, uint32_t area);

#endif
