/* balloon_watch.c: see balloon_watch.h. */
#include "balloon_watch.h"

#define SWEEP_NS_MAX 2000000    /* the worker serves all domains; the area begun is finished */

int mc_balloon_leaks(const struct mc_domain *domain)
{
    int64_t bytes = mc_resident_bytes(domain->ram_fd);
    return bytes >= 0 && !mc_in_transit(domain) &&
           (uint64_t)bytes / MC_FRAME_BYTES > domain->installed_frames;
}

uint32_t mc_balloon_sweep(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    uint32_t holes[MC_AREA_FRAMES], count;
    uint64_t until_ns = mc_clock_ns() + SWEEP_NS_MAX;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "sweep from area %u of %u", area, domain->areas);
    for (; area < domain->areas && mc_phase_of(domain) == MC_ACTIVE && mc_clock_ns() < until_ns;
         area++) {
        if (!domain->hole_counts[area])
            continue;
        if (!MC_CHECK_DOMAIN(host, domain, domain->states[area] == MC_A_INSTALLED,
                             "area %u of state %u has holes", area, domain->states[area]))
            break;
        count = 0;
        for (uint32_t frame = area * MC_AREA_FRAMES; frame < (area + 1) * MC_AREA_FRAMES; frame++)
            if (mc_is_hole(domain, frame))
                holes[count++] = frame;
        mc_holes_punch(host, domain, holes, count);
    }
    return area < domain->areas ? area : 0;
}
