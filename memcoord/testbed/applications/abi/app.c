/* app.c: see app.h. */
#define _GNU_SOURCE
#include "app.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

uint64_t app_random(uint64_t *state)
{
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);

    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

const char *app_word(int count, char **words, const char *name)
{
    for (int at = 1; at + 1 < count; at += 2)
        if (strcmp(words[at], name) == 0)
            return words[at + 1];
    return NULL;
}

uint64_t app_number(int count, char **words, const char *name, uint64_t otherwise)
{
    const char *word = app_word(count, words, name);
    char *end;
    uint64_t value;

    if (!word)
        return otherwise;
    errno = 0;
    value = strtoull(word, &end, 10);
    if (errno || *end || word[0] == '-' || value == 0) {
        fprintf(stderr, "%s %s: write a whole number above 0\n", name, word);
        exit(2);
    }
    return value;
}

void app_only(int count, char **words, const char *const *known)
{
    for (int at = 1; at < count; at += 2) {
        const char *const *each = known;

        while (*each && strcmp(*each, words[at]))
            each++;
        if (*each && at + 1 < count)
            continue;
        fprintf(stderr, "%s: unknown, or without a value. Options:", words[at]);
        for (each = known; *each; each++)
            fprintf(stderr, " %s", *each);
        fprintf(stderr, "\n");
        exit(2);
    }
}

void *app_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        app_fail("no memory");
    return memory;
}

void app_return(void *memory, size_t bytes)
{
    munmap(memory, bytes);
}

uint64_t app_hash(uint64_t hash, const void *memory, size_t bytes)
{
    const uint32_t *words = memory;

    for (size_t at = 0; at < bytes / 4; at++)
        hash = (hash ^ words[at]) * UINT64_C(0x9e3779b97f4a7c15) + (hash >> 47);
    return hash;
}

void app_unit(void)
{
    static int fd = -2;

    if (fd == -2) {
        const char *word = getenv("MEMCOORD_WORK");

        fd = word ? atoi(word) : -1;
    }
    if (fd >= 0 && write(fd, "1\n", 2) < 0)
        fd = -1; /* nobody counts any more */
}

void app_pause(double seconds)
{
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

_Noreturn void app_fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

void app_done(size_t touched_bytes, uint64_t checksum)
{
    printf("touched %zu MiB, checksum %016llx\n", touched_bytes / APP_MIB,
           (unsigned long long)checksum);
}
