/* host.h: the hypervisor's private state: host memory, domains, and the threads that serve them.
 *
 * Owns:  struct mc_host and struct mc_domain, their opening and closing. What moves memory between
 *        them and how it is accounted: ledger.h. How each domain is resized: mechanism.h.
 * Rules: mc_host.lock guards all of it. It is never held across a system call that moves memory
 *        (populate, punch): such memory is first marked in transit, so nobody else picks it.
 *        Decisions are made from this private state only; what a guest wrote is a hint that is
 *        copied, bounds-checked and then used.
 *
 * Threads: the service thread serves rings (service.c), the worker populates, punches and runs the
 * mechanisms' timers (worker.c), the main thread opens, closes, reboots, sets targets (domain.c).
 * A domain's mapping is torn down only after the service thread has acknowledged CLOSING and no
 * worker holds it (`users`).
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
#define MC_BANKS_MAX 16
#define MC_ANY_BANK 255
enum mc_need_slab { MC_NEED_SLAB = -3000 };  /* tmem asks for a slab area, then again */

/* Of an area; what each is accounted as stands in ledger.h. */
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

/* Where a domain stands on its way to its target, and what is in the way. */
enum mc_reach { MC_REACHED = 0, MC_MOVING = 1, MC_PARTIAL = 2 };
enum mc_why {
    MC_WHY_NONE = 0,
    MC_WHY_IN_USE = 1,          /* no wholly free memory of the mechanism's granule is left */
    MC_WHY_PINNED = 2,          /* what is free is pinned for DMA */
    MC_WHY_NO_MEMORY = 3,       /* the host has none to give */
    MC_WHY_GUEST = 4,           /* the guest's driver gave up; its own word for it is reported */
    MC_WHY_SILENT = 5,          /* the guest's driver has not acted upon the request yet */
    MC_WHY_BANK = 6             /* the bank it should come from has none */
};

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
    uint64_t grants[MC_PATHS];  /* areas, by enum mc_path */
    uint64_t reclaimed_areas;
    uint64_t requests;          /* records served, both rings */
    uint64_t bad_requests;
    uint64_t refused;           /* requests for memory answered with none, or target reached */
    uint64_t wakes;             /* doorbells sent */
    uint64_t shrunk_frames;     /* taken from the guest; grown: given to it. Credited when it is */
    uint64_t grown_frames;      /* the guest's to use, respectively not any more */
    uint64_t refused_dma;       /* times memory was not taken because it is pinned */
    uint64_t violations;        /* areas found in use while they were not granted */
    uint64_t targets;           /* times the target was set */
    uint64_t set_ns;            /* clock when it was set last */
    uint64_t reached_ns;        /* clock when it was reached, or 0 */
};

struct mc_mechanism;            /* mechanism.h */

struct mc_domain {
    uint32_t domid;
    uint32_t areas;
    uint32_t phase;             /* atomic: enum mc_phase */
    uint32_t users;             /* operations running outside the lock, of worker and service */
    int ram_fd;
    int meta_fd;
    int bell_fd;
    int relayed;                /* doorbell travels through the relay (ZeroMQ) */
    int sealed;                 /* ram cannot be shrunk: it may be touched */
    uint32_t boot_areas;
    uint64_t ram;               /* addresses in the hypervisor */
    uint64_t meta;
    uint64_t meta_bytes;
    struct mc_control *control;
    struct mc_frames frames;
    struct mc_back rings[MC_RINGS];
    const struct mc_mechanism *mechanism;
    void *device;               /* the mechanism's own, from its open to its close */
    uint64_t options[MC_OPTIONS_MAX]; /* of the mechanism */
    uint64_t timer_ns;          /* when the worker calls the mechanism's timer; 0: never */
    uint32_t config_bell;       /* what control.config_bell was set to last */
    uint32_t granule_frames;    /* smallest step of its target */
    uint8_t *states;            /* enum mc_area_state, per area */
    uint16_t *generations;
    uint8_t *banks;             /* bank of each area: where its memory is, or was last, or is to
                                 * come from if it can; MC_ANY_BANK */
    uint16_t *hole_counts;      /* per area: frames of it that are the host's again */
    uint64_t *holes;            /* one bit per frame */
    uint16_t *pin_counts;       /* per area: frames of it that are targets of DMA */
    uint64_t *pins;             /* one bit per frame; NULL until there is one */
    uint32_t counts[MC_A_STATES]; /* areas in each state */
    uint32_t target_areas;      /* target_frames, in whole areas upwards */
    uint64_t target_frames;
    uint64_t installed_frames;  /* the guest's, by the ledger */
    uint64_t flight_frames;     /* single frames in transit */
    uint64_t pinned_frames;
    struct mc_record *answers;  /* to records that were kept, not yet pushed */
    uint32_t answer_count;      /* atomic */
    uint32_t is_unfinished;     /* the service thread goes on with it at its next visit */
    struct mc_record unfinished;
    uint32_t credit_areas;      /* wholly free areas to keep granted ahead of need */
    uint32_t growing;           /* it asked, and has not given back since: gets an area ready */
    uint32_t broken_status;     /* minus enum mc_status that broke it, 0 while it is fine */
    uint32_t why;               /* enum mc_why, of the last look */
    uint64_t credit_seen;       /* control.credit_taken as last read */
    struct mc_domain_counters counters;
};

