/* boot.c: gives areas to a domain that boots, and backing to areas that were taken softly.
 * See mechanism.h.
 */
#include "mechanism.h"

/* Each boot area that the domain has not got: charged, then given by `give`. An area that was
 * pinned was never taken and is not HARD. */
static int boot_areas(struct mc_host *host, struct mc_domain *domain,
                      int (*give)(struct mc_host *, struct mc_domain *, uint32_t))
{
    int path, status = MC_OK;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, domain->boot_areas <= domain->areas, "boots with %u areas of %u",
                domain->boot_areas, domain->areas);
    domain->supply_until_ns = mc_clock_ns() + MC_BOOT_NS_MAX;
    for (uint32_t area = 0; area < domain->boot_areas && !status; area++) {
        if (domain->states[area] != MC_A_HARD)
            continue;
        mc_redeem(host, domain, 1);
        status = mc_supply_find(host, domain, &path);
        if (!status)
            status = give(host, domain, area);
    }
    domain->supply_until_ns = 0;
    MC_CHECK_IN(domain, status || domain->counts[MC_A_INSTALLED] >= domain->boot_areas,
                "booted with %u areas of %u", domain->counts[MC_A_INSTALLED], domain->boot_areas);
    return status;
}

static int boot_populate(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int status = mc_populate(host, domain, area, MC_A_READY);
    return status ? status : mc_grant(host, domain, area);
}

int mc_boot_populated(struct mc_host *host, struct mc_domain *domain)
{
    return boot_areas(host, domain, boot_populate);
}

int mc_boot_plugged(struct mc_host *host, struct mc_domain *domain)
{
    return boot_areas(host, domain, mc_plug_found);
}

/* An area whose word does not say evicted needs no telling: it is backed, and that is the
 * answer. */
static int boot_tell_installed(struct mc_domain *domain, uint32_t area)
{
    mc_area_install(&domain->frames, area, domain->generations[area]);
    return MC_OK;
}

/* What INSTALL says of an area as it is; MC_LATER when its pages must come first. */
static int boot_install_at_once(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    switch (domain->states[area]) {
    case MC_A_PUNCH_SOFT:       /* the keeper has not begun: keep the pages */
        mc_area_set(host, domain, area, MC_A_INSTALLED);
        return boot_tell_installed(domain, area);
    case MC_A_INSTALLED:        /* or another thread of the guest has asked already */
        return boot_tell_installed(domain, area);
    case MC_A_PUNCHING_SOFT:
    case MC_A_POPULATING:
        return MC_LATER;
    case MC_A_SOFT:
        break;
    default:
        return MC_EFOREIGN;
    }
    MC_CHECK_IN(domain, domain->target_areas <= domain->areas, "target of %u areas of %u",
                domain->target_areas, domain->areas);
    return domain->counts[MC_A_INSTALLED] >= domain->target_areas ? MC_ETARGET : MC_LATER;
}

static int boot_install(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int path = MC_PATH_RING, status = boot_install_at_once(host, domain, area);
    if (status != MC_LATER)
        return status;
    status = mc_supply_find(host, domain, &path);
    if (!status && domain->states[area] != MC_A_SOFT)
        status = MC_ESTATE;
    if (!status)
        status = mc_populate(host, domain, area, MC_A_INSTALLED);
    if (status)
        return status;
    domain->counters.grants[path]++;
    return boot_tell_installed(domain, area);
}

static int boot_install_or_later(struct mc_host *host, struct mc_domain *domain, uint64_t area)
{
    int status = MC_EINDEX;
    MC_CHECK_LOCKED(host);
    if (area < domain->areas)
        status = mc_kept_count(domain) ? MC_LATER
                                       : boot_install_at_once(host, domain, (uint32_t)area);
    domain->counters.refused += status == MC_ETARGET;
    return status;
}

int mc_install(struct mc_host *host, struct mc_domain *domain, uint64_t area)
{
    int status = MC_EINDEX;
    MC_CHECK_LOCKED(host);
    if (area < domain->areas)
        status = boot_install(host, domain, (uint32_t)area);
    domain->counters.refused += status == MC_ENOMEM || status == MC_ETARGET;
    return status;
}

enum mc_served mc_served_install(struct mc_host *host, struct mc_domain *domain,
                                 struct mc_record *record)
{
    int status = boot_install_or_later(host, domain, record->arg[0]);
    if (status != MC_LATER)
        return mc_answered(record, status);
    mc_keep(host, domain, record);
    return MC_KEPT;
}
