/* bench_guest.c: see bench_guest.h. */
#include "bench_guest.h"

#include "bench_ring.h"
#include "paging_disk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILL_STEP UINT64_C(0x9e3779b97f4a7c15)

struct touched {
    uint64_t sum;
    uint64_t seed;
};

static int64_t use_touch(void *context, uint64_t address, uint64_t *own, uint32_t page,
                         uint32_t how)
{
    (void)own, (void)page, (void)how;
    ((struct touched *)context)->sum += *(const volatile uint64_t *)(uintptr_t)address;
    return 0;
}

/* Content that neither compresses nor repeats. */
static int64_t use_fill(void *context, uint64_t address, uint64_t *own, uint32_t page,
                        uint32_t how)
{
    struct touched *touched = context;
    uint64_t *words = (uint64_t *)(uintptr_t)address;
    (void)own, (void)page, (void)how;
    for (int i = 0; i < MC_FRAME_BYTES / 8; i++) {
        uint64_t value = touched->seed += FILL_STEP;
        value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        words[i] = value ^ (value >> 27);
    }
    return 0;
}

/* The next references of a stream, at most `most`, none of which comes after its end. */
static struct mc_paging_part part_next(const struct mcb_stream *stream, uint64_t most)
{
    uint64_t left = stream->pages - stream->next;
    return (struct mc_paging_part){.pages = stream->order + stream->next,
                                   .writes = stream->writes + stream->next,
                                   .count = most < left ? most : left,
                                   .faults_max = UINT32_MAX, .more = 1};
}

static int run_ops(struct mc_paging *paging, struct mcb_stream *stream, mc_use_fn use,
                   struct touched *touched, uint64_t ops)
{
    while (ops > 0) {
        struct mc_paging_part part = part_next(stream, ops);
        part.use = use;
        part.context = touched;
        int stop = mc_paging_run(paging, &part);
        if (stop == MC_PAGING_FAILED || stop == MC_PAGING_RANGE)
            return stop == MC_PAGING_RANGE ? MC_EINDEX : stop;
        ops -= part.done;
        stream->next = (stream->next + (uint32_t)part.done) % stream->pages;
    }
    return MC_OK;
}

int mcb_paging(struct mc_paging *paging, struct mcb_stream *stream, int program,
               uint64_t *samples, uint32_t count, uint32_t ops, uint64_t rest_ns)
{
    struct touched touched = {0, (uint64_t)(uintptr_t)stream};
    mc_use_fn use = program == MCB_FILL ? use_fill : program == MCB_TOUCH ? use_touch : NULL;
    struct mc_paging_part last = {.use = use, .context = &touched};
    int status = MC_OK;
    for (uint32_t s = 0; s < count && status == MC_OK; s++) {
        if (rest_ns)
            mcb_rest(rest_ns);
        uint64_t start_ns = mc_clock_ns();
        status = run_ops(paging, stream, use, &touched, ops);
        samples[s] = mc_clock_ns() - start_ns;
    }
    return status == MC_OK ? mc_paging_land(paging, &last) : status;
}

static uint32_t stream_next(struct mcb_stream *stream)
{
    uint32_t page = (uint32_t)stream->order[stream->next++];
    if (stream->next == stream->pages)
        stream->next = 0;
    return page;
}

int mcb_touches(const void *memory, struct mcb_stream *stream, uint64_t *samples, uint32_t count,
              uint32_t ops)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start_ns = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            const char *page = (const char *)memory +
                               ((uint64_t)stream_next(stream) << MC_FRAME_SHIFT);
            sum += *(const volatile uint64_t *)(const void *)page;
        }
        samples[s] = mc_clock_ns() - start_ns;
    }
    __asm__ volatile("" : : "r"(sum));
    return MC_OK;
}

int mcb_copy_twice(void *to, void *from, struct mcb_stream *stream, uint64_t *samples,
                   uint32_t count, uint32_t ops)
{
    for (uint32_t s = 0; s < count; s++) {
        uint64_t start_ns = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            uint64_t here = (uint64_t)stream_next(stream) << MC_FRAME_SHIFT;
            uint64_t next = (uint64_t)(uint32_t)stream->order[stream->next] << MC_FRAME_SHIFT;
            memcpy((char *)to + here, (char *)from + here, MC_FRAME_BYTES);
            memcpy((char *)from + here, (char *)to + next, MC_FRAME_BYTES);
            __asm__ volatile("" ::: "memory");
        }
        samples[s] = mc_clock_ns() - start_ns;
    }
    return MC_OK;
}

static int faults_sample(int fd, uint32_t ops, uint64_t *sample)
{
    uint64_t bytes = (uint64_t)ops << MC_FRAME_SHIFT;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED)
        return MC_EKERNEL;
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    uint64_t start_ns = mc_clock_ns();
    for (uint32_t i = 0; i < ops; i++)
        *(volatile char *)(memory + ((uint64_t)i << MC_FRAME_SHIFT)) = 1;
    *sample = mc_clock_ns() - start_ns;
    munmap(memory, bytes);
    return MC_OK;
}

int mcb_minor_faults(int is_file, uint64_t *samples, uint32_t count, uint32_t ops)
{
    uint64_t bytes = (uint64_t)ops << MC_FRAME_SHIFT, unused;
    int fd = is_file ? mc_memfd("memcoord-bench", bytes) : -1;
    int status = is_file && fd < 0 ? MC_EKERNEL : MC_OK;
    if (is_file && status == MC_OK)
        status = faults_sample(fd, ops, &unused);       /* its pages are there from now on */
    for (uint32_t s = 0; s < count && status == MC_OK; s++)
        status = faults_sample(fd, ops, &samples[s]);
    if (fd >= 0)
        close(fd);
    return status;
}

int mcb_disk_reads(int fd, struct mcb_stream *stream, uint64_t *samples, uint32_t count,
                   uint32_t ops)
{
    struct mc_transfer reads[MC_DISK_BATCH_MAX];
    struct iovec parts[MC_DISK_BATCH_MAX];
    struct mc_disk *disk = mc_disk_open();
    char *pages = aligned_alloc(MC_FRAME_BYTES, MC_DISK_BATCH_MAX * MC_FRAME_BYTES);
    int status = !pages ? MC_ENOMEM : ops > MC_DISK_BATCH_MAX ? MC_EINDEX : MC_OK;
    for (uint32_t s = 0; s < count && status == MC_OK; s++) {
        uint64_t start_ns = mc_clock_ns();
        for (uint32_t i = 0; i < ops; i++) {
            parts[i] = (struct iovec){pages + (size_t)i * MC_FRAME_BYTES, MC_FRAME_BYTES};
            reads[i] = (struct mc_transfer){
                .fd = fd, .parts = &parts[i], .count = 1,
                .offset = (uint64_t)stream_next(stream) << MC_FRAME_SHIFT};
        }
        mc_disk_run(disk, reads, ops);
        samples[s] = mc_clock_ns() - start_ns;
        for (uint32_t i = 0; i < ops; i++)
            status = reads[i].result == MC_FRAME_BYTES ? status : MC_EKERNEL;
    }
    mc_disk_close(disk);
    free(pages);
    return status;
}
