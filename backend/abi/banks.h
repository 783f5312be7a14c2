/* banks.h: the banks of host memory: who uses them, and taking one out of the host.
 *
 * Owns:  withdrawal. A bank that is withdrawn serves nobody any more: what is free of it leaves the
 *        host (and the host's total) at once, what is in use as it is freed. Domains of `sections`
 *        are asked to move off it; what other mechanisms and tmem hold stays until they free it.
 * Rules: main thread, except mc_banks_drain and mc_bank_choose: any thread, under the lock.
 *        The slack is kept out of what is left.
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

/* MC_EINDEX; MC_ESTATE when it is withdrawn already, or not withdrawn. */
int mc_bank_withdraw(struct mc_host *host, uint32_t bank);
int mc_bank_restore(struct mc_host *host, uint32_t bank);
int mc_bank_usage(struct mc_host *host, uint32_t bank, struct mc_bank_usage *usage);
/* cdef-end */

/* What is free of withdrawn banks leaves the host. */
void mc_banks_drain(struct mc_host *host);
/* The bank that a chunk of so many frames may be taken from, or MC_NO_BANK: a local one before a
 * remote one (or the other way round), of these the one with most free. */
uint32_t mc_bank_choose(const struct mc_host *host, uint64_t frames, int remote_first);

#endif
