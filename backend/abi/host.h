/* host.h: the hypervisor's private state: host memory, domains, and the threads that serve them.
 *
 * Owns:  struct mc_host and struct mc_domain. ledger.h has the functions that move memory between
 *        domains and account for it; mechanism.h has the ways to resize a domain.
 * Rules: mc_host_lock guards all of it. No thread holds the lock across a system call that moves
 *        memory of domains (populate, punch): mc_domain_hold. Memory that changes hands is marked
 *        in transit first, so no other thread takes it. Decisions are made from this private state
 *        alone. A word that a guest wrote is a hint: it is copied, the copy is checked and used.
 *
 * Threads: the service thread serves rings (service.c). A keeper per domain populates and punches
 * the domain's file, runs the timers and jobs of its mechanism, and takes the domain down
 * (keeper.c, reap.c). The main thread opens, closes and reboots domains and sets their targets
 * (domain.c). A process that shares a file can keep its lock for ever: so nobody but its own keeper
 * waits for a file. The supervisor (worker.c) starts keepers and finds files that do not answer.
 *
 * Phases of a domain, and who moves it:
 *   EMPTY     to ACTIVE by the main thread (open)
 *   ACTIVE    to BROKEN by any thread (mc_domain_break); to CLOSING by the main thread (close,
 *             reboot)
 *   BROKEN    to CLOSING by the main thread (close)
 *   CLOSING   to QUIESCED by the service thread, which does not look at the domain from then on
 *   QUIESCED  to ACTIVE by the main thread (reboot), or BROKEN when that failed; to EMPTY by the
 *             keeper, or the main thread where no keeper runs, once the file is punched and no
 *             thread is between mc_domain_hold and mc_domain_let_go
 */
#ifndef MC_HOST_H
#define MC_HOST_H

#include <pthread.h>

#include "backing.h"
#include "bell.h"
#include "check.h"
#include "frames.h"
#include "ops.h"
#include "reclaim.h"
#include "ring.h"

/* cdef-begin */
#define MC_BANKS_MAX 16
#define MC_ANY_BANK 255
#define MC_DIRECTORY_BYTES 256
#define MC_FILE_SLOW_NS 50000000        /* a file call that runs longer: nobody counts on it */
#define MC_FILE_STUCK_NS 2000000000     /* one that runs longer: its domain is broken */
enum mc_need_slab { MC_NEED_SLAB = -3000 };  /* tmem asks for a slab area, then again */

/* Of an area. ledger.h says what each is accounted as and which may follow which. */
enum mc_area_state {
    MC_A_HARD = 0, MC_A_SOFT = 1, MC_A_POPULATING = 2, MC_A_READY = 3, MC_A_INSTALLED = 4,
    MC_A_PUNCH_HARD = 5, MC_A_PUNCH_SOFT = 6, MC_A_PUNCHING_HARD = 7, MC_A_PUNCHING_SOFT = 8,
    MC_A_STATES = 9
};

enum mc_phase { MC_EMPTY = 0, MC_ACTIVE = 1, MC_CLOSING = 2, MC_QUIESCED = 3, MC_BROKEN = 4 };

/* Where a domain stands on its way to its target, and what is in the way. PARTIAL: it will not come
 * nearer by itself. */
enum mc_reach { MC_REACHED = 0, MC_MOVING = 1, MC_PARTIAL = 2 };
enum mc_why {
    MC_WHY_NONE = 0,
    MC_WHY_IN_USE = 1,          /* no wholly free memory of the mechanism's granule is left */
    MC_WHY_PINNED = 2,          /* the free memory that is left is pinned for DMA */
    MC_WHY_NO_MEMORY = 3,       /* the host has none to give */
    MC_WHY_GUEST = 4,           /* the guest's driver gave up; its own status is reported */
    MC_WHY_SILENT = 5,          /* the guest's driver has not acted upon the request yet */
    MC_WHY_BANK = 6,            /* the bank that the memory must come from has none */
    MC_WHYS = 7
};

/* The tmem pool, as C sees it (tmem/serve.py). All are called under the lock. */
enum mc_tmem_how {
    MC_TMEM_MAY_ASK = 1,        /* answer MC_NEED_SLAB rather than evict a page */
    MC_TMEM_AGAIN = 2           /* a hypervisor that was killed may have executed it already */
};

