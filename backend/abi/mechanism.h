/* mechanism.h: the ways to resize a domain, behind one table, and what a mechanism may call.
 *
 * Owns:  what a mechanism is to the host: a struct of functions, chosen per domain when it opens.
 *        Host, ledger, service thread, keepers and rings are the same for all mechanisms.
 * Rules: a mechanism is one file mech_<name>.c with one `const struct mc_mechanism mc_<name>` and a
 *        row in MC_MECHANISM_LIST; its guest half is drv_<name>.c (frontend/abi/driver.h); the
 *        words that both exchange are in a header of their own (hypervisor/public/abi/<name>.h). A
 *        mechanism has no global state: what it needs per domain is domain->device. It moves memory
 *        by ledger.h alone. Every function is called under the lock, on the thread that its comment
 *        names. A function that releases the lock (the headers say so) must expect anything to have
 *        changed.
 *
 * How a target travels:
 *   1. main thread  mc_domain_set_target: target_frames, control.target_frames, then `target`.
 *   2. `target`     does at once what needs no guest. For the rest it calls mc_config_ask, which
 *                   stores control.requested_frames and raises config_bell.
 *   3. guest        its driver thread wakes, acts, sends requests on the memory ring, and reports
 *                   the outcome in driver_status and the bell it acted upon in config_seen.
 *   4. `request`    on the service thread, one call per record. The mechanism answers the record,
 *                   leaves it to `later` on the domain's keeper when memory must be populated,
 *                   punched or found for it (mc_keep), or answers it itself later by mc_answer.
 *   5. `reach`      compares `size` with the target whenever something moved (mc_reach_note).
 * A newer target replaces an older one at step 1: there is no queue of targets, so nothing to
 * cancel; a driver looks at requested_frames again before each step of its own.
 *
 * Floors of backend/abi, each calling only those before it: host, ledger and holes, reach, punch,
 * banks and supply, boot, mech_*, mechanisms, then reap, domain and keeper, worker, service, excess
 * and validate.
 */
#ifndef MC_MECHANISM_H
#define MC_MECHANISM_H

#include "ledger.h"

/* cdef-begin */
/* What became of a record. */
enum mc_served {
    MC_ANSWERED,                /* record->status and arg[] are the answer */
    MC_KEPT,                    /* the mechanism keeps a copy and answers it by mc_answer */
    MC_UNFINISHED               /* not done within MC_VISIT_NS_MAX: `request` is called again, with
                                 * the record as it was left, after the other domains' turns */
};
/* cdef-end */
#define MC_NS_PER_MS 1000000u
enum mc_later { MC_LATER = 1 }; /* beside an enum mc_status: the keeper is to do it */
#define MC_SUPPLY_NS_MAX 320000000      /* one mc_supply_find waits no longer for punches */
#define MC_BOOT_NS_MAX 1000000000       /* nor do all of one boot together */
#define MC_VISIT_NS_MAX 200000  /* of one domain's memory ring, before the others are served; the
                                 * step that is under way then is finished: an area at most */

/* cdef-begin */
/* What the keeper does for its domain: one of the first that has something to do, after all that
 * is due was punched. */
enum mc_job { MC_JOB_TAKE, MC_JOB_GIVE, MC_JOB_PREPARE, MC_JOBS_MAX };

struct mc_option {
    const char *name;
    uint64_t value;             /* when the domain's configuration does not say */
    uint64_t least;
    uint64_t most;
    const char *says;           /* what it does, for people: docs/reference */
};

struct mc_mechanism {
    const char *name;           /* as scenarios write it */
    const char *says;           /* what it is, for people: docs/reference */
    uint32_t id;                /* enum mc_mechanism_id */
    uint32_t granule_frames;    /* smallest step of a target; open may set domain->granule_frames */
    int dma_safe;               /* by design: no page goes that the guest may have handed to a
                                 * device, and a page is there before the guest may use it */
    struct mc_option options[MC_OPTIONS_MAX];
    size_t device_bytes;        /* of the device: domain.c makes domain->device, zeroed, before
                                 * `open`, and frees it after `close`; 0: none */

