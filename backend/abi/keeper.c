/* keeper.c: see keeper.h.
 *
 * Each round:
 *   1. errand   of the main thread.
 *   2. record   the oldest that the service thread left.
 *   3. punch    one run of areas taken from the guest. Then the next round, as long as there was
 *               one of these.
 *   4. timer    of the mechanism, when it has come.
 *   5. jobs     of the mechanism: one, in the order of enum mc_job. Then the next round.
 * With nothing to do it sleeps until signalled, until the timer, or MC_KEEPER_SLEEP_NS.
 * A domain that leaves is taken down (reap.c), and so ends its keeper.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "books.h"
#include "keeper.h"
#include "reap.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MC_KEEPER_SLEEP_NS 50000000
#define MC_REAP_LOOK_NS 20000000
#define MC_STAT_BYTES 256

static int keeper_run_errand(struct mc_host *host, struct mc_domain *domain)
{
    if (!domain->errand)
        return 0;
    domain->errand_runs = 1;
    domain->errand_status = domain->errand(host, domain);
    MC_CHECK_LOCKED(host);
    domain->errand_runs = 0;
    domain->errand = NULL;
    mc_tell_done(host);
    return 1;
}

/* 1 when the record was answered. */
static int keeper_serve_kept(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_record record, *kept = &domain->kept[domain->kept_first % MC_RING_SLOTS];
    enum mc_served served;
    if (!mc_kept_count(domain) || mc_phase_of(domain) != MC_ACTIVE)
        return 0;
    record = *kept;
    MC_CHECK_IN(domain, domain->mechanism->later, "op %u is kept, %s serves none later", record.op,
                domain->mechanism->name);
    served = domain->mechanism->later(host, domain, &record);
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, served < MC_UNFINISHED, "op %u: outcome %d of its keeper", record.op,
                served);
    if (served == MC_KEPT) {
        *kept = record;
        return 0;
    }
    if (mc_phase_of(domain) == MC_ACTIVE) {
        mc_answer(host, domain, &record);
        mc_reach_note(host, domain);
    }
    MC_BOOKED();
    domain->kept_first++;
    return 1;
}

static int keeper_punch(struct mc_host *host, struct mc_domain *domain)
{
    int punched = mc_punch_own(host, domain);
    if (punched && mc_phase_of(domain) == MC_ACTIVE)
        mc_reach_note(host, domain);
    return punched;
}

static int keeper_run_jobs(struct mc_host *host, struct mc_domain *domain)
{
    int worked = 0;
    for (int job = 0; job < MC_JOBS_MAX && !worked && mc_phase_of(domain) == MC_ACTIVE; job++)
        worked = domain->mechanism->jobs[job] && domain->mechanism->jobs[job](host, domain);
    MC_CHECK_LOCKED(host);
    if (worked && mc_phase_of(domain) == MC_ACTIVE)
        mc_reach_note(host, domain);
    return worked;
}

static void keeper_run_timer(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t now_ns = mc_clock_ns();
    if (!domain->timer_ns || mc_phase_of(domain) != MC_ACTIVE)
        return;
    MC_CHECK_IN(domain, domain->mechanism->timer, "timer of %lu ns, %s has none", domain->timer_ns,
                domain->mechanism->name);
    if (domain->timer_ns > now_ns)
        return;
    domain->mechanism->timer(host, domain, now_ns);
    MC_CHECK_LOCKED(host);
    if (mc_phase_of(domain) == MC_ACTIVE)
        mc_reach_note(host, domain);
}

/* 1 when there may be more to do. The keeper is a user of the domain meanwhile: it may wait. */
static int keeper_round(struct mc_host *host, struct mc_domain *domain)
{
    int worked;
    domain->users++;
    worked = keeper_run_errand(host, domain);
    worked |= keeper_serve_kept(host, domain);
    worked |= keeper_punch(host, domain);
    if (!worked) {
        keeper_run_timer(host, domain);
        worked = keeper_run_jobs(host, domain);
    }
    MC_CHECK_IN(domain, domain->users, "%u users after a round", domain->users);
    domain->users--;
    if (mc_phase_of(domain) != MC_ACTIVE)
        mc_tell_done(host);     /* somebody may wait until it is quiet */
    return worked;
}

/* Until there is something to do; the keeper is told of memory that comes free if that may help. */
static void keeper_rest(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t until_ns = mc_clock_ns() + MC_KEEPER_SLEEP_NS;
    if (domain->timer_ns && domain->timer_ns < until_ns)
        until_ns = domain->timer_ns;
    if (domain->punch_ns && mc_is_punch_due(domain) && domain->punch_ns < until_ns)
        until_ns = domain->punch_ns;
    domain->is_hungry = mc_kept_count(domain) || domain->growing || domain->credit_areas ||
                        domain->mechanism->id == MC_SECTIONS;
    mc_wait_work(host, domain, until_ns);
    domain->is_hungry = 0;
}

static int keeper_is_stopping(const struct mc_host *host)
{
    return __atomic_load_n(&host->stop, __ATOMIC_ACQUIRE) != 0;
}

static void *keeper_run(void *argument)
{
    struct mc_keeper *seat = argument;
    struct mc_host *host = seat->host;
    struct mc_domain *domain = seat->domain;
    const struct sched_param none = {0};
    int is_done = 0;
    /* SCHED_BATCH: a keeper never preempts a thread when it wakes, but keeps a normal share of the
     * CPU. Its work can wait, and takes a millisecond at a time. */
    (void)sched_setscheduler(0, SCHED_BATCH, &none);
    mc_host_lock(host);
    seat->tid = gettid();
    while (!is_done && !keeper_is_stopping(host)) {
        if (!domain->leaving) {
            if (!keeper_round(host, domain) && !domain->leaving && !keeper_is_stopping(host))
                keeper_rest(host, domain);
            continue;
        }
        is_done = mc_reap_step(host, domain);
        if (!is_done)
            mc_wait_work(host, domain, mc_clock_ns() + MC_REAP_LOOK_NS);
    }
    MC_CHECK_IN(domain, domain->is_kept, "its keeper ends, %u are noted", domain->is_kept);
    domain->is_kept = 0;
    if (is_done) {
        mc_host_unlock(host);
        mc_domain_dismantle(host, domain);
        mc_host_lock(host);
    }
    host->own->keepers--;
    mc_tell_done(host);
    mc_host_unlock(host);
    return NULL;
}

int mc_keeper_start(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_keeper *seat = &host->own->keeper[domain->domid];
    char name[16];
    pthread_t thread;
    sigset_t all, before;
    int failed;
    MC_CHECK_LOCKED(host);
    if (!host->worker_running || domain->is_kept)
        return MC_OK;
    MC_CHECK_IN(domain, domain->control && domain->states, "phase %d: nothing to keep",
                mc_phase_of(domain));
    *seat = (struct mc_keeper){host, domain, 0};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, NULL, keeper_run, seat);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return MC_EKERNEL;
    snprintf(name, sizeof name, "keeper-%u", domain->domid);
    pthread_setname_np(thread, name);
    pthread_detach(thread);
    domain->is_kept = 1;
    host->own->keepers++;
    return MC_OK;
}

/* The third field of the thread's stat. What cannot be read counts as waiting for a CPU. */
int mc_keeper_sleeps(const struct mc_host *host, const struct mc_domain *domain)
{
    char path[64], text[MC_STAT_BYTES] = {0}, *state;
    FILE *file;
    MC_CHECK_LOCKED(host);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", host->own->keeper[domain->domid].tid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    state = fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL;
    fclose(file);
    return state && state[1] == ' ' && state[2] != 'R';
}
