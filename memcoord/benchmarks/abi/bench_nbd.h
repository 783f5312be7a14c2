/* bench_nbd.h: the NBD client of `memcoord bench nbd`; see there.
 *
 * Owns:  requests one after the other over a connection whose negotiation is done, with simple
 *        replies; the same for every server that is measured.
 * Rules: a sample is one request as its client sees it, in nanoseconds: from before the request is
 *        written until all of the answer has been read. `rest_ns` before each sample, the client
 *        sleeps, so that every other end does too.
 */
#ifndef MC_BENCH_NBD_H
#define MC_BENCH_NBD_H

#include "guest.h"

/* cdef-begin */
#define MCB_NBD_BYTES_MAX 1048576

/* `count` reads or writes of `bytes` (at most MCB_NBD_BYTES_MAX) each at a multiple of `bytes`
 * below `size`, in a random order that `seed` makes. 0; MC_EGONE, MC_EKERNEL, MC_EINDEX, MC_EBROKEN
 * for an answer that is an error or to something else. */
int mcb_nbd(int fd, int is_write, uint64_t *samples, uint32_t count, uint32_t bytes, uint64_t size,
            uint64_t seed, uint64_t rest_ns);
/* Write 4 KiB blocks of the device up to `size`, each with its number and `version` all over; the
 * second looks for that. MC_EBROKEN when it is not there. */
int mcb_nbd_fill(int fd, uint64_t size, uint64_t version);
int mcb_nbd_verify(int fd, uint64_t size, uint64_t version);
/* cdef-end */

#endif
