/* mech_hyperalloc.c: not built. See mechanism.h. */
#include "mechanism.h"

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host, (void)domain;
    return MC_EOP;
}

const struct mc_mechanism mc_hyperalloc = {
    .name = "hyperalloc",
    .id = MC_HYPERALLOC,
    .granule_frames = MC_AREA_FRAMES,
    .open = open_device,
};
