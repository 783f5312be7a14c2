/* banks.h: the banks of host memory: who uses them, and taking one out of the host.
 *
 * Owns:  withdrawal. A withdrawn bank gives no more memory. Its free frames leave the host, and the
 *        host's total, at once; frames in use leave as they are freed. Domains of `sections` are
 *        asked to move off it; memory of other mechanisms and of tmem stays until they free it.
 * Rules: main thread, except mc_banks_drain: any thread, under the lock.
 *        The slack is kept out of the memory that is left.
 */
#ifndef MC_BANKS_H
#define MC_BANKS_H

#include "ledger.h"

/* cdef-begin */
struct mc_bank_usage {
    struct mc_bank bank;
    uint64_t domain_frames[MC_MAX_DOMAINS]; /* charged to it, in transit included, by domid */
    uint64_t tmem_frames;
};

/* Withdraw a bank (1), or bring it back (0). MC_EINDEX; MC_ESTATE when it is so already. */
int mc_bank_set_withdrawn(struct mc_host *host, uint32_t index, uint32_t withdrawn);
int mc_bank_usage(struct mc_host *host, uint32_t bank, struct mc_bank_usage *usage);
/* The free frames of withdrawn banks leave the host. */
void mc_banks_drain(struct mc_host *host);
/* cdef-end */

#endif