    /* Main thread. Any may be NULL, which does nothing (boot: mc_boot_populated). A reboot formats
     * meta, takes everything but pinned areas, then calls `boot` and `offer`: `device` survives a
     * reboot; `boot` must reset it. */
    int (*open)(struct mc_host *host, struct mc_domain *domain);    /* before boot; 0 or a status;
                                                                     * no lock, no control yet */
    int (*boot)(struct mc_host *host, struct mc_domain *domain);    /* give boot_areas */
    void (*target)(struct mc_host *host, struct mc_domain *domain);
    void (*offer)(struct mc_host *host, struct mc_domain *domain);  /* after every boot: tell the
                                                                     * driver what it is to do */
    void (*close)(struct mc_host *host, struct mc_domain *domain);  /* the guest is gone: free
                                                                     * what `open` made. No lock */

    /* Service thread: one record of the memory ring, a copy. record->status is 0 at first, and
     * after MC_UNFINISHED the value it was left with. */
    enum mc_served (*request)(struct mc_host *host, struct mc_domain *domain,
                              struct mc_record *record);

    /* Keeper: the oldest record that was left to it by mc_keep; MC_KEPT: call again when it has
     * waited. May take its time, and release the lock. */
    enum mc_served (*later)(struct mc_host *host, struct mc_domain *domain,
                            struct mc_record *record);
    /* Keeper. jobs: something slow to do for this domain; 1 when there may be more. timer: called
     * when timer_ns has come; sets timer_ns anew. */
    int (*jobs[MC_JOBS_MAX])(struct mc_host *host, struct mc_domain *domain);
    void (*timer)(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns);

    /* Any thread, for a receiver of any mechanism: give up to `most` areas now, without asking the
     * guest; how many are on their way (or free). hard: the donor is above its target. NULL: it
     * cannot. */
    uint32_t (*give)(struct mc_host *host, struct mc_domain *donor, int hard, uint32_t most);

    /* Any thread: the size that is compared with the target, in frames (NULL: installed_frames),
     * and how far it is (NULL: mc_reach_default). */
    uint64_t (*size)(const struct mc_domain *domain);
    enum mc_reach (*reach)(struct mc_host *host, const struct mc_domain *domain, enum mc_why *why);
    int (*validate)(struct mc_host *host, const struct mc_domain *domain);  /* 0 or MC_EBROKEN */

    /* Main thread, under the lock, of each domain that goes on, one in the midst of a reboot too.
     * The process before was killed (recover.h): put this process's threads and pointers in the
     * place of its own. MC_OK or a status. */
    int (*rejoin)(struct mc_host *host, struct mc_domain *domain);

    /* Main thread, after `rejoin`; not in the midst of a reboot. Mend what `device` says. How many
     * records it keeps, less those that are in domain->answers; or a status. */
    int64_t (*recover)(struct mc_host *host, struct mc_domain *domain);
};

/* cdef-end */

/* Each mechanism's id (layout.h) and struct, without prefix. Its ops: ops.h; driver: driver.c. */
#define MC_MECHANISM_LIST(ROW)                                                                    \
    ROW(DIRECT, direct) ROW(BALLOON, balloon) ROW(VIRTIO_MEM, virtio_mem)                         \
    ROW(SECTIONS, sections) ROW(CMM, cmm) ROW(HYPERALLOC, hyperalloc)
#define MC_MECHANISM_DECLARE(id, mechanism) extern const struct mc_mechanism mc_##mechanism;
MC_MECHANISM_LIST(MC_MECHANISM_DECLARE)

/* The usual end of `request`: the answer is this status, or this result from 0. */
static inline enum mc_served mc_answered(struct mc_record *record, int64_t status)
{
    record->status = status;
    return MC_ANSWERED;
}

/* 1 when a process before this one began to serve the record: part of it may be done. */
static inline int mc_is_again(const struct mc_domain *domain, enum mc_again which,
                              const struct mc_record *record)
{
    return domain->has_again >> which & 1 && record->seq == domain->again_seq[which];
}

/* The same, of any record of the memory ring. */
static inline int mc_is_memory_again(const struct mc_domain *domain,
                                     const struct mc_record *record)
{
    return mc_is_again(domain, MC_AGAIN_MEMORY, record) ||
           mc_is_again(domain, MC_AGAIN_KEPT, record);
}

static inline void mc_note_again(struct mc_domain *domain, enum mc_again which,
                                 const struct mc_record *record)
{
    domain->again_seq[which] = record->seq;
    domain->has_again |= 1u << which;
}

/* For `recover`, of a record that is kept: 1 when it waits for its answer, and may be half done
 * (mc_is_memory_again); 0 when it is answered. */
