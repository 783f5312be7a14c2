/* excess.c: see excess.h. */
#include "excess.h"
#include "mechanism.h"

#include <time.h>

/* The guest kernel under a balloon may give too much around a frame that the driver deflated, which
 * is no fault of the driver: the balloon's sweep (mech_balloon.c) gets time to punch it. */
static uint64_t excess_grace_ns(const struct mc_domain *domain)
{
    return domain->mechanism->id == MC_BALLOON ? MC_EXCESS_BALLOON_NS : 0;
}

static void excess_look(struct mc_host *host, uint64_t *since_ns)
{
    uint64_t now_ns = mc_clock_ns();
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++) {
        struct mc_domain *domain = &host->domains[domid];
        int64_t bytes = mc_phase_of(domain) == MC_ACTIVE ? mc_resident_bytes(domain->ram_fd) : 0;
        MC_CHECK(bytes >= 0, "domain %u: fd %d, %ld bytes", domid, domain->ram_fd, bytes);
        if (!bytes || (uint64_t)bytes / MC_FRAME_BYTES <=
                          mc_backed_frames(domain) + MC_EXCESS_TOLERANCE_FRAMES) {
            since_ns[domid] = 0;
            continue;
        }
        if (!since_ns[domid])
            since_ns[domid] = now_ns;
        if (now_ns - since_ns[domid] >= excess_grace_ns(domain))
            mc_domain_break(host, domain, MC_EFOREIGN);
    }
}

int mc_excess_run(struct mc_host *host)
{
    const struct timespec period = {.tv_nsec = MC_EXCESS_PERIOD_NS};
    uint64_t since_ns[MC_MAX_DOMAINS] = {0};    /* when it was first in excess; 0: it is not */
    while (!__atomic_load_n(&host->stop, __ATOMIC_ACQUIRE)) {
        mc_host_lock(host);
        excess_look(host, since_ns);
        mc_host_unlock(host);
        nanosleep(&period, NULL);
    }
    return MC_OK;
}
