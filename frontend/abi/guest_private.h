/* guest_private.h: the private state of a guest, shared by the files of this folder only. */
#ifndef MC_GUEST_PRIVATE_H
#define MC_GUEST_PRIVATE_H

#include "guest.h"

#include <pthread.h>

struct mc_driver;                   /* driver.h */
struct mc_handles;                  /* handles.h */

struct mc_guest_private {
    /* set once by mc_guest_open */
    uint64_t ram_bytes;
    uint64_t meta_bytes;
    uint32_t boots;                 /* control.boots: with another one, this guest is gone */
    int is_mapped_ahead;            /* areas are mapped in bulk before they are used */
    pthread_t mapper;
    int mapping;                    /* the mapper runs */
    const struct mc_driver *driver; /* of the domain's mechanism: driver.h */
    void *device;                   /* the driver's own, from its open to its close */
    mc_drop_fn drop;                /* the program's page cache, or NULL */
    void *drop_context;
    uint64_t dropped;               /* hyperalloc: the request acted upon last */
    void (*drain)(void *context);   /* drain guest->slot under the GIL; or NULL */
    void *drain_context;
    pthread_t driving;
    int is_driven;                  /* the driver's thread runs */
    /* under ring_locks[ring] */
    pthread_mutex_t ring_locks[MC_RINGS];
    uint64_t next_ids[MC_RINGS];
    int broken[MC_RINGS];                  /* the status that ended the ring, or 0 */
    /* under claim_lock */
    int kept_ram;                   /* mc_guest_keep_ram was called */
    int shut;                       /* mc_guest_shut has made ram inaccessible */
    /* atomic */
    uint32_t *used;                 /* per area: generation + 1 under which it was first used */
    int stop;
    struct mc_handles *handles;
    uint32_t kicks;                 /* times the driver was kicked */
    int gone;                       /* the hypervisor was found dead */
    int silent;                     /* an INSTALL of the allocation under way timed out */
    uint64_t claims;                /* odd while the mapper holds an area */
    pthread_mutex_t claim_lock;     /* held while claims is odd, and while ram is mapped anew */
    pthread_mutex_t drop_lock;      /* drop and its context, and while it runs */
};

/* 1 once mc_guest_close has begun: every thread of the guest's own returns. */
static inline int mc_guest_is_stopping(const struct mc_guest *guest)
{
    return __atomic_load_n(&guest->own->stop, __ATOMIC_ACQUIRE);
}

/* shut.c. The guest's own threads call it whenever they look: once the hypervisor has closed the
 * domain, ram is made inaccessible after MC_NOTICE_NS, and the hypervisor is told. 1 once that is
 * so. */
int mc_guest_shut(struct mc_guest *guest);
/* mapping.c: the mc_prepare_fn of a guest, and its mapper thread. */
int mc_prepare(void *guest, uint32_t area, uint32_t word);
int mc_mapper_start(struct mc_guest *guest);
void mc_mapper_stop(struct mc_guest *guest);

/* guest.c: drain guest->slot, from a thread without the GIL. */
void mc_guest_drain(struct mc_guest *guest);

/* call.c: MC_OK with the lock held, or MC_ETIMEOUT. */
int mc_lock_within(pthread_mutex_t *lock, uint64_t timeout_ns);

#endif
