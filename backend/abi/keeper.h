/* keeper.h: the thread that does the slow work of one domain, off the path of every guest.
 *
 * Rules: nobody but the keeper of a domain punches or populates the file of the domain once a guest
 *        has it, or waits for it in any other way: a guest can make such a call last for ever. Who
 *        wants something of a keeper leaves it a record (mc_keep) or an errand (mc_errand), or
 *        changes a state and calls mc_work; and counts on nothing (mc_file_is_late).
 */
#ifndef MC_KEEPER_H
#define MC_KEEPER_H

#include "mechanism.h"

/* Under the lock: start the keeper of an open domain, if keepers are to run (mc_worker_run) and it
 * has none. 0, or MC_EKERNEL. */
int mc_keeper_start(struct mc_host *host, struct mc_domain *domain);
/* 1 when the keeper waits for the domain's file, 0 when it only wants a CPU. */
int mc_keeper_sleeps(const struct mc_host *host, const struct mc_domain *domain);

#endif
