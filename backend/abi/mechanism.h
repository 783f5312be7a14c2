/* mechanism.h: the ways to resize a domain, behind one table.
 *
 * Owns:  what a mechanism is to the host: a struct of functions, chosen per domain when it opens.
 *        Host, ledger, service thread, worker and rings are the same for all of them.
 * Rules: a mechanism is one file mech_<name>.c with one `const struct mc_mechanism mc_<name>`, its
 *        guest half drv_<name>.c (frontend/abi/driver.h), the words they exchange in a header of
 *        their own (hypervisor/public/abi/<name>.h). It keeps no global state: what it needs per
 *        domain is domain->device. It moves memory by ledger.h alone.
 *        Every function is called under mc_host.lock, on the thread its comment names. What may
 *        release the lock (ledger.h says so) must expect anything to have changed.
 *
 * How a target travels:
 *   1. main thread  mc_domain_set_target: target_frames, control.target_frames, then `target`.
 *   2. `target`     does at once what needs no guest. What needs the guest: mc_config_ask, which
 *                   stores control.requested_frames and raises config_bell.
 *   3. guest        its driver thread wakes, acts, sends requests on the memory ring, and says in
 *                   driver_status and config_seen what became of that bell.
 *   4. `request`    on the service thread, one call per record. Answers, or keeps the record
 *                   (MC_LATER) and answers it by mc_answer.
 *   5. mc_reach     compares `size` with the target whenever something moved, and notes the time.
 * A newer target replaces an older one at step 1: there is no queue of targets, so nothing to
 * cancel; a driver looks at requested_frames again before each step of its own.
 */
#ifndef MC_MECHANISM_H
#define MC_MECHANISM_H

#include "ledger.h"

#define MC_JOBS_MAX 3
#define MC_LATER INT64_MIN          /* of `request`: answered later */
#define MC_AGAIN (INT64_MIN + 1)    /* of `request`: not done within MC_VISIT_NS_MAX. It is called
                                     * again, with the record as it was left, after the other
                                     * domains had their turn */
#define MC_VISIT_NS_MAX 200000      /* of one domain's memory ring, before the others are served;
                                     * what is under way then is finished: an area at most */

struct mc_option {
    const char *name;
    uint64_t value;             /* when the domain does not say */
    uint64_t least;
    uint64_t most;
};

struct mc_mechanism {
    const char *name;           /* as scenarios write it */
    uint32_t id;                /* enum mc_mechanism_id */
    uint32_t granule_frames;    /* smallest step of a target; open may set domain->granule_frames */
    int dma_safe;               /* by design: no page goes that the guest may have handed to a
                                 * device, and what it is given has its pages before it is used */
    struct mc_option options[MC_OPTIONS_MAX];
    size_t device_bytes;        /* of the device: domain.c makes domain->device, zeroed, before
                                 * `open`, and frees it after `close`; 0: none */

    /* Main thread. Any may be NULL, which does nothing (boot: mc_boot_populated). A reboot formats
     * meta, takes everything but what is pinned, then boots and offers: device outlives it, boot is
     * where a mechanism resets it. */
    int (*open)(struct mc_host *host, struct mc_domain *domain);    /* before boot; 0 or a status;
                                                                     * no lock, no control yet */
    int (*boot)(struct mc_host *host, struct mc_domain *domain);    /* give boot_areas */
    void (*target)(struct mc_host *host, struct mc_domain *domain);
    void (*offer)(struct mc_host *host, struct mc_domain *domain);  /* after every boot: tell the
                                                                     * driver what it is to do */
    void (*close)(struct mc_host *host, struct mc_domain *domain);  /* the guest is gone: free
                                                                     * what `open` made. No lock */

    /* Service thread: one record of the memory ring, a copy. The status of the answer, or MC_LATER;
     * arg[] as they are left are the answer's too. record->status is 0 at first, and then what it
     * was left at with MC_AGAIN. */
    int64_t (*request)(struct mc_host *host, struct mc_domain *domain, struct mc_record *record);

    /* Worker. jobs: something slow to do for this domain, 1 when it did something; all domains are
     * offered jobs[0] before any is offered jobs[1], after what is due has been punched.
     * timer: called when timer_ns has come; sets timer_ns anew. */
    int (*jobs[MC_JOBS_MAX])(struct mc_host *host, struct mc_domain *domain);
    void (*timer)(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns);

    /* Service thread, for a receiver of any mechanism: give one area now, without asking the guest;
     * 1 when one is on its way (or free). hard: the donor is above its target. NULL: it cannot. */
    int (*give)(struct mc_host *host, struct mc_domain *donor, int hard);

    /* Any thread: the size that is compared with the target, in frames (NULL: installed_frames),
     * and how far it is (NULL: mc_reach_default). */
    uint64_t (*size)(const struct mc_domain *domain);
    int (*reach)(struct mc_host *host, const struct mc_domain *domain, uint32_t *why);
    int (*validate)(struct mc_host *host, const struct mc_domain *domain);  /* 0 or MC_EBROKEN */
};

extern const struct mc_mechanism mc_direct, mc_balloon, mc_virtio_mem, mc_sections, mc_cmm,
    mc_hyperalloc;

/* cdef-begin */
/* The id of a mechanism, or MC_EINDEX; of one of its options, or MC_EINDEX, and what it may be. */
int mc_mechanism_find(const char *name);
int mc_option_find(int mechanism, const char *name, uint64_t *least, uint64_t *most);
/* Its options by default, into options[8]; its granule; 1 when it is safe with DMA. */
void mc_option_defaults(int mechanism, uint64_t *options);
uint32_t mc_mechanism_granule(int mechanism);
int mc_mechanism_dma_safe(int mechanism);
/* cdef-end */

const struct mc_mechanism *mc_mechanism(uint32_t id);

/* Boot areas one by one with their pages, as if the domain had asked. */
int mc_boot_populated(struct mc_host *host, struct mc_domain *domain);
/* Boot areas charged, without pages: they come when the guest touches them. */
int mc_boot_plugged(struct mc_host *host, struct mc_domain *domain);

/* Tell the driver to come to `frames`, or that config[] changed: raises the bell. */
void mc_config_ask(struct mc_domain *domain, uint64_t frames);
/* 1 when the driver has acted upon the last bell and says it is done or cannot go on. */
int mc_config_settled(const struct mc_domain *domain, int32_t *status);

/* Compare size and target, note when they met, and what control shows. After anything moved. */
int mc_reach_note(struct mc_host *host, struct mc_domain *domain);
int mc_reach_default(struct mc_host *host, const struct mc_domain *domain, uint32_t *why);
uint64_t mc_size(const struct mc_domain *domain);

/* Why a domain whose memory is taken without its guest is above its target still; MC_WHY_NONE when
 * there is something to take. */
uint32_t mc_why_not_taken(const struct mc_domain *domain);

/* INSTALL: give a SOFT area its backing again. 0; MC_EINDEX, MC_EFOREIGN, MC_ENOMEM, MC_ETARGET (it
 * holds its target already; counted as refused like MC_ENOMEM). May release the lock. */
int mc_install(struct mc_host *host, struct mc_domain *domain, uint64_t area);

/* cdef-begin */
/* Answer a record that was kept, any thread, under the lock. */
void mc_answer(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record);
/* cdef-end */

#endif
