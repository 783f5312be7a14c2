/* driver.h: the guest half of a mechanism, and the thread it runs on.
 *
 * Owns:  the table of drivers, and one thread per domain for a driver that has a `step`.
 * Rules: a driver is one file drv_<name>.c with one `const struct mc_driver mc_drv_<name>`; its
 *        data of a domain hang off guest->own->device. It asks the hypervisor by mc_guest_call on
 *        the memory ring. Any thread may: the ring's lock serialises the calls, and each waits for
 *        its answer. A driver takes memory out of use by the allocator (frames.h, movable.h), as
 *        any other thread does. The configuration may change at any time, so a driver reads
 *        requested_frames again before each step that costs something.
 *
 * The thread:
 *   1. seen = config_bell (acquire).
 *   2. step(): act upon control.requested_frames and config[], a bounded piece of work at a time.
 *      MC_STEP_DONE; MC_STEP_MORE (call again, at the latest at *next_ns); or the status because of
 *      which it cannot go on (MC_ESTATE: the memory that is left is in use; MC_EPERM: it is pinned;
 *      MC_ENOMEM: the host has none).
 *   3. driver_status = the result of step; config_seen = seen (release).
 *   4. sleep on config_bell until it changes, *next_ns has come, or mc_driver_kick.
 * A partial result is a state and no error: step returns the status, and the thread calls it again
 * when the configuration changes, at *next_ns, or after a kick because memory was freed.
 */
#ifndef MC_DRIVER_H
#define MC_DRIVER_H

#include "guest_private.h"

struct mc_driver {
    const char *name;
    uint32_t id;                /* enum mc_mechanism_id */
    int populated;              /* 1: memory comes with its pages, and areas are mapped in bulk
                                 * before use. 0: the first touch of a frame brings its page */
    int (*open)(struct mc_guest *guest);        /* 0 or a status; before any other thread */
    void (*close)(struct mc_guest *guest);      /* after every other thread */
    int (*step)(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns);

    /* An allocation found nothing: get memory for up to `areas` areas. Called on the allocating
     * thread with no lock held. Areas gained (1 also for less than one), in *path how; or
     * MC_ENOMEM, MC_ETARGET. Without `more`: MC_ENOMEM. */
    int64_t (*more)(struct mc_guest *guest, uint32_t areas, int *path);
    /* Domain.release: give back up to `areas` areas; areas given, or a status. A driver without it
     * gives none. */
    int64_t (*release)(struct mc_guest *guest, uint32_t areas);
};

extern const struct mc_driver mc_drv_direct, mc_drv_balloon, mc_drv_virtio_mem, mc_drv_sections,
    mc_drv_cmm, mc_drv_hyperalloc;

/* The driver of an enum mc_mechanism_id; NULL when there is none. */
const struct mc_driver *mc_driver(uint32_t id);
/* Start the thread, for a driver that has a step; 0 or MC_EKERNEL. */
int mc_driver_start(struct mc_guest *guest);
/* End the thread; own->stop is set. */
void mc_driver_stop(struct mc_guest *guest);
/* For the driver's thread and the mapper. Start `run` on a thread without signals, which belong to
 * the program's own; 1, or 0 when there is none. */
int mc_thread_start(struct mc_guest *guest, pthread_t *thread, void *(*run)(void *));
/* As mc_bell_wait, but any wake-up ends it: mc_thread_wake leaves the word alone, which only the
 * hypervisor writes. A wake-up between the caller's last look and the sleep is lost, so the sleep
 * is at most MC_LIVENESS_NS long. */
void mc_thread_nap(struct mc_guest *guest, _Atomic uint32_t *word, _Atomic uint32_t *waiters,
                   uint32_t seen, uint64_t most_ns);
void mc_thread_wake(_Atomic uint32_t *word);
/* Have the thread call step soon. Any thread may. */
void mc_driver_kick(struct mc_guest *guest);

/* GROW and RELEASE of ops.h, for the drivers of all mechanisms that serve them. */
int64_t mc_ask_grow(struct mc_guest *guest, uint32_t areas, int *path);
int64_t mc_ask_release(struct mc_guest *guest, uint32_t areas);
/* Send one record on the memory ring; the status of its answer, or of the call. */
int64_t mc_ask(struct mc_guest *guest, struct mc_record *record);

#endif