struct mc_tmem_hooks {
    uint64_t state;
    int64_t (*execute)(uint64_t state, uint64_t record, uint64_t page, int64_t client,
                       int64_t how);    /* a sum of enum mc_tmem_how */
    int64_t (*grow)(uint64_t state, int64_t area);
    int64_t (*shrink)(uint64_t state);
    int64_t (*open_client)(uint64_t state, int64_t client);
    int64_t (*close_client)(uint64_t state, int64_t client);
    uint64_t slab;              /* address of the slab region */
    uint32_t slab_areas;        /* size of the region, and the most that tmem may hold */
    uint32_t is_slab_shared;    /* it is the memory of a file: no 2 MiB pages at the first touch */
};

struct mc_domain_counters {
    uint64_t grants[MC_PATHS];  /* areas, by enum mc_path */
    uint64_t reclaimed_areas;
    uint64_t requests;          /* records served, both rings */
    uint64_t bad_requests;
    uint64_t refused;           /* requests for memory that got none, for want of it or of target */
    uint64_t wakes;             /* doorbells sent */
    uint64_t shrunk_frames;     /* counted at the moment the guest may no longer use them */
    uint64_t grown_frames;      /* counted at the moment the guest may use them */
    uint64_t refused_dma;       /* times memory was not taken because it is pinned */
    uint64_t violations;        /* areas found in use while they were not granted */
    uint64_t targets;           /* times the target was set */
    uint64_t set_ns;            /* clock when the target was set last */
    uint64_t reached_ns;        /* clock when the target was reached, or 0 */
};

/* Records that may be half done when a process is killed. */
enum mc_again {
    MC_AGAIN_MEMORY = 0,        /* in service, of the memory ring */
    MC_AGAIN_TMEM = 1,          /* of the tmem ring */
    MC_AGAIN_KEPT = 2,          /* kept */
    MC_AGAINS = 3
};

struct mc_mechanism;            /* mechanism.h */
struct mc_host;

