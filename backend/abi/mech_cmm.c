/* mech_cmm.c: coordinated memory management on the split-driver principle. See cmm.h.
 *
 * Both designs: the target bounds what a domain may hold; it gets areas as it asks, populated one
 * ahead of need while it grows; free host memory first, then a donor's.
 *   dom0        a domain gives up memory by its own driver's hand only, asked by dom0 (cmm_dom0.c).
 *   hypervisor  the revision: the hypervisor sees the donors' free areas in their allocators and
 *               takes them. It is what `direct` grew out of: the same code without credit and
 *               without the soft kind of reclaim.
 */
#include "cmm_dom0.h"

#include <stdlib.h>

static int is_revised(const struct mc_domain *domain)
{
    return domain->options[MC_CMM_DESIGN] == MC_CMM_HYPERVISOR;
}

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    domain->credit_areas = 0;
    domain->device = calloc(1, sizeof(struct mc_cmm));
    if (!domain->device)
        return MC_ENOMEM;
    return is_revised(domain) ? MC_OK : mc_dom0_join(host, domain);
}

static void close_device(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = domain->device;

    if (device && device->dom0)
        mc_dom0_leave(host, domain);
    free(device);
}

static int boot(struct mc_host *host, struct mc_domain *domain)
{
    if (!is_revised(domain))
        mc_dom0_reset(domain);
    return mc_boot_populated(host, domain);
}

static void tell_target(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    mc_config_ask(domain, domain->target_frames);
}

/* What was populated ahead of need beyond the target. */
static int withdraw(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = mc_find_state(domain, MC_A_READY);

    if (area < 0 || mc_domain_held(domain) <= domain->target_areas)
        return 0;
    mc_area_set(host, domain, (uint32_t)area, MC_A_PUNCH_HARD);
    return 1;
}

static void set_target(struct mc_host *host, struct mc_domain *domain)
{
    if (is_revised(domain)) {
        mc_direct.target(host, domain);
        return;
    }
    withdraw(host, domain);
    tell_target(host, domain);
}

/* Worker: what is freed above the target goes as it is freed; the driver of the first design looks
 * for that itself. */
static int reclaim(struct mc_host *host, struct mc_domain *domain)
{
    return is_revised(domain) ? mc_direct.jobs[0](host, domain) : withdraw(host, domain);
}

static int make_ready(struct mc_host *host, struct mc_domain *domain)
{
    return mc_direct.jobs[2](host, domain);
}

static int64_t request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    if (!is_revised(domain) || (record->op != MC_OP_GROW && record->op != MC_OP_RELEASE))
        return MC_EOP;
    return mc_direct.request(host, domain, record);
}

static int give(struct mc_host *host, struct mc_domain *donor, int hard)
{
    (void)hard;
    return is_revised(donor) && mc_pull_areas(host, donor, 1, MC_PULL_HARD, 0) == 1;
}

static int reach(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    if (is_revised(domain))
        return mc_direct.reach(host, domain, why);
    if (domain->counts[MC_A_INSTALLED] > domain->target_areas)
        return mc_reach_default(host, domain, why);
    *why = MC_WHY_NONE;
    return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
}

const struct mc_mechanism mc_cmm = {
    .name = "cmm",
    .id = MC_CMM,
    .granule_frames = MC_AREA_FRAMES,
    .dma_safe = 1,
    .options = {{"design", MC_CMM_HYPERVISOR, MC_CMM_DOM0, MC_CMM_HYPERVISOR},
                {"answer_ms", 100, 1, 60000}},
    .open = open_device,
    .boot = boot,
    .target = set_target,
    .offer = tell_target,
    .close = close_device,
    .request = request,
    .jobs = {reclaim, NULL, make_ready},
    .give = give,
    .reach = reach,
};
