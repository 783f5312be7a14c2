/* demand_sampler.c: see demand_sampler.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "demand_sampler.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define TEXT_BYTES 4096
#define PIDS_MAX (1u << 22)             /* the kernel's own limit */
#define FORGET_EVERY 64                 /* looks after which a number may be another process */
#define KIB_PER_PAGE ((uint64_t)sysconf(_SC_PAGESIZE) / 1024)

struct watched {
    int32_t pid;
    int statm_fd;
    int status_fd;
    uint64_t shared_kib;
};

struct sampler {
    struct mc_demand_sampling *told;
    DIR *proc;
    uint8_t *others;                    /* bits of processes that are not of the tree */
    int32_t session;
    uint32_t looks;
    uint32_t count;
    struct watched watched[MC_SAMPLED_PROCESSES_MAX];
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* The text of a file that was opened before; 0 once its process is gone. */
static int text_of(int fd, char *text)
{
    ssize_t got = pread(fd, text, TEXT_BYTES - 1, 0);
    text[got > 0 ? got : 0] = 0;
    return got > 0;
}

static int open_of(int32_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Parent and session of a process; 0 when it is gone. */
static int kin_of(int32_t pid, int32_t *parent, int32_t *session)
{
    char text[TEXT_BYTES];
    const char *behind;
    int fd = open_of(pid, "stat"), group, has_text = fd >= 0 && text_of(fd, text);
    if (fd >= 0)
        close(fd);
    behind = has_text ? strrchr(text, ')') : NULL;      /* a name may hold anything */
    return behind && sscanf(behind + 1, " %*c %d %d %d", parent, &group, session) == 3;
}

static int is_watched(const struct sampler *sampler, int32_t pid)
{
    for (uint32_t i = 0; i < sampler->count; i++)
        if (sampler->watched[i].pid == pid)
            return 1;
    return 0;
}

static void watch(struct sampler *sampler, int32_t pid)
{
    struct watched *added = &sampler->watched[sampler->count];
    if (sampler->count == MC_SAMPLED_PROCESSES_MAX) {
        sampler->told->left_out++;
        return;
    }
    *added = (struct watched){pid, open_of(pid, "statm"), open_of(pid, "status"), 0};
    if (added->statm_fd < 0 || added->status_fd < 0) {  /* gone already */
        close(added->statm_fd);
        close(added->status_fd);
        return;
    }
    sampler->count++;
    sampler->told->processes++;
}

static void unwatch(struct sampler *sampler, uint32_t index)
{
    close(sampler->watched[index].statm_fd);
    close(sampler->watched[index].status_fd);
    sampler->watched[index] = sampler->watched[--sampler->count];
}

static void consider(struct sampler *sampler, int32_t pid)
{
    uint8_t *bits = &sampler->others[(uint32_t)pid / 8], bit = (uint8_t)(1u << (pid % 8));
    int32_t parent, session;
    if (*bits & bit || is_watched(sampler, pid) || !kin_of(pid, &parent, &session))
        return;
    if (session == sampler->session || is_watched(sampler, parent))
        watch(sampler, pid);
    else
        *bits |= bit;
}

static void look(struct sampler *sampler)
{
    const struct dirent *entry;
    if (sampler->looks++ % FORGET_EVERY == 0)
        memset(sampler->others, 0, PIDS_MAX / 8);
    rewinddir(sampler->proc);
    while ((entry = readdir(sampler->proc))) {
        long pid = strtol(entry->d_name, NULL, 10);     /* 0 of what is no process */
        if (pid > 0 && pid < PIDS_MAX)
            consider(sampler, (int32_t)pid);
    }
}

static uint64_t shared_kib_of(int status_fd)
{
    char text[TEXT_BYTES];
    const char *at = text_of(status_fd, text) ? strstr(text, "RssShmem:") : NULL;
    return at ? strtoull(at + sizeof "RssShmem:" - 1, NULL, 10) : 0;
}

static void sample(struct sampler *sampler, int with_shared, struct mc_demand_row *row)
{
    uint64_t kib = KIB_PER_PAGE;
    row->anonymous_kib = row->shared_kib = 0;
    for (uint32_t i = 0; i < sampler->count; i++) {
        struct watched *watched = &sampler->watched[i];
        unsigned long size, resident, shared;
        char text[TEXT_BYTES];
        if (!text_of(watched->statm_fd, text) ||
            sscanf(text, "%lu %lu %lu", &size, &resident, &shared) != 3) {
            unwatch(sampler, i--);
            continue;
        }
        if (with_shared)
            watched->shared_kib = shared_kib_of(watched->status_fd);
        row->anonymous_kib += (resident > shared ? resident - shared : 0) * kib;
        row->shared_kib += watched->shared_kib;
    }
    row->processes = sampler->count;
}

/* Keep a row that differs from the last one; 0 when there is no room for more. */
static int keep(struct mc_demand_sampling *told, const struct mc_demand_row *row)
{
    const struct mc_demand_row *last = told->count ? &told->rows[told->count - 1] : NULL;
    if (last && last->anonymous_kib == row->anonymous_kib &&
        last->shared_kib == row->shared_kib && last->processes == row->processes)
        return 1;
    if (told->count == told->room)
        return 0;
    told->rows[told->count++] = *row;
    return 1;
}

static void sleep_until(uint64_t at_ns)
{
    struct timespec at = {.tv_sec = (time_t)(at_ns / NS_PER_S),
                          .tv_nsec = (long)(at_ns % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL))
        ;
}

static void run(struct sampler *sampler)
{
    struct mc_demand_sampling *told = sampler->told;
    uint64_t begin_ns = clock_ns(CLOCK_MONOTONIC), next_ns = begin_ns, now_ns = begin_ns;
    uint64_t before_ns = begin_ns;
    uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    do {                                /* once at least: a program may end before it is seen */
        struct mc_demand_row row;
        if (told->samples % told->look_every == 0)
            look(sampler);
        sample(sampler, told->samples % told->shared_every == 0, &row);
        now_ns = clock_ns(CLOCK_MONOTONIC);             /* of the numbers, not of the waking up */
        row.t_ns = now_ns - begin_ns;
        row.since_ns = now_ns - before_ns;
        before_ns = now_ns;
        told->is_full = !keep(told, &row);
        told->samples++;
        next_ns += told->period_ns;
        if (now_ns > next_ns + told->period_ns) {
            told->late++;
            next_ns = now_ns;
        }
        sleep_until(next_ns);
    } while (!__atomic_load_n(&told->stop, __ATOMIC_ACQUIRE) && !told->is_full);
    told->elapsed_ns = clock_ns(CLOCK_MONOTONIC) - begin_ns;
    told->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
}

int mc_demand_sample(struct mc_demand_sampling *told)
{
    struct sampler sampler = {.told = told, .session = told->root};
    if (!told->period_ns || !told->look_every || !told->shared_every)
        return MC_EINDEX;
    sampler.proc = opendir("/proc");
    sampler.others = calloc(PIDS_MAX / 8, 1);
    if (sampler.proc && sampler.others) {
        watch(&sampler, told->root);
        run(&sampler);
    }
    while (sampler.count)
        unwatch(&sampler, sampler.count - 1);
    if (sampler.proc)
        closedir(sampler.proc);
    free(sampler.others);
    return sampler.proc && sampler.others ? MC_OK : MC_EKERNEL;
}
