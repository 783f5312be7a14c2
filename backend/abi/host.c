/* host.c: opening, closing and checking the host. See host.h. */
#include "mechanism.h"

#include <stdarg.h>
#include <stdio.h>
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
    host->total_frames = host->free_frames = (uint64_t)total_areas * MC_AREA_FRAMES;
    host->slack_frames = (uint64_t)slack_areas * MC_AREA_FRAMES;
    host->bank_count = 1;
    host->banks[0] = (struct mc_bank){.node = -1, .total_frames = host->total_frames,
                                      .free_frames = host->total_frames};
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

/* Of the calling thread, which serves one host. */
static _Thread_local struct {
    int answers;                /* it wakes the worker after its answers */
    int due;                    /* and has a reason to */
} thread;

void mc_work(struct mc_host *host)
{
    if (thread.answers)
        thread.due = 1;
    else
        pthread_cond_signal(&host->own->work);
}

void mc_work_later(void)
{
    thread.answers = 1;
    thread.due = 0;
}

void mc_work_now(struct mc_host *host)
{
    if (!thread.due)
        return;
    thread.due = 0;
    pthread_cond_signal(&host->own->work);
}

void mc_domain_break(struct mc_host *host, struct mc_domain *domain, int status)
{
    uint32_t active = MC_ACTIVE;

    domain->broken_status = (uint32_t)-status;
    if (domain->control)
        atomic_store(&domain->control->state, MC_STATE_BROKEN);
    /* The main thread may have begun to close it meanwhile: that must not be overwritten. */
    __atomic_compare_exchange_n(&domain->phase, &active, MC_BROKEN, 0, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    mc_eventfd_ring(host->event_fd);
}

void mc_domain_check_failed(struct mc_host *host, struct mc_domain *domain, const char *file,
                            int line, const char *function, const char *condition,
                            const char *format, ...)
{
    char values[MC_CHECK_VALUES_BYTES];
    int length = snprintf(values, sizeof(values), "domain %u: ", domain->domid);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(values + length, sizeof(values) - (size_t)length, format, arguments);
    va_end(arguments);
    mc_check_report(file, line, function, condition, values);
    mc_domain_break(host, domain, MC_EBROKEN);
}

/* Under the lock: wait for `done` once, at most timeout_ns. */
void mc_wait_done(struct mc_host *host, uint64_t timeout_ns)
{
    uint64_t until_ns = mc_clock_ns() + timeout_ns;
    struct timespec until = {until_ns / 1000000000u, until_ns % 1000000000u};

    mc_work_now(host);
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

int mc_host_set_banks(struct mc_host *host, const struct mc_bank *banks, uint32_t count)
{
    uint64_t sum_frames = 0;

    if (!count || count > MC_BANKS_MAX)
        return MC_EINDEX;
    for (uint32_t i = 0; i < count; i++)
        sum_frames += banks[i].total_frames;
    if (sum_frames != host->total_frames || host->free_frames != host->total_frames)
        return MC_ESTATE;
    memcpy(host->banks, banks, count * sizeof *banks);
    for (uint32_t i = 0; i < count; i++)
        host->banks[i].free_frames = banks[i].total_frames;
    host->bank_count = count;
    return MC_OK;
}

/* 1 when a file of the directory, or a memfd that is collapsed, has 2 MiB pages. */
static int gives_huge(const char *directory, int collapse)
{
    int fd = directory[0] ? mc_tmpfile(directory, MC_AREA_BYTES)
                          : mc_memfd("memcoord-huge", MC_AREA_BYTES);
    int64_t address = fd < 0 ? -1 : mc_map(fd, MC_AREA_BYTES);
    int huge = 0;

    if (address > 0) {
        if (!(collapse ? mc_populate_huge((uint64_t)address, MC_AREA_BYTES)
                       : mc_populate_write((uint64_t)address, MC_AREA_BYTES)))
            huge = mc_huge_bytes((uint64_t)address, MC_AREA_BYTES) == MC_AREA_BYTES;
        mc_unmap((uint64_t)address, MC_AREA_BYTES);
    }
    if (fd >= 0)
        close(fd);
    return huge;
}

int mc_host_set_backing(struct mc_host *host, int kind, const char *directory)
{
    if (kind < MC_BACKING_ANY || kind > MC_BACKING_2M || host->attached ||
        strlen(directory) >= sizeof host->directory || (directory[0] && kind != MC_BACKING_2M))
        return MC_EINDEX;
    host->collapse = kind == MC_BACKING_2M && !gives_huge(directory, 0);
    if (host->collapse && (directory[0] || !gives_huge(directory, 1)))
        return MC_EKERNEL;
    host->backing = kind;
    strcpy(host->directory, directory);
    return MC_OK;
}

static uint32_t ones(const uint64_t *bits, uint32_t area)
{
    uint32_t count = 0;

    for (uint32_t row = 0; bits && row < MC_AREA_ROWS; row++)
        count += (uint32_t)__builtin_popcountll(bits[area * MC_AREA_ROWS + row]);
    return count;
}

/* What the ledger should be, counted from the areas. */
struct recount {
    uint64_t frames[MC_A_STATES];       /* less holes */
    uint64_t banks[MC_BANKS_MAX];       /* charged */
    uint64_t flight;
};

static int recount_domain(struct mc_host *host, const struct mc_domain *domain,
                          struct recount *sums)
{
    uint32_t counts[MC_A_STATES] = {0};
    uint64_t installed = 0, pinned = 0;

    for (uint32_t area = 0; area < domain->areas; area++) {
        uint32_t state = domain->states[area], holes = domain->hole_counts[area];

        if (state >= MC_A_STATES || holes != ones(domain->holes, area) ||
            domain->pin_counts[area] != ones(domain->pins, area) ||
            (state > MC_A_SOFT && domain->banks[area] >= host->bank_count) ||
            (state <= MC_A_SOFT && holes) ||
            (domain->pin_counts[area] && state != MC_A_INSTALLED))
            return MC_EBROKEN;
        counts[state]++;
        sums->frames[state] += MC_AREA_FRAMES - holes;
        if (state > MC_A_SOFT)
            sums->banks[domain->banks[area]] += MC_AREA_FRAMES - holes;
        installed += state == MC_A_INSTALLED ? MC_AREA_FRAMES - holes : 0;
        pinned += domain->pin_counts[area];
    }
    sums->flight += domain->flight_frames;
    if (memcmp(counts, domain->counts, sizeof counts) || installed != domain->installed_frames ||
        pinned != domain->pinned_frames)
        return MC_EBROKEN;
    return domain->mechanism->validate ? domain->mechanism->validate(host, domain) : MC_OK;
}

/* Frames in flight are charged to no bank while their banks are not credited yet. */
static int banks_add_up(const struct mc_host *host, const struct recount *sums)
{
    uint64_t total = 0, free = 0, used = 0;

    for (uint32_t i = 0; i < host->bank_count; i++) {
        const struct mc_bank *bank = &host->banks[i];

        if (bank->free_frames > bank->total_frames ||
            bank->free_frames + sums->banks[i] + sums->flight < bank->total_frames ||
            bank->free_frames + sums->banks[i] > bank->total_frames)
            return 0;
        total += bank->total_frames;
        free += bank->free_frames;
        used += sums->banks[i];
    }
    return total == host->total_frames && free == host->free_frames &&
           free + used + sums->flight == total;
}

int mc_host_validate(struct mc_host *host, uint32_t *where)
{
    struct recount sums = {0};
    const uint64_t *frames = sums.frames;
    uint64_t transit, slab = 0;
    int status = MC_OK;

    mc_host_lock(host);
    for (*where = 0; *where < MC_MAX_DOMAINS; ++*where) {
        struct mc_domain *domain = &host->domains[*where];

        if (domain->states)
            status = recount_domain(host, domain, &sums);
        if (status)
            goto out;
    }
    transit = frames[MC_A_POPULATING] + frames[MC_A_PUNCH_HARD] + frames[MC_A_PUNCH_SOFT] +
              frames[MC_A_PUNCHING_HARD] + frames[MC_A_PUNCHING_SOFT] + sums.flight;
    for (uint32_t i = 0; host->slab_used && i < host->tmem.slab_areas; i++)
        if (host->slab_used[i]) {
            slab += MC_AREA_FRAMES;
            sums.banks[host->slab_used[i] - 1] += MC_AREA_FRAMES;
        }
    if (frames[MC_A_INSTALLED] != host->installed_frames ||
        frames[MC_A_READY] != host->ready_frames || transit != host->transit_frames ||
        slab != host->tmem_frames || !banks_add_up(host, &sums) ||
        host->free_frames + host->installed_frames + host->ready_frames + host->transit_frames +
                host->tmem_frames != host->total_frames)
        status = MC_EBROKEN;
out:
    mc_host_unlock(host);
    return status;
}
