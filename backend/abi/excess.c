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

/* A balloon's driver is not at fault for what its kernel gave too much around a frame it deflated:
 * the device sweeps that, so it has until it did. */
static uint64_t grace_ns(const struct mc_domain *domain)
{
    return domain->mechanism->id == MC_BALLOON ? MC_EXCESS_BALLOON_NS : 0;
}

static void look(struct mc_host *host, uint64_t *since_ns)
{
    uint64_t now_ns = mc_clock_ns();

    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++) {
        struct mc_domain *domain = &host->domains[domid];
        int64_t bytes = mc_phase_of(domain) == MC_ACTIVE ? mc_resident_bytes(domain->ram_fd) : 0;

        if (bytes <= 0 || (uint64_t)bytes / MC_FRAME_BYTES <= allowed_frames(domain)) {
            since_ns[domid] = 0;
            continue;
        }
        if (!since_ns[domid])
            since_ns[domid] = now_ns;
        if (now_ns - since_ns[domid] >= grace_ns(domain))
            mc_domain_break(host, domain, MC_EFOREIGN);
    }
}

int mc_excess_run(struct mc_host *host)
{
    const struct timespec period = {.tv_nsec = MC_EXCESS_PERIOD_NS};
    uint64_t since_ns[MC_MAX_DOMAINS] = {0};    /* when it was first seen in excess; 0: it is not */

    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        mc_host_lock(host);
        look(host, since_ns);
        mc_host_unlock(host);
        nanosleep(&period, NULL);
    }
    return MC_OK;
}
