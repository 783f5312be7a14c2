/* bench_malloc.c: see bench_malloc.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench_malloc.h"

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 64
#define LINES_PER_PAGE (MC_FRAME_BYTES / LINE_BYTES)
#define STRIDE 1031u                /* a prime: blocks are freed in another order than taken */
#define NS_PER_S 1000000000ull
#define INLINE inline __attribute__((always_inline))

/* The thread that made the others opens the gate when all of them have come to it. */
struct gate {
    pthread_mutex_t closed;
    uint32_t waiting;
};

/* One thread of a loop of recycled memory; `guest` is NULL for malloc. */
struct recycler {
    const struct mcb_recycling *how;
    struct mc_guest *guest;
    struct gate *gate;
    uint64_t *samples;
    int64_t *held;                  /* addresses of blocks, or numbers of first frames */
    pthread_t thread;
    int slot;
    int status;
};

static INLINE void touch_pages(uint8_t *block, uint64_t bytes, uint64_t operation)
{
    uint64_t line = operation % LINES_PER_PAGE * LINE_BYTES;
    for (uint64_t at = 0; at < bytes; at += MC_FRAME_BYTES)
        ((volatile uint8_t *)block)[at + line] = 1;
}

static uint64_t minor_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (uint64_t)usage.ru_minflt;
}

static uint64_t clock_of(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) ? 0
                                      : (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static INLINE int malloc_take(int64_t *out, uint64_t bytes, uint64_t operation)
{
    uint8_t *block = malloc(bytes);
    if (block == NULL)
        return MC_ENOMEM;
    touch_pages(block, bytes, operation);
    *out = (int64_t)(uintptr_t)block;
    return MC_OK;
}

static INLINE int grant_take(struct mc_guest *guest, int slot, int64_t *out, uint64_t bytes,
                             uint64_t operation)
{
    int64_t frame = bytes == MC_FRAME_BYTES
                        ? mc_guest_alloc(guest, slot, 0)
                        : mc_guest_alloc_areas(guest, slot, (uint32_t)(bytes / MC_AREA_BYTES));
    if (frame < 0)
        return (int)frame;
    touch_pages(guest->ram + ((uint64_t)frame << MC_FRAME_SHIFT), bytes, operation);
    *out = frame;
    return MC_OK;
}

static INLINE int grant_give(struct mc_guest *guest, int slot, int64_t frame, uint64_t bytes)
{
    if (bytes == MC_FRAME_BYTES)
        return mc_frames_free(&guest->frames, slot, (uint64_t)frame, 0);
    return (int)mc_frames_free_areas(&guest->frames, slot, (uint64_t)frame,
                                     (uint32_t)(bytes / MC_AREA_BYTES));
}

static INLINE int take_one(const struct recycler *me, int64_t *out, uint64_t bytes, uint64_t i)
{
    return me->guest ? grant_take(me->guest, me->slot, out, bytes, i)
                     : malloc_take(out, bytes, i);
}

static INLINE void give_one(const struct recycler *me, int64_t held, uint64_t bytes)
{
    if (me->guest != NULL)
        grant_give(me->guest, me->slot, held, bytes);
    else
        free((void *)(uintptr_t)held);
}

/* `is_grant` and `bytes` are constants where this is inlined: neither side pays for the other. */
static INLINE int samples_of(struct recycler *me, int is_grant, uint64_t bytes)
{
    const struct mcb_recycling how = *me->how;
    struct mc_guest *guest = me->guest;
    int64_t *held = me->held;
    uint32_t at = 0, stride = STRIDE % how.live;
    int status = MC_OK, slot = me->slot;
    for (uint32_t s = 0; s < how.count && status >= 0; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < how.ops && status >= 0; i++) {
            if (is_grant) {
                status = grant_give(guest, slot, held[at], bytes);
                if (status >= 0)
                    status = grant_take(guest, slot, &held[at], bytes, i);
            } else {
                free((void *)(uintptr_t)held[at]);
                status = malloc_take(&held[at], bytes, i);
            }
            at += stride;
            at -= at < how.live ? 0 : how.live;
        }
        me->samples[s] = mc_clock_ns() - start;
    }
    return status < 0 ? status : MC_OK;
}

static int recycler_samples(struct recycler *me)
{
    uint64_t bytes = me->how->bytes;
    if (me->guest != NULL)
        return bytes == MC_FRAME_BYTES ? samples_of(me, 1, MC_FRAME_BYTES)
                                       : samples_of(me, 1, bytes);
    return bytes == MC_FRAME_BYTES ? samples_of(me, 0, MC_FRAME_BYTES) : samples_of(me, 0, bytes);
}

/* Claim a slot and take the blocks that are to live; how many those are. */
static uint32_t recycler_begin(struct recycler *me)
{
    uint32_t taken = 0;
    if (me->guest != NULL) {
        me->slot = mc_slot_claim(&me->guest->frames, (uint32_t)syscall(SYS_gettid));
        me->status = me->slot < 0 ? me->slot : MC_OK;
    }
    while (taken < me->how->live && !me->status) {
        me->status = take_one(me, &me->held[taken], me->how->bytes, taken);
        taken += !me->status;
    }
    return taken;
}

static void recycler_end(struct recycler *me, uint32_t taken)
{
    for (uint32_t i = 0; i < taken; i++)
        give_one(me, me->held[i], me->how->bytes);
    if (me->guest != NULL && me->slot >= 0) {
        mc_slot_drain(&me->guest->frames, me->slot);
        mc_slot_release(&me->guest->frames, me->slot);
    }
}

