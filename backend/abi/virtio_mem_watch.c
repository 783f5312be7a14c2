/* virtio_mem_watch.c: finding guests that use memory which is not plugged.
 *
 * A guest has all of its ram mapped, so a touch of unplugged memory makes the kernel hand out a
 * page that nobody granted. Afterwards it shows: unplugged areas have data for lseek(SEEK_DATA).
 * Pages that were allocated and never written have none; they show when the file has more blocks
 * than were granted, which is when they take somebody's memory. Both looks cost microseconds. What
 * is found is counted and punched again.
 *
 * The look is without the lock, because a guest can make it wait for its file. An area that was
 * unplugged before and after, under one generation, was unplugged all the time: its pages are a
 * violation. While they are punched nobody may plug the areas.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "virtio_mem_device.h"

#include <string.h>
#include <unistd.h>

#define LOOKS_MAX 64            /* runs of unplugged areas looked at in one go */
#define RUN_AREAS_MAX 512

struct run {
    uint32_t first;
    uint32_t end;
};

/* The next run of unplugged areas from device->watch_area on; empty at the end of the domain. */
static struct run next_run(const struct mc_domain *domain, struct mc_vmem *device)
{
    struct run run = {device->watch_area, 0};

    while (run.first < domain->areas && domain->states[run.first] != MC_A_HARD)
        run.first++;
    for (run.end = run.first; run.end < domain->areas && run.end - run.first < RUN_AREAS_MAX &&
                              domain->states[run.end] == MC_A_HARD; run.end++)
        ;
    device->watch_area = run.end < domain->areas ? run.end : 0;
    return run;
}

/* The first stretch of areas with data in a run; empty when there is none. */
static struct run find_data(int fd, struct run run)
{
    off_t end = (off_t)run.end * MC_AREA_BYTES;
    off_t from = lseek(fd, (off_t)run.first * MC_AREA_BYTES, SEEK_DATA), to;

    if (from < 0 || from >= end)
        return (struct run){run.end, run.end};
    to = lseek(fd, from, SEEK_HOLE);
    to = to < 0 || to > end ? end : to;
    return (struct run){(uint32_t)(from / MC_AREA_BYTES),
                        (uint32_t)((to + MC_AREA_BYTES - 1) / MC_AREA_BYTES)};
}

/* More pages than the guest was given, whether there is data in them or not. */
static int has_excess(const struct mc_domain *domain)
{
    uint64_t areas = domain->counts[MC_A_POPULATING];
    int64_t bytes = mc_resident_bytes(domain->ram_fd);

    for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
        areas += domain->counts[state];
    return bytes > 0 && (uint64_t)bytes / MC_FRAME_BYTES >
                            domain->installed_frames + domain->flight_frames +
                                areas * MC_AREA_FRAMES;
}

static void clean(struct mc_host *host, struct mc_domain *domain, struct run run)
{
    struct mc_vmem *device = domain->device;

    device->clean_first = run.first;
    device->clean_end = run.end;
    mc_host_unlock(host);
    mc_punch(domain->ram_fd, (uint64_t)run.first * MC_AREA_BYTES,
             (uint64_t)(run.end - run.first) * MC_AREA_BYTES);
    mc_host_lock(host);
    device->clean_first = device->clean_end = 0;
}

/* Areas of `found` that were unplugged all the time since `generations` were noted. */
static uint32_t keep_unplugged(const struct mc_domain *domain, struct run *found,
                               const uint16_t *generations)
{
    uint32_t end = found->first;

    while (end < found->end && domain->states[end] == MC_A_HARD &&
           domain->generations[end] == generations[end - found->first])
        end++;
    found->end = end;
    return end - found->first;
}

/* One run; how many of its areas had data. */
static uint32_t look(struct mc_host *host, struct mc_domain *domain, struct run run, int excess)
{
    uint16_t generations[RUN_AREAS_MAX];
    struct run found;
    uint32_t areas;

    memcpy(generations, domain->generations + run.first, (run.end - run.first) * sizeof(uint16_t));
    mc_host_unlock(host);
    found = find_data(domain->ram_fd, run);
    mc_host_lock(host);
    if (found.first == found.end && !excess)
        return 0;
    if (found.first == found.end)
        found = run;
    areas = keep_unplugged(domain, &found, generations + (found.first - run.first));
    if (areas) {
        clean(host, domain, found);
        ((struct mc_vmem *)domain->device)->watch_area = found.end < domain->areas ? found.end : 0;
    }
    return areas;
}

void mc_vmem_watch(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = domain->device;
    int excess = has_excess(domain);
    uint32_t areas = 0;

    domain->users++;
    for (int i = 0; i < LOOKS_MAX && mc_phase_of(domain) == MC_ACTIVE; i++) {
        struct run run = next_run(domain, device);

        if (run.first < run.end)
            areas += look(host, domain, run, excess);
        if (device->watch_area == 0)
            break;
    }
    domain->users--;
    pthread_cond_broadcast(&host->own->done);
    if (!areas)
        return;
    device->violations += areas;
    domain->counters.violations += areas;
    mc_count_bad(domain);
    __atomic_store_n(&domain->control->config[MC_VMEM_VIOLATIONS], device->violations,
                     __ATOMIC_RELAXED);
}