struct mc_bank {
    int32_t node;               /* NUMA node its memory is bound to; -1: unbound */
    uint32_t remote;            /* 1: not of this machine's own, used last */
    uint64_t total_frames;
    uint64_t free_frames;
    uint32_t withdrawn;         /* it serves nobody any more: banks.h */
    uint32_t pad;
    uint64_t gone_frames;       /* that left the host with it */
};

struct mc_host {
    uint64_t total_frames;
    uint64_t slack_frames;      /* kept free: a receiver is served before the donor is punched */
    uint64_t free_frames;
    uint64_t installed_frames;
    uint64_t ready_frames;
    uint64_t transit_frames;
    uint64_t tmem_frames;
    uint64_t promised_frames;   /* kept for domains that have not come yet to boot with */
    uint32_t tmem_areas_max;
    uint32_t bank_count;
    struct mc_bank banks[MC_BANKS_MAX];
    int backing;                /* enum mc_backing_kind, of every domain's ram */
    int collapse;               /* 2 MiB pages are made by MADV_COLLAPSE */
    char directory[256];        /* of a tmpfs mounted huge=always; empty: memfds */
    uint32_t error_budget;
    uint32_t stop;              /* atomic */
    uint32_t service_running;   /* atomic */
    uint32_t pad;
    uint64_t spin_ns;
    int epoll_fd;
    int kick_fd;                /* eventfd: wakes the service thread */
    int event_fd;               /* eventfd: tells the main thread that a domain broke */
    int relay_fd;               /* eventfd: tells the relay that relay_mask has bits */
    uint64_t relay_mask;        /* atomic: domains whose guest bell rang */
    uint64_t attached;          /* atomic: domains between open and close, one bit each */
    uint8_t *slab_used;         /* per slab area: 0, or 1 + the bank tmem has it from */
    struct mc_tmem_hooks tmem;
    struct mc_domain domains[MC_MAX_DOMAINS];
    struct mc_host_private *own;
};

/* host.c. Each returns 0 or a negative enum mc_status. */
int mc_host_open(struct mc_host **host, uint32_t total_areas, uint32_t slack_areas,
                 uint64_t spin_ns);
/* Before the first domain. Divide host memory into banks; their sum must be the total. */
int mc_host_set_banks(struct mc_host *host, const struct mc_bank *banks, uint32_t count);
/* Before the first domain. `directory`: of a tmpfs mounted huge=always, or "". MC_EKERNEL when this
 * machine gives no 2 MiB pages in any of the ways of backing.h; it is tried, not assumed. */
int mc_host_set_backing(struct mc_host *host, int kind, const char *directory);
void mc_host_close(struct mc_host *host);
void mc_host_lock(struct mc_host *host);
void mc_host_unlock(struct mc_host *host);
/* A copy of every counter at one instant; its pointers must not be followed. */
void mc_host_copy(struct mc_host *host, struct mc_host *copy);
/* Recount everything; MC_EBROKEN names the domain (or MC_MAX_DOMAINS: the host) in *where. */
int mc_host_validate(struct mc_host *host, uint32_t *where);

/* domain.c: main thread only. slot is the domid. */
struct mc_domain_spec {
    uint32_t areas;
    uint32_t boot_areas;
    uint64_t target_frames;
    uint32_t credit_areas;
    uint32_t mechanism;         /* enum mc_mechanism_id */
    int relayed;
    uint32_t pad;
    uint64_t options[MC_OPTIONS_MAX];
};
int mc_domain_open(struct mc_host *host, uint32_t domid, const struct mc_domain_spec *spec);
int mc_domain_close(struct mc_host *host, uint32_t domid);
/* The guest starts anew: its meta is formatted, its memory is what it boots with; target, pins and
 * fds stay. The guest's own threads must have ended or let go of it. */
int mc_domain_reboot(struct mc_host *host, uint32_t domid);
/* Keep this many free frames for domains to come; nobody else is given them. */
void mc_host_promise(struct mc_host *host, uint64_t frames);
/* Rounded up to the domain's granule. */
int mc_domain_set_target(struct mc_host *host, uint32_t domid, uint64_t target_frames);
/* Frames [frame, frame + count) are, or are not any more, targets of DMA. To be pinned they must be
 * the guest's; they are populated. MC_EFOREIGN when they are not its, MC_EINDEX, MC_ENOMEM. */
int mc_domain_pin(struct mc_host *host, uint32_t domid, uint64_t frame, uint64_t count, int pin);
/* The size that is compared with its target, in frames; enum mc_mechanism_id. */
uint64_t mc_domain_size(struct mc_host *host, uint32_t domid);
uint32_t mc_domain_mechanism(struct mc_host *host, uint32_t domid);
/* enum mc_reach; *why gets enum mc_why. */
int mc_domain_reach(struct mc_host *host, uint32_t domid, uint32_t *why);

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

void mc_wait_done(struct mc_host *host, uint64_t timeout_ns);

static inline uint32_t mc_phase_of(const struct mc_domain *domain)
{
    return __atomic_load_n(&domain->phase, __ATOMIC_ACQUIRE);
}

static inline void mc_phase_set(struct mc_domain *domain, uint32_t phase)
{
    __atomic_store_n(&domain->phase, phase, __ATOMIC_RELEASE);
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

#endif
