/* host.c: opens and closes the host; its lock, its waits, a domain that breaks. See host.h. */
#include "books.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MC_ERRAND_LOOK_NS 20000000
#define MC_USERS_MAX 16         /* more than the host has threads: a user was never let go */

int mc_host_open_fds(struct mc_host *host)
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

struct mc_host_private *mc_host_open_private(int books_fd)
{
    struct mc_host_private *own = calloc(1, sizeof *own);
    pthread_condattr_t attributes;
    if (!own)
        return NULL;
    own->books_fd = books_fd;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&own->lock, NULL);
    pthread_mutex_init(&own->doors, NULL);
    for (int i = 0; i < MC_MAX_DOMAINS; i++)
        pthread_cond_init(&own->work[i], &attributes);
    pthread_cond_init(&own->supervise, &attributes);
    pthread_cond_init(&own->done, &attributes);
    pthread_condattr_destroy(&attributes);
    return own;
}

/* Zeroed memory for the host: the books, or of the C library. */
static struct mc_host *host_make(int books_fd)
{
    const struct mc_books head = {
        .magic = MC_BOOKS_MAGIC, .layout = mc_books_layout(), .bytes = MC_BOOKS_BYTES};
    int64_t address;
    if (books_fd < 0)
        return calloc(1, sizeof(struct mc_host));
    address = mc_books_map(books_fd);
    if (address < 0) {
        errno = (int)-address;
        return NULL;
    }
    *(struct mc_books *)address = head;
    return (struct mc_host *)(address + MC_BOOKS_HOST_OFFSET);
}

int mc_host_open(struct mc_host **out, uint32_t total_areas, uint32_t slack_areas, uint64_t spin_ns,
                 int books_fd)
{
    struct mc_host *host;
    *out = NULL;
    if (slack_areas > total_areas || (books_fd >= 0 && total_areas > MC_BOOKS_SLAB_AREAS_MAX))
        return MC_EINDEX;
    host = host_make(books_fd);
    if (!host)
        return books_fd < 0 ? MC_ENOMEM : MC_EKERNEL;
    host->epoll_fd = host->kick_fd = host->event_fd = host->relay_fd = -1;
    host->own = mc_host_open_private(books_fd);
    if (!host->own || mc_host_open_fds(host)) {
        mc_host_close(host);
        return MC_EKERNEL;
    }
    host->total_frames = host->free_frames = (uint64_t)total_areas * MC_AREA_FRAMES;
    host->slack_frames = (uint64_t)slack_areas * MC_AREA_FRAMES;
    host->bank_count = 1;
    host->banks[0] = (struct mc_bank){.node = -1, .total_frames = host->total_frames,
                                      .free_frames = host->total_frames,
                                      .size_frames = host->total_frames};
    host->spin_ns = spin_ns;
    if (mc_has_books(host))
        host->slab_used = (uint8_t *)(MC_BOOKS_ADDRESS + MC_BOOKS_SLAB_OFFSET);
    for (uint32_t i = 0; i < MC_MAX_DOMAINS; i++)
        host->domains[i].domid = i;
    *out = host;
    return MC_OK;
}

/* The memory that host_make made. */
static void host_unmake(struct mc_host *host)
{
    if ((uint64_t)host == MC_BOOKS_ADDRESS + MC_BOOKS_HOST_OFFSET)
        mc_unmap(MC_BOOKS_ADDRESS, MC_BOOKS_BYTES);
    else
        free(host);
}

