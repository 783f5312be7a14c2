/* bench_memory.c: see bench_memory.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench_memory.h"

#include "bench_mechanism.h"

#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

#define LINE_BYTES 64
#define LINES_PER_PAGE (MC_FRAME_BYTES / LINE_BYTES)

static inline void touch(uint8_t *page, uint64_t operation)
{
    ((volatile uint8_t *)page)[operation % LINES_PER_PAGE * LINE_BYTES] = 1;
}

int mcb_empty(uint64_t *samples, uint32_t count, uint32_t ops)
{
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++)
            __asm__ volatile("" ::: "memory");
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_grant_batch(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint8_t *touched)
{
    uint32_t frames[MCB_BATCH_FRAMES];
    int status = MC_OK;
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        int64_t given = mc_guest_alloc_many(guest, slot, frames, MCB_BATCH_FRAMES);
        if (given < MCB_BATCH_FRAMES)
            return given < 0 ? (int)given : MC_ENOMEM;
        for (uint32_t i = 0; i < MCB_BATCH_FRAMES; i++)
            touch(guest->ram + ((uint64_t)frames[i] << MC_FRAME_SHIFT), i);
        int64_t freed =
            mc_frames_free_many(&guest->frames, slot, frames, MCB_BATCH_FRAMES, &status);
        samples[s] = mc_clock_ns() - start;
        if (freed < MCB_BATCH_FRAMES)
            return status;
        for (uint32_t i = 0; i < MCB_BATCH_FRAMES; i++)
            touched[frames[i]] = 1;
    }
    return MC_OK;
}

int mcb_malloc_batch(uint64_t *samples, uint32_t count)
{
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        uint8_t *block = malloc(MCB_BATCH_FRAMES * MC_FRAME_BYTES);
        if (block == NULL)
            return MC_ENOMEM;
        for (uint32_t i = 0; i < MCB_BATCH_FRAMES; i++)
            touch(block + i * MC_FRAME_BYTES, i);
        free(block);
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_grant_fresh(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint32_t ops, uint8_t *touched, uint32_t *recycled)
{
    uint32_t frames[MC_AREA_FRAMES], held = 0;
    if ((uint64_t)count * ops > MC_AREA_FRAMES)
        return MC_EINDEX;
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            int64_t frame = mc_guest_alloc(guest, slot, 0);
            if (frame < 0)
                return (int)frame;
            mcb_touch(guest, (uint64_t)frame);
            frames[held++] = (uint32_t)frame;
        }
        samples[s] = mc_clock_ns() - start;
    }
    *recycled = 0;
    for (uint32_t i = 0; i < held; i++) {
        *recycled += touched[frames[i]];
        touched[frames[i]] = 1;
    }
    return MC_OK;
}

void mcb_mark_slot(const struct mc_guest *guest, int slot, uint8_t *touched)
{
    uint64_t row = guest->frames.slots[slot].row;
    for (uint64_t i = 0; i < MC_ROW_FRAMES; i++)
        touched[row * MC_ROW_FRAMES + i] = 1;
}

int mcb_hold_touched(struct mc_guest *guest, int slot, uint32_t limit, uint8_t *touched)
{
    uint32_t held = 0;
    for (uint32_t fresh = 0; held < limit && fresh < MC_AREA_FRAMES; held++) {
        int64_t frame = mc_guest_alloc(guest, slot, 0);
        if (frame < 0)
            return (int)frame;
        fresh = touched[frame] ? 0 : fresh + 1;
        touched[frame] = 1;
    }
    return (int)held;
}

int mcb_credit_areas(const struct mc_guest *guest)
{
    int found = 0;
    for (uint32_t area = 0; area < guest->frames.area_count; area++) {
        union mc_area_word word = mc_word(&guest->frames, area);
        if (!mc_word_is_whole(word) || word.evicted)
            continue;
        uint32_t mapped = __atomic_load_n(&guest->mapped[area], __ATOMIC_ACQUIRE);
        found += mapped == word.generation + 1u;
    }
    return found;
}

static void touch_area(struct mc_guest *guest, uint64_t first)
{
    for (uint64_t i = 0; i < MC_AREA_FRAMES; i++)
        mcb_touch(guest, first + i);
}

static void pause_for(uint64_t pause_ns)
{
    const struct timespec pause = {.tv_sec = (time_t)(pause_ns / NS_PER_S),
                                   .tv_nsec = (long)(pause_ns % NS_PER_S)};
    if (pause_ns)
        nanosleep(&pause, NULL);
}

int64_t mcb_grant_areas(struct mc_guest *guest, int slot, const struct mcb_growth *how,
                        uint64_t *samples, int *paths)
{
    for (uint32_t s = 0; s < how->count; s++) {
        pause_for(how->pause_ns);
        uint64_t start = mc_clock_ns();
        int64_t gained = mc_guest_request(guest, MC_AREA_FRAMES, &paths[s]);
        if (gained < 0) {
            samples[s] = mc_clock_ns() - start;
            return gained == MC_ENOMEM || gained == MC_ETARGET ? s : gained;
        }
        int64_t first = mc_guest_alloc_areas(guest, slot, 1);
        if (first < 0)
            return first;
        touch_area(guest, (uint64_t)first);
        samples[s] = mc_clock_ns() - start;
    }
    return how->count;
}

int mcb_hold_areas(struct mc_guest *guest, int slot, uint32_t limit, int64_t *firsts, int asks)
{
    uint32_t held = 0;
    while (held < limit) {
        int64_t first = asks ? mc_guest_alloc_areas(guest, slot, 1)
                             : mc_frames_alloc_areas(&guest->frames, slot, 1);
        if (first == MC_ENOMEM || first == MC_ETARGET)
            break;
        if (first < 0)
            return (int)first;
        touch_area(guest, (uint64_t)first);
        firsts[held++] = first;
    }
    return (int)held;
}

int mcb_free_areas(struct mc_guest *guest, int slot, const int64_t *firsts, uint32_t count)
{
    int status = MC_OK;
    for (uint32_t i = 0; i < count && status >= 0; i++)
        status = mc_frames_free_areas(&guest->frames, slot, (uint64_t)firsts[i], 1);
    return status < 0 ? status : MC_OK;
}

int64_t mcb_use_areas(struct mc_guest *guest, const int64_t *firsts, uint32_t count,
                      uint64_t rest_ns, const uint32_t *stop)
{
    int64_t passes = 0;
    for (; !__atomic_load_n(stop, __ATOMIC_ACQUIRE); passes++) {
        for (uint32_t i = 0; i < count; i++)
            touch_area(guest, (uint64_t)firsts[i]);
        pause_for(rest_ns);
    }
    return passes;
}

int mcb_free_held(struct mc_guest *guest, int slot)
{
    uint64_t frames = (uint64_t)guest->frames.area_count * MC_AREA_FRAMES;
    int status = MC_OK;
    for (uint64_t frame = 0; frame < frames && status >= 0; frame++) {
        uint8_t head = __atomic_load_n(&guest->frames.heads[frame], __ATOMIC_ACQUIRE);
        if (head == 1)
            status = mc_frames_free(&guest->frames, slot, frame, 0);
        else if (head == MC_HEAD_AREAS)
            status = mc_frames_free_areas(&guest->frames, slot, frame, 1);
    }
    return status < 0 ? status : MC_OK;
}

int64_t mcb_resident(const struct mc_guest *guest)
{
    uint8_t pages[MC_AREA_FRAMES];
    int64_t resident = 0;
    for (uint64_t area = 0; area < guest->frames.area_count; area++) {
        if (mincore(guest->ram + area * MC_AREA_BYTES, MC_AREA_BYTES, pages))
            return MC_EKERNEL;
        for (int i = 0; i < MC_AREA_FRAMES; i++)
            resident += pages[i] & 1;
    }
    return resident;
}

int mcb_give_back(struct mc_guest *guest, int slot)
{
    uint64_t frames = (uint64_t)guest->frames.area_count * MC_AREA_FRAMES;
    int64_t given;
    mc_slot_drain(&guest->frames, slot);
    given = mc_guest_release(guest, frames);
    return given < 0 ? (int)given : (int)(given / MC_AREA_FRAMES);
}

int mcb_populate(uint64_t *write_sample, uint64_t *read_sample, uint64_t *punch_sample)
{
    int status = MC_EKERNEL, fd = mc_memfd("memcoord-bench", MC_AREA_BYTES);
    if (fd < 0)
        return status;
    int64_t giver = mc_map(fd, MC_AREA_BYTES), taker = mc_map(fd, MC_AREA_BYTES);
    if (giver > 0 && taker > 0 &&
        mc_advise_backing((uint64_t)giver, MC_AREA_BYTES, MC_BACKING_4K) == 0) {
        uint64_t times[4];
        times[0] = mc_clock_ns();
        int failed = mc_populate_write((uint64_t)giver, MC_AREA_BYTES);
        times[1] = mc_clock_ns();
        failed |= mc_populate_read((uint64_t)taker, MC_AREA_BYTES);
        times[2] = mc_clock_ns();
        failed |= mc_punch(fd, 0, MC_AREA_BYTES);
        times[3] = mc_clock_ns();
        *write_sample = times[1] - times[0];
        *read_sample = times[2] - times[1];
        *punch_sample = times[3] - times[2];
        status = failed ? MC_EKERNEL : MC_OK;
    }
    if (taker > 0)
        mc_unmap((uint64_t)taker, MC_AREA_BYTES);
    if (giver > 0)
        mc_unmap((uint64_t)giver, MC_AREA_BYTES);
    close(fd);
    return status;
}
