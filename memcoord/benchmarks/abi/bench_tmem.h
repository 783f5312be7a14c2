/* bench_tmem.h: compiled loops of `memcoord bench tmem`.
 *
 * Owns:  puts and gets of a pool by address, as the hypervisor's service thread makes them; the
 *        same through a domain's tmem ring; and their floors, memcpy and a futex round trip.
 * Rules: every loop walks one `struct mcb_set`, so that all name the same pages in the same order:
 *        page n is (n / MCB_OBJECT_PAGES + 1, object, 0), index n % MCB_OBJECT_PAGES. The guest's
 *        side is a small block of pages, taken in turn, which stays in the CPU's cache as a page
 *        does that was just used; the other side is as large as the set. Before the clock of a
 *        sample starts, every page about to be put gets a first word it never had, so that no two
 *        pages put are alike. A sample is `ops` operations (at most the block; a batch for the
 *        ring). An operation that does not answer 1 ends the loop: a failure is no sample.
 * Each returns 0 or a negative enum mc_status; MC_ESTATE for an answer that was not 1.
 */
#ifndef MC_BENCH_TMEM_H
#define MC_BENCH_TMEM_H

#include "guest.h"

/* cdef-begin */
#define MCB_OBJECT_PAGES 1024

struct mcb_set {
    const uint32_t *order;  /* the sequence of pages, a permutation of 0..pages-1 */
    uint32_t pages;
    uint32_t next;          /* where in the order the next sample begins */
    uint64_t object;        /* keeps the names of two sets apart */
    uint64_t memory;        /* address of the guest's block */
    uint32_t block;         /* pages in it */
    uint32_t first_frame;   /* the block's first frame, of a domain */
    uint64_t stamp;         /* the last first word; 0: puts leave their pages alone */
};

struct mcb_pool {
    uint64_t execute, state; /* tmem.serve.Entries */
    int64_t client;
    uint32_t slot;
};

/* Only the copy of a put or a get, between the block and `store`, as large as the set. */
int mcb_memcpy(struct mcb_set *set, int op, uint64_t store, uint64_t *samples, uint32_t count,
               uint32_t ops);
/* MC_OP_PUT, MC_OP_GET or MC_OP_FLUSH_PAGE of the pages of the set. */
int mcb_tmem(const struct mcb_pool *pool, int op, struct mcb_set *set, uint64_t *samples,
             uint32_t count, uint32_t ops);

/* The same through the ring of a domain the block belongs to: `ops` records, one doorbell. */
int mcb_ring_tmem(struct mc_guest *guest, int op, uint32_t slot, struct mcb_set *set,
                  uint64_t *samples, uint32_t count, uint32_t ops, uint64_t rest_ns);

/* One line each way: a bell is a word and its waiters, as in bell.h. */
struct mcb_bells { uint32_t call[2], pad[14], answer[2], pad2[14]; };
int mcb_futex_call(struct mcb_bells *bells, uint64_t *samples, uint32_t count, uint64_t rest_ns);
/* The other end, on a thread: ends with its process. */
int mcb_futex_echo(struct mcb_bells *bells);
/* cdef-end */

#endif
