/* mech_direct.c: ours. The hypervisor works on the guest's allocator; memory comes with its pages.
 *
 *   set target   free areas above it are taken at once, the others as they are freed (reclaim).
 *   GROW         ready area, or populate one found by supply.c; one more is made ready meanwhile.
 *   credit       wholly free areas granted ahead of need, by the worker.
 *   INSTALL      backing again for an area that was taken softly, for somebody else.
 *   RELEASE      free areas the guest offers.
 * A shrink needs nothing of the guest, so what cannot be had is known at once: reach says why.
 */
#include "mechanism.h"

/* 1 when the domain has less credit than it should and may have more. */
static int wants_credit(const struct mc_domain *domain)
{
    return domain->credit_areas && domain->counts[MC_A_INSTALLED] < domain->target_areas &&
           mc_spare_areas(domain, domain->credit_areas) < domain->credit_areas;
}

/* Withdraw what was populated ahead of need beyond the target; how many areas. */
static uint32_t withdraw(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t withdrawn = 0;

    for (uint32_t area = 0; area < domain->areas && domain->counts[MC_A_READY] &&
                            mc_domain_held(domain) > domain->target_areas; area++)
        if (domain->states[area] == MC_A_READY) {
            mc_area_set(host, domain, area, MC_A_PUNCH_HARD);
            withdrawn++;
        }
    return withdrawn;
}

static uint32_t take(struct mc_host *host, struct mc_domain *domain, uint32_t areas)
{
    domain->growing = 0;
    return mc_pull_areas(host, domain, areas, MC_PULL_HARD, 0);
}

static void set_target(struct mc_host *host, struct mc_domain *domain)
{
    withdraw(host, domain);
    if (mc_domain_held(domain) > domain->target_areas)
        take(host, domain, mc_domain_held(domain) - domain->target_areas);
}

/* Worker: what is freed above the target goes as it is freed. */
static int reclaim(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t held = mc_domain_held(domain);

    if (held <= domain->target_areas)
        return 0;
    return withdraw(host, domain) > 0 ||
           (mc_spare_areas(domain, 1) && take(host, domain, held - domain->target_areas) > 0);
}

/* Hand a ready area to the guest. 0, or MC_ENOMEM when none is ready. */
static int grant(struct mc_host *host, struct mc_domain *domain, int path)
{
    int64_t area = mc_find_state(domain, MC_A_READY);
    int status = area < 0 ? MC_ENOMEM : mc_grant(host, domain, (uint32_t)area);

    domain->counters.grants[path] += !status;
    return status;
}

static int give_credit(struct mc_host *host, struct mc_domain *domain)
{
    if (!domain->counts[MC_A_READY] || !wants_credit(domain))
        return 0;
    if (!grant(host, domain, MC_PATH_CREDIT))
        mc_bell_ring((uint32_t *)&domain->control->credit_bell,
                     (uint32_t *)&domain->control->credit_waiters);
    return 1;
}

/* Worker: a domain that grows gets one area ready; what it populates counts as used. When the host
 * has only its slack, what the area will be made of is taken from a domain that can spare it. */
static int make_ready(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = mc_find_state(domain, MC_A_HARD);

    if (domain->counts[MC_A_READY] || domain->counts[MC_A_POPULATING] || area < 0 ||
        mc_domain_held(domain) >= domain->target_areas ||
        !(domain->growing || wants_credit(domain)))
        return 0;
    if (mc_has_free(host, MC_AREA_FRAMES))
        return !mc_populate(host, domain, (uint32_t)area, MC_A_READY);
    return mc_supply_take_spare(host, domain);
}

/* Its last areas may be on their way back from a punch, or to it: then there is one soon. */
static int64_t wait_for_area(struct mc_host *host, const struct mc_domain *domain)
{
    const uint32_t coming =
        1u << MC_A_POPULATING | 1u << MC_A_PUNCH_HARD | 1u << MC_A_PUNCHING_HARD;
    int64_t area = mc_find_state(domain, MC_A_HARD);

    for (uint32_t i = 0; i < domain->areas && area < 0 && !domain->counts[MC_A_READY]; i++) {
        if (coming >> domain->states[i] & 1)
            mc_wait_area(host, domain, i, coming);
        area = mc_find_state(domain, MC_A_HARD);
    }
    return area;
}

