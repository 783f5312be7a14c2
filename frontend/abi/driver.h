/* driver.h: the guest half of a mechanism, and the thread it runs on.
 *
 * Owns:  the table of drivers, and one thread per domain for a driver that has a `step`.
 * Rules: a driver is one file drv_<name>.c with one `const struct mc_driver mc_drv_<name>`; what it
 *        needs per domain is guest->own->device. It asks the hypervisor by mc_guest_call on the
 *        memory ring (any thread may: calls are serialised by the ring's lock, and wait for their
 *        answers), and takes memory out of use by the allocator (frames.h, offline.h) as any other
 *        thread does. It never trusts a configuration to stay: requested_frames is read again
 *        before each step that costs something.
 *
 * The thread:
 *   1. seen = config_bell (acquire).
 *   2. step(): act upon control.requested_frames and config[], a bounded piece of work at a time.
 *      MC_STEP_DONE, MC_STEP_MORE (call again, at the latest at *next_ns), or a negative status: it
 *      cannot go on (MC_ESTATE: what is left is in use; MC_EPERM: pinned; MC_ENOMEM: the host has
 *      none).
 *   3. driver_status = what step said; config_seen = seen (release).
 *   4. sleep on config_bell until it changes, *next_ns has come, or mc_driver_kick.
 * A partial result is a state: step returns the status, and is called again when the configuration
 * changes, at *next_ns, or when it was kicked because memory was freed.
 */
#ifndef MC_DRIVER_H
#define MC_DRIVER_H

#include "guest_private.h"

struct mc_driver {
    const char *name;
    uint32_t id;                /* enum mc_mechanism_id */
    int populated;              /* memory comes with its pages: areas are mapped in bulk before use.
                                 * 0: the guest's first touch of a frame brings its page */
    int (*open)(struct mc_guest *guest);        /* 0 or a status; before any other thread */
    void (*close)(struct mc_guest *guest);      /* after every other thread */
    int (*step)(struct mc_guest *guest, uint64_t now_ns, uint64_t *next_ns);

    /* An allocation found nothing: get up to `areas` areas' worth, on the allocating thread, no
     * lock held. Areas gained (>= 1, or 1 for less than an area), *path how; or a status:
     * MC_ENOMEM, MC_ETARGET. NULL: MC_ENOMEM. */
    int64_t (*more)(struct mc_guest *guest, uint32_t areas, int *path);
    /* Domain.release: give back up to `areas`, areas given or a status. NULL: 0. */
    int64_t (*release)(struct mc_guest *guest, uint32_t areas);
};

extern const struct mc_driver mc_drv_direct, mc_drv_balloon, mc_drv_virtio_mem, mc_drv_sections,
    mc_drv_cmm, mc_drv_hyperalloc;

const struct mc_driver *mc_driver(uint32_t id);
int mc_driver_start(struct mc_guest *guest);
void mc_driver_stop(struct mc_guest *guest);
/* Have step called soon. Any thread. */
void mc_driver_kick(struct mc_guest *guest);

/* GROW and RELEASE of `direct`, for drivers whose mechanism serves them too. */
int64_t mc_ask_grow(struct mc_guest *guest, uint32_t areas, int *path);
int64_t mc_ask_release(struct mc_guest *guest, uint32_t areas);
/* One record on the memory ring; its status, or that of the call. */
int64_t mc_ask(struct mc_guest *guest, struct mc_record *record);

#endif
