/* balloon_watch.c: see balloon_watch.h. */
#include "balloon_watch.h"

#include <string.h>

#define SWEEP_NS_MAX 2000000    /* the worker serves all domains; the area begun is finished */

static int balloon_hole_bit(const uint64_t *holes, uint32_t frame)
{
    return holes[frame / MC_ROW_FRAMES] >> frame % MC_ROW_FRAMES & 1;
}

/* Punch the runs of holes of one area. The lock is not held. */
static void balloon_punch_holes(int fd, uint32_t area, const uint64_t *holes)
{
    for (uint32_t first = 0, end; first < MC_AREA_FRAMES; first = end) {
        int is_hole = balloon_hole_bit(holes, first);

        for (end = first + 1;
             end < MC_AREA_FRAMES && balloon_hole_bit(holes, end) == is_hole; end++)
            ;
        if (is_hole)
            mc_punch(fd, ((uint64_t)area * MC_AREA_FRAMES + first) * MC_FRAME_BYTES,
                     (uint64_t)(end - first) * MC_FRAME_BYTES);
    }
}

int mc_balloon_leaks(const struct mc_domain *domain)
{
    int64_t bytes = mc_resident_bytes(domain->ram_fd);

    return bytes >= 0 && !mc_in_transit(domain) &&
           (uint64_t)bytes / MC_FRAME_BYTES > domain->installed_frames;
}

uint32_t mc_balloon_sweep(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    uint64_t holes[MC_AREA_ROWS], until_ns = mc_clock_ns() + SWEEP_NS_MAX;

    MC_CHECK_LOCKED(host);
    MC_CHECK(area < domain->areas, "domain %u: sweep from area %u of %u", domain->domid, area,
             domain->areas);
    for (; area < domain->areas && mc_phase_of(domain) == MC_ACTIVE && mc_clock_ns() < until_ns;
         area++) {
        if (!domain->hole_counts[area])
            continue;
        if (!MC_CHECK_DOMAIN(host, domain, domain->states[area] == MC_A_INSTALLED,
                             "area %u of state %u has holes", area, domain->states[area]))
            break;
        memcpy(holes, domain->holes + area * MC_AREA_ROWS, sizeof holes);
        mc_domain_hold(host, domain);
        balloon_punch_holes(domain->ram_fd, area, holes);
        mc_domain_let_go(host, domain);
    }
    return area < domain->areas ? area : 0;
}
