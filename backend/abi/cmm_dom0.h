/* cmm_dom0.h: dom0, the coordinating backend of cmm's first design. See cmm.h.
 *
 * Owns:  struct mc_cmm, and dom0: one thread per host that has domains of the first design. It
 *        starts with the first of them and ends with the last. The thread's name is dom0. It never
 *        spins: it runs when the scheduler lets it.
 * Rules: private to mech_cmm.c, cmm_channel.c, cmm_dom0.c; under the lock. Anything may happen to a
 *        host between two steps of dom0: mc_domain_hold keeps the domain that asks, a donor is
 *        recognised by its serial. A guest's word is copied, the copy is checked and used. A
 *        donor's word that it has free memory only makes dom0 ask it.
 */
#ifndef MC_CMM_DOM0_H
#define MC_CMM_DOM0_H

#include "cmm.h"
#include "mechanism.h"

struct mc_dom0 {
    struct mc_host *host;
    int epoll_fd;
    uint32_t domains;
    uint32_t stop;              /* atomic */
    uint64_t serials;
    pthread_t thread;
};

/* An area that dom0 wants to grant: populated by the keeper of the domain that asked. */
enum mc_cmm_wish { MC_CMM_NO_WISH, MC_CMM_WISHED, MC_CMM_WISH_DONE };

struct mc_cmm_ask {             /* the one under way */
    uint32_t number;
    uint32_t is_open;
    uint32_t missing;           /* areas */
    uint32_t granted;
    uint32_t given;             /* areas that donors gave for it and that are not granted yet */
    int donors;                 /* asked so far */
    int path;
    uint64_t until_ns;
};

struct mc_cmm {                 /* domain->device */
    struct mc_dom0 *dom0;       /* NULL in the second design */
    uint64_t serial;            /* of this domain since its last boot; never used again */
    uint32_t answered;          /* number of the last ASK that was answered */
    uint32_t collected;         /* number of the last OFFER that was dealt with */
    int is_again;               /* an offer may be half taken, by a process that was killed */
    int unrung;                 /* dom0 wrote a word for the guest and has not rung its bell yet */
    int failures;               /* times in sequence that it was asked and gave nothing */
    uint64_t shunned_ns;        /* it is not asked before this time */
    uint64_t given_areas;
    struct mc_cmm_ask ask;
    enum mc_cmm_wish wish;
    int wish_status;            /* once it is done: 0, or why there is none */
    int wish_path;
    uint64_t asks;
    uint64_t transfers;
    uint32_t waits;
    uint32_t timeouts;
};

static inline struct mc_cmm *cmm_of(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->mechanism->id == MC_CMM && domain->device, "no cmm device");
    return domain->device;
}

/* Main thread, no lock. Join or leave the host's dom0; MC_OK, or MC_EKERNEL when no thread or event
 * channel could be made. */
int mc_dom0_join(struct mc_host *host, struct mc_domain *domain);
void mc_dom0_leave(struct mc_host *host, struct mc_domain *domain);
/* Under the lock, after the process before was killed: join this process's dom0. As join. */
int mc_dom0_rejoin(struct mc_host *host, struct mc_domain *domain);
/* At every boot: nothing was said yet. */
void mc_dom0_reset(struct mc_host *host, struct mc_domain *domain);
/* Keeper: make the area ready that dom0 wishes for; 1 when there was a wish. Releases the lock. */
int mc_dom0_make_ready(struct mc_host *host, struct mc_domain *domain);

/* cmm_channel.c: what dom0 hears and says. */

/* 1 for an active domain of the first design. */
int mc_cmm_has_dom0(const struct mc_domain *domain);
uint64_t mc_cmm_driver_word(const struct mc_domain *domain, uint32_t index);
void mc_cmm_ring(struct mc_host *host, struct mc_domain *domain);
/* Take what all domains offer; the keepers punch it. How many offers there were. */
int mc_cmm_collect(struct mc_host *host);
/* Ring the bells that are due, then sleep until an event channel wakes dom0. Releases the lock. */
void mc_cmm_wait(struct mc_dom0 *dom0, uint64_t longest_ns);

#endif
