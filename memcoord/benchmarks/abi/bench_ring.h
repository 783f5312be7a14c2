/* bench_ring.h: compiled loops of `memcoord bench ring`.
 *
 * Owns:  round trips over our ring, and over a pair of file descriptors as the floor beside them.
 * Rules: a sample is one round trip as its caller sees it, in nanoseconds; the echo side runs in
 *        another process. `rest_ns` before each sample, the caller yields its CPU: time for the
 *        other end to fall asleep, also when both share the CPU. Without the rest, an end that
 *        never spins is still on its way to sleep when the next message comes, and nothing wakes.
 *        Each returns 0 or a negative enum mc_status.
 */
#ifndef MC_BENCH_RING_H
#define MC_BENCH_RING_H

#include "guest.h"

/* cdef-begin */
/* One sample: `batch` NOP records (1..MC_RING_SLOTS), one doorbell, all responses awaited. */
int mcb_ring_nop(struct mc_guest *guest, uint64_t *samples, uint32_t count, uint32_t batch,
                 uint64_t rest_ns);

/* One sample: write `bytes` (8..64) to one fd, read as many from the other. */
int mcb_fd_call(int read_fd, int write_fd, uint32_t bytes, uint64_t *samples, uint32_t count,
                uint64_t rest_ns);
void mcb_rest(uint64_t rest_ns);
/* The other end: echo until end of file or an error. */
int mcb_fd_echo(int read_fd, int write_fd, uint32_t bytes);

/* Two flags in a page that two processes share, each polled by the other end: the floor of a round
 * trip whose ends are both awake. */
struct mcb_flags {
    uint32_t call;              /* messages so far; a cache line of its own */
    uint32_t pad0[15];
    uint32_t answer;
    uint32_t pad1[15];
};

/* Messages number first + 1 to first + count; the echo answers as many. MC_ETIMEOUT when the other
 * end has not moved for MCB_FLAG_NS_MAX. */
#define MCB_FLAG_NS_MAX 2000000000
int mcb_flag_call(struct mcb_flags *flags, uint64_t *samples, uint32_t count, uint32_t first);
int mcb_flag_echo(struct mcb_flags *flags, uint32_t count, uint32_t first);
/* cdef-end */

#endif
