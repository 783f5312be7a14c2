/* guest.h: one process's attachment to its domain: allocator, rings, mapping, credit.
 *
 * Owns:  everything of a domain that is private to the guest process; nothing here is shared memory
 * Rules: mc_guest_open after the handshake gave the fds; mc_guest_close once, last. Functions may
 *        be called from any thread without the GIL; one thread at a time uses a slot; ring calls
 *        are serialised by the guest's own lock, one lock per ring.
 *
 * An allocation, fastest way first:
 *   1. local    a bit of the slot's own row; no shared line.
 *   2. refill   another row of areas the domain holds (frames.h); prepare() maps the area in bulk
 *               the first time, and asks INSTALL when it is evicted. An area granted ahead of need
 *               (credit) was mapped by the mapper thread already, so nothing is left to do.
 *   3. grow     nothing free: GROW one area on the memory ring (counted in control.credit_dry),
 *               then 2 again, at most MC_GROW_TRIES_MAX times; then MC_ENOMEM.
 *
 * Use mc_guest_alloc rather than mc_frames_alloc, which prepares areas as well but never grows.
 *
 * Mapper thread: sleeps on credit_bell. For every area that is wholly free, backed and not mapped,
 * it claims the area (as an order-9 allocation, so that the hypervisor cannot take it), maps
 * it with MADV_POPULATE_READ, and gives it back. A touch of a hole would make the kernel hand out a
 * page the hypervisor never granted; claiming first is what excludes that.
 */
#ifndef MC_GUEST_H
#define MC_GUEST_H

#include "backing.h"
#include "bell.h"
#include "frames.h"
#include "ops.h"
#include "ring.h"

/* cdef-begin */
#define MC_GROW_TRIES_MAX 4
#define MC_CALL_TIMEOUT_NS 10000000000
#define MC_LIVENESS_NS 100000000

struct mc_guest_private;            /* locks, mapper thread, calibrated spin */

struct mc_guest {
    struct mc_frames frames;        /* prepare is set to the guest's own */
    struct mc_control *control;
    uint8_t *ram;
    struct mc_front rings[MC_RINGS];
    uint32_t *mapped;               /* per area: generation + 1 under which it was mapped, or 0 */
    uint64_t spin_ns;
    int slot;                       /* the slot of the process's GIL-holding threads */
    int bell_fd;                    /* eventfd to the hypervisor */
    int attach_fd;                  /* its hang-up is the hypervisor's death */
    uint64_t calls;                 /* ring requests sent */
    uint64_t sleeps;                /* times a call had to sleep */
    uint64_t mapped_areas;          /* areas mapped in bulk, by whichever thread */
    uint64_t grown_areas[MC_PATHS];  /* areas gained by asking, by enum mc_path */
    struct mc_guest_private *own;
    uint64_t timeout_ns;            /* of one call: MC_CALL_TIMEOUT_NS */
};

/* Map, check (mc_meta_check), bind, claim a slot, start the mapper. Returns 0 or a negative status;
 * on failure *guest is NULL. The fds stay the caller's; bell_fd and attach_fd must outlive it. */
int mc_guest_open(struct mc_guest **guest, int ram_fd, int meta_fd, int bell_fd, int attach_fd,
                  uint64_t ram_bytes, uint64_t meta_bytes, uint64_t spin_ns);
void mc_guest_close(struct mc_guest *guest);
/* Just before mc_guest_close: put zero-filled private memory where ram is mapped, so that pointers
 * into it stay readable and writable. The caller unmaps it (mc_unmap) when none is left. */
int mc_guest_keep_ram(struct mc_guest *guest);
/* 1 while the hypervisor lives and serves this domain, else 0 (then for good). */
int mc_guest_alive(struct mc_guest *guest);

/* As mc_frames_*, plus growth. slot: from mc_slot_claim(&guest->frames, ...). */
int64_t mc_guest_alloc(struct mc_guest *guest, int slot, int order);
int64_t mc_guest_alloc_many(struct mc_guest *guest, int slot, uint32_t *out, uint64_t count);
int64_t mc_guest_alloc_areas(struct mc_guest *guest, int slot, uint32_t count);

/* Send `count` (1..MC_RING_SLOTS) records, one doorbell, and wait for all responses, which replace
 * the records in their order. 0, MC_EGONE, MC_ETIMEOUT, MC_ERUNAWAY, MC_ETORN, or MC_EINDEX. Spins
 * spin_ns (0 when both ends run on one CPU), then sleeps; checks that the hypervisor lives before
 * every sleep and every MC_LIVENESS_NS. After MC_ETIMEOUT the requests may still be served later:
 * their responses are dropped, but a GET may still write its frame. */
int mc_guest_call(struct mc_guest *guest, int ring, struct mc_record *records, uint32_t count);

/* Drop up to `frames` of clean page cache; how many were freed. Called on the driver's thread. */
typedef uint64_t (*mc_drop_fn)(void *context, uint64_t frames);
/* Who has page cache says so, once, and keeps control.file_frames; NULL: no more. A drop that is
 * under way ends before this returns. */
void mc_guest_set_drop(struct mc_guest *guest, mc_drop_fn drop, void *context);
uint64_t mc_guest_drop_cache(struct mc_guest *guest, uint64_t frames);

/* Memory ring. Frames gained (>= 0), or a negative status; *path gets enum mc_path. */
int64_t mc_guest_request(struct mc_guest *guest, uint64_t frames, int *path);
/* Drains guest->slot (the caller owns it), then offers whole free areas, at most `frames` frames;
 * frames given back (>= 0), or a negative status. */
int64_t mc_guest_release(struct mc_guest *guest, uint64_t frames);
/* cdef-end */

#endif
