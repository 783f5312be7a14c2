/* bench_load.c: see bench_load.h. */
#include "bench_load.h"

#define BRIEF_A_BATCH 16u               /* short-lived frames taken and given back per batch */
#define ANEW_A_BATCH 8u                 /* movable frames given back and taken anew */

static uint64_t drawn(uint64_t *seed)
{
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed;
}

/* Low numbers are likelier: the lesser of two draws. */
static uint64_t skewed(uint64_t *seed, uint64_t count)
{
    uint64_t one = drawn(seed) % count, other = drawn(seed) % count;

    return one < other ? one : other;
}

/* A frame whose move does not end is left for later: the mover wants a CPU. */
static int refer(struct mc_guest *guest, struct mcb_load *load, uint32_t handle)
{
    int64_t frame = mc_movable_pin(guest, handle);

    if (frame < 0) {
        load->stalled += frame == MC_ETIMEOUT;
        return frame == MC_ETIMEOUT ? MC_OK : (int)frame;
    }
    mcb_touch(guest, (uint64_t)frame);
    return mc_movable_unpin(guest, handle);
}

static int stay(struct mc_guest *guest, int slot, struct mcb_load *load)
{
    for (uint64_t i = 0; i < load->cluster_frames; i++) {
        uint32_t frame;
        int64_t given = mcb_alloc(guest, slot, &frame, 1, 0);

        if (given < 1)
            return given < 0 ? (int)given : MC_ENOMEM;
        mcb_touch(guest, frame);
        load->stayed++;
    }
    return MC_OK;
}

int mcb_load_fill(struct mc_guest *guest, int slot, struct mcb_load *load)
{
    uint64_t stride = load->clusters ? load->fill / load->clusters : load->fill + 1, kept = 0;

    for (uint64_t i = 0; i < load->fill; i++) {
        int64_t handle = mc_movable_alloc(guest, slot);
        int status;

        if (handle < 0)
            return (int)handle;
        load->handles[i] = (uint32_t)handle;
        status = refer(guest, load, (uint32_t)handle);
        if (!status && i % stride == stride / 2)
            status = stay(guest, slot, load);
        if (status)
            return status;
    }
    for (uint64_t i = 0; i < load->fill; i++) {
        int status = MC_OK;

        if (i % load->keep_every == 0)
            load->handles[kept++] = load->handles[i];
        else
            status = mc_movable_free(guest, slot, load->handles[i]);
        if (status)
            return status;
    }
    load->handle_count = kept;
    mc_slot_drain(&guest->frames, slot);
    return MC_OK;
}

/* Frames that live shortly: some more, and the oldest of them go. */
static int brief(struct mc_guest *guest, int slot, struct mcb_load *load)
{
    for (uint32_t i = 0; i < BRIEF_A_BATCH; i++) {
        uint32_t frame;
        int64_t given;

        if (load->brief_count == MCB_LOAD_BRIEF) {
            uint64_t first = load->brief_first++ % MCB_LOAD_BRIEF;
            int status = mc_frames_free(&guest->frames, slot, load->brief[first], 0);

            load->brief_count--;
            if (status)
                return status;
        }
        given = mcb_alloc(guest, slot, &frame, 1, 0);
        if (given < 0)
            return (int)given;
        if (!given) {
            load->refused++;
            continue;
        }
        mcb_touch(guest, frame);
        load->brief[(load->brief_first + load->brief_count++) % MCB_LOAD_BRIEF] = frame;
    }
    return MC_OK;
}

/* Some movable frames are given back and taken anew, wherever there is room now. */
static int anew(struct mc_guest *guest, int slot, struct mcb_load *load)
{
    for (uint32_t i = 0; i < ANEW_A_BATCH && load->handle_count > 1; i++) {
        uint64_t at = drawn(&load->seed) % load->handle_count;
        int status = mc_movable_free(guest, slot, load->handles[at]);
        int64_t handle;

        if (status == MC_ESTATE || status == MC_ETIMEOUT)
            continue;               /* it is being moved */
        if (status)
            return status;
        handle = mc_movable_alloc(guest, slot);
        if (handle == MC_ENOMEM || handle == MC_ETARGET) {
            load->handles[at] = load->handles[--load->handle_count];
            load->refused++;
            continue;
        }
        if (handle < 0)
            return (int)handle;
        load->handles[at] = (uint32_t)handle;
        status = refer(guest, load, (uint32_t)handle);
        if (status)
            return status;
    }
    return MC_OK;
}

int mcb_load_run(struct mc_guest *guest, int slot, struct mcb_load *load)
{
    int status = MC_OK;

    while (!status && !__atomic_load_n(&load->stop, __ATOMIC_ACQUIRE)) {
        for (uint32_t i = 0; i < MCB_LOAD_BATCH && !status; i++)
            status = refer(guest, load, load->handles[skewed(&load->seed, load->handle_count)]);
        if (!status)
            status = brief(guest, slot, load);
        if (!status)
            status = anew(guest, slot, load);
        __atomic_fetch_add(&load->references, MCB_LOAD_BATCH, __ATOMIC_RELAXED);
    }
    return status;
}
