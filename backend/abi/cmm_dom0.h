/* cmm_dom0.h: dom0, the coordinating backend of cmm's first design. See cmm.h.
 *
 * Owns:  one thread per host with domains of that design; it starts with the first of them and ends
 *        with the last. Its name is dom0; it never spins, so it runs when the scheduler lets it.
 * Rules: everything else of a host may happen between any two of its steps: a domain that asks is
 *        held by `users`, a donor is recognised by its serial. What a guest wrote is copied,
 *        checked, used; a donor's word that it has free memory only makes it be asked.
 */
#ifndef MC_CMM_DOM0_H
#define MC_CMM_DOM0_H

#include "cmm.h"
#include "mechanism.h"

struct mc_dom0;

/* domain->device of a cmm domain. */
struct mc_cmm {
    struct mc_dom0 *dom0;       /* NULL in the revised design */
    uint64_t serial;            /* of this domain since its last boot, never used again */
    uint32_t answered;          /* number of the last ASK, and of the last OFFER, dealt with */
    uint32_t collected;
    int unrung;                 /* a word of its config was changed and its bell not rung yet */
    int failures;               /* times in sequence it was asked and gave nothing */
    uint64_t shunned_ns;        /* uncooperative: not asked before this time */
    uint64_t given_areas;
    uint64_t asks;
    uint64_t transfers;
    uint32_t waits;
    uint32_t timeouts;
};

/* Main thread, no lock. Join or leave the host's dom0; 0 or a status. */
int mc_dom0_join(struct mc_host *host, struct mc_domain *domain);
void mc_dom0_leave(struct mc_host *host, struct mc_domain *domain);
/* At every boot: nothing was said yet. */
void mc_dom0_reset(struct mc_domain *domain);

#endif
