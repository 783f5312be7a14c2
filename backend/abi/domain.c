/* domain.c: a domain comes, changes its target, goes. Main thread only. See host.h. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MC_CLOSE_WAITS_MAX 500
#define MC_CLOSE_WAIT_NS 20000000

static int make_memory(struct mc_domain *domain, uint32_t areas)
{
    char name[32];
    int64_t bytes = mc_meta_bytes(areas);
    int64_t ram_bytes = (int64_t)areas * MC_AREA_BYTES;

    if (bytes < 0)
        return (int)bytes;
    domain->meta_bytes = (uint64_t)bytes;
    snprintf(name, sizeof name, "memcoord-ram-%u", domain->domid);
    domain->ram_fd = mc_memfd(name, (uint64_t)ram_bytes);
    snprintf(name, sizeof name, "memcoord-meta-%u", domain->domid);
    domain->meta_fd = mc_memfd(name, domain->meta_bytes);
    domain->bell_fd = mc_eventfd(0);
    if (domain->ram_fd < 0 || domain->meta_fd < 0 || domain->bell_fd < 0)
        return MC_EKERNEL;
    ram_bytes = mc_map(domain->ram_fd, (uint64_t)ram_bytes);
    if (ram_bytes < 0)
        return MC_EKERNEL;
    domain->ram = (uint64_t)ram_bytes;
    bytes = mc_map(domain->meta_fd, domain->meta_bytes);
    if (bytes < 0)
        return MC_EKERNEL;
    domain->meta = (uint64_t)bytes;
    return MC_OK;
}

static int make_state(struct mc_domain *domain, uint32_t areas)
{
    struct mc_control *control = (struct mc_control *)domain->meta;
    int status = mc_meta_format(control, domain->meta_bytes, domain->domid, areas);

    if (status)
        return status;
    status = mc_frames_bind(&domain->frames, control);
    if (status)
        return status;
    domain->states = calloc(areas, sizeof *domain->states);
    domain->generations = calloc(areas, sizeof *domain->generations);
    if (!domain->states || !domain->generations)
        return MC_ENOMEM;
    mc_back_bind(&domain->rings[0],
                 (struct mc_ring *)(domain->meta + control->memory_ring_offset));
    mc_back_bind(&domain->rings[1], (struct mc_ring *)(domain->meta + control->tmem_ring_offset));
    domain->areas = areas;
    domain->counts[MC_A_HARD] = areas;
    domain->control = control;
    return MC_OK;
}

static void tear_down(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t domid = domain->domid;

    /* The guest may hold the eventfd for longer: closing it here would leave it in the epoll. */
    if (domain->bell_fd >= 0)
        epoll_ctl(host->epoll_fd, EPOLL_CTL_DEL, domain->bell_fd, NULL);
    if (domain->ram)
        mc_unmap(domain->ram, (uint64_t)domain->areas * MC_AREA_BYTES);
    if (domain->meta)
        mc_unmap(domain->meta, domain->meta_bytes);
    if (domain->ram_fd >= 0)
        close(domain->ram_fd);
    if (domain->meta_fd >= 0)
        close(domain->meta_fd);
    if (domain->bell_fd >= 0)
        close(domain->bell_fd);
    free(domain->states);
    free(domain->generations);
    memset(domain, 0, sizeof *domain);
    domain->domid = domid;
}

static int boot(struct mc_host *host, struct mc_domain *domain, uint32_t boot_areas)
{
    int path, status = MC_OK;

    mc_host_lock(host);
    for (uint32_t i = 0; i < boot_areas && !status; i++) {
        if (host->promised_areas)   /* to this domain: in the same hold, or tmem would have it */
            host->promised_areas--;
        status = mc_supply_grow(host, domain, &path);
        if (!status)
            domain->counters.grants[path]--;    /* what it boots with is not a grant */
    }
    domain->growing = 0;
    mc_host_unlock(host);
    return status;
}

/* The pages go before the ledger says they are free. Nobody but the caller uses the domain. */
static void release_all(struct mc_host *host, struct mc_domain *domain)
{
    mc_punch(domain->ram_fd, 0, (uint64_t)domain->areas * MC_AREA_BYTES);
    mc_host_lock(host);
    __atomic_fetch_and(&host->attached, ~(1ull << domain->domid), __ATOMIC_RELEASE);
    domain->control = NULL;
    for (uint32_t area = 0; area < domain->areas; area++)
        mc_area_set(host, domain, area, MC_A_HARD);
    pthread_cond_signal(&host->own->work);
    pthread_cond_broadcast(&host->own->done);
    mc_host_unlock(host);
}

