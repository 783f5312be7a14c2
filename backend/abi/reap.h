/* reap.h: the end of a domain: nobody works on it any more, its file is empty, its slot is free.
 *
 * Rules: the main thread only begins it (mc_domain_close) and waits for nothing. The keeper of the
 *        domain does the rest, in its own time: the file may be locked by a process that shares it.
 */
#ifndef MC_REAP_H
#define MC_REAP_H

#include "mechanism.h"

#define MC_REBOOT_NS_MAX 5000000000u    /* the main thread waits no longer for a reboot */

/* Under the lock, of a domain that is to close or reboot: wait until neither the service thread nor
 * a thread beside it works on the domain. MC_ETIMEOUT. Releases the lock. */
int mc_domain_quiesce(struct mc_host *host, struct mc_domain *domain, uint64_t longest_ns);
/* Under the lock: no thread visits the domain from now on, and tmem forgets its pages. */
void mc_domain_detach(struct mc_host *host, struct mc_domain *domain);
/* No lock, or `doors`: unmap and close everything, and make the slot EMPTY. */
void mc_domain_dismantle(struct mc_host *host, struct mc_domain *domain);
/* Under the lock, of a domain that leaves: one step; 1 when it is done but for mc_domain_dismantle.
 * Waits for nothing but the file. */
int mc_reap_step(struct mc_host *host, struct mc_domain *domain);

#endif
