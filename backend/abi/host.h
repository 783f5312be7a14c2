/* host.h: the host's memory, who holds it, and the threads that move it.
 *
 * Owns:  everything that is private to the hypervisor process: the ledger, the backing state of
 *        every area of every domain, the backend half of every ring, the hooks into the tmem pool.
 * Rules: mc_host.lock guards all of it. It is never held across a system call that moves memory
 *        (populate, punch): such an area is first marked in transit, so nobody else picks it.
 *        Decisions are made from this private state only; what a guest wrote is a hint that is
 *        copied, bounds-checked and then used.
 *
 * Ledger, in areas of 2 MiB; free + installed + ready + transit + tmem == total after every change:
 *
 *   state of an area         counted as    meaning
 *   HARD, SOFT               free          no backing (reclaim.h)
 *   POPULATING               transit       the kernel is being asked for its pages
 *   READY                    ready         populated, the guest does not know yet
 *   INSTALLED                installed     the guest's
 *   PUNCH_HARD, PUNCH_SOFT   transit       taken from the guest, to be punched by the worker
 *   PUNCHING_HARD, _SOFT     transit       the punch is running
 *
 * Threads: the service thread serves rings (service.h), the worker populates and punches
 * (worker.c), the main thread opens, closes and sets targets (domain.c). A domain's mapping is torn
 * down only after the service thread has acknowledged CLOSING and no worker holds it (`users`).
 */
#ifndef MC_HOST_H
#define MC_HOST_H

#include <pthread.h>

#include "backing.h"
#include "bell.h"
#include "frames.h"
#include "ops.h"
#include "reclaim.h"
#include "ring.h"

/* cdef-begin */
#define MC_MAX_DOMAINS 64
enum mc_need_slab { MC_NEED_SLAB = -3000 };  /* tmem asks for a slab area, then again */

enum mc_area_state {
    MC_A_HARD = 0,
    MC_A_SOFT = 1,
    MC_A_POPULATING = 2,
    MC_A_READY = 3,
    MC_A_INSTALLED = 4,
    MC_A_PUNCH_HARD = 5,
    MC_A_PUNCH_SOFT = 6,
    MC_A_PUNCHING_HARD = 7,
    MC_A_PUNCHING_SOFT = 8,
    MC_A_STATES = 9
};

enum mc_phase { MC_EMPTY = 0, MC_ACTIVE = 1, MC_CLOSING = 2, MC_QUIESCED = 3, MC_BROKEN = 4 };

/* The tmem pool, as C sees it; see tmem/serve.py. All are called under mc_host.lock. */
struct mc_tmem_hooks {
    uint64_t state;
    int64_t (*execute)(uint64_t state, uint64_t record, uint64_t page, int64_t client,
                       int64_t may_ask);
    int64_t (*grow)(uint64_t state, int64_t area);
    int64_t (*shrink)(uint64_t state);
    int64_t (*open_client)(uint64_t state, int64_t client);
    int64_t (*close_client)(uint64_t state, int64_t client);
    uint64_t slab;              /* address of the slab region */
    uint32_t slab_areas;        /* its size; also the most tmem may hold */
    uint32_t pad;
};

struct mc_domain_counters {
    uint64_t grants[4];         /* areas, by enum mc_path */
    uint64_t reclaimed_areas;
    uint64_t requests;          /* records served, both rings */
    uint64_t bad_requests;
    uint64_t refused;           /* GROW and INSTALL answered with no memory or target reached */
    uint64_t wakes;             /* doorbells sent */
};

struct mc_domain {
    uint32_t domid;
    uint32_t areas;
    uint32_t phase;             /* atomic: enum mc_phase */
    uint32_t users;             /* worker operations running outside the lock */
    int ram_fd;
    int meta_fd;
    int bell_fd;
    int relayed;                /* doorbell travels through the relay (ZeroMQ) */
    uint64_t ram;               /* addresses in the hypervisor */
    uint64_t meta;
    uint64_t meta_bytes;
    struct mc_control *control;
    struct mc_frames frames;
    struct mc_back rings[2];
    uint8_t *states;            /* enum mc_area_state, per area */
    uint16_t *generations;
    uint32_t counts[9];         /* areas in each state */
    uint32_t target_areas;
    uint32_t credit_areas;      /* wholly free areas to keep granted ahead of need */
    uint32_t growing;           /* it asked, and has not given back since: gets an area ready */
    uint32_t broken_status;     /* minus enum mc_status that broke it, 0 while it is fine */
    uint64_t credit_seen;       /* control.credit_taken as last read */
    struct mc_domain_counters counters;
};

