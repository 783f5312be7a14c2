/* host.c: opening, closing and checking the host. See host.h. */
#include "host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static int open_fds(struct mc_host *host)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = MC_MAX_DOMAINS};

    host->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    host->kick_fd = mc_eventfd(1);
    host->event_fd = mc_eventfd(1);
    host->relay_fd = mc_eventfd(1);
    if (host->epoll_fd < 0 || host->kick_fd < 0 || host->event_fd < 0 || host->relay_fd < 0)
        return MC_EKERNEL;
    return epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, host->kick_fd, &event) ? MC_EKERNEL : MC_OK;
}

static struct mc_host_private *open_private(void)
{
    struct mc_host_private *own = calloc(1, sizeof *own);
    pthread_condattr_t attributes;

    if (!own)
        return NULL;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&own->lock, NULL);
    pthread_cond_init(&own->work, &attributes);
    pthread_cond_init(&own->done, &attributes);
    pthread_condattr_destroy(&attributes);
    return own;
}

int mc_host_open(struct mc_host **out, uint32_t total_areas, uint32_t slack_areas,
                 uint64_t spin_ns)
{
    struct mc_host *host;

    *out = NULL;
    if (slack_areas > total_areas)
        return MC_EINDEX;
    host = calloc(1, sizeof *host);
    if (!host)
        return MC_ENOMEM;
    host->epoll_fd = host->kick_fd = host->event_fd = host->relay_fd = -1;
    host->own = open_private();
    if (!host->own || open_fds(host)) {
        mc_host_close(host);
        return MC_EKERNEL;
    }
    host->total_areas = host->free_areas = total_areas;
    host->slack_areas = slack_areas;
    host->spin_ns = spin_ns;
    for (uint32_t i = 0; i < MC_MAX_DOMAINS; i++)
        host->domains[i].domid = i;
    *out = host;
    return MC_OK;
}

void mc_host_close(struct mc_host *host)
{
    int fds[4];

    if (!host)
        return;
    fds[0] = host->epoll_fd;
    fds[1] = host->kick_fd;
    fds[2] = host->event_fd;
    fds[3] = host->relay_fd;
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (host->own) {
        pthread_cond_destroy(&host->own->work);
        pthread_cond_destroy(&host->own->done);
        pthread_mutex_destroy(&host->own->lock);
        free(host->own);
    }
    free(host);
}

void mc_host_lock(struct mc_host *host)
{
    pthread_mutex_lock(&host->own->lock);
}

void mc_host_unlock(struct mc_host *host)
{
    pthread_mutex_unlock(&host->own->lock);
}

void mc_host_copy(struct mc_host *host, struct mc_host *copy)
{
    mc_host_lock(host);
    memcpy(copy, host, sizeof *copy);
    mc_host_unlock(host);
}

/* Under the lock: wait for `done` once, at most timeout_ns. */
void mc_wait_done(struct mc_host *host, uint64_t timeout_ns)
{
    uint64_t until_ns = mc_clock_ns() + timeout_ns;
    struct timespec until = {until_ns / 1000000000u, until_ns % 1000000000u};

    pthread_cond_timedwait(&host->own->done, &host->own->lock, &until);
}

void mc_host_stop(struct mc_host *host)
{
    mc_host_lock(host);
    __atomic_store_n(&host->stop, 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&host->own->work);
    mc_host_unlock(host);
    mc_eventfd_ring(host->kick_fd);
}

static int recount_domain(const struct mc_domain *domain, uint32_t *sums)
{
    uint32_t counts[MC_A_STATES] = {0};

    for (uint32_t area = 0; area < domain->areas; area++) {
        if (domain->states[area] >= MC_A_STATES)
            return MC_EBROKEN;
        counts[domain->states[area]]++;
    }
    if (memcmp(counts, domain->counts, sizeof counts))
        return MC_EBROKEN;
    for (int state = 0; state < MC_A_STATES; state++)
        sums[state] += counts[state];
    return MC_OK;
}

int mc_host_validate(struct mc_host *host, uint32_t *where)
{
    uint32_t sums[MC_A_STATES] = {0}, transit, slab = 0;
    int status = MC_OK;

    mc_host_lock(host);
    for (*where = 0; *where < MC_MAX_DOMAINS && !status; ++*where) {
        struct mc_domain *domain = &host->domains[*where];

        if (domain->states)
            status = recount_domain(domain, sums);
        if (status)
            goto out;
    }
    transit = sums[MC_A_POPULATING] + sums[MC_A_PUNCH_HARD] + sums[MC_A_PUNCH_SOFT] +
              sums[MC_A_PUNCHING_HARD] + sums[MC_A_PUNCHING_SOFT];
    for (uint32_t i = 0; host->slab_used && i < host->tmem.slab_areas; i++)
        slab += host->slab_used[i];
    if (sums[MC_A_INSTALLED] != host->installed_areas || sums[MC_A_READY] != host->ready_areas ||
        transit != host->transit_areas || slab != host->tmem_areas ||
        host->free_areas + host->installed_areas + host->ready_areas + host->transit_areas +
                host->tmem_areas != host->total_areas)
        status = MC_EBROKEN;
out:
    mc_host_unlock(host);
    return status;
}