struct mc_domain {
    uint32_t domid;             /* of the slot: stays when its domain is gone */
    uint32_t phase;             /* atomic: enum mc_phase; read without the lock */
    uint32_t areas;             /* first of what mc_domain_dismantle wipes */
    uint32_t users;             /* threads that work on it without the lock: mc_domain_hold */
    uint32_t leaving;           /* 1 from its close on, 2 once tmem has forgotten it */
    uint32_t is_kept;           /* a keeper runs for it */
    uint32_t booked_only;       /* its memory lies elsewhere: the ledger has it, its file gets no
                                 * pages */
    uint64_t file_ns;           /* clock when the call on its file began that runs now, or 0 */
    uint64_t supply_until_ns;   /* while it boots: how long it may wait for memory; or 0 */
    uint64_t punch_ns;          /* nothing of it is punched before: refused, or its grace */
    int ram_fd;
    int meta_fd;
    int bell_fd;
    int relayed;                /* its doorbell travels through the relay (ZeroMQ) */
    int sealed;                 /* its file cannot be shrunk: the hypervisor may touch ram */
    uint32_t boot_areas;
    uint64_t ram;               /* addresses in the hypervisor */
    uint64_t meta;
    uint64_t meta_bytes;
    struct mc_control *control;
    struct mc_frames frames;
    struct mc_back rings[MC_RINGS];
    const struct mc_mechanism *mechanism;
    uint32_t mechanism_id;      /* of `mechanism`, for the process after this one */
    uint32_t device_bytes;
    void *device;               /* the mechanism's own, from its open to its close */
    uint64_t options[MC_OPTIONS_MAX];       /* of the mechanism */
    uint64_t timer_ns;          /* when the keeper calls the mechanism's timer; 0: never */
    uint32_t config_bell;       /* value that control.config_bell was set to last */
    uint32_t granule_frames;    /* smallest step of its target */
    uint8_t *states;            /* enum mc_area_state, per area */
    uint16_t *generations;
    uint8_t *banks;             /* per area: the bank charged for it; while none is charged, the
                                 * bank to try first, or MC_ANY_BANK */
    uint16_t *hole_counts;      /* per area: frames of it that are the host's again */
    uint64_t *holes;            /* one bit per frame */
    uint16_t *pin_counts;       /* per area: frames of it that are targets of DMA */
    uint64_t *pins;             /* one bit per frame */
    char *slot;                 /* the memory of device, states and all the arrays (books.h) */
    uint64_t slot_bytes;
    uint64_t slot_used;
    uint32_t counts[MC_A_STATES];           /* areas in each state */
    uint32_t target_areas;      /* target_frames, in whole areas upwards */
    uint64_t target_frames;
    uint64_t installed_frames;  /* the guest's, by the ledger */
    uint64_t flight_frames;     /* single frames in transit */
    uint64_t pinned_frames;
    struct mc_record *answers;  /* to records that a mechanism kept; not yet on the ring */
    uint32_t answer_count;      /* atomic */
    uint32_t is_flushing;       /* they are being written into the ring, the first of them as */
    uint32_t flushed_from;      /* response of this number */
    uint32_t has_again;         /* bits: which of `again_seq` name a record */
    uint32_t again_seq[MC_AGAINS];      /* of records that a process before this one began to serve:
                                         * mc_is_again */
    uint32_t is_unfinished[MC_RINGS];   /* `unfinished` holds a record for the next visit */
    struct mc_record unfinished[MC_RINGS];
    struct mc_record taken[MC_RINGS];   /* the record in service, as it was when service began */
    uint64_t *asked_ns;         /* clock when a GROW was taken from its slot of the ring, or 0 */
    uint32_t *serves;           /* GROWs that got memory, by the time until the answer: latency.h */
    struct mc_record *kept;     /* records that wait for the keeper, by number: mc_keep */
    uint32_t kept_first;        /* number of the oldest, */
    uint32_t kept_end;          /* and of the next to come */
    uint32_t is_hungry;         /* its keeper rests and wants to know of memory that comes free */
    uint32_t boots;             /* lives, from 1: a reboot begins another; told in control->boots */
    uint32_t is_rebooting;      /* a reboot has begun and not ended; a process that goes on with
                                 * the books is to call mc_domain_reboot again */
    int64_t tmem_target_pages;  /* for such a process; below 0: no limit */
    uint32_t is_unbooted;       /* taken from for a reboot that has not ended; its mechanism does
                                 * not follow that */
    int (*errand)(struct mc_host *host, struct mc_domain *domain);  /* mc_errand, or NULL */
    int errand_status;
    int errand_runs;
    uint64_t errand_args[2];
    uint32_t credit_areas;      /* wholly free areas to keep granted ahead of need */
    uint32_t growing;           /* its guest asked for memory and has given none back since */
    uint32_t broken_status;     /* minus enum mc_status that broke it, 0 while it is fine */
    enum mc_why why;            /* as mc_reach_note found it last */
    uint64_t credit_seen;       /* control.credit_taken as last read */
    int64_t resident_bytes;     /* of its file; only in a copy of the host */
    struct mc_domain_counters counters;
};

struct mc_bank {
    int32_t node;               /* NUMA node its memory is bound to; -1: unbound */
    uint32_t remote;            /* 1: memory of another machine, used last */
    uint64_t total_frames;
    uint64_t free_frames;
    uint32_t withdrawn;         /* it gives no more memory (banks.h) */
    uint32_t pad;
    uint64_t gone_frames;       /* frames that left the host with it */
    uint64_t size_frames;       /* total_frames while none are gone */
};

/* One area on its way to its guest, or out of it: what a kill leaves of that is finished by
 * recount.c. Written by ledger.c. */
struct mc_area_step {
    uint32_t domain;            /* domid + 1, or 0: none */
    uint32_t area;
    uint32_t next;              /* its state once the guest's word is swapped; MC_A_STATES: none */
    uint32_t hollow;            /* 1: then every frame is a hole */
};

