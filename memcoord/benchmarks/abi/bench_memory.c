/* bench_memory.c: see bench_memory.h. */
#include "bench_memory.h"

#include "bench_mechanism.h"

#include <malloc.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define LINE_BYTES 64
#define LINES_PER_PAGE (MC_FRAME_BYTES / LINE_BYTES)

static inline void touch(uint8_t *page, uint64_t operation)
{
    ((volatile uint8_t *)page)[operation % LINES_PER_PAGE * LINE_BYTES] = 1;
}

static uint64_t minor_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (uint64_t)usage.ru_minflt;
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

int mcb_malloc_warm(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes)
{
    /* glibc frees a block at the top of the heap on another path when the top is below 64 KiB. The
     * size of the top depends on everything else in the process: let it grow anew every round. */
    malloc_trim(0);
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            uint8_t *block = malloc(bytes);
            if (block == NULL)
                return MC_ENOMEM;
            touch(block, i);
            free(block);
        }
        samples[s] = mc_clock_ns() - start;
    }
    return MC_OK;
}

int mcb_malloc_fresh(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes,
                     uint64_t *faults)
{
    uint64_t total = (uint64_t)count * ops, held = 0;
    uint8_t **blocks = malloc(total * sizeof *blocks);
    if (blocks == NULL)
        return MC_ENOMEM;
    for (uint64_t i = 0; i < total; i++)
        blocks[i] = NULL; /* faults the pages of the array in before the clock starts */
    *faults = 0;
    for (uint32_t s = 0; s < count; s++) {
        uint64_t before = minor_faults(), start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            uint8_t *block = malloc(bytes);
            if (block == NULL)
                break;
            for (uint64_t page = 0; page < bytes / MC_FRAME_BYTES; page++)
                touch(block + page * MC_FRAME_BYTES, 0);
            blocks[held++] = block;
        }
        samples[s] = mc_clock_ns() - start;
        *faults += minor_faults() - before;
    }
    for (uint64_t i = held; i > 0; i--)
        free(blocks[i - 1]); /* newest first: the top of the heap shrinks each time */
    free(blocks);
    malloc_trim(0);
    return held == total ? MC_OK : MC_ENOMEM;
}

int mcb_grant_local(struct mc_guest *guest, int slot, uint64_t *samples, uint32_t count,
                    uint32_t ops)
{
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            int64_t frame = mc_guest_alloc(guest, slot, 0);
            if (frame < 0)
                return (int)frame;
            touch(guest->ram + ((uint64_t)frame << MC_FRAME_SHIFT), i);
            int status = mc_frames_free(&guest->frames, slot, (uint64_t)frame, 0);
            if (status < 0)
                return status;
        }
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

int mcb_grant_fresh(struct mc_guest *guest, int slot, uint64_t *sample, uint32_t ops,
                    uint8_t *touched, uint32_t *recycled)
{
    uint32_t frames[MC_AREA_FRAMES];
    if (ops > MC_AREA_FRAMES)
        return MC_EINDEX;
    uint64_t start = mc_clock_ns();
    for (uint32_t i = 0; i < ops; i++) {
        int64_t frame = mc_guest_alloc(guest, slot, 0);
        if (frame < 0)
            return (int)frame;
        mcb_touch(guest, (uint64_t)frame);
        frames[i] = (uint32_t)frame;
    }
    *sample = mc_clock_ns() - start;
    *recycled = 0;
    for (uint32_t i = 0; i < ops; i++) {
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

int mcb_grant_area(struct mc_guest *guest, int slot, uint64_t *sample, int *path)
{
    uint64_t start = mc_clock_ns();
    int64_t gained = mc_guest_request(guest, MC_AREA_FRAMES, path);
    if (gained < 0)
        return (int)gained;
    int64_t first = mc_guest_alloc_areas(guest, slot, 1);
    if (first < 0)
        return (int)first;
    touch_area(guest, (uint64_t)first);
    *sample = mc_clock_ns() - start;
    return MC_OK;
}

int mcb_touch_and_free(struct mc_guest *guest, int slot, uint32_t limit)
{
    uint32_t held = 0;
    int64_t *firsts = calloc(limit, sizeof *firsts);
    if (firsts == NULL)
        return MC_ENOMEM;
    while (held < limit) {
        int64_t first = mc_frames_alloc_areas(&guest->frames, slot, 1);
        if (first < 0)
            break;
        touch_area(guest, (uint64_t)first);
        firsts[held++] = first;
    }
    for (uint32_t i = 0; i < held; i++)
        mc_frames_free_areas(&guest->frames, slot, (uint64_t)firsts[i], 1);
    free(firsts);
    return (int)held;
}

int mcb_populate(uint64_t *write_sample, uint64_t *read_sample)
{
    int status = MC_EKERNEL, fd = mc_memfd("memcoord-bench", MC_AREA_BYTES);
    if (fd < 0)
        return status;
    int64_t giver = mc_map(fd, MC_AREA_BYTES), taker = mc_map(fd, MC_AREA_BYTES);
    if (giver > 0 && taker > 0) {
        uint64_t start = mc_clock_ns();
        int wrote = mc_populate_write((uint64_t)giver, MC_AREA_BYTES);
        uint64_t middle = mc_clock_ns();
        int read = mc_populate_read((uint64_t)taker, MC_AREA_BYTES);
        *read_sample = mc_clock_ns() - middle;
        *write_sample = middle - start;
        if (wrote >= 0 && read >= 0)
            status = MC_OK;
    }
    if (taker > 0)
        mc_unmap((uint64_t)taker, MC_AREA_BYTES);
    if (giver > 0)
        mc_unmap((uint64_t)giver, MC_AREA_BYTES);
    close(fd);
    return status;
}