/* One area for a domain that asked. */
static int grow(struct mc_host *host, struct mc_domain *domain, int *path)
{
    int64_t area;
    int status;

    *path = MC_PATH_RING;
    if (domain->counts[MC_A_INSTALLED] >= domain->target_areas)
        return MC_ETARGET;
    domain->growing = 1;
    if (domain->counts[MC_A_READY]) {
        if (!mc_has_free(host, MC_AREA_FRAMES) && mc_supply_take_from_donor(host, domain))
            *path = MC_PATH_TRANSFER;
        mc_work(host);
        return grant(host, domain, *path);
    }
    area = wait_for_area(host, domain);
    if (domain->counts[MC_A_READY])
        return grant(host, domain, *path);
    if (area < 0 || domain->counts[MC_A_INSTALLED] >= domain->target_areas)
        return MC_ETARGET;
    status = mc_supply_find(host, domain, path);
    if (status) {       /* the last one may be on its way to this very domain */
        area = mc_find_state(domain, MC_A_POPULATING);
        if (area >= 0)
            mc_wait_area(host, domain, (uint32_t)area, 1u << MC_A_POPULATING);
        return grant(host, domain, *path) == MC_OK ? MC_OK : status;
    }
    area = mc_find_state(domain, MC_A_HARD);
    if (area < 0)       /* the worker took it meanwhile, for this domain */
        return grant(host, domain, *path);
    status = mc_populate(host, domain, (uint32_t)area, MC_A_READY);
    return status ? status : grant(host, domain, *path);
}

static int64_t serve_grow(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    uint64_t wanted = record->arg[0];
    uint64_t start_ns = mc_clock_ns();
    int path = MC_PATH_RING, status = MC_OK;
    int64_t granted = record->status;

    if (!wanted || wanted > MC_GROW_AREAS_MAX)
        return MC_EINDEX;
    while (granted < (int64_t)wanted && !(status = grow(host, domain, &path))) {
        record->status = ++granted;
        if (granted < (int64_t)wanted && mc_clock_ns() - start_ns > MC_VISIT_NS_MAX)
            return MC_AGAIN;
    }
    record->arg[0] = (uint64_t)path;
    domain->counters.refused += !granted;
    return granted ? granted : status;
}

static int64_t request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    switch (record->op) {
    case MC_OP_GROW:
        return serve_grow(host, domain, record);
    case MC_OP_RELEASE:
        if (!record->arg[0] || record->arg[0] > MC_GROW_AREAS_MAX)
            return MC_EINDEX;
        return take(host, domain, (uint32_t)record->arg[0]);
    case MC_OP_INSTALL:
        return mc_install(host, domain, record->arg[0]);
    default:
        return MC_EOP;
    }
}

static int give(struct mc_host *host, struct mc_domain *donor, int hard)
{
    return hard ? take(host, donor, 1) == 1 : mc_pull_areas(host, donor, 1, MC_PULL_SOFT, 0) == 1;
}

static int reach(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    (void)host;
    *why = MC_WHY_NONE;
    if (domain->counts[MC_A_INSTALLED] > domain->target_areas) {
        *why = mc_why_not_taken(domain);
        return *why == MC_WHY_NONE ? MC_MOVING : MC_PARTIAL;
    }
    return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
}

const struct mc_mechanism mc_direct = {
    .name = "direct",
    .id = MC_DIRECT,
    .granule_frames = MC_AREA_FRAMES,
    .dma_safe = 1,
    .boot = mc_boot_populated,
    .target = set_target,
    .request = request,
    .jobs = {reclaim, give_credit, make_ready},
    .give = give,
    .reach = reach,
};
