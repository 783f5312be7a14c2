/* mech_hyperalloc.c: HyperAlloc's de/inflation on the shared allocator. See hyperalloc.h.
 *
 *   size         the hard limit: areas the guest may take, with pages (INSTALLED) or not (SOFT).
 *   shrink       takes free areas, with pages or not, straight out of the guest's allocator, from
 *                the top, until the limit is the target. One pass swaps all the words; the keeper
 *                punches what had pages, neighbours in one call. The rest is bookkeeping.
 *   grow         HARD -> SOFT: bookkeeping. Nothing is populated, nothing is charged. Areas that
 *                are being punched follow when they are done.
 *   install      on allocation, by the guest's request: populated, then told.
 *   automatic    every period, free areas INSTALLED -> SOFT: at most HYPERALLOC_SOFT_PER_HOLD per
 *                hold of the lock, merged into one punch. Other threads have the lock in
 *                between, until none is left.
 *   short        what is in use may be the guest's page cache. The guest is asked once per target
 *                to drop what is missing, and what that freed is taken once.
 *
 * The limit is no promise of memory: an install is refused when the host has none.
 */
#include "hyperalloc.h"
#include "mechanism.h"

#define HYPERALLOC_SOFT_PER_HOLD 8

struct mc_hyperalloc {          /* domain->device */
    uint64_t dropped_frames;    /* config[DROP]: asked to be dropped so far */
    int asked;                  /* the guest was asked to drop page cache for this target */
    int unanswered;             /* and has not answered */
};

static struct mc_hyperalloc *hyperalloc_of(const struct mc_domain *domain)
{
    struct mc_hyperalloc *device = domain->device;
    MC_CHECK_IN(domain, domain->mechanism->id == MC_HYPERALLOC && device, "no hyperalloc device");
    MC_CHECK_IN(domain, device->asked || !device->unanswered, "%d answers due, %d asked",
                device->unanswered, device->asked);
    return device;
}

static uint32_t hyperalloc_limit_areas(const struct mc_domain *domain)
{
    uint32_t areas = domain->counts[MC_A_INSTALLED] + domain->counts[MC_A_SOFT] +
                     domain->counts[MC_A_POPULATING] + domain->counts[MC_A_PUNCH_SOFT] +
                     domain->counts[MC_A_PUNCHING_SOFT];
    MC_CHECK_IN(domain, areas <= domain->areas, "limit of %u areas, of %u", areas, domain->areas);
    return areas;
}

/* Areas that the limit is above the target, or 0. */
static uint32_t hyperalloc_excess_areas(const struct mc_domain *domain)
{
    uint32_t limit = hyperalloc_limit_areas(domain);
    return limit > domain->target_areas ? limit - domain->target_areas : 0;
}

static uint64_t hyperalloc_size(const struct mc_domain *domain)
{
    return (uint64_t)hyperalloc_limit_areas(domain) * MC_AREA_FRAMES;
}

/* Keeper too: return areas until the limit is the target; 1 when there was one to return. */
static int hyperalloc_grow(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t limit = hyperalloc_limit_areas(domain);
    MC_CHECK_IN(domain, domain->target_areas <= domain->areas, "target of %u areas, of %u",
                domain->target_areas, domain->areas);
    if (domain->target_areas <= limit || !domain->counts[MC_A_HARD])
        return 0;
    return mc_return_areas(host, domain, domain->target_areas - limit) > 0;
}

/* Take free areas until the limit is the target. Returns how many. */
static uint32_t hyperalloc_shrink(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t excess = hyperalloc_excess_areas(domain);
    return excess ? mc_pull_areas(host, domain, excess, MC_PULL_HARD, 1) : 0;
}

static void hyperalloc_ask_to_drop(struct mc_domain *domain)
{
    struct mc_hyperalloc *device = hyperalloc_of(domain);
    uint32_t excess = hyperalloc_excess_areas(domain);
    MC_CHECK_IN(domain, !device->asked, "asked %d times to drop page cache", device->asked);
    if (!excess || !atomic_load(&domain->control->file_frames))
        return;
    device->asked = device->unanswered = 1;
    device->dropped_frames += (uint64_t)excess * MC_AREA_FRAMES;
    mc_config_write(domain, MC_HYPERALLOC_DROP, device->dropped_frames);
    mc_config_ask(domain, domain->target_frames);
}

static void hyperalloc_set_target(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_hyperalloc *device = hyperalloc_of(domain);
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, !domain->counts[MC_A_READY], "%u areas are ready, by no request",
                domain->counts[MC_A_READY]);
    device->asked = device->unanswered = 0;
    hyperalloc_shrink(host, domain);
    hyperalloc_grow(host, domain);
    hyperalloc_ask_to_drop(domain);
}