struct mc_host {
    uint64_t total_frames;
    uint64_t slack_frames;      /* kept free, so that a receiver need not wait for a punch */
    uint64_t free_frames;
    uint64_t installed_frames;
    uint64_t ready_frames;
    uint64_t transit_frames;
    uint64_t tmem_frames;
    uint64_t promised_frames;   /* kept free for configured domains that have not attached */
    uint32_t tmem_areas_max;
    uint32_t bank_count;
    struct mc_bank banks[MC_BANKS_MAX];
    int backing;                /* enum mc_backing_kind, of every domain's ram */
    int collapse;               /* 1: 2 MiB pages are made by MADV_COLLAPSE */
    int is_small;               /* 1: a touch gives 4 KiB, so pages are given by mc_write_zeroes */
    int touch_is_huge;          /* 1: a touch gives 2 MiB, so a guest may do it itself */
    char directory[MC_DIRECTORY_BYTES];        /* of a tmpfs mounted huge=always; empty: memfds */
    uint32_t error_budget;
    uint32_t stop;              /* atomic */
    uint32_t service_running;   /* atomic */
    uint32_t worker_running;    /* under the lock: every open domain has a keeper */
    uint64_t spin_ns;
    int epoll_fd;
    int kick_fd;                /* eventfd: wakes the service thread */
    int event_fd;               /* eventfd: tells the main thread that a domain broke */
    int relay_fd;               /* eventfd: tells the relay that relay_mask has bits */
    uint64_t relay_mask;        /* atomic: domains whose guest bell rang */
    uint64_t attached;          /* atomic: domains between open and close, one bit each */
    struct mc_area_step step;
    uint8_t *slab_used;         /* per slab area: 0, or 1 + the bank tmem has it from */
    struct mc_tmem_hooks tmem;
    struct mc_domain domains[MC_MAX_DOMAINS];
    struct mc_host_private *own;
};

/* host.c. Each returns 0 or a negative enum mc_status.
 * books_fd: a memfd of MC_BOOKS_BYTES that the host's state is to lie in, so that another process
 * can go on with it (books.h); below 0: none. The caller keeps it open until mc_host_close.
 * MC_EKERNEL, and errno, when it cannot be mapped at its address. */
int mc_host_open(struct mc_host **host, uint32_t total_areas, uint32_t slack_areas,
                 uint64_t spin_ns, int books_fd);
/* Before the first domain. Divide host memory into banks. MC_EINDEX for none or more than
 * MC_BANKS_MAX, MC_ESTATE when their sum is not the total. */
int mc_host_set_banks(struct mc_host *host, const struct mc_bank *banks, uint32_t count);
/* Before the first domain. `directory`: of a tmpfs mounted huge=always, or "". MC_EINDEX for
 * arguments that do not fit together, MC_EKERNEL when a try shows that this machine gives no 2 MiB
 * pages in any of the ways of backing.h. */
int mc_host_set_backing(struct mc_host *host, int kind, const char *directory);
void mc_host_close(struct mc_host *host);
void mc_host_lock(struct mc_host *host);
void mc_host_unlock(struct mc_host *host);
/* A copy of every counter at one instant, resident_bytes of attached domains too. Its pointers must
 * not be followed. */
void mc_host_copy(struct mc_host *host, struct mc_host *copy);
/* Ask the threads that run below to return. */
void mc_host_stop(struct mc_host *host);
/* Of the calling thread, under the lock: let go of the lock until `done` is signalled, or for
 * timeout_ns. */
void mc_wait_done(struct mc_host *host, uint64_t timeout_ns);
/* Under the lock: wake the threads in mc_wait_done. */
void mc_tell_done(struct mc_host *host);
/* Serve a domain no more, and tell the main thread why. Any thread. */
void mc_domain_break(struct mc_host *host, struct mc_domain *domain, int status);
/* Under the lock, around a system call on a domain's memory: hold releases the lock and keeps the
 * domain mapped; let_go takes the lock again. Anything may have changed meanwhile. */
void mc_domain_hold(struct mc_host *host, struct mc_domain *domain);
void mc_domain_let_go(struct mc_host *host, struct mc_domain *domain);

/* validate.c. Recount everything. MC_EBROKEN names the domain, or MC_MAX_DOMAINS for the host, in
 * *where. */
int mc_host_validate(struct mc_host *host, uint32_t *where);

/* domain.c: main thread only. A domid is the index of a domain; MC_EINDEX when there is no such
 * domid, MC_ESTATE when no domain is open under it. */
struct mc_domain_spec {
    uint32_t areas;
    uint32_t boot_areas;
    uint64_t target_frames;
    uint32_t credit_areas;
    uint32_t mechanism;         /* enum mc_mechanism_id */
    int relayed;
    uint32_t booked_only;       /* 1: the ledger has its memory, its file gets no pages */
    uint64_t options[MC_OPTIONS_MAX];
};
/* MC_ESTATE when the domid is taken, MC_ENOMEM when the host has no memory to boot the domain with,
 * MC_EKERNEL when a system call failed. */
