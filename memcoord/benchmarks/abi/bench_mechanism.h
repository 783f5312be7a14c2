/* bench_mechanism.h: compiled loops of `memcoord bench mechanisms`, in the guest.
 *
 * Owns:  the work of a guest while it is resized: use all memory, wait for more, copy, allocate.
 * Rules: `frames` is the caller's array of the frames it holds; a loop appends the frames it takes.
 *        All are single frames, which every mechanism can give, whatever its granule. A sample is
 *        nanoseconds. Slots are claimed by the caller, one per thread.
 * Each returns >= 0, or a negative enum mc_status.
 */
#ifndef MC_BENCH_MECHANISM_H
#define MC_BENCH_MECHANISM_H

#include "guest.h"

/* cdef-begin */
#define MCB_CHUNK_FRAMES 64
#define MCB_CHURN_FRAMES 512
#define MCB_CHURN_TIMES 4
#define MCB_POLL_NS 2000
#define MCB_AWAIT_NS 20000000000

/* A wait for memory. `asks`: the guest may ask its mechanism for more (mc_guest_alloc); otherwise
 * the guest takes the frames that turn up. `plea_fd`: an eventfd, rung once to tell the bench,
 * which resizes by hand; or -1. */
struct mcb_wait {
    uint32_t *frames;
    uint32_t count;
    int asks;
    int plea_fd;
    uint64_t began_ns;          /* out: CLOCK_MONOTONIC */
    uint64_t ended_ns;          /* out: when the last of them was touched */
};

/* Take up to `limit` single frames, first those that are free (`asks`: then as many as the
 * mechanism gives), and touch each. How many; *elapsed_ns is the time of all of it. */
int64_t mcb_take_all(struct mc_guest *guest, int slot, uint32_t *frames, uint64_t limit, int asks,
                     uint64_t *elapsed_ns);
/* Free single frames and let go of the slot's row. */
int64_t mcb_give_all(struct mc_guest *guest, int slot, const uint32_t *frames, uint64_t count);
/* Until `count` frames are there and touched; MC_ETIMEOUT after MCB_AWAIT_NS, holding none. */
int mcb_await(struct mc_guest *guest, int slot, struct mcb_wait *wait);

/* STREAM's copy over held frames, the first half of them to the second, round and round for
 * `run_ns`: one sample per MCB_CHUNK_FRAMES frames. How many samples; at most `most`. */
int64_t mcb_stream(struct mc_guest *guest, const uint32_t *frames, uint64_t count, uint64_t run_ns,
                   uint64_t *samples, uint64_t most);
/* MCB_CHURN_TIMES times a sample: allocate MCB_CHURN_FRAMES frames one by one, touching each, and
 * free them in another order. */
int64_t mcb_churn(struct mc_guest *guest, int slot, uint64_t run_ns, uint64_t *samples,
                  uint64_t most);
/* cdef-end */

static inline void mcb_touch(const struct mc_guest *guest, uint64_t frame)
{
    *(volatile uint8_t *)(guest->ram + (frame << MC_FRAME_SHIFT)) = 1;
}

/* Single frames as they turn up, or as the mechanism gives them: how many, 0 for none now. */
static inline int64_t mcb_alloc(struct mc_guest *guest, int slot, uint32_t *frames, uint64_t count,
                                int asks)
{
    int64_t given = asks ? mc_guest_alloc_many(guest, slot, frames, count)
                         : mc_frames_alloc_many(&guest->frames, slot, frames, count);

    return given == MC_ENOMEM || given == MC_ETARGET ? 0 : given;
}

#endif