struct mc_host {
    uint32_t total_areas;
    uint32_t slack_areas;       /* kept free: a receiver is served before the donor is punched */
    uint32_t free_areas;
    uint32_t installed_areas;
    uint32_t ready_areas;
    uint32_t transit_areas;
    uint32_t tmem_areas;
    uint32_t tmem_areas_max;
    uint32_t error_budget;
    uint32_t stop;              /* atomic */
    uint32_t service_running;   /* atomic */
    uint32_t promised_areas;    /* kept for domains that have not come yet to boot with */
    uint64_t spin_ns;
    int epoll_fd;
    int kick_fd;                /* eventfd: wakes the service thread */
    int event_fd;               /* eventfd: tells the main thread that a domain broke */
    int relay_fd;               /* eventfd: tells the relay that relay_mask has bits */
    uint64_t relay_mask;        /* atomic: domains whose guest bell rang */
    uint64_t attached;          /* atomic: domains between open and close, one bit each */
    uint8_t *slab_used;         /* per slab area: tmem holds it */
    struct mc_tmem_hooks tmem;
    struct mc_domain domains[64];
    struct mc_host_private *own;
};

/* host.c. Each returns 0 or a negative enum mc_status. */
int mc_host_open(struct mc_host **host, uint32_t total_areas, uint32_t slack_areas,
                 uint64_t spin_ns);
void mc_host_close(struct mc_host *host);
void mc_host_lock(struct mc_host *host);
void mc_host_unlock(struct mc_host *host);
/* A copy of every counter at one instant; its pointers must not be followed. */
void mc_host_copy(struct mc_host *host, struct mc_host *copy);
/* Recount everything; MC_EBROKEN names the domain (or MC_MAX_DOMAINS: the host) in *where. */
int mc_host_validate(struct mc_host *host, uint32_t *where);

/* domain.c: main thread only. slot is the domid. */
int mc_domain_open(struct mc_host *host, uint32_t domid, uint32_t areas, uint32_t boot_areas,
                   uint32_t target_areas, uint32_t credit_areas, int relayed);
int mc_domain_close(struct mc_host *host, uint32_t domid);
/* Keep this many free areas for domains to come; nobody else is given them. */
void mc_host_promise(struct mc_host *host, uint32_t areas);
int mc_domain_set_target(struct mc_host *host, uint32_t domid, uint32_t target_areas);

/* service.c and worker.c: run until mc_host_stop, on a thread each. */
int mc_service_run(struct mc_host *host);
int mc_worker_run(struct mc_host *host);
void mc_host_stop(struct mc_host *host);
/* Domains whose guest bell rang since the last call, one bit each, for the ZeroMQ relay. */
uint64_t mc_relay_take(struct mc_host *host);
/* cdef-end */

struct mc_host_private {
    pthread_mutex_t lock;
    pthread_cond_t work;        /* the worker has something to do */
    pthread_cond_t done;        /* a transit or a quiesce finished */
};

/* supply.c: under the lock unless said otherwise. */
void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state);
int mc_domain_credit(const struct mc_domain *domain);
int mc_supply_grow(struct mc_host *host, struct mc_domain *domain, int *path);
int mc_supply_install(struct mc_host *host, struct mc_domain *domain, uint32_t area);
uint32_t mc_supply_withdraw(struct mc_host *host, struct mc_domain *domain);
uint32_t mc_supply_take(struct mc_host *host, struct mc_domain *domain, uint32_t areas);
int mc_supply_ready(struct mc_host *host, struct mc_domain *domain);
int mc_supply_grant(struct mc_host *host, struct mc_domain *domain, int path);
int mc_supply_tmem_give(struct mc_host *host);
uint32_t mc_domain_held(const struct mc_domain *domain);
void mc_wait_done(struct mc_host *host, uint64_t timeout_ns);

static inline uint32_t mc_phase_of(const struct mc_domain *domain)
{
    return __atomic_load_n(&domain->phase, __ATOMIC_ACQUIRE);
}

/* Domains to visit: for (mask = mc_attached(host); (domain = mc_next(host, &mask));) */
static inline uint64_t mc_attached(const struct mc_host *host)
{
    return __atomic_load_n(&host->attached, __ATOMIC_ACQUIRE);
}

static inline struct mc_domain *mc_next(struct mc_host *host, uint64_t *mask)
{
    uint64_t left = *mask;

    if (!left)
        return NULL;
    *mask = left & (left - 1);
    return &host->domains[__builtin_ctzll(left)];
}

/* The service thread compares this with the budget without the lock. */
static inline void mc_count_bad(struct mc_domain *domain)
{
    __atomic_fetch_add(&domain->counters.bad_requests, 1, __ATOMIC_RELAXED);
}

/* 1 when there is more free than the slack and what is promised. */
static inline int mc_has_free(const struct mc_host *host)
{
    return host->free_areas > host->slack_areas + host->promised_areas;
}

static inline void mc_phase_set(struct mc_domain *domain, uint32_t phase)
{
    __atomic_store_n(&domain->phase, phase, __ATOMIC_RELEASE);
}

#endif
