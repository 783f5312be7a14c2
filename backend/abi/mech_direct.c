/* mech_direct.c: the project's own mechanism. The hypervisor takes areas out of the guest's
 * allocator by swapping their words, and gives areas with their pages.
 *
 *   set target   free areas above it are taken at once, the others as they are freed (reclaim).
 *   GROW         grants a ready area. The keeper makes the next one ready meanwhile. When none is
 *                ready the keeper populates one, out of what supply.c finds, and answers. Where a
 *                touch gives a page of 2 MiB, an area without its page is granted instead.
 *   credit       wholly free areas that the keeper grants ahead of need.
 *   INSTALL      backing again for an area that was taken softly, for another domain.
 *   RELEASE      free areas the guest offers.
 * A shrink needs nothing of the guest, so it is known at once which areas cannot be taken, and why.
 */
#include "mechanism.h"

/* 1 when the domain has less credit than it should and may have more. */
static int direct_wants_credit(const struct mc_domain *domain)
{
    return domain->credit_areas && domain->counts[MC_A_INSTALLED] < domain->target_areas &&
           mc_spare_areas(domain, domain->credit_areas) < domain->credit_areas;
}

/* Withdraw areas that were populated ahead of need beyond the target. Returns how many. */
static uint32_t direct_withdraw(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t withdrawn = 0;
    for (uint32_t area = 0; area < domain->areas && domain->counts[MC_A_READY] &&
                            mc_domain_held(domain) > domain->target_areas; area++)
        if (domain->states[area] == MC_A_READY) {
            mc_area_set(host, domain, area, MC_A_PUNCH_HARD);
            withdrawn++;
        }
    MC_CHECK(!domain->counts[MC_A_READY] || mc_domain_held(domain) <= domain->target_areas,
             "domain %u: %u ready areas are not found", domain->domid, domain->counts[MC_A_READY]);
    return withdrawn;
}

static uint32_t direct_take(struct mc_host *host, struct mc_domain *domain, uint32_t areas)
{
    domain->growing = 0;
    return mc_pull_areas(host, domain, areas, MC_PULL_HARD, 0);
}

static void direct_set_target(struct mc_host *host, struct mc_domain *domain)
{
    direct_withdraw(host, domain);
    if (mc_domain_held(domain) > domain->target_areas)
        direct_take(host, domain, mc_domain_held(domain) - domain->target_areas);
}

/* Keeper: take memory above the target as the guest frees it. */
static int direct_reclaim(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t held = mc_domain_held(domain);
    MC_CHECK_IN(domain, domain->target_areas <= domain->areas, "target of %u areas of %u",
                domain->target_areas, domain->areas);
    if (held <= domain->target_areas)
        return 0;
    if (direct_withdraw(host, domain) > 0)
        return 1;
    return mc_spare_areas(domain, 1) && direct_take(host, domain, held - domain->target_areas) > 0;
}

/* Hand a ready area to the guest. 0, or MC_ENOMEM when none is ready. */
static int direct_grant(struct mc_host *host, struct mc_domain *domain, int path)
{
    int64_t area = mc_find_state(domain, MC_A_READY);
    int status = area < 0 ? MC_ENOMEM : mc_grant(host, domain, (uint32_t)area);
    domain->counters.grants[path] += !status;
    return status;
}

static int direct_give_credit(struct mc_host *host, struct mc_domain *domain)
{
    if (!domain->counts[MC_A_READY] || !direct_wants_credit(domain))
        return 0;
    if (!direct_grant(host, domain, MC_PATH_CREDIT))
        mc_bell_ring((uint32_t *)&domain->control->credit_bell,
                     (uint32_t *)&domain->control->credit_waiters);
    return 1;
}

/* Keeper: a domain that grows gets one area ready. When the host has only its slack left, the
 * memory for that area is taken from a domain that can spare it. */
static int direct_make_ready(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = mc_find_state(domain, MC_A_HARD);
    if (domain->counts[MC_A_READY] || domain->counts[MC_A_POPULATING] || area < 0 ||
        mc_domain_held(domain) >= domain->target_areas ||
        !(domain->growing || direct_wants_credit(domain)))
        return 0;
    if (mc_has_free(host, MC_AREA_FRAMES))
        return !mc_populate(host, domain, (uint32_t)area, MC_A_READY);
    return !mc_supply_is_coming(host) && mc_supply_take_spare(host, domain);
}

/* A HARD area, or -1. The last areas of the domain may be due to be punched: then this punches them
 * until one is HARD. */
static int64_t direct_find_area(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = mc_find_state(domain, MC_A_HARD);
    while (area < 0 && mc_punch_own(host, domain))
        area = mc_find_state(domain, MC_A_HARD);
    return area;
}

static int direct_is_full(const struct mc_domain *domain)
{
    MC_CHECK_IN(domain, domain->counts[MC_A_INSTALLED] <= domain->areas, "%u areas of %u",
                domain->counts[MC_A_INSTALLED], domain->areas);
    return domain->counts[MC_A_INSTALLED] >= domain->target_areas;
}

/* Keeper: make an area READY: 0, MC_ETARGET, MC_ENOMEM. Releases the lock. */
static int direct_populate_one(struct mc_host *host, struct mc_domain *domain, int *path)
{
    int64_t area = direct_find_area(host, domain);
    int status;
    if (area < 0 || direct_is_full(domain))
        return MC_ETARGET;
    status = mc_supply_find(host, domain, path);
    if (status)
        return status;
    area = mc_find_state(domain, MC_A_HARD);
    return area < 0 ? MC_ENOMEM : mc_populate(host, domain, (uint32_t)area, MC_A_READY);
}

