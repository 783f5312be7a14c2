/* mech_cmm.c: not built. See mechanism.h. */
#include "mechanism.h"

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host, (void)domain;
    return MC_EOP;
}

const struct mc_mechanism mc_cmm = {
    .name = "cmm",
    .id = MC_CMM,
    .granule_frames = MC_AREA_FRAMES,
    .open = open_device,
};
