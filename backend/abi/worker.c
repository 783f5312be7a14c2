/* worker.c: the worker thread does what is slow, off everybody's path. See host.h.
 *
 * Each round, at most one of:
 *   1. punch    areas taken from guests; neighbours in one call, so that the ledger gets them back.
 *   2. withdraw what is ready beyond a target: the domain may not have it any more.
 *   3. credit   grant a ready area to a domain that has less credit than it should, and ring.
 *   4. ready    populate one area ahead of need for a domain below its target.
 * Then it looks again; with nothing to do it sleeps until signalled, at most MC_WORKER_SLEEP_NS.
 */
#include "host.h"

#include <time.h>

#define MC_WORKER_SLEEP_NS 50000000
#define MC_PUNCH_AREAS_MAX 32

static int is_due(int state)
{
    return state == MC_A_PUNCH_HARD || state == MC_A_PUNCH_SOFT;
}

/* What a punching area is afterwards: what the kernel refused to punch is due again. */
static int punched(int state, int failed)
{
    if (state == MC_A_PUNCHING_HARD)
        return failed ? MC_A_PUNCH_HARD : MC_A_HARD;
    return failed ? MC_A_PUNCH_SOFT : MC_A_SOFT;
}

/* Punch the first run of due areas of a domain; 1 if there was one. */
static int punch_run(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t first = 0, end;
    int failed;

    if (!domain->counts[MC_A_PUNCH_HARD] && !domain->counts[MC_A_PUNCH_SOFT])
        return 0;
    while (!is_due(domain->states[first]))
        first++;
    for (end = first; end < domain->areas && end - first < MC_PUNCH_AREAS_MAX &&
                      is_due(domain->states[end]); end++)
        mc_area_set(host, domain, end, domain->states[end] == MC_A_PUNCH_HARD
                                           ? MC_A_PUNCHING_HARD : MC_A_PUNCHING_SOFT);
    domain->users++;
    mc_host_unlock(host);
    failed = mc_punch(domain->ram_fd, (uint64_t)first * MC_AREA_BYTES,
                      (uint64_t)(end - first) * MC_AREA_BYTES);
    mc_host_lock(host);
    domain->users--;
    for (uint32_t area = first; area < end; area++)
        mc_area_set(host, domain, area, punched(domain->states[area], failed));
    pthread_cond_broadcast(&host->own->done);
    return !failed;
}

static int withdraw(struct mc_host *host, struct mc_domain *domain)
{
    return mc_supply_withdraw(host, domain) > 0;
}

static int give_credit(struct mc_host *host, struct mc_domain *domain)
{
    if (!domain->counts[MC_A_READY] || !mc_domain_credit(domain))
        return 0;
    if (mc_supply_grant(host, domain, MC_PATH_CREDIT))
        return 1;
    mc_bell_ring((uint32_t *)&domain->control->credit_bell,
                 (uint32_t *)&domain->control->credit_waiters);
    return 1;
}

/* A domain that grows gets one area ready; what it populates counts as used. While a punch is due
 * anywhere, what it will free is waited for. */
static int make_ready(struct mc_host *host, struct mc_domain *domain)
{
    if (domain->counts[MC_A_READY] || domain->counts[MC_A_POPULATING] ||
        !(domain->growing || mc_domain_credit(domain)))
        return 0;
    return !mc_supply_ready(host, domain);
}

static int step(struct mc_host *host)
{
    static int (*const jobs[])(struct mc_host *, struct mc_domain *) = {
        punch_run, withdraw, give_credit, make_ready,
    };
    struct mc_domain *domain;

    for (uint32_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
            if (mc_phase_of(domain) == MC_ACTIVE && jobs[i](host, domain))
                return 1;
    return 0;
}

int mc_worker_run(struct mc_host *host)
{
    mc_host_lock(host);
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        uint64_t until_ns;
        struct timespec until;

        if (step(host))
            continue;
        until_ns = mc_clock_ns() + MC_WORKER_SLEEP_NS;
        until = (struct timespec){until_ns / 1000000000u, until_ns % 1000000000u};
        pthread_cond_timedwait(&host->own->work, &host->own->lock, &until);
    }
    mc_host_unlock(host);
    return MC_OK;
}
