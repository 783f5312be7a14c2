/* cheat.h: the loops of a guest that cheats, and the loop that watches the memory of domains.
 *
 * Owns:  the cheats of memcoord/benchmarks/hostile/guest.py, which run in the cheating process, and
 *        the watch of memcoord/benchmarks/hostile/lab.py, which runs in the hypervisor's.
 * Rules: a cheat works on a bare attachment: two mappings and two rings. Nothing in a bare
 *        attachment believes the words in meta, so that a cheat survives its own corruptions. Every
 *        loop ends by its count or its time, and when the hypervisor hangs up on `attach_fd`.
 *        Random numbers are splitmix64 of `state`, which goes on over all lives of a cheater: one
 *        seed reproduces the whole sequence of writes.
 */
#ifndef MC_CHEAT_H
#define MC_CHEAT_H

#include "guest.h"

/* cdef-begin */
#define MCC_BURST_WORDS 16
#define MCC_SERVED_NS_MAX 2000000
#define MCC_OPS_END 96               /* above every operation of every mechanism */
#define MCC_PUT_KEYS 64

struct mcc_attachment {
    uint64_t meta;
    uint64_t meta_bytes;
    uint64_t ram;
    uint64_t ram_bytes;
    int bell_fd;
    int attach_fd;
    struct mc_front fronts[MC_RINGS];
    uint64_t state;             /* of the random numbers */
    uint64_t unanswered;        /* records without an answer within their time (malformed.h) */
};

/* Words [first, last) of meta that are corrupted with this weight. */
struct mcc_range {
    uint64_t first;
    uint64_t last;
    uint64_t weight;
};

enum mcc_value { MCC_ZERO = 0, MCC_ONES = 1, MCC_RANDOM = 2, MCC_OFF_BY_ONE = 3, MCC_VALUES = 4 };

uint64_t mcc_random(uint64_t *state);
/* 1 when the hypervisor has ended the connection. */
int mcc_hung_up(const struct mcc_attachment *own);

/* Bind the two rings of a new attachment at the offsets in its control page. */
void mcc_bind(struct mcc_attachment *own);

/* Write to every page of ram, granted or not, again and again. Returns how many writes. */
uint64_t mcc_touch(const struct mcc_attachment *own, uint64_t for_ns);
/* Ring the hypervisor's bell without a pause. Returns how often. */
uint64_t mcc_flood_bell(const struct mcc_attachment *own, uint64_t for_ns);
/* Keep the ring full of `op` and `other` in turns, each with arg[0] = `arg`. Returns how many. */
uint64_t mcc_flood_ring(struct mcc_attachment *own, uint32_t op, uint32_t other, uint64_t arg,
                        uint64_t for_ns);
/* Claim without a pause that the target is reached, and lie in every statistic. */
uint64_t mcc_lie(struct mcc_attachment *own, uint64_t for_ns);
/* Burn a CPU and nothing else, as a busy neighbour does that is no cheat. */
uint64_t mcc_burn(const struct mcc_attachment *own, uint64_t for_ns);

/* Each step-th word of [first, last) in turn: corrupt it in one way, send a record, ring, wait
 * until it is answered (at most MCC_SERVED_NS_MAX), put the word back. Returns the word at which
 * the next life continues; `last` or more when all are done. */
uint64_t mcc_each_word(struct mcc_attachment *own, uint64_t first, uint64_t last, uint32_t step,
                       int how);
/* `count` random words of the ranges, a random record and a bell after every MCC_BURST_WORDS.
 * Returns how many were written in this life. */
uint64_t mcc_corrupt(struct mcc_attachment *own, const struct mcc_range *ranges,
                     uint32_t range_count, uint64_t count);

/* An honest domain: GROW an area and offer it again, at most `count` times and for at most for_ns,
 * with pauses of `pause_ns`. A sample is the time from the GROW to its grant. Returns the number of
 * samples, or a negative enum mc_status. */
int64_t mcc_grants(struct mc_guest *guest, uint64_t *samples, uint32_t count, uint64_t pause_ns,
                   uint64_t for_ns);

/* An honest domain: put `frame` into a pool under one of MCC_PUT_KEYS keys in turns; else as
 * mcc_grants. A sample is the time from the PUT to its answer. */
int64_t mcc_puts(struct mc_guest *guest, uint64_t pool, uint64_t frame, uint64_t *samples,
                 uint32_t count, uint64_t pause_ns, uint64_t for_ns);

#define MCC_WATCHED_MAX 256

/* The memory that the kernel has given to a set of files. Another thread may add a file while the
 * watch runs: it writes the fd first, then the count. */
struct mcc_watch {
    int fds[MCC_WATCHED_MAX];
    uint32_t count;             /* atomic */
    uint32_t stop;              /* atomic */
    uint64_t limit_bytes;
    uint64_t peak_bytes;
    uint64_t peaks_bytes[MCC_WATCHED_MAX];  /* of each file */
    uint64_t first_over_ns;     /* when the sum first exceeded the limit; 0: never */
    uint64_t looks;
};

/* Look every period_ns until stopped. */
void mcc_watch_run(struct mcc_watch *watch, uint64_t period_ns);
/* cdef-end */

#endif