/* The status of an answer, or the areas that a RELEASE took. */
static int64_t hyperalloc_serve(struct mc_host *host, struct mc_domain *domain,
                                const struct mc_record *record)
{
    struct mc_hyperalloc *device = hyperalloc_of(domain);
    MC_CHECK_LOCKED(host);
    switch (record->op) {
    case MC_OP_GROW:            /* the limit is reached: nothing to grow by asking */
        domain->counters.refused++;
        return MC_ETARGET;
    case MC_OP_RELEASE:         /* soft reclaim, without waiting for the timer */
        if (!record->arg[0] || record->arg[0] > MC_GROW_AREAS_MAX)
            return MC_EINDEX;
        return mc_pull_areas(host, domain, (uint32_t)record->arg[0], MC_PULL_SOFT, 0);
    case MC_OP_CACHE_DROPPED:   /* an answer to an older request says nothing about this one */
        if (device->unanswered && record->arg[0] == device->dropped_frames) {
            device->unanswered = 0;
            hyperalloc_shrink(host, domain);
        }
        return MC_OK;
    default:
        return MC_EOP;
    }
}

static enum mc_served hyperalloc_request(struct mc_host *host, struct mc_domain *domain,
                                         struct mc_record *record)
{
    if (record->op == MC_OP_INSTALL)
        return mc_served_install(host, domain, record);
    return mc_answered(record, hyperalloc_serve(host, domain, record));
}

static enum mc_served hyperalloc_later(struct mc_host *host, struct mc_domain *domain,
                                       struct mc_record *record)
{
    MC_CHECK_IN(domain, record->op == MC_OP_INSTALL, "op %u was kept", record->op);
    return mc_answered(record, mc_install(host, domain, record->arg[0]));
}

static void hyperalloc_timer(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    if (mc_pull_areas(host, domain, HYPERALLOC_SOFT_PER_HOLD, MC_PULL_SOFT, 0) <
        HYPERALLOC_SOFT_PER_HOLD)
        mc_timer_set(domain, MC_HYPERALLOC_PERIOD, now_ns);
}

static int hyperalloc_boot(struct mc_host *host, struct mc_domain *domain)
{
    *hyperalloc_of(domain) = (struct mc_hyperalloc){0};
    mc_timer_set(domain, MC_HYPERALLOC_PERIOD, mc_clock_ns());
    return mc_boot_populated(host, domain);
}

static void hyperalloc_offer_target(struct mc_host *host, struct mc_domain *domain)
{
    hyperalloc_grow(host, domain);
}

static uint32_t hyperalloc_give(struct mc_host *host, struct mc_domain *donor, int hard,
                                uint32_t most)
{
    return mc_pull_areas(host, donor, most, hard ? MC_PULL_HARD : MC_PULL_SOFT, 0);
}

static enum mc_reach hyperalloc_reach(struct mc_host *host, const struct mc_domain *domain,
                                      enum mc_why *why)
{
    int unanswered = hyperalloc_of(domain)->unanswered;
    uint32_t limit = hyperalloc_limit_areas(domain);
    (void)host;
    *why = MC_WHY_NONE;
    if (mc_in_transit(domain) || limit < domain->target_areas)
        return MC_MOVING;
    if (limit == domain->target_areas)
        return MC_REACHED;
    *why = unanswered ? MC_WHY_SILENT : mc_why_not_taken(domain);
    return unanswered || *why == MC_WHY_NONE ? MC_MOVING : MC_PARTIAL;
}

/* Keeper: the limit is hard, so what was freed since is taken as well. */
static int hyperalloc_enforce_limit(struct mc_host *host, struct mc_domain *domain)
{
    if (!hyperalloc_excess_areas(domain) ||
        !(domain->counts[MC_A_SOFT] || mc_spare_areas(domain, 1)))
        return 0;
    return hyperalloc_shrink(host, domain) > 0;
}

const struct mc_mechanism mc_hyperalloc = {
    .name = "hyperalloc",
    .says = "HyperAlloc: the hypervisor takes free areas out of the guest's own allocator",
    .id = MC_HYPERALLOC, .granule_frames = MC_AREA_FRAMES, .dma_safe = 1,
    .options = {[MC_HYPERALLOC_PERIOD] = {"period_ms", 5000, 0, 3600000,
                                         "free areas lose their pages so often; 0: never"}},
    .device_bytes = sizeof(struct mc_hyperalloc), .boot = hyperalloc_boot,
    .target = hyperalloc_set_target, .offer = hyperalloc_offer_target,
    .request = hyperalloc_request, .later = hyperalloc_later,
    .jobs = {[MC_JOB_TAKE] = hyperalloc_grow, [MC_JOB_GIVE] = hyperalloc_enforce_limit},
    .timer = hyperalloc_timer, .give = hyperalloc_give, .size = hyperalloc_size,
    .reach = hyperalloc_reach,
};