void mc_host_close(struct mc_host *host)
{
    const int fds[] = {host->epoll_fd, host->kick_fd, host->event_fd, host->relay_fd};
    MC_CHECK(!host->service_running, "closed while %u service thread runs", host->service_running);
    MC_CHECK(!host->attached, "closed with domains %lx", host->attached);
    for (uint32_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (host->own) {
        MC_CHECK(!host->own->keepers, "closed under %u keepers", host->own->keepers);
        for (int i = 0; i < MC_MAX_DOMAINS; i++)
            pthread_cond_destroy(&host->own->work[i]);
        pthread_cond_destroy(&host->own->supervise);
        pthread_cond_destroy(&host->own->done);
        MC_CHECK(!host->own->holder, "closed under the lock of thread %lu", host->own->holder);
        pthread_mutex_destroy(&host->own->lock);
        pthread_mutex_destroy(&host->own->doors);
        free(host->own);
    }
    host_unmake(host);
}

void mc_host_lock(struct mc_host *host)
{
    MC_CHECK(!mc_is_locked(host), "thread %lu takes the lock twice", pthread_self());
    pthread_mutex_lock(&host->own->lock);
    __atomic_store_n(&host->own->holder, pthread_self(), __ATOMIC_RELAXED);
}

void mc_host_unlock(struct mc_host *host)
{
    MC_CHECK_LOCKED(host);
    __atomic_store_n(&host->own->holder, 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&host->own->lock);
}

static void host_wait(struct mc_host *host, pthread_cond_t *condition, uint64_t until_ns)
{
    struct timespec until = {until_ns / 1000000000u, until_ns % 1000000000u};
    MC_CHECK_LOCKED(host);
    __atomic_store_n(&host->own->holder, 0, __ATOMIC_RELAXED);
    pthread_cond_timedwait(condition, &host->own->lock, &until);
    __atomic_store_n(&host->own->holder, pthread_self(), __ATOMIC_RELAXED);
}

void mc_wait_work(struct mc_host *host, const struct mc_domain *domain, uint64_t until_ns)
{
    host_wait(host, &host->own->work[domain->domid], until_ns);
}

void mc_wait_supervise(struct mc_host *host, uint64_t until_ns)
{
    host_wait(host, &host->own->supervise, until_ns);
}

void mc_wait_done(struct mc_host *host, uint64_t timeout_ns)
{
    mc_work_now(host);
    host_wait(host, &host->own->done, mc_clock_ns() + timeout_ns);
}

void mc_tell_done(struct mc_host *host)
{
    MC_CHECK_LOCKED(host);
    pthread_cond_broadcast(&host->own->done);
}

/* What the kernel gave is read in the same hold: a domain that grows between two readings would
 * look like one that takes what it was not granted. fstat waits for no guest. */
void mc_host_copy(struct mc_host *host, struct mc_host *copy)
{
    struct mc_domain *domain;
    mc_host_lock(host);
    memcpy(copy, host, sizeof *copy);
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        copy->domains[domain->domid].resident_bytes = mc_resident_bytes(domain->ram_fd);
    mc_host_unlock(host);
}

/* Of the calling thread, which serves one host. */
static _Thread_local struct {
    int answers;                /* 1: this thread wakes keepers after its answers */
    uint64_t due;               /* domains whose keepers this thread has a reason to wake */
} thread;

_Static_assert(MC_MAX_DOMAINS == 64, "one bit per domain");

static void host_wake(struct mc_host *host, uint64_t domains)
{
    for (; domains; domains &= domains - 1)
        pthread_cond_signal(&host->own->work[__builtin_ctzll(domains)]);
}

static void host_work(struct mc_host *host, uint64_t domains)
{
    if (thread.answers)
        thread.due |= domains;
    else
        host_wake(host, domains);
}

void mc_work(struct mc_host *host, const struct mc_domain *domain)
{
    host_work(host, 1ull << domain->domid);
}

void mc_work_hungry(struct mc_host *host)
{
    struct mc_domain *domain;
    uint64_t hungry = 0;
    MC_CHECK_LOCKED(host);
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (domain->is_hungry)
            hungry |= 1ull << domain->domid;
    host_work(host, hungry);
}

void mc_work_later(void)
{
    thread.answers = 1;
    thread.due = 0;
}

void mc_work_now(struct mc_host *host)
{
    uint64_t due = thread.due;
    if (!due)
        return;
    thread.due = 0;
    host_wake(host, due);
}

void mc_keep(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record)
{
    MC_CHECK_LOCKED(host);
    if (!MC_CHECK_DOMAIN(host, domain, mc_kept_count(domain) < MC_RING_SLOTS,
                         "%u records are kept", mc_kept_count(domain)))
        return;
    domain->kept[domain->kept_end % MC_RING_SLOTS] = *record;
    MC_BOOKED();
    domain->kept_end++;
    mc_work(host, domain);
}

int mc_errand(struct mc_host *host, struct mc_domain *domain,
              int (*run)(struct mc_host *, struct mc_domain *), uint64_t longest_ns)
{
    uint64_t until_ns = mc_clock_ns() + longest_ns;
    MC_CHECK_LOCKED(host);
    if (!domain->is_kept)
        return run(host, domain);
    if (domain->errand)         /* an errand before gave up waiting and has not ended */
        return MC_ETIMEOUT;
    domain->errand = run;
    mc_work(host, domain);
    while (domain->errand && mc_clock_ns() < until_ns)
        mc_wait_done(host, MC_ERRAND_LOOK_NS);
    if (!domain->errand)
        return domain->errand_status;
    if (!domain->errand_runs)
        domain->errand = NULL;
    return MC_ETIMEOUT;
}

void mc_host_stop(struct mc_host *host)
{
    mc_host_lock(host);
    __atomic_store_n(&host->stop, 1, __ATOMIC_RELEASE);
    host_wake(host, UINT64_MAX);
    pthread_cond_broadcast(&host->own->supervise);
    mc_host_unlock(host);
    mc_eventfd_ring(host->kick_fd);
}

struct mc_domain *mc_domain_at(struct mc_host *host, uint32_t domid, int *status)
{
    struct mc_domain *domain = domid < MC_MAX_DOMAINS ? &host->domains[domid] : NULL;
    MC_CHECK(!mc_is_locked(host), "domain %u: asked for under the lock", domid);
    *status = !domain ? MC_EINDEX : mc_phase_of(domain) == MC_EMPTY ? MC_ESTATE : MC_OK;
    MC_CHECK(!domain || domain->domid == domid, "domain %u lies at %u", domain->domid, domid);
    MC_CHECK(*status || (domain->control && domain->meta && domain->mechanism),
             "domain %u: in phase %d without control, meta or mechanism", domid,
             mc_phase_of(domain));
    return *status ? NULL : domain;
}

void mc_phase_set(struct mc_domain *domain, enum mc_phase phase)
{
    /* A close may follow a reboot that timed out while the domain was CLOSING or QUIESCED. */
    static const uint8_t followers[] = {
        [MC_EMPTY] = 1 << MC_ACTIVE,
        [MC_ACTIVE] = 1 << MC_CLOSING | 1 << MC_BROKEN,
        [MC_CLOSING] = 1 << MC_CLOSING | 1 << MC_QUIESCED | 1 << MC_ACTIVE | 1 << MC_BROKEN,
        [MC_QUIESCED] = 1 << MC_CLOSING | 1 << MC_ACTIVE | 1 << MC_BROKEN,
        [MC_BROKEN] = 1 << MC_CLOSING | 1 << MC_BROKEN,
    };
    enum mc_phase old = mc_phase_of(domain);
    MC_CHECK_IN(domain, old < sizeof followers && followers[old] >> phase & 1, "phase %d to %d",
                old, phase);
    __atomic_store_n(&domain->phase, (uint32_t)phase, __ATOMIC_RELEASE);
}

void mc_domain_hold(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, domain->users < MC_USERS_MAX, "%u users", domain->users);
    domain->users++;
    domain->file_ns = mc_clock_ns();
    mc_host_unlock(host);
}