static void *recycler_run(void *argument)
{
    struct recycler *me = argument;
    uint32_t taken = recycler_begin(me);
    if (me->gate != NULL) {
        __atomic_fetch_add(&me->gate->waiting, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_lock(&me->gate->closed);
        pthread_mutex_unlock(&me->gate->closed);
    }
    if (!me->status)
        me->status = recycler_samples(me);
    recycler_end(me, taken);
    return NULL;
}

static int recycle(struct mc_guest *guest, uint64_t *samples, const struct mcb_recycling *how)
{
    struct recycler all[MCB_THREADS_MAX];
    struct gate gate = {PTHREAD_MUTEX_INITIALIZER, 0};
    uint32_t made = 0;
    int64_t *held;
    int status = MC_OK;
    if (!how->threads || how->threads > MCB_THREADS_MAX || !how->live)
        return MC_EINDEX;
    held = calloc((size_t)how->threads * how->live, sizeof *held);
    if (held == NULL)
        return MC_ENOMEM;
    if (how->threads == 1) {        /* on this thread: a malloc may lock for a second one */
        all[0] = (struct recycler){how, guest, NULL, samples, held, 0, -1, MC_OK};
        recycler_run(&all[0]);
        free(held);
        return all[0].status;
    }
    pthread_mutex_lock(&gate.closed);
    for (; made < how->threads; made++) {
        all[made] = (struct recycler){how, guest, &gate, samples + (size_t)made * how->count,
                                      held + (size_t)made * how->live, 0, -1, MC_OK};
        if (pthread_create(&all[made].thread, NULL, recycler_run, &all[made])) {
            status = MC_EKERNEL;
            break;
        }
    }
    while (__atomic_load_n(&gate.waiting, __ATOMIC_SEQ_CST) < made)     /* each thread comes */
        sched_yield();
    pthread_mutex_unlock(&gate.closed);
    for (uint32_t i = 0; i < made; i++) {
        pthread_join(all[i].thread, NULL);
        status = status ? status : all[i].status;
    }
    free(held);
    return status;
}

int mcb_malloc_recycled(uint64_t *samples, const struct mcb_recycling *how)
{
    /* glibc frees a block at the top of the heap on another path when the top is below 64 KiB. The
     * size of the top depends on everything else in the process: let it grow anew every round. */
    malloc_trim(0);
    return recycle(NULL, samples, how);
}

int mcb_grant_recycled(struct mc_guest *guest, uint64_t *samples, const struct mcb_recycling *how)
{
    return recycle(guest, samples, how);
}

/* Take count * ops blocks into `blocks`; how many there were. */
static uint64_t take_fresh(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes,
                           int64_t *blocks, struct mcb_cost *cost)
{
    uint64_t held = 0, before_ns = clock_of(CLOCK_PROCESS_CPUTIME_ID), faults = minor_faults();
    int status = MC_OK;
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start = mc_clock_ns();
        for (uint32_t i = 0; i < ops && !status; i++) {
            status = malloc_take(&blocks[held], bytes, 0);
            held += !status;
        }
        samples[s] = mc_clock_ns() - start;
    }
    cost->faults = minor_faults() - faults;
    cost->cpu_ns = clock_of(CLOCK_PROCESS_CPUTIME_ID) - before_ns;
    return held;
}

/* An array for the blocks that lies outside the heap, its pages there. */
static int64_t *array_of(uint64_t count)
{
    int64_t *blocks = mmap(NULL, count * sizeof *blocks, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return blocks == MAP_FAILED ? NULL : blocks;
}

static void free_all(int64_t *blocks, uint64_t held)
{
    for (uint64_t i = held; i > 0; i--)     /* newest first: the heap shrinks each time */
        free((void *)(uintptr_t)blocks[i - 1]);
}

int mcb_malloc_fresh(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes, int keeps,
                     struct mcb_cost *cost)
{
    uint64_t total = (uint64_t)count * ops, held;
    int64_t *blocks = array_of(total);
    if (blocks == NULL)
        return MC_ENOMEM;
    held = take_fresh(samples, count, ops, bytes, blocks, cost);
    if (!keeps) {
        free_all(blocks, held);
        malloc_trim(0);
    }
    munmap(blocks, total * sizeof *blocks);
    return held == total ? MC_OK : MC_ENOMEM;
}

int mcb_malloc_prefaulted(uint64_t *samples, uint32_t count, uint32_t ops, uint64_t bytes,
                          struct mcb_cost *cost)
{
    uint64_t total = (uint64_t)count * ops, held = 0;
    int64_t *blocks = array_of(total);
    if (blocks == NULL)
        return MC_ENOMEM;
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    for (int status = MC_OK; held < total && !status; held += !status)
        status = malloc_take(&blocks[held], bytes, 0);
    free_all(blocks, held);
    held = take_fresh(samples, count, ops, bytes, blocks, cost);
    free_all(blocks, held);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);      /* glibc's own */
    malloc_trim(0);
    munmap(blocks, total * sizeof *blocks);
    return held == total ? MC_OK : MC_ENOMEM;
}

int mcb_warm_memory(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        return MC_ENOMEM;
    munmap(memory, bytes);
    return MC_OK;
}

int64_t mcb_cpu_of(int pid)
{
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock))
        return MC_EKERNEL;
    return (int64_t)clock_of(clock);
}
