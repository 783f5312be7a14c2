/* bench_touch.c: see bench_touch.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench_touch.h"

#include "bench_malloc.h"
#include "bench_memory.h"

#include <pthread.h>
#include <sys/mman.h>

#define WORDS (MC_FRAME_BYTES / sizeof(uint64_t))
#define CHECKED 100                 /* the word that is looked at beside the first */
#define WRITTEN 7
#define MIX 0x9E3779B97F4A7C15ull
#define SCATTER 2654435761ull       /* the hot records of the skewed order are not neighbours */
#define CLOCK_EVERY 64

struct toucher {
    const struct mcb_touching *how;
    uint64_t *memory;
    uint64_t *samples;              /* NULL: not the first thread */
    uint64_t state;                 /* of its random numbers */
    uint64_t touches, wrong, elapsed_ns;
    pthread_t thread;
};

static uint64_t content_of(uint64_t page, uint64_t word)
{
    return (page * WORDS + word) * MIX;
}

static void fill(uint64_t *memory, uint64_t pages)
{
    for (uint64_t page = 0; page < pages; page++) {
        uint64_t *record = memory + page * WORDS;
        for (uint64_t word = 0; word < WORDS; word++)
            record[word] = content_of(page, word);
        record[0] = page;
        record[WRITTEN] = 0;
    }
}

/* The next page, by xorshift; skewed: the fourth power of a uniform number. */
static uint64_t next_page(struct toucher *me, uint64_t touch)
{
    uint64_t pages = me->how->pages;
    if (me->how->order == MCB_SEQUENTIAL)
        return touch % pages;
    me->state ^= me->state << 13;
    me->state ^= me->state >> 7;
    me->state ^= me->state << 17;
    double share = (double)(me->state >> 11) / 9007199254740992.0;
    if (me->how->order == MCB_UNIFORM)
        return (uint64_t)(share * (double)pages);
    return (uint64_t)((double)pages * share * share * share * share) * SCATTER % pages;
}

static void *touch_all(void *argument)
{
    struct toucher *me = argument;
    uint64_t begin_ns = mc_clock_ns(), end_ns = begin_ns;
    for (uint64_t touch = 0; touch < me->how->touches; touch++) {
        uint64_t page = next_page(me, touch);
        volatile uint64_t *record = me->memory + page * WORDS;
        uint64_t start_ns = mc_clock_ns();
        uint64_t found = record[0];
        if (me->how->writes)
            record[WRITTEN] = record[WRITTEN] + 1;
        end_ns = mc_clock_ns();
        if (me->samples)
            me->samples[touch] = end_ns - start_ns;
        me->wrong += found != page || record[CHECKED] != content_of(page, CHECKED);
        me->touches++;
        if (touch % CLOCK_EVERY == 0 && end_ns - begin_ns > me->how->limit_ns)
            break;
    }
    me->elapsed_ns = end_ns - begin_ns;
    return NULL;
}

int mcb_touch_records(const struct mcb_touching *how, uint64_t *samples,
                      struct mcb_touched *found)
{
    struct toucher all[MCB_THREADS_MAX];
    uint64_t bytes = how->pages * MC_FRAME_BYTES;
    uint32_t made = 1;
    if (!how->threads || how->threads > MCB_THREADS_MAX || !how->pages)
        return MC_EINDEX;
    uint64_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                            0);
    if (memory == MAP_FAILED)
        return MC_ENOMEM;
    fill(memory, how->pages);
    for (uint32_t i = 0; i < how->threads; i++)
        all[i] = (struct toucher){how, memory, i ? NULL : samples, (i + 1) * MIX, 0, 0, 0, 0};
    for (; made < how->threads; made++)
        if (pthread_create(&all[made].thread, NULL, touch_all, &all[made]))
            break;
    touch_all(&all[0]);
    for (uint32_t i = 1; i < made; i++)
        pthread_join(all[i].thread, NULL);
    *found = (struct mcb_touched){0, 0, 0};
    for (uint32_t i = 0; i < made; i++) {
        found->touches += all[i].touches;
        found->wrong += all[i].wrong;
        if (all[i].elapsed_ns > found->elapsed_ns)
            found->elapsed_ns = all[i].elapsed_ns;
    }
    munmap(memory, bytes);
    return made == how->threads ? MC_OK : MC_EKERNEL;
}