/* Service thread, where a touch gives a page of 2 MiB: an area without its page, which the guest
 * populates in the time that it would have waited, on its own CPU (mc_prepare does it before a
 * frame of the area is handed out). 0, or MC_LATER. */
static int direct_plug(struct mc_host *host, struct mc_domain *domain, int *path)
{
    int64_t area = mc_find_state(domain, MC_A_HARD);
    if (!host->touch_is_huge || area < 0 || mc_domain_held(domain) >= domain->target_areas ||
        mc_supply_find_now(host, domain, path) || mc_plug_found(host, domain, (uint32_t)area))
        return MC_LATER;
    domain->counters.grants[*path]++;
    mc_work(host, domain);
    return MC_OK;
}

/* One area for a domain that asked: 0, or a status; MC_LATER when none is ready and `is_keeper`
 * is 0. */
static int direct_grow(struct mc_host *host, struct mc_domain *domain, int *path, int is_keeper)
{
    int status = MC_OK;
    *path = MC_PATH_RING;
    if (direct_is_full(domain))
        return MC_ETARGET;
    domain->growing = 1;
    if (domain->counts[MC_A_READY]) {   /* the keeper makes the next one ready, out of a transfer */
        if (mc_domain_held(domain) < domain->target_areas &&
            !mc_has_free(host, MC_AREA_FRAMES) && mc_supply_take_from_donor(host, domain))
            *path = MC_PATH_TRANSFER;
        mc_work(host, domain);
    } else if (is_keeper) {
        status = direct_populate_one(host, domain, path);
    } else {
        return direct_plug(host, domain, path);
    }
    return status ? status : direct_grant(host, domain, *path);
}

/* Grant what a GROW still wants. On the service thread, what is ready: the rest is the keeper's. */
static enum mc_served direct_serve_grow(struct mc_host *host, struct mc_domain *domain,
                                        struct mc_record *record, int is_keeper)
{
    int64_t wanted = (int64_t)record->arg[0], granted = record->status;
    uint64_t start_ns = mc_clock_ns();
    int path = MC_PATH_RING, status = MC_OK;
    if (wanted < 1 || wanted > MC_GROW_AREAS_MAX)
        return mc_answered(record, MC_EINDEX);
    if (!MC_CHECK_DOMAIN(host, domain, granted >= 0 && granted < wanted, "%ld areas granted of %ld",
                         granted, wanted))
        return mc_answered(record, MC_EBROKEN);
    if (!is_keeper && mc_kept_count(domain))       /* in their order */
        status = MC_LATER;
    while (!status && granted < wanted && mc_phase_of(domain) == MC_ACTIVE &&
           !(status = direct_grow(host, domain, &path, is_keeper))) {
        record->status = ++granted;
        if (!is_keeper && granted < wanted && mc_clock_ns() - start_ns > MC_VISIT_NS_MAX)
            return MC_UNFINISHED;
    }
    if (status == MC_LATER) {
        mc_keep(host, domain, record);
        return MC_KEPT;
    }
    record->arg[0] = (uint64_t)path;
    domain->counters.refused += !granted;
    return mc_answered(record, granted ? granted : status);
}

static int direct_release(struct mc_host *host, struct mc_domain *domain, uint64_t areas)
{
    if (!areas || areas > MC_GROW_AREAS_MAX)
        return MC_EINDEX;
    return (int)direct_take(host, domain, (uint32_t)areas);
}

static enum mc_served direct_request(struct mc_host *host, struct mc_domain *domain,
                                     struct mc_record *record)
{
    switch (record->op) {
    case MC_OP_GROW:
        return direct_serve_grow(host, domain, record, 0);
    case MC_OP_RELEASE:
        return mc_answered(record, direct_release(host, domain, record->arg[0]));
    case MC_OP_INSTALL:
        return mc_served_install(host, domain, record);
    default:
        return mc_answered(record, MC_EOP);
    }
}

static enum mc_served direct_later(struct mc_host *host, struct mc_domain *domain,
                                   struct mc_record *record)
{
    MC_CHECK_LOCKED(host);
    if (record->op == MC_OP_GROW)
        return direct_serve_grow(host, domain, record, 1);
    return mc_answered(record, mc_install(host, domain, record->arg[0]));
}

static uint32_t direct_give(struct mc_host *host, struct mc_domain *donor, int hard, uint32_t most)
{
    if (hard)
        return direct_take(host, donor, most);
    return mc_pull_areas(host, donor, most, MC_PULL_SOFT, 0);
}

static enum mc_reach direct_reach(struct mc_host *host, const struct mc_domain *domain,
                                  enum mc_why *why)
{
    MC_CHECK_LOCKED(host);
    *why = MC_WHY_NONE;
    if (domain->counts[MC_A_INSTALLED] > domain->target_areas) {
        *why = mc_why_not_taken(domain);
        return *why == MC_WHY_NONE ? MC_MOVING : MC_PARTIAL;
    }
    return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
}

const struct mc_mechanism mc_direct = {
    .name = "direct",
    .says = "ours: areas are granted ahead of need, and free ones taken without asking the guest",
    .id = MC_DIRECT, .granule_frames = MC_AREA_FRAMES, .dma_safe = 1,
    .boot = mc_boot_populated, .target = direct_set_target, .request = direct_request,
    .later = direct_later,
    .jobs = {[MC_JOB_TAKE] = direct_reclaim, [MC_JOB_GIVE] = direct_give_credit,
             [MC_JOB_PREPARE] = direct_make_ready},
    .give = direct_give, .reach = direct_reach,
};