void mc_domain_let_go(struct mc_host *host, struct mc_domain *domain)
{
    mc_host_lock(host);
    MC_CHECK_IN(domain, domain->users > 0, "%u users", domain->users);
    domain->users--;
    domain->file_ns = 0;
    mc_tell_done(host);
}

void mc_domain_break(struct mc_host *host, struct mc_domain *domain, int status)
{
    uint32_t active = MC_ACTIVE;
    MC_CHECK_IN(domain, status < 0 && domain->areas, "broken by status %d, %u areas", status,
                domain->areas);
    if (!domain->broken_status)         /* the first reason counts; later ones follow from it */
        domain->broken_status = (uint32_t)-status;
    if (domain->control)
        atomic_store(&domain->control->state, MC_STATE_BROKEN);
    /* The main thread may have begun to close the domain: that phase must not be overwritten. */
    __atomic_compare_exchange_n(&domain->phase, &active, MC_BROKEN, 0, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    mc_eventfd_ring(host->event_fd);
}

void mc_domain_check_failed(struct mc_host *host, struct mc_domain *domain, const char *file,
                            int line, const char *function, const char *condition,
                            const char *format, ...)
{
    char values[MC_CHECK_VALUES_BYTES];
    int length = snprintf(values, sizeof values, "domain %u: ", domain->domid);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(values + length, sizeof values - (size_t)length, format, arguments);
    va_end(arguments);
    mc_check_report(file, line, function, condition, values);
    mc_domain_break(host, domain, MC_EBROKEN);
}

int mc_host_set_banks(struct mc_host *host, const struct mc_bank *banks, uint32_t count)
{
    uint64_t sum_frames = 0;
    if (!count || count > MC_BANKS_MAX)
        return MC_EINDEX;
    for (uint32_t i = 0; i < count; i++) {
        MC_CHECK(!banks[i].withdrawn && !banks[i].gone_frames, "bank %u: %lu frames are gone", i,
                 banks[i].gone_frames);
        sum_frames += banks[i].total_frames;
    }
    if (sum_frames != host->total_frames || host->free_frames != host->total_frames)
        return MC_ESTATE;
    MC_CHECK(!host->attached, "banks set under domains %lx", host->attached);
    memcpy(host->banks, banks, count * sizeof *banks);
    for (uint32_t i = 0; i < count; i++)
        host->banks[i].free_frames = host->banks[i].size_frames = banks[i].total_frames;
    host->bank_count = count;
    return MC_OK;
}

/* 1 when a file of the directory, or a memfd that is collapsed, has 2 MiB pages. */
static int host_gives_huge(const char *directory, int collapse)
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

/* 1 when a touch of a memfd gives no more than a page of 4 KiB. */
static int host_touch_is_small(void)
{
    int fd = mc_memfd("memcoord-small", MC_AREA_BYTES), is_small = 0;
    int64_t address = fd < 0 ? -1 : mc_map(fd, MC_AREA_BYTES);
    if (address > 0) {
        is_small = !mc_populate_write((uint64_t)address, MC_FRAME_BYTES) &&
                   mc_resident_bytes(fd) <= MC_FRAME_BYTES;
        mc_unmap((uint64_t)address, MC_AREA_BYTES);
    }
    if (fd >= 0)
        close(fd);
    return is_small;
}

int mc_host_set_backing(struct mc_host *host, int kind, const char *directory)
{
    if (kind < MC_BACKING_ANY || kind > MC_BACKING_2M || host->attached ||
        strlen(directory) >= sizeof host->directory || (directory[0] && kind != MC_BACKING_2M))
        return MC_EINDEX;
    host->touch_is_huge = kind == MC_BACKING_2M && host_gives_huge(directory, 0);
    host->is_small = kind == MC_BACKING_4K ||
                     (kind == MC_BACKING_ANY && host_touch_is_small());
    host->collapse = kind == MC_BACKING_2M && !host->touch_is_huge;
    if (host->collapse && (directory[0] || !host_gives_huge(directory, 1)))
        return MC_EKERNEL;
    host->backing = kind;
    strcpy(host->directory, directory);
    return MC_OK;
}
