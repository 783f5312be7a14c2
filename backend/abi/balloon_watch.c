/* balloon_watch.c: see balloon_watch.h. */
#include "balloon_watch.h"

#define SWEEP_NS_MAX 2000000    /* the worker is everybody's; the area begun is finished */

/* Punch the runs of holes of one area; the lock is not held. */
static void punch_holes(int fd, uint32_t area, const uint64_t *holes)
{
    for (uint32_t first = 0, end; first < MC_AREA_FRAMES; first = end) {
        int hole = holes[first / MC_ROW_FRAMES] >> first % MC_ROW_FRAMES & 1;

        for (end = first + 1; end < MC_AREA_FRAMES &&
                              (int)(holes[end / MC_ROW_FRAMES] >> end % MC_ROW_FRAMES & 1) == hole;
             end++)
            ;
        if (hole)
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

    domain->users++;
    for (; area < domain->areas && mc_phase_of(domain) == MC_ACTIVE && mc_clock_ns() < until_ns;
         area++) {
        if (domain->states[area] != MC_A_INSTALLED || !domain->hole_counts[area])
            continue;
        for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
            holes[row] = domain->holes[area * MC_AREA_ROWS + row];
        mc_host_unlock(host);
        punch_holes(domain->ram_fd, area, holes);
        mc_host_lock(host);
    }
    domain->users--;
    pthread_cond_broadcast(&host->own->done);
    return area < domain->areas ? area : 0;
}
