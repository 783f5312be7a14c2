/* guest.h: one process's attachment to its domain: allocator, rings, mapping, credit.
 *
 * Owns:  the private state of a guest process; nothing here is shared memory.
 * Rules: call mc_guest_open after the handshake gave the fds, and mc_guest_close once, last. Any
 *        thread may call the functions, without the GIL; one thread at a time uses a slot. Ring
 *        calls are serialised by a lock per ring.
 *
 * An allocation, fastest way first:
 *   1. local    a bit of the slot's own row; no shared line.
 *   2. refill   another row of an area that the domain holds (frames.h); prepare() maps the area
 *               in bulk the first time, and asks INSTALL for an evicted area. An area that was
 *               granted ahead of need (credit) needs nothing: the mapper thread has mapped it.
 *   3. grow     nothing free: GROW one area on the memory ring (counted in control.credit_dry),
 *               then 2 again, at most MC_GROW_TRIES_MAX times; then MC_ENOMEM.
 *
 * Use mc_guest_alloc rather than mc_frames_alloc, which prepares areas as well but never grows.
 *
 * The mapper thread sleeps on credit_bell. It claims every area that is wholly free, backed and not
 * mapped, as an order-9 allocation would, maps it with MADV_POPULATE_READ, and gives it back. While
 * the area is claimed the hypervisor cannot take it. Otherwise the mapper might touch a hole, and
 * the kernel would hand out a page that the hypervisor never granted.
 *
 * A domain that the hypervisor closes while its program lives is told: calls return MC_EGONE. Its
 * memory is about to be punched, and would read as zeroes. So MC_NOTICE_NS later one of the guest's
 * own threads says so on stderr and makes ram inaccessible: a program that still uses it gets
 * SIGSEGV, and computes with no zeroes. Then the hypervisor punches (control.let_go).
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
#define MC_NOTICE_NS 50000000

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
    uint64_t mapped_areas;          /* areas mapped in bulk, by any thread */
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
 * into it stay readable and writable. The caller unmaps it (mc_unmap) when no pointer is left. 0,
 * or MC_EKERNEL. */
int mc_guest_keep_ram(struct mc_guest *guest);
/* 1 while the hypervisor lives and serves this domain; once it was 0 it stays 0. */
int mc_guest_alive(struct mc_guest *guest);

/* As mc_frames_*, but an allocation that finds nothing asks the hypervisor for more. Beside the
 * statuses of mc_frames_*: MC_ETARGET, MC_EGONE, MC_ETIMEOUT. `slot` is guest->slot or one from
 * mc_slot_claim(&guest->frames, ...). */
int64_t mc_guest_alloc(struct mc_guest *guest, int slot, int order);
int64_t mc_guest_alloc_many(struct mc_guest *guest, int slot, uint32_t *out, uint64_t count);
int64_t mc_guest_alloc_areas(struct mc_guest *guest, int slot, uint32_t count);

/* Send `count` (1..MC_RING_SLOTS) records, one doorbell, and wait for all responses, which replace
 * the records in their order. 0, MC_EGONE, MC_ETIMEOUT, MC_ERUNAWAY, MC_ETORN, or MC_EINDEX. Spins
 * spin_ns (0 when both ends run on one CPU), then sleeps; checks that the hypervisor lives before
 * every sleep and every MC_LIVENESS_NS. After MC_ETIMEOUT the requests may still be served later:
 * their responses are dropped, but a GET may still write its frame. */
int mc_guest_call(struct mc_guest *guest, int ring, struct mc_record *records, uint32_t count);

/* Drop up to `frames` frames of clean page cache. Returns how many were freed. The driver's thread
 * calls it. */
typedef uint64_t (*mc_drop_fn)(void *context, uint64_t frames);
/* A program with page cache sets `drop` and keeps control.file_frames; NULL takes it back. A drop
 * that is under way ends before this returns. */
void mc_guest_set_drop(struct mc_guest *guest, mc_drop_fn drop, void *context);
uint64_t mc_guest_drop_cache(struct mc_guest *guest, uint64_t frames);

/* Ask for memory: frames gained (>= 0), or a status; *path gets the enum mc_path of the last. */
int64_t mc_guest_request(struct mc_guest *guest, uint64_t frames, int *path);
/* Drain guest->slot, which the caller owns, then offer whole free areas, at most `frames` frames;
 * frames given back (>= 0), or a status. */
int64_t mc_guest_release(struct mc_guest *guest, uint64_t frames);
/* cdef-end */

#endif
