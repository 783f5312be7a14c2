/* worker.c: the worker thread does the slow work, off the path of every guest. See host.h.
 *
 * Each round:
 *   1. punch    one run of areas taken from guests; neighbours in one call. Then the next round.
 *   2. timers   of mechanisms, when they have come.
 *   3. jobs     of mechanisms: one, in the order of enum mc_job. Then the next round.
 * With nothing to do it sleeps until signalled, until the next timer, or MC_WORKER_SLEEP_NS.
 */
#include "mechanism.h"

#include <sched.h>

#define MC_WORKER_SLEEP_NS 50000000

static int worker_run_job(struct mc_host *host, enum mc_job job)
{
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        int worked = mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->jobs[job] &&
                     domain->mechanism->jobs[job](host, domain);
        MC_CHECK_LOCKED(host);
        if (worked) {
            mc_reach_note(host, domain);
            return 1;
        }
    }
    return 0;
}

/* Run the timers that are due; returns when the next one is. */
static uint64_t worker_run_timers(struct mc_host *host, uint64_t sleep_ns)
{
    uint64_t now_ns = mc_clock_ns(), next_ns = now_ns + sleep_ns;
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        if (mc_phase_of(domain) != MC_ACTIVE || !domain->timer_ns)
            continue;
        MC_CHECK_IN(domain, domain->mechanism->timer, "timer of %lu ns, %s has none",
                    domain->timer_ns, domain->mechanism->name);
        if (domain->timer_ns <= now_ns) {
            domain->mechanism->timer(host, domain, now_ns);
            MC_CHECK_LOCKED(host);
            mc_reach_note(host, domain);
        }
        if (domain->timer_ns && domain->timer_ns < next_ns)
            next_ns = domain->timer_ns;
    }
    return next_ns;
}

int mc_worker_run(struct mc_host *host)
{
    const struct sched_param none = {0};
    /* SCHED_BATCH: the worker never preempts a thread when it wakes, but keeps a normal share of
     * the CPU. Its work can wait, and takes a millisecond at a time. */
    (void)sched_setscheduler(0, SCHED_BATCH, &none);
    mc_host_lock(host);
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        uint64_t until_ns;
        int worked = mc_punch_due(host);
        if (worked)
            continue;
        until_ns = worker_run_timers(host, MC_WORKER_SLEEP_NS);
        for (int job = 0; job < MC_JOBS_MAX && !worked; job++)
            worked = worker_run_job(host, (enum mc_job)job);
        if (!worked && until_ns > mc_clock_ns())
            mc_wait_work(host, until_ns);
    }
    mc_host_unlock(host);
    return MC_OK;
}
