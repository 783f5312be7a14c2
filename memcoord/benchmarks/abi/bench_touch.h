/* bench_touch.h: a program that does nothing but use memory, for `memcoord bench programs`.
 *
 * Owns:  the loop: page-sized records, all written first, then touched in one of three orders, each
 *        touch timed and what it reads checked.
 * Rules: memory is mapped by libc's mmap, as a program's would be. Threads use the same records;
 *        each has an order of its own and samples of its own.
 */
#ifndef MC_BENCH_TOUCH_H
#define MC_BENCH_TOUCH_H

#include <stdint.h>

/* cdef-begin */
enum mcb_order { MCB_SEQUENTIAL = 0, MCB_UNIFORM = 1, MCB_SKEWED = 2 };

struct mcb_touching {
    uint64_t pages;
    uint64_t touches;           /* of each thread */
    uint64_t limit_ns;          /* a thread ends after that, whatever it has touched */
    uint32_t order;             /* enum mcb_order */
    uint32_t writes;            /* 1: a touch writes too */
    uint32_t threads;           /* at most MCB_THREADS_MAX */
    uint32_t pad0;
};

/* What came of it, samples apart. */
struct mcb_touched {
    uint64_t elapsed_ns;        /* first touch to last, of the slowest thread */
    uint64_t touches;           /* of all threads together */
    uint64_t wrong;             /* records that were not what had been written */
};

/* samples: `touches` of the first thread, in ns. 0, or a negative enum mc_status. */
int mcb_touch_records(const struct mcb_touching *how, uint64_t *samples,
                      struct mcb_touched *found);
/* cdef-end */

#endif
