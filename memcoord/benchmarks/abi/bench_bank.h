/* bench_bank.h: accesses to memory of a bank that another process serves, with a latency added.
 *
 * Owns:  the compiled loops of `memcoord bench bank`. There is no far hardware here: memory of
 *        another process is as near as one's own. So the latency of a class of access is added
 *        where the access is made, by waiting before it; an access is of a frame, 4 KiB.
 * Rules: samples are nanoseconds of CLOCK_MONOTONIC, the wait included.
 */
#ifndef MC_BENCH_BANK_H
#define MC_BENCH_BANK_H

#include "bench_mechanism.h"

/* cdef-begin */
#define MCB_BANK_BATCH 64

enum mcb_bank_class { MCB_BANK_POPULATE = 0, MCB_BANK_READ = 1, MCB_BANK_WRITE = 2 };

/* A tier: frames of one domain, and the nanoseconds added to each class of access. */
struct mcb_tier {
    struct mc_guest *guest;
    const uint32_t *frames;
    uint64_t count;
    uint64_t added_ns[3];
};

/* One access of `class` to each frame of the tier, in order: a sample each. */
int64_t mcb_tier_access(const struct mcb_tier *tier, int class, uint64_t *samples);
/* Half of the references to the first quarter or so: the lower of two draws over both tiers, `near`
 * first; 3 of 10 write. `most` samples of MCB_BANK_BATCH references. */
int64_t mcb_tier_mix(const struct mcb_tier *near, const struct mcb_tier *far, uint64_t seed,
                     uint64_t *samples, uint64_t most);
/* cdef-end */

#endif
