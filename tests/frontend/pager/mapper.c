/* mapper.c: maps, remaps, forks, protects, unmaps at random, and knows every byte it should read.
 *
 * Usage: mapper SEED SECONDS THREADS PAGES [FORKS]. FORKS 0: it never forks. Each thread has
 * regions of its own, PAGES pages in all at most, and checks them by itself; so does every child
 * that it forks, while the parent goes on.
 * A page's bytes follow from its number and version; version 0 is zeroes. Exit code: 0; 1: a wrong
 * byte, which is named on standard error; 2: a system call failed that must not.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / 8)
#define REGIONS 24

struct region { uint8_t *at; uint64_t pages; uint32_t *versions; };
struct worker {
    pthread_t thread;
    uint64_t random, pages_max, pages, steps, forks;
    double end_s;
    int number;
    uint32_t next_version;
    struct region regions[REGIONS];
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t draw(struct worker *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

static void must(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "mapper: %s: %s\n", what, strerror(errno));
    _exit(2);
}

static uint64_t word_of(uint32_t version, uint64_t word)
{
    return version ? ((uint64_t)version << 32 | version) * 0x9E3779B97F4A7C15ull + word : 0;
}

/* Which pages of a region differ, and where their versions stand. */
static void tell_region(const struct region *r)
{
    for (uint64_t k = 0; k < r->pages; k++) {
        const volatile uint64_t *words = (const void *)(r->at + k * PAGE);
        if (words[0] != word_of(r->versions[k], 0))
            fprintf(stderr, "mapper: page %lu of %lu (%p): %lx, version %u at %p\n",
                    (unsigned long)k, (unsigned long)r->pages, (void *)words,
                    (unsigned long)words[0], r->versions[k], (void *)&r->versions[k]);
    }
}

static void check_page(struct worker *w, struct region *r, uint64_t page, const char *when)
{
    const uint64_t *words = (const void *)(r->at + page * PAGE);
    for (uint64_t k = 0; k < WORDS; k++) {
        uint64_t found = ((const volatile uint64_t *)words)[k];
        if (found == word_of(r->versions[page], k))
            continue;
        fprintf(stderr, "mapper: thread %d %s: page %p word %lu is %lx, not %lx (version %u)\n",
                w->number, when, (const void *)words, (unsigned long)k, (unsigned long)found,
                (unsigned long)word_of(r->versions[page], k), r->versions[page]);
        tell_region(r);
        _exit(1);
    }
}

static void write_page(struct worker *w, struct region *r, uint64_t page)
{
    uint64_t *words = (void *)(r->at + page * PAGE);
    uint32_t version = ++w->next_version;
    for (uint64_t k = 0; k < WORDS; k++)
        words[k] = word_of(version, k);
    r->versions[page] = version;
}

static struct region *any(struct worker *w)
{
    for (int i = 0; i < 4 * REGIONS; i++) {
        struct region *r = &w->regions[draw(w, REGIONS)];
        if (r->at)
            return r;
    }
    return NULL;
}

/* A part of a region: first page, and how many. */
static uint64_t part(struct worker *w, struct region *r, uint64_t *count)
{
    uint64_t first = draw(w, r->pages);
    *count = 1 + draw(w, r->pages - first);
    return first;
}

static void map_one(struct worker *w)
{
    for (int i = 0; i < REGIONS; i++) {
        struct region *r = &w->regions[i];
        uint64_t pages = 1 + draw(w, w->pages_max / 8);
        if (r->at || w->pages + pages > w->pages_max)
            continue;
        int prot = draw(w, 4) ? PROT_READ | PROT_WRITE : PROT_NONE;
        r->at = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(r->at != MAP_FAILED, "mmap");
        if (prot == PROT_NONE)
            must(!mprotect(r->at, pages * PAGE, PROT_READ | PROT_WRITE), "mprotect");
        r->pages = pages;
        r->versions = calloc(pages, sizeof *r->versions);
        must(r->versions != NULL, "calloc");
        w->pages += pages;
        return;
    }
}

static void unmap_tail(struct worker *w, struct region *r)
{
    uint64_t keep = draw(w, 3) ? 0 : draw(w, r->pages);
    must(!munmap(r->at + keep * PAGE, (r->pages - keep) * PAGE), "munmap");
    w->pages -= r->pages - keep;
    r->pages = keep;
    if (keep)
        return;
    free(r->versions);
    r->at = NULL;
}

