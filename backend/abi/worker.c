/* worker.c: the supervisor of the keepers. See host.h, keeper.h.
 *
 * Ten times a second it gives each domain that has no keeper one, and breaks each domain whose file
 * has not answered for MC_FILE_STUCK_NS: a process that shares the file keeps its lock.
 * A keeper that waits for a CPU is no such case.
 * At the end it waits for all keepers, MC_STOP_NS_MAX at most.
 */
#include "keeper.h"

#define MC_WORKER_LOOK_NS 100000000
#define MC_STOP_NS_MAX 2000000000u
#define MC_STOP_LOOK_NS 20000000

static void worker_look_at(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_IN(domain, mc_phase_of(domain) != MC_EMPTY, "attached in phase %d",
                mc_phase_of(domain));
    mc_keeper_start(host, domain);      /* when that fails, again the next time */
    if (mc_phase_of(domain) == MC_ACTIVE && mc_file_is_late(domain, MC_FILE_STUCK_NS) &&
        mc_keeper_sleeps(host, domain))
        mc_domain_break(host, domain, MC_ETIMEOUT);
}

static int worker_end_keepers(struct mc_host *host)
{
    uint64_t until_ns = mc_clock_ns() + MC_STOP_NS_MAX;
    MC_CHECK_LOCKED(host);
    while (host->own->keepers && mc_clock_ns() < until_ns) {
        for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++)
            mc_work(host, &host->domains[domid]);
        mc_wait_done(host, MC_STOP_LOOK_NS);
    }
    host->worker_running = 0;
    return host->own->keepers ? MC_ETIMEOUT : MC_OK;
}

int mc_worker_run(struct mc_host *host)
{
    int status;
    mc_host_lock(host);
    MC_CHECK(!host->worker_running, "%u supervisors", host->worker_running);
    host->worker_running = 1;
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        struct mc_domain *domain;
        for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
            worker_look_at(host, domain);
        mc_wait_supervise(host, mc_clock_ns() + MC_WORKER_LOOK_NS);
    }
    status = worker_end_keepers(host);
    mc_host_unlock(host);
    return status;
}