static inline int mc_keep_again(struct mc_domain *domain, const struct mc_record *record)
{
    for (uint32_t i = 0; i < domain->answer_count; i++)
        if (domain->answers[i].seq == record->seq)
            return 0;
    mc_note_again(domain, MC_AGAIN_KEPT, record);
    return 1;
}

/* cdef-begin */
/* mechanisms.c. NULL for an unknown id. */
const struct mc_mechanism *mc_mechanism(uint32_t id);

/* reach.c: the host's side of the conversation with a driver, and how far a target is reached.
 * Tell the driver to come to `frames`, or that config[] changed: raises the bell. */
void mc_config_ask(struct mc_domain *domain, uint64_t frames);
/* Write a word of control.config[], without ringing. */
void mc_config_write(struct mc_domain *domain, uint32_t index, uint64_t word);
/* The next timer, by the option that is its period in ms; 0 there means never. */
void mc_timer_set(struct mc_domain *domain, int option, uint64_t now_ns);
/* 1 when the driver has acted upon the last bell and says it is done or cannot go on. */
int mc_config_settled(const struct mc_domain *domain, int32_t *status);
/* Wake the guest threads that wait for answers; through the relay where the bell travels there. */
void mc_guest_ring(struct mc_host *host, struct mc_domain *domain);
/* Answer a record that was kept. Any thread. */
void mc_answer(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record);
/* Compare size and target, note when they met, and show both in control. After anything moved. */
enum mc_reach mc_reach_note(struct mc_host *host, struct mc_domain *domain);
enum mc_reach mc_reach_default(struct mc_host *host, const struct mc_domain *domain,
                               enum mc_why *why);
uint64_t mc_size(const struct mc_domain *domain);
/* Why a domain whose memory is taken without its guest is still above its target; MC_WHY_NONE when
 * there is something to take. */
enum mc_why mc_why_not_taken(const struct mc_domain *domain);

/* punch.c, keeper only: punch the first run of the domain's areas that are due; 1 when that
 * succeeded. Releases the lock. */
int mc_punch_own(struct mc_host *host, struct mc_domain *domain);
int mc_is_punch_due(const struct mc_domain *domain);

/* supply.c. Keeper of the domain, or the main thread while it boots: make sure that one area may be
 * charged to this domain, from wherever that takes. Sets *path (enum mc_path) when it had to be
 * taken away from somebody. 0, or MC_ENOMEM. Releases the lock while donors punch, for
 * MC_SUPPLY_NS_MAX at most. */
int mc_supply_find(struct mc_host *host, struct mc_domain *domain, int *path);
/* Any thread. The same without waiting: 0, or MC_LATER when that takes a wait. Keeps the lock. */
int mc_supply_find_now(struct mc_host *host, struct mc_domain *domain, int *path);
/* Any thread. 1 when somebody gave an area: a donor that can spare it (from_donor: a ready one
 * too); tmem. */
/* 1 when what is about to be punched makes one area more free than slack and promise. */
int mc_supply_is_coming(struct mc_host *host);
int mc_supply_take_spare(struct mc_host *host, const struct mc_domain *receiver);
int mc_supply_take_from_donor(struct mc_host *host, const struct mc_domain *receiver);
int mc_supply_tmem_give(struct mc_host *host);
/* Have tmem and donors give until `frames` are free beyond slack and promise, or on their way.
 * Looks at each donor once. A keeper breathes: it releases the lock in between, so that others are
 * served. */
void mc_supply_gather(struct mc_host *host, const struct mc_domain *receiver, uint64_t frames,
                      int breathes);
/* Keeper: let others have the lock. Releases it. */
void mc_breathe(struct mc_host *host);

/* boot.c. Boot areas one by one with their pages, as if the domain had asked. */
int mc_boot_populated(struct mc_host *host, struct mc_domain *domain);
/* Boot areas charged, without pages: they come when the guest touches them. */
int mc_boot_plugged(struct mc_host *host, struct mc_domain *domain);
/* INSTALL: give a SOFT area its backing again. 0; MC_EINDEX, MC_EFOREIGN, MC_ENOMEM, MC_ETARGET
 * when the domain holds its target already (counted as refused, like MC_ENOMEM). Keeper; releases
 * the lock. */
int mc_install(struct mc_host *host, struct mc_domain *domain, uint64_t area);
/* `request` for an INSTALL: answered at once, or kept for the keeper. */
enum mc_served mc_served_install(struct mc_host *host, struct mc_domain *domain,
                                 struct mc_record *record);
/* cdef-end */

#endif
