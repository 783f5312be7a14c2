/* mech_cmm.c: coordinated memory management on the split-driver principle. See cmm.h.
 *
 * In both designs the target bounds what a domain may hold. A domain gets areas as it asks, and one
 * more is populated ahead of need while it grows; free host memory is given first, then a donor's.
 *   dom0        first design: a domain gives up memory by its own driver's hand only, when dom0
 *               asks (cmm_dom0.c).
 *   hypervisor  second design: the hypervisor sees the donors' free areas in their allocators and
 *               takes them. `direct` grew out of it: this design runs the code of `direct`, without
 *               credit and without the soft kind of reclaim.
 */
#include "cmm_dom0.h"

static int cmm_is_second_design(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->options[MC_CMM_DESIGN] <= MC_CMM_HYPERVISOR, "design %lu",
                domain->options[MC_CMM_DESIGN]);
    return domain->options[MC_CMM_DESIGN] == MC_CMM_HYPERVISOR;
}

static int cmm_open(struct mc_host *host, struct mc_domain *domain)
{
    domain->credit_areas = 0;
    return cmm_is_second_design(domain) ? MC_OK : mc_dom0_join(host, domain);
}

static void cmm_close(struct mc_host *host, struct mc_domain *domain)
{
    if (domain->device && cmm_of(domain)->dom0)
        mc_dom0_leave(host, domain);
}

static int cmm_boot(struct mc_host *host, struct mc_domain *domain)
{
    if (cmm_is_second_design(domain)) {
        MC_CHECK_IN(domain, !cmm_of(domain)->dom0, "dom0 %p in the second design",
                    (void *)cmm_of(domain)->dom0);
        return mc_boot_populated(host, domain);
    }
    if (!cmm_of(domain)->dom0)  /* no thread was to be had when this process took over */
        return MC_EKERNEL;
    mc_dom0_reset(host, domain);
    return mc_boot_populated(host, domain);
}

static void cmm_tell_target(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    mc_config_ask(domain, domain->target_frames);
}

/* Withdraw the area that was populated ahead of need, when it is beyond the target. */
static int cmm_withdraw_ready(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = mc_find_state(domain, MC_A_READY);
    if (area < 0 || mc_domain_held(domain) <= domain->target_areas)
        return 0;
    mc_area_set(host, domain, (uint32_t)area, MC_A_PUNCH_HARD);
    return 1;
}

static void cmm_set_target(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_LOCKED(host);
    if (cmm_is_second_design(domain)) {
        mc_direct.target(host, domain);
        return;
    }
    cmm_withdraw_ready(host, domain);
    cmm_tell_target(host, domain);
}

/* Keeper: take what is freed above the target, as it is freed. The driver of the first design looks
 * for that itself. */
static int cmm_reclaim(struct mc_host *host, struct mc_domain *domain)
{
    return cmm_is_second_design(domain) ? mc_direct.jobs[MC_JOB_TAKE](host, domain)
                                        : cmm_withdraw_ready(host, domain);
}

static int cmm_make_ready(struct mc_host *host, struct mc_domain *domain)
{
    if (!MC_CHECK_DOMAIN(host, domain, !domain->credit_areas, "%u areas of credit",
                         domain->credit_areas))
        return 0;
    if (!cmm_is_second_design(domain) && mc_dom0_make_ready(host, domain))
        return 1;
    return mc_direct.jobs[MC_JOB_PREPARE](host, domain);
}

static enum mc_served cmm_request(struct mc_host *host, struct mc_domain *domain,
                                  struct mc_record *record)
{
    if (!cmm_is_second_design(domain) || (record->op != MC_OP_GROW && record->op != MC_OP_RELEASE))
        return mc_answered(record, MC_EOP);
    return mc_direct.request(host, domain, record);
}

static enum mc_served cmm_later(struct mc_host *host, struct mc_domain *domain,
                                struct mc_record *record)
{
    MC_CHECK_IN(domain, cmm_is_second_design(domain), "op %u was kept", record->op);
    return mc_direct.later(host, domain, record);
}

static uint32_t cmm_give(struct mc_host *host, struct mc_domain *donor, int hard, uint32_t most)
{
    (void)hard;
    return cmm_is_second_design(donor) ? mc_pull_areas(host, donor, most, MC_PULL_HARD, 0) : 0;
}

static enum mc_reach cmm_reach(struct mc_host *host, const struct mc_domain *domain,
                               enum mc_why *why)
{
    if (cmm_is_second_design(domain))
        return mc_direct.reach(host, domain, why);
    if (domain->counts[MC_A_INSTALLED] > domain->target_areas)
        return mc_reach_default(host, domain, why);
    *why = MC_WHY_NONE;
    return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
}

static int cmm_rejoin(struct mc_host *host, struct mc_domain *domain)
{
    return cmm_is_second_design(domain) ? MC_OK : mc_dom0_rejoin(host, domain);
}

const struct mc_mechanism mc_cmm = {
    .name = "cmm",
    .says = "collaborative memory management: another domain gives what one asks for",
    .id = MC_CMM, .granule_frames = MC_AREA_FRAMES, .dma_safe = 1,
    .options = {[MC_CMM_DESIGN] = {"design", MC_CMM_HYPERVISOR, MC_CMM_DOM0, MC_CMM_HYPERVISOR,
                                   "0: dom0 asks the donor's driver; 1: the hypervisor takes"},
                [MC_CMM_ANSWER] = {"answer_ms", 100, 1, 60000,
                                   "design 0: how long dom0 waits for this domain's answer"}},
    .device_bytes = sizeof(struct mc_cmm), .open = cmm_open, .boot = cmm_boot,
    .target = cmm_set_target, .offer = cmm_tell_target, .close = cmm_close, .request = cmm_request,
    .later = cmm_later,
    .jobs = {[MC_JOB_TAKE] = cmm_reclaim, [MC_JOB_PREPARE] = cmm_make_ready}, .give = cmm_give,
    .reach = cmm_reach, .rejoin = cmm_rejoin,
};
