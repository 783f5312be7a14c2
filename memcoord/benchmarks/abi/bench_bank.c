/* bench_bank.c: see bench_bank.h. */
#include "bench_bank.h"

#include <string.h>

#define WRITES_OF_TEN 3

static void wait_ns(uint64_t added_ns)
{
    uint64_t until_ns = added_ns ? mc_clock_ns() + added_ns : 0;

    while (until_ns && mc_clock_ns() < until_ns)
        mc_cpu_relax();
}

static void access_frame(const struct mcb_tier *tier, uint64_t at, int class, uint8_t *own)
{
    uint8_t *frame = tier->guest->ram + ((uint64_t)tier->frames[at] << MC_FRAME_SHIFT);

    wait_ns(tier->added_ns[class]);
    if (class == MCB_BANK_POPULATE)
        mcb_touch(tier->guest, tier->frames[at]);
    else if (class == MCB_BANK_READ)
        memcpy(own, frame, MC_FRAME_BYTES);
    else
        memcpy(frame, own, MC_FRAME_BYTES);
    __asm__ volatile("" : : "r"(own) : "memory");
}

int64_t mcb_tier_access(const struct mcb_tier *tier, int class, uint64_t *samples)
{
    uint8_t own[MC_FRAME_BYTES] = {1};

    if (class < MCB_BANK_POPULATE || class > MCB_BANK_WRITE)
        return MC_EINDEX;
    for (uint64_t i = 0; i < tier->count; i++) {
        uint64_t before_ns = mc_clock_ns();

        access_frame(tier, i, class, own);
        samples[i] = mc_clock_ns() - before_ns;
    }
    return (int64_t)tier->count;
}

static uint64_t drawn(uint64_t *seed)
{
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed;
}

int64_t mcb_tier_mix(const struct mcb_tier *near, const struct mcb_tier *far, uint64_t seed,
                     uint64_t *samples, uint64_t most)
{
    uint64_t all = near->count + far->count;
    uint8_t own[MC_FRAME_BYTES] = {1};

    if (!all || !seed)
        return MC_EINDEX;
    for (uint64_t taken = 0; taken < most; taken++) {
        uint64_t before_ns = mc_clock_ns();

        for (int i = 0; i < MCB_BANK_BATCH; i++) {
            uint64_t one = drawn(&seed) % all, other = drawn(&seed) % all;
            uint64_t at = one < other ? one : other;
            int class = drawn(&seed) % 10 < WRITES_OF_TEN ? MCB_BANK_WRITE : MCB_BANK_READ;

            if (at < near->count)
                access_frame(near, at, class, own);
            else
                access_frame(far, at - near->count, class, own);
        }
        samples[taken] = mc_clock_ns() - before_ns;
    }
    return (int64_t)most;
}
