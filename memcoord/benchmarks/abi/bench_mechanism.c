/* bench_mechanism.c: see bench_mechanism.h. */
#include "bench_mechanism.h"

#include <string.h>
#include <time.h>

#define TAKE_FRAMES 512u
#define CHURN_STRIDE 29u            /* coprime to MCB_CHURN_FRAMES: freed in another order */

static int64_t take(struct mc_guest *guest, int slot, uint32_t *frames, uint64_t count, int asks)
{
    int64_t given = mcb_alloc(guest, slot, frames, count, asks);

    for (int64_t i = 0; i < given; i++)
        mcb_touch(guest, frames[i]);
    return given;
}

int64_t mcb_take_all(struct mc_guest *guest, int slot, uint32_t *frames, uint64_t limit, int asks,
                     uint64_t *elapsed_ns)
{
    uint64_t start_ns = mc_clock_ns(), held = 0;

    while (held < limit) {
        uint64_t wanted = limit - held < TAKE_FRAMES ? limit - held : TAKE_FRAMES;
        int64_t given = take(guest, slot, frames + held, wanted, asks);

        if (given < 0)
            return given;
        held += (uint64_t)given;
        if ((uint64_t)given < wanted)
            break;
    }
    *elapsed_ns = mc_clock_ns() - start_ns;
    return (int64_t)held;
}

int64_t mcb_give_all(struct mc_guest *guest, int slot, const uint32_t *frames, uint64_t count)
{
    int status = MC_OK;
    int64_t freed = mc_frames_free_many(&guest->frames, slot, frames, count, &status);

    mc_slot_drain(&guest->frames, slot);
    return freed < (int64_t)count ? status : freed;
}

int mcb_await(struct mc_guest *guest, int slot, struct mcb_wait *wait)
{
    struct timespec poll = {.tv_nsec = MCB_POLL_NS};
    uint32_t held = 0;

    wait->began_ns = mc_clock_ns();
    if (wait->plea_fd >= 0)
        mc_eventfd_ring(wait->plea_fd);
    for (;;) {
        uint32_t left = wait->count - held, wanted = left < TAKE_FRAMES ? left : TAKE_FRAMES;
        int64_t given = take(guest, slot, wait->frames + held, wanted, wait->asks);

        if (given < 0)
            return (int)given;
        held += (uint32_t)given;
        wait->ended_ns = mc_clock_ns();
        if (held == wait->count)
            return MC_OK;
        if (wait->ended_ns - wait->began_ns > MCB_AWAIT_NS)
            break;
        if ((uint32_t)given < wanted)
            nanosleep(&poll, NULL);
    }
    mcb_give_all(guest, slot, wait->frames, held);
    return MC_ETIMEOUT;
}

int64_t mcb_stream(struct mc_guest *guest, const uint32_t *frames, uint64_t count, uint64_t run_ns,
                   uint64_t *samples, uint64_t most)
{
    uint64_t half = count / 2, at = 0, taken = 0, now_ns = mc_clock_ns(), end_ns = now_ns + run_ns;

    if (half < MCB_CHUNK_FRAMES)
        return MC_EINDEX;
    while (taken < most && now_ns < end_ns) {
        uint64_t before_ns = now_ns;

        for (uint32_t i = 0; i < MCB_CHUNK_FRAMES; i++, at = at + 1 < half ? at + 1 : 0)
            memcpy(guest->ram + ((uint64_t)frames[half + at] << MC_FRAME_SHIFT),
                   guest->ram + ((uint64_t)frames[at] << MC_FRAME_SHIFT), MC_FRAME_BYTES);
        now_ns = mc_clock_ns();
        samples[taken++] = now_ns - before_ns;
    }
    return (int64_t)taken;
}

static int churn_once(struct mc_guest *guest, int slot)
{
    uint32_t held[MCB_CHURN_FRAMES];
    int status = MC_OK;

    for (uint32_t i = 0; i < MCB_CHURN_FRAMES; i++) {
        int64_t frame = mc_guest_alloc(guest, slot, 0);

        if (frame < 0)
            return (int)frame;
        held[i] = (uint32_t)frame;
        mcb_touch(guest, held[i]);
    }
    for (uint32_t i = 0; i < MCB_CHURN_FRAMES && !status; i++)
        status = mc_frames_free(&guest->frames, slot, held[i * CHURN_STRIDE % MCB_CHURN_FRAMES], 0);
    return status;
}

int64_t mcb_churn(struct mc_guest *guest, int slot, uint64_t run_ns, uint64_t *samples,
                  uint64_t most)
{
    uint64_t taken = 0, now_ns = mc_clock_ns(), end_ns = now_ns + run_ns;

    while (taken < most && now_ns < end_ns) {
        uint64_t before_ns = now_ns;
        int status = MC_OK;

        for (int i = 0; i < MCB_CHURN_TIMES && !status; i++)
            status = churn_once(guest, slot);
        if (status < 0)
            return status;
        now_ns = mc_clock_ns();
        samples[taken++] = now_ns - before_ns;
    }
    return (int64_t)taken;
}