int mc_domain_open(struct mc_host *host, uint32_t domid, const struct mc_domain_spec *spec);
/* Tell the guest that it is closed, and have the keeper take it down. Never waits: the domain's
 * frames stay charged, and the domid taken, until mc_domain_is_gone. Nothing is punched before
 * grace_ns are over, so that a guest that lives hears of it first. event_fd tells when it is gone.
 * Where no keeper runs the domain is gone at once. */
int mc_domain_close(struct mc_host *host, uint32_t domid, uint64_t grace_ns);
int mc_domain_is_gone(struct mc_host *host, uint32_t domid);
/* The guest starts anew: its meta is formatted, its memory is the memory it boots with. Target,
 * pins and fds stay. The guest's own threads must have ended or let go of it. As open; MC_ETIMEOUT
 * when file or threads do not let go within MC_REBOOT_NS_MAX: the domain is broken then. A reboot
 * that a killed process had begun is carried out anew. */
int mc_domain_reboot(struct mc_host *host, uint32_t domid);
/* Keep this many frames free for domains to come; no domain that is open gets them. */
void mc_host_promise(struct mc_host *host, uint64_t frames);
/* Rounded up to the domain's granule. MC_EINDEX above its maxmem. */
int mc_domain_set_target(struct mc_host *host, uint32_t domid, uint64_t target_frames);
/* Its size in frames, as compared with its target; 0 when no domain is open under the domid. */
uint64_t mc_domain_size(struct mc_host *host, uint32_t domid);
int mc_domain_reach(struct mc_host *host, uint32_t domid, enum mc_reach *reach, enum mc_why *why);

/* holes.c. Frames [frame, frame + count) are, or are not any more, targets of DMA. Frames to be
 * pinned must be the guest's; they are populated. MC_EFOREIGN when one is not the guest's,
 * MC_EINDEX beyond its maxmem, MC_ENOMEM or MC_ETIMEOUT when they were not populated: then none is
 * pinned that was not before. */
int mc_domain_pin(struct mc_host *host, uint32_t domid, uint64_t frame, uint64_t count, int pin);

/* service.c and worker.c: run until mc_host_stop, on a thread each. mc_worker_run answers
 * MC_ETIMEOUT when it leaves keepers behind, each in a call on a file that does not answer: then
 * the host and its domains must stay as they are until the process ends. */
int mc_service_run(struct mc_host *host);
int mc_worker_run(struct mc_host *host);
/* Domains whose guest bell rang since the last call, one bit each, for the ZeroMQ relay. */
uint64_t mc_relay_take(struct mc_host *host);
/* cdef-end */

struct mc_host_private {
    pthread_mutex_t lock;
    pthread_t holder;           /* atomic: thread that holds the lock, or 0 */
    pthread_cond_t work[MC_MAX_DOMAINS];        /* the keeper of a domain has something to do */
    pthread_cond_t supervise;   /* the supervisor is to stop */
    pthread_cond_t done;        /* a transit, a quiesce or an errand finished */
    pthread_mutex_t doors;      /* held while a mechanism opens or closes a domain, without lock */
    uint32_t keepers;           /* that run */
    struct mc_keeper {
        struct mc_host *host;
        struct mc_domain *domain;
        int tid;
    } keeper[MC_MAX_DOMAINS];
    int books_fd;               /* or -1 */
    struct mc_dom0 *dom0;       /* cmm_dom0.h; NULL while no domain needs it */
};

/* host.c, for recover.c as well: what a process has of its own. NULL; 0 or MC_EKERNEL. */
struct mc_host_private *mc_host_open_private(int books_fd);
int mc_host_open_fds(struct mc_host *host);

/* Records that wait for the keeper. */
static inline uint32_t mc_kept_count(const struct mc_domain *domain)
{
    return domain->kept_end - domain->kept_first;
}

/* The keeper, under the lock: let go of it until its `work` is signalled or until_ns has come. */
void mc_wait_work(struct mc_host *host, const struct mc_domain *domain, uint64_t until_ns);
/* The supervisor, the same. */
void mc_wait_supervise(struct mc_host *host, uint64_t until_ns);

/* cdef-begin */
/* The keeper of a domain has something to do. A thread that answers guests (mc_work_later) wakes
 * keepers only in mc_work_now, after the answers, or when that thread waits for `done`: a keeper
 * that wakes earlier preempts the answer where CPUs are busy, and then populates for a
 * millisecond. */
