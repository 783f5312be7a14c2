/* excess.c: see excess.h. */
#include "excess.h"
#include "mechanism.h"

#include <time.h>

/* What may be there: the guest's, and everything that is on its way to it or from it. */
static uint64_t allowed_frames(const struct mc_domain *domain)
{
    uint64_t areas = domain->areas - domain->counts[MC_A_HARD] - domain->counts[MC_A_SOFT] -
                     domain->counts[MC_A_INSTALLED];

    return areas * MC_AREA_FRAMES + domain->installed_frames + domain->flight_frames +
           MC_EXCESS_TOLERANCE_FRAMES;
}

static void look(struct mc_host *host)
{
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));) {
        int64_t bytes;

        if (mc_phase_of(domain) != MC_ACTIVE)
            continue;
        bytes = mc_resident_bytes(domain->ram_fd);
        if (bytes > 0 && (uint64_t)bytes / MC_FRAME_BYTES > allowed_frames(domain))
            mc_domain_break(host, domain, MC_EFOREIGN);
    }
}

int mc_excess_run(struct mc_host *host)
{
    const struct timespec period = {.tv_nsec = MC_EXCESS_PERIOD_NS};

    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        mc_host_lock(host);
        look(host);
        mc_host_unlock(host);
        nanosleep(&period, NULL);
    }
    return MC_OK;
}