int mc_domain_open(struct mc_host *host, uint32_t domid, uint32_t areas, uint32_t boot_areas,
                   uint32_t target_areas, uint32_t credit_areas, int relayed)
{
    struct mc_domain *domain;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = domid};
    int status;

    if (domid >= MC_MAX_DOMAINS || !areas || areas > MC_MAX_AREAS || boot_areas > target_areas ||
        target_areas > areas)
        return MC_EINDEX;
    domain = &host->domains[domid];
    if (mc_phase_of(domain) != MC_EMPTY)
        return MC_ESTATE;
    domain->ram_fd = domain->meta_fd = domain->bell_fd = -1;
    status = make_memory(domain, areas);
    domain->areas = areas;
    if (!status)
        status = make_state(domain, areas);
    if (status) {
        tear_down(host, domain);
        return status;
    }
    domain->target_areas = target_areas;
    domain->credit_areas = credit_areas;
    domain->relayed = relayed;
    atomic_store(&domain->control->target_frames, (uint64_t)target_areas * MC_AREA_FRAMES);
    status = boot(host, domain, boot_areas);
    if (!status && epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, domain->bell_fd, &event))
        status = MC_EKERNEL;
    mc_host_lock(host);
    if (!status && host->tmem.open_client)
        status = (int)host->tmem.open_client(host->tmem.state, domid);
    if (!status) {
        mc_phase_set(domain, MC_ACTIVE);
        __atomic_fetch_or(&host->attached, 1ull << domid, __ATOMIC_RELEASE);
        pthread_cond_signal(&host->own->work);
    }
    mc_host_unlock(host);
    if (status) {
        release_all(host, domain);
        tear_down(host, domain);
        return status;
    }
    atomic_store(&domain->control->state, MC_STATE_OPEN);
    mc_eventfd_ring(host->kick_fd);
    return MC_OK;
}

/* Under the lock: neither the service thread nor the worker uses the domain any more. */
static int quiesce(struct mc_host *host, struct mc_domain *domain)
{
    mc_phase_set(domain, MC_CLOSING);
    mc_eventfd_ring(host->kick_fd);
    for (int i = 0; i < MC_CLOSE_WAITS_MAX; i++) {
        int served = __atomic_load_n(&host->service_running, __ATOMIC_ACQUIRE);

        if (!domain->users && (!served || mc_phase_of(domain) == MC_QUIESCED))
            return MC_OK;
        mc_wait_done(host, MC_CLOSE_WAIT_NS);
    }
    return MC_ETIMEOUT;
}

int mc_domain_close(struct mc_host *host, uint32_t domid)
{
    struct mc_domain *domain;
    int status;

    if (domid >= MC_MAX_DOMAINS)
        return MC_EINDEX;
    domain = &host->domains[domid];
    if (mc_phase_of(domain) == MC_EMPTY)
        return MC_ESTATE;
    mc_host_lock(host);
    status = quiesce(host, domain);
    if (status) {               /* leave it closed and counted rather than unmap under a thread */
        mc_host_unlock(host);
        return status;
    }
    atomic_store(&domain->control->state, MC_STATE_CLOSED);
    mc_bell_ring((uint32_t *)&domain->control->guest_bell,
                 (uint32_t *)&domain->control->guest_waiters);
    mc_bell_ring((uint32_t *)&domain->control->credit_bell,
                 (uint32_t *)&domain->control->credit_waiters);
    if (host->tmem.close_client)
        host->tmem.close_client(host->tmem.state, domid);
    mc_host_unlock(host);
    release_all(host, domain);
    tear_down(host, domain);
    return MC_OK;
}

void mc_host_promise(struct mc_host *host, uint32_t areas)
{
    mc_host_lock(host);
    host->promised_areas = areas;
    pthread_cond_signal(&host->own->work);
    mc_host_unlock(host);
}

int mc_domain_set_target(struct mc_host *host, uint32_t domid, uint32_t target_areas)
{
    struct mc_domain *domain;

    if (domid >= MC_MAX_DOMAINS)
        return MC_EINDEX;
    domain = &host->domains[domid];
    if (mc_phase_of(domain) == MC_EMPTY)
        return MC_ESTATE;
    if (target_areas > domain->areas)
        return MC_EINDEX;
    if (mc_phase_of(domain) != MC_ACTIVE)       /* broken meanwhile: about to be closed */
        return MC_OK;
    mc_host_lock(host);
    domain->target_areas = target_areas;
    atomic_store(&domain->control->target_frames, (uint64_t)target_areas * MC_AREA_FRAMES);
    mc_supply_withdraw(host, domain);
    if (mc_domain_held(domain) > target_areas)
        mc_supply_take(host, domain, mc_domain_held(domain) - target_areas);
    pthread_cond_signal(&host->own->work);
    mc_host_unlock(host);
    mc_bell_ring((uint32_t *)&domain->control->credit_bell,
                 (uint32_t *)&domain->control->credit_waiters);
    return MC_OK;
}
