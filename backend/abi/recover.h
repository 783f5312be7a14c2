/* recover.h: going on with the books of a hypervisor that was killed.
 *
 * Owns:  the way from what lies in the books, cut off between any two instructions, to a host whose
 *        ledger adds up. Nothing here comes from a guest: books and fds are the hypervisor's own.
 *        Of a guest's words only those are believed that give memory away.
 * Rules: main thread, before any other thread of the host runs. A kill during the recovery is
 *        mended by the next one. It neither punches nor populates, so no guest can hold it up: what
 *        is to be punched becomes due, and the worker punches it.
 *
 *   areas    the state of an area is the truth, with its holes and pins. What was on its way is
 *            punched: POPULATING and PUNCHING become PUNCH. An installed area whose word says
 *            reclaimed was being taken: it is taken. One area may have been on its way to the
 *            guest; host->step says which, and its word says whether it arrived.
 *   sums     are counted anew: domains, banks, host.
 *   rings    what was written as a response is published. A record that was taken and is neither
 *            answered nor kept is executed again (mc_is_again).
 *   reboots  that had begun are carried out anew, once the threads run: mc_domain_reboot.
 *   devices  mechanism->recover mends what the mechanism keeps, mechanism->target asks anew.
 */
#ifndef MC_RECOVER_H
#define MC_RECOVER_H

#include "mechanism.h"

/* cdef-begin */
struct mc_domain_fds {
    uint32_t domid;
    int ram_fd;
    int meta_fd;
    int bell_fd;
};

struct mc_recovery {            /* domains, one bit each */
    uint64_t kept;              /* go on; those that were being closed go on `leaving` */
    uint64_t gone;              /* of those with fds: not in the books, or no more */
    uint32_t again;             /* records that are executed again */
    uint32_t due;               /* areas that are to be punched */
};

/* Make the host that lies in the books this process's own. The fds become the host's, but those of
 * domains in `gone`. MC_ELAYOUT when the books are of a program with another order of things, or
 * are none; MC_EKERNEL; MC_EBROKEN when the books contradict themselves. After a failure the books
 * are as good as before. */
int mc_host_recover(struct mc_host **host, int books_fd, const struct mc_domain_fds *fds,
                    uint32_t count, struct mc_recovery *report);
/* After tmem has been recovered, and the memory of the slab areas that it does not hold was freed:
 * those are the host's. `held[i]`: slab area i is held. MC_EBROKEN when tmem holds one that was
 * never charged. */
int mc_tmem_recover(struct mc_host *host, const uint8_t *held);

/* recount.c, under the lock. Finish what was under way with a domain's areas; how many are due to
 * be punched. MC_EBROKEN for a state that there is not. */
int64_t mc_recount_areas(struct mc_host *host, struct mc_domain *domain);
/* Count all sums of the ledger; MC_EBROKEN when a bank has not so much. */
int mc_recount_sums(struct mc_host *host);
/* cdef-end */

#endif
