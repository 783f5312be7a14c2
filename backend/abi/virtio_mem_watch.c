/* virtio_mem_watch.c: finding guests that use memory which is not plugged.
 *
 * A guest has all of its ram mapped, so a touch of unplugged memory makes the kernel hand out a
 * page that nobody granted. Two looks find such pages afterwards, in microseconds: unplugged areas
 * have data for lseek(SEEK_DATA); or, when the pages were allocated and never written, the file has
 * more blocks than were granted. The keeper counts what it finds and punches it again.
 *
 * The keeper looks without the lock, because a guest can make it wait for the guest's file. An
 * area that was unplugged before and after, under one generation, was unplugged all the time: its
 * pages are a violation. Nobody may plug the areas while they are punched.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "virtio_mem_device.h"

#include <string.h>
#include <unistd.h>

#define VMEM_LOOKS_MAX 64       /* runs of unplugged areas looked at by one timer */
#define VMEM_LOOK_AREAS_MAX 512 /* areas of a run */

/* The next run of unplugged areas from device->watch_area on; empty at the end of the domain. */
static struct mc_area_run vmem_next_unplugged(const struct mc_domain *domain,
                                              struct mc_vmem *device)
{
    struct mc_area_run run = {device->watch_area, 0};
    MC_CHECK_IN(domain, run.first < domain->areas, "look from area %u of %u", run.first,
                domain->areas);
    while (run.first < domain->areas && domain->states[run.first] != MC_A_HARD)
        run.first++;
    for (run.end = run.first;
         run.end < domain->areas && run.end - run.first < VMEM_LOOK_AREAS_MAX &&
         domain->states[run.end] == MC_A_HARD; run.end++)
        ;
    device->watch_area = run.end < domain->areas ? run.end : 0;
    return run;
}

/* The first stretch of areas with data in a run; empty when there is none. */
static struct mc_area_run vmem_find_data(int fd, struct mc_area_run run)
{
    off_t end = (off_t)run.end * MC_AREA_BYTES;
    off_t from = lseek(fd, (off_t)run.first * MC_AREA_BYTES, SEEK_DATA), to;
    if (from < 0 || from >= end)
        return (struct mc_area_run){run.end, run.end};
    to = lseek(fd, from, SEEK_HOLE);
    to = to < 0 || to > end ? end : to;
    return (struct mc_area_run){(uint32_t)(from / MC_AREA_BYTES),
                                (uint32_t)((to + MC_AREA_BYTES - 1) / MC_AREA_BYTES)};
}

/* 1 when the file has more pages than the guest was given, with data in them or not. */
static int vmem_has_excess(const struct mc_domain *domain)
{
    int64_t bytes = mc_resident_bytes(domain->ram_fd);
    return bytes > 0 && (uint64_t)bytes / MC_FRAME_BYTES > mc_backed_frames(domain);
}

/* Punch unplugged areas again. Releases the lock. */
static void vmem_clean_areas(struct mc_host *host, struct mc_domain *domain,
                             struct mc_area_run found)
{
    struct mc_vmem *device = vmem_of(domain);
    MC_CHECK_IN(domain, found.first < found.end && found.end <= domain->areas,
                "areas %u to %u of %u are punched again", found.first, found.end, domain->areas);
    if (!MC_CHECK_DOMAIN(host, domain, !device->cleaned.end, "areas %u to %u are punched already",
                         device->cleaned.first, device->cleaned.end))
        return;
    device->cleaned = found;
    mc_domain_hold(host, domain);
    mc_punch(domain->ram_fd, mc_area_offset(found.first),
             mc_area_run_frames(found) * MC_FRAME_BYTES);
    mc_domain_let_go(host, domain);
    for (uint32_t area = found.first; area < found.end; area++)
        if (!MC_CHECK_DOMAIN(host, domain, domain->states[area] == MC_A_HARD,
                             "area %u of state %u was punched", area, domain->states[area]))
            break;
    device->cleaned = (struct mc_area_run){0, 0};
}

/* The first areas of `found` that were unplugged all the time since `generations` were noted. */
static struct mc_area_run vmem_still_unplugged(const struct mc_domain *domain,
                                               struct mc_area_run found,
                                               const uint16_t *generations)
{
    uint32_t end = found.first;
    MC_CHECK_IN(domain, found.first <= found.end && found.end <= domain->areas,
                "data in areas %u to %u of %u", found.first, found.end, domain->areas);
    while (end < found.end && domain->states[end] == MC_A_HARD &&
           domain->generations[end] == generations[end - found.first])
        end++;
    return (struct mc_area_run){found.first, end};
}

/* Look at one run. Returns how many of its areas had pages. Releases the lock. */
static uint32_t vmem_look_at_run(struct mc_host *host, struct mc_domain *domain,
                                 struct mc_area_run run, int excess)
{
    uint16_t generations[VMEM_LOOK_AREAS_MAX];
    struct mc_area_run found;
    MC_CHECK_IN(domain, run.end <= domain->areas && run.end - run.first <= VMEM_LOOK_AREAS_MAX,
                "look at areas %u to %u of %u", run.first, run.end, domain->areas);
    memcpy(generations, domain->generations + run.first, (run.end - run.first) * sizeof(uint16_t));
    mc_domain_hold(host, domain);
    found = vmem_find_data(domain->ram_fd, run);
    mc_domain_let_go(host, domain);
    if (found.first == found.end && !excess)
        return 0;
    if (found.first == found.end)
        found = run;
    found = vmem_still_unplugged(domain, found, generations + (found.first - run.first));
    if (found.first < found.end) {
        vmem_clean_areas(host, domain, found);
        vmem_of(domain)->watch_area = found.end < domain->areas ? found.end : 0;
    }
    return found.end - found.first;
}

void mc_vmem_watch(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_vmem *device = vmem_of(domain);
    int excess = vmem_has_excess(domain);
    uint32_t areas = 0;
    MC_CHECK_LOCKED(host);
    for (int i = 0; i < VMEM_LOOKS_MAX && mc_phase_of(domain) == MC_ACTIVE; i++) {
        struct mc_area_run run = vmem_next_unplugged(domain, device);
        if (run.first < run.end)
            areas += vmem_look_at_run(host, domain, run, excess);
        if (device->watch_area == 0)
            break;
    }
    if (!areas)
        return;
    device->violations += areas;
    domain->counters.violations += areas;
    mc_count_bad(domain);
    mc_config_write(domain, MC_VMEM_VIOLATIONS, device->violations);
}
