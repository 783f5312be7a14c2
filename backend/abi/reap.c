/* reap.c: see reap.h.
 *
 *   1. main thread   CLOSING; the guest reads CLOSED and its bells ring.
 *   2. service       QUIESCED: it is visited no more.
 *   3. keeper        tmem forgets it; all its areas are due to be punched, after the grace, or
 *                    when the guest has let go of them.
 *   4. keeper        punches, again and again where the kernel refuses; the frames stay charged.
 *   5. keeper        unmaps and closes all; the slot is EMPTY.
 */
#include "reap.h"
#include "books.h"

#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MC_QUIESCE_LOOK_NS 20000000

/* Give back what a domain had. `taken` is a copy: nobody finds these by the domain any more. */
static void reap_free(struct mc_host *host, struct mc_domain *taken)
{
    const int fds[] = {taken->ram_fd, taken->meta_fd, taken->bell_fd};
    /* The guest may keep the eventfd open, which would keep it in the epoll: take it out. */
    if (taken->bell_fd >= 0)
        epoll_ctl(host->epoll_fd, EPOLL_CTL_DEL, taken->bell_fd, NULL);
    if (taken->ram)
        mc_unmap(taken->ram, (uint64_t)taken->areas * MC_AREA_BYTES);
    if (taken->meta)
        mc_unmap(taken->meta, taken->meta_bytes);
    for (uint32_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    mc_slot_close(host, taken);
}

/* Take everything out of the slot, which stays taken: others read its domid and its phase without
 * the lock, so these two are not written for an instant. */
static struct mc_domain reap_take(struct mc_domain *domain)
{
    const size_t kept_bytes = offsetof(struct mc_domain, areas);
    struct mc_domain taken = *domain;
    uint32_t domid = domain->domid;
    MC_CHECK(!domain->users, "domain %u: unmapped under %u users", domid, domain->users);
    MC_CHECK(!domain->installed_frames && !domain->flight_frames,
             "domain %u: unmapped with %lu frames installed, %lu in flight", domid,
             domain->installed_frames, domain->flight_frames);
    MC_CHECK(!domain->states || domain->counts[MC_A_HARD] == domain->areas,
             "domain %u: unmapped with %u of %u areas hard", domid, domain->counts[MC_A_HARD],
             domain->areas);
    domain->areas = 0;          /* first: nothing of it is to be recovered */
    MC_BOOKED();
    memset((char *)domain + kept_bytes, 0, sizeof *domain - kept_bytes);
    return taken;
}

void mc_domain_dismantle(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_domain taken;
    MC_CHECK_IN(domain, !(mc_attached(host) >> domain->domid & 1), "unmapped while attached, %lx",
                mc_attached(host));
    pthread_mutex_lock(&host->own->doors);
    if (domain->mechanism->close && domain->states)
        domain->mechanism->close(host, domain);
    MC_CHECK_IN(domain, !mc_is_locked(host), "close keeps the lock");
    mc_host_lock(host);
    taken = reap_take(domain);
    mc_host_unlock(host);
    pthread_mutex_unlock(&host->own->doors);
    reap_free(host, &taken);
    mc_host_lock(host);
    __atomic_store_n(&domain->phase, MC_EMPTY, __ATOMIC_RELEASE);
    mc_tell_done(host);
    mc_host_unlock(host);
    mc_eventfd_ring(host->event_fd);
}

/* 1 when no thread but the keeper works on the domain. */
static int reap_is_quiet(struct mc_host *host, const struct mc_domain *domain)
{
    int served = __atomic_load_n(&host->service_running, __ATOMIC_ACQUIRE) &&
                 mc_attached(host) >> domain->domid & 1;
    return !domain->users && (!served || mc_phase_of(domain) == MC_QUIESCED);
}

int mc_domain_quiesce(struct mc_host *host, struct mc_domain *domain, uint64_t longest_ns)
{
    uint64_t until_ns = mc_clock_ns() + longest_ns;
    MC_CHECK_LOCKED(host);
    mc_phase_set(domain, MC_CLOSING);
    mc_eventfd_ring(host->kick_fd);
    while (!reap_is_quiet(host, domain) && mc_clock_ns() < until_ns)
        mc_wait_done(host, MC_QUIESCE_LOOK_NS);
    return reap_is_quiet(host, domain) ? MC_OK : MC_ETIMEOUT;
}

void mc_domain_detach(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_IN(domain, mc_attached(host) >> domain->domid & 1, "detached twice, attached %lx",
                mc_attached(host));
    if (host->tmem.close_client)
        host->tmem.close_client(host->tmem.state, domain->domid);
    MC_CHECK_LOCKED(host);
    __atomic_fetch_and(&host->attached, ~(1ull << domain->domid), __ATOMIC_RELEASE);
}

static void reap_ring_guest(struct mc_control *control)
{
    mc_bell_ring((uint32_t *)&control->guest_bell, (uint32_t *)&control->guest_waiters);
    mc_bell_ring((uint32_t *)&control->credit_bell, (uint32_t *)&control->credit_waiters);
    mc_bell_ring((uint32_t *)&control->config_bell, (uint32_t *)&control->config_waiters);
}

/* Nothing of the domain is the guest's any more. What is backed is charged until it is punched. */
static void reap_condemn(struct mc_host *host, struct mc_domain *domain)
{
    mc_domain_detach(host, domain);
    memset(domain->pins, 0, (size_t)domain->areas * MC_AREA_ROWS * sizeof *domain->pins);
    memset(domain->pin_counts, 0, domain->areas * sizeof *domain->pin_counts);
    domain->pinned_frames = 0;
    mc_condemn_all(host, domain, 0);
    domain->leaving = 2;
}

int mc_reap_step(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, domain->leaving, "reaped in phase %d", mc_phase_of(domain));
    if (domain->leaving == 1 && !reap_is_quiet(host, domain))
        return 0;
    if (domain->leaving == 1)
        reap_condemn(host, domain);
    if (atomic_load(&domain->control->let_go))     /* a lie would cost the guest its own memory */
        domain->punch_ns = 0;
    while (mc_punch_own(host, domain))
        ;
    return !mc_is_punch_due(domain);
}