static void remap(struct worker *w, struct region *r)
{
    uint64_t pages = 1 + draw(w, w->pages_max / 8);
    if (w->pages - r->pages + pages > w->pages_max)
        return;
    int flags = MREMAP_MAYMOVE;
    void *to = NULL;
    if (!draw(w, 2)) {      /* to a place of its own, which is mapped already */
        to = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(to != MAP_FAILED, "mmap");
        *(volatile uint8_t *)to = 7;
        flags |= MREMAP_FIXED;
    }
    uint8_t *at = mremap(r->at, r->pages * PAGE, pages * PAGE, flags, to);
    if (at == MAP_FAILED && errno == EFAULT) {     /* its parts cannot be moved as one */
        must(!to || !munmap(to, pages * PAGE), "munmap");
        return;
    }
    must(at != MAP_FAILED, "mremap");
    r->versions = realloc(r->versions, pages * sizeof *r->versions);
    must(r->versions != NULL, "realloc");
    for (uint64_t k = r->pages; k < pages; k++)
        r->versions[k] = 0;
    w->pages += pages - r->pages;
    r->at = at;
    r->pages = pages;
}

static void drop(struct worker *w, struct region *r)
{
    uint64_t count, first = part(w, r, &count);
    if (draw(w, 2)) {
        must(!madvise(r->at + first * PAGE, count * PAGE, MADV_DONTNEED), "madvise");
    } else {
        void *at = mmap(r->at + first * PAGE, count * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        must(at != MAP_FAILED, "mmap over");
    }
    memset(r->versions + first, 0, count * sizeof *r->versions);
}

/* Through the kernel: system calls read and write pages that may be out. */
static void through_pipe(struct worker *w, struct region *r)
{
    int ends[2];
    uint64_t from = draw(w, r->pages), to = draw(w, r->pages);
    must(!pipe(ends), "pipe");
    must(write(ends[1], r->at + from * PAGE, PAGE) == (ssize_t)PAGE, "write");
    must(read(ends[0], r->at + to * PAGE, PAGE) == (ssize_t)PAGE, "read");
    close(ends[0]);
    close(ends[1]);
    r->versions[to] = r->versions[from];
    check_page(w, r, to, "after a read");
}

static void check_all(struct worker *w, const char *when)
{
    for (int i = 0; i < REGIONS; i++)
        for (uint64_t k = 0; w->regions[i].at && k < w->regions[i].pages; k++)
            check_page(w, &w->regions[i], k, when);
}

static void touch(struct worker *w, struct region *r, const char *when)
{
    uint64_t count, first = part(w, r, &count);
    for (uint64_t k = first; k < first + count; k++) {
        check_page(w, r, k, when);
        if (draw(w, 3))
            write_page(w, r, k);
    }
}

static void fork_one(struct worker *w)
{
    int status;
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        check_all(w, "in a child");
        for (int i = 0; i < 8; i++) {
            struct region *r = any(w);
            if (r)
                touch(w, r, "in a child's write");
        }
        if (draw(w, 4) == 0 && any(w))
            unmap_tail(w, any(w));
        check_all(w, "at a child's end");
        _exit(0);
    }
    for (int i = 0; i < 4; i++) {
        struct region *r = any(w);
        if (r)
            touch(w, r, "beside a child");
    }
    must(waitpid(pid, &status, 0) == pid, "waitpid");
    w->forks++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    fprintf(stderr, "mapper: a child ended with status %x\n", status);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void *work(void *context)
{
    struct worker *w = context;
    while (now_s() < w->end_s) {
        uint64_t what = draw(w, 100);
        struct region *r = any(w);
        w->steps++;
        if (!r || what < 12)
            map_one(w);
        else if (what < 70)
            touch(w, r, "at a touch");
        else if (what < 76)
            unmap_tail(w, r);
        else if (what < 84)
            remap(w, r);
        else if (what < 92)
            drop(w, r);
        else if (what < 98)
            through_pipe(w, r);
        else if (draw(w, 4) == 0)
            fork_one(w);
    }
    check_all(w, "at the end");
    return NULL;
}

int main(int count, char **words)
{
    static struct worker workers[8];
    uint64_t steps = 0, forks = 0;
    if (count != 5)
        return 2;
    int threads = atoi(words[3]);
    must(threads >= 1 && threads <= 8, "threads: 1 to 8");
    for (int i = 0; i < threads; i++) {
        struct worker *w = &workers[i];
        w->number = i;
        w->random = strtoull(words[1], NULL, 10) * 8 + (uint64_t)i + 1;
        w->random *= 0x9E3779B97F4A7C15ull;
        w->end_s = now_s() + atof(words[2]);
        w->pages_max = strtoull(words[4], NULL, 10) / (uint64_t)threads;
        must(!pthread_create(&w->thread, NULL, work, w), "pthread_create");
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        steps += workers[i].steps;
        forks += workers[i].forks;
    }
    printf("%lu steps, %lu forks\n", (unsigned long)steps, (unsigned long)forks);
    return 0;
}
