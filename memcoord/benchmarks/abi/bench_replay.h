/* bench_replay.h: a recorded trace of a program's allocations, carried out by the malloc in force.
 *
 * Owns:  the loop: each call of the trace, timed alone, with the first touch of each page that it
 *        gave, so that faults are part of it. Several copies of the trace run one after the other;
 *        what a copy has not freed at its end stays.
 * Rules: both sides of a ratio run the same loop. A sample contains two reads of the clock.
 */
#ifndef MC_BENCH_REPLAY_H
#define MC_BENCH_REPLAY_H

#include <stdint.h>

/* cdef-begin */
enum mcb_call { MCB_MALLOC = 0, MCB_FREE = 1, MCB_REALLOC = 2, MCB_CALLOC = 3 };

struct mcb_trace {
    const uint8_t *calls;       /* enum mcb_call */
    const uint32_t *places;     /* which block; each is below `held` */
    const uint32_t *sizes;      /* bytes; of a free, anything */
    uint64_t count;
    uint64_t held;              /* blocks of one copy at most */
    uint64_t copies;
};

/* samples: count * copies, in ns. *sum_ns: all of them. 0, or a negative enum mc_status: MC_ENOMEM,
 * or MC_EINDEX for a trace that is none. */
int mcb_replay(const struct mcb_trace *trace, uint32_t *samples, uint64_t *sum_ns);
/* cdef-end */

#endif