/* Where no keeper runs, the calling thread does its work: 1 when all is done. */
static int reap_without_keeper(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t until_ns = mc_clock_ns() + MC_REBOOT_NS_MAX;
    while (!mc_reap_step(host, domain) && mc_clock_ns() < until_ns)
        mc_wait_done(host, MC_QUIESCE_LOOK_NS);
    return domain->leaving == 2 && !mc_is_punch_due(domain);
}

int mc_domain_close(struct mc_host *host, uint32_t domid, uint64_t grace_ns)
{
    int status, gone;
    struct mc_domain *domain;
    if (domid < MC_MAX_DOMAINS && host->domains[domid].leaving)
        return MC_OK;
    domain = mc_domain_at(host, domid, &status);
    if (status)
        return status;
    mc_host_lock(host);
    mc_phase_set(domain, MC_CLOSING);
    domain->leaving = 1;
    domain->punch_ns = mc_clock_ns() + grace_ns;
    atomic_store(&domain->control->state, MC_STATE_CLOSED);
    reap_ring_guest(domain->control);
    mc_eventfd_ring(host->kick_fd);
    mc_work(host, domain);
    gone = !domain->is_kept && reap_without_keeper(host, domain);
    mc_host_unlock(host);
    if (gone)
        mc_domain_dismantle(host, domain);
    return MC_OK;
}

int mc_domain_is_gone(struct mc_host *host, uint32_t domid)
{
    return domid >= MC_MAX_DOMAINS ||
           __atomic_load_n(&host->domains[domid].phase, __ATOMIC_ACQUIRE) == MC_EMPTY;
}
