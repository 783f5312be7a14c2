/* A program that needs more and more memory, as `usemem` of the works on tmem does.
 *
 * usemem START STEP MAX PASSES     MiB, MiB, MiB, times
 *
 * It takes START and writes to each of its pages; then STEP more, and each page of all it has; up
 * to MAX, which it goes over PASSES times. A line tells what each pass took. The content of a page
 * does not compress and no two pages are the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MIB (1L << 20)

enum { PAGE_BYTES = 4096, WORDS = PAGE_BYTES / 8 };

static double now_s(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static long major_faults(void)
{
    struct rusage used;

    getrusage(RUSAGE_SELF, &used);
    return used.ru_majflt;
}

/* Fill a page that is new, so that it is like no other. */
static void fill(uint64_t *page, uint64_t seed)
{
    for (int at = 0; at < WORDS; at++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        page[at] = seed;
    }
}

/* Go over the first `bytes`, of which those from `fresh` on are new. */
static int sweep(char *memory, long bytes, long fresh, long pass)
{
    for (long at = 0; at < bytes; at += PAGE_BYTES) {
        uint64_t *page = (uint64_t *)(memory + at);

        if (at >= fresh)
            fill(page, (uint64_t)at + 1);
        else if (page[1] == 0) /* what was written is there */
            return 0;
        page[0] += (uint64_t)pass + 1;
    }
    return 1;
}

int main(int count, char **words)
{
    long start, step, most, passes, fresh = 0;
    char *memory;

    if (count != 5 || (start = atol(words[1])) < 1 || (step = atol(words[2])) < 1 ||
        (most = atol(words[3])) < start || (passes = atol(words[4])) < 1) {
        fprintf(stderr, "usemem START STEP MAX PASSES (MiB, MiB, MiB, times)\n");
        return 2;
    }
    memory = mmap(NULL, (size_t)(most * MIB), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "usemem: %ld MiB: %s\n", most, strerror(errno));
        return 1;
    }
    for (long pass = 0, size = start, left = passes; left > 0; pass++) {
        double begin = now_s();
        long faults = major_faults();

        if (!sweep(memory, size * MIB, fresh, pass)) {
            fprintf(stderr, "usemem: a page has lost its content\n");
            return 3;
        }
        printf("pass %ld mib %ld seconds %.6f major %ld\n", pass + 1, size, now_s() - begin,
               major_faults() - faults);
        fflush(stdout);
        fresh = size * MIB;
        if (size == most)
            left--;
        else
            size = size + step < most ? size + step : most;
    }
    return 0;
}
