/* worker.c: the worker thread does what is slow, off everybody's path. See host.h.
 *
 * Each round:
 *   1. punch    one run of areas taken from guests; neighbours in one call. Then round again.
 *   2. timers   of mechanisms, when they have come.
 *   3. jobs     of mechanisms: one, in the order of mechanism.h. Then round again.
 * With nothing to do it sleeps until signalled, until the next timer, or MC_WORKER_SLEEP_NS.
 */
#include "mechanism.h"

#include <sched.h>
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

/* Once everything that is due is punched: what will be freed is waited for. */
static int run_jobs(struct mc_host *host)
{
    struct mc_domain *domain;

    for (int job = 0; job < MC_JOBS_MAX; job++)
        for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
            if (mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->jobs[job] &&
                domain->mechanism->jobs[job](host, domain)) {
                mc_reach_note(host, domain);
                return 1;
            }
    return 0;
}

int mc_punch_due(struct mc_host *host)
{
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE && punch_run(host, domain)) {
            mc_reach_note(host, domain);
            return 1;
        }
    return 0;
}

/* Timers that have come; when the next one will. */
static uint64_t run_timers(struct mc_host *host, uint64_t sleep_ns)
{
    uint64_t now_ns = mc_clock_ns(), next_ns = now_ns + sleep_ns;
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        if (mc_phase_of(domain) != MC_ACTIVE || !domain->timer_ns || !domain->mechanism->timer)
            continue;
        if (domain->timer_ns <= now_ns) {
            domain->mechanism->timer(host, domain, now_ns);
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

    /* It preempts nobody when it wakes: what it does can wait, and takes a millisecond at a time.
     * Its share is that of others, so that it gets on beside whoever wants a whole CPU. */
    (void)sched_setscheduler(0, SCHED_BATCH, &none);
    mc_host_lock(host);
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        uint64_t until_ns;
        struct timespec until;

        if (mc_punch_due(host))
            continue;
        until_ns = run_timers(host, MC_WORKER_SLEEP_NS);
        if (run_jobs(host) || until_ns <= mc_clock_ns())
            continue;
        until = (struct timespec){until_ns / 1000000000u, until_ns % 1000000000u};
        pthread_cond_timedwait(&host->own->work, &host->own->lock, &until);
    }
    mc_host_unlock(host);
    return MC_OK;
}