void mc_work(struct mc_host *host, const struct mc_domain *domain);
/* Memory came free: all keepers that wait for some look again. */
void mc_work_hungry(struct mc_host *host);
/* The calling thread answers guests from now on. */
void mc_work_later(void);
/* The answers are given: wake the keepers that have a reason. No lock needed. */
void mc_work_now(struct mc_host *host);

/* Service thread: leave a record to the keeper, which calls the mechanism's `later`. */
void mc_keep(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record);

/* Under the lock, not on a keeper: have the domain's keeper call `run` (which may release the lock)
 * and wait for its status, or MC_ETIMEOUT after longest_ns. Called here where no keeper runs. */
int mc_errand(struct mc_host *host, struct mc_domain *domain,
              int (*run)(struct mc_host *, struct mc_domain *), uint64_t longest_ns);
/* cdef-end */

/* 1 when a call on the domain's file runs for longer than that. */
static inline int mc_file_is_late(const struct mc_domain *domain, uint64_t longest_ns)
{
    return domain->file_ns && mc_clock_ns() - domain->file_ns > longest_ns;
}

/* The domain that is open under a domid, or NULL and *status: MC_EINDEX, MC_ESTATE. Main thread. */
struct mc_domain *mc_domain_at(struct mc_host *host, uint32_t domid, int *status);

/* The phase after this one; it must be one that host.c's table allows. */
void mc_phase_set(struct mc_domain *domain, enum mc_phase phase);

/* 1 when the calling thread holds the lock. Another thread's store never equals pthread_self(). */
static inline int mc_is_locked(const struct mc_host *host)
{
    return __atomic_load_n(&host->own->holder, __ATOMIC_RELAXED) == pthread_self();
}

/* As MC_CHECK; the report begins with the domain that the values are of. */
#define MC_CHECK_IN(domain, condition, format, ...)                                               \
    do {                                                                                          \
        if (__builtin_expect(!(condition), 0))                                                    \
            mc_check_failed(__FILE__, __LINE__, __func__, #condition, "domain %u: " format,       \
                            (domain)->domid, ##__VA_ARGS__);                                      \
    } while (0)

#define MC_CHECK_LOCKED(host)                                                                     \
    MC_CHECK(mc_is_locked(host), "thread %lu does not hold the lock", (unsigned long)pthread_self())

/* As MC_CHECK, for private state of one domain that no other domain depends on. 1 when `condition`
 * holds. When it does not, 0: the report is written, the domain is broken with MC_EBROKEN, and the
 * host goes on; the caller returns MC_EBROKEN (or "nothing done") and touches that state no more:
 *     if (!MC_CHECK_DOMAIN(host, domain, device->count <= MOST, "count %u", device->count))
 *         return MC_EBROKEN; */
#define MC_CHECK_DOMAIN(host, domain, condition, ...)                                             \
    (__builtin_expect(!!(condition), 1) ||                                                        \
     (mc_domain_check_failed(host, domain, __FILE__, __LINE__, __func__, #condition, __VA_ARGS__), \
      0))

__attribute__((cold, format(printf, 7, 8)))
void mc_domain_check_failed(struct mc_host *host, struct mc_domain *domain, const char *file,
                            int line, const char *function, const char *condition,
                            const char *format, ...);

static inline enum mc_phase mc_phase_of(const struct mc_domain *domain)
{
    return (enum mc_phase)__atomic_load_n(&domain->phase, __ATOMIC_ACQUIRE);
}

/* Show the guest what it has by the ledger. */
static inline void mc_show_current(struct mc_domain *domain)
{
    if (domain->control)
        atomic_store_explicit(&domain->control->current_frames, domain->installed_frames,
                              memory_order_relaxed);
}

/* Of an area, in the domain's file and in the hypervisor's mapping of it. */
static inline uint64_t mc_area_offset(uint32_t area)
{
    return (uint64_t)area * MC_AREA_BYTES;
}

static inline uint64_t mc_area_address(const struct mc_domain *domain, uint32_t area)
{
    return domain->ram + mc_area_offset(area);
}

static inline uint64_t mc_maxmem_frames(const struct mc_domain *domain)
{
    return (uint64_t)domain->areas * MC_AREA_FRAMES;
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
