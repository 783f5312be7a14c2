/* mech_hyperalloc.c: HyperAlloc's de/inflation on the shared allocator. See hyperalloc.h.
 *
 *   size         the hard limit: areas the guest may take, backed (I) or not (S).
 *   shrink       free areas, backed or not, straight out of the guest's allocator, from the top,
 *                until the limit is the target. The words are all swapped in one pass; the worker
 *                punches what had pages, neighbours in one call. What had none is bookkeeping.
 *   grow         H -> S: bookkeeping. Nothing is populated, nothing is charged. Areas that are
 *                being punched follow when they are done.
 *   install      on allocation, by the guest's request: populated, then told.
 *   automatic    every period: free areas I -> S, at most SOFT_PER_HOLD per hold of the lock,
 *                merged into one punch, then a round of the worker for others, until none is left.
 *   short        page cache of the guest: it is asked once per target to drop what is missing, and
 *                what that freed is taken once.
 *
 * The limit is no promise of memory: an install can be refused when the host has none.
 */
#include "hyperalloc.h"
#include "mechanism.h"

#include <stdlib.h>

#define NS_PER_MS 1000000u
#define SOFT_PER_HOLD 8

struct device {
    uint64_t dropped;           /* config[DROP]: frames asked to be dropped so far */
    int asked;                  /* for this target, the guest was asked to drop page cache */
    int waiting;                /* and has not answered */
};

static uint32_t limit_areas(const struct mc_domain *domain)
{
    return domain->counts[MC_A_INSTALLED] + domain->counts[MC_A_SOFT] +
           domain->counts[MC_A_POPULATING] + domain->counts[MC_A_PUNCH_SOFT] +
           domain->counts[MC_A_PUNCHING_SOFT];
}

static uint64_t size(const struct mc_domain *domain)
{
    return (uint64_t)limit_areas(domain) * MC_AREA_FRAMES;
}

/* Return areas until the limit is the target; 1 when there was one to return. */
static int grow(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t missing = domain->target_areas - limit_areas(domain), returned = 0;

    if (domain->target_areas <= limit_areas(domain) || !domain->counts[MC_A_HARD])
        return 0;
    for (uint32_t area = 0; area < domain->areas && returned < missing; area++)
        returned += !mc_return(host, domain, area);
    return returned > 0;
}

static void shrink(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t limit = limit_areas(domain);

    if (limit > domain->target_areas)
        mc_pull_areas(host, domain, limit - domain->target_areas, MC_PULL_HARD, 1);
}

/* What is in use may be page cache. */
static void ask_to_drop(struct mc_domain *domain)
{
    struct device *device = domain->device;
    uint64_t missing = (uint64_t)(limit_areas(domain) - domain->target_areas) * MC_AREA_FRAMES;

    if (limit_areas(domain) <= domain->target_areas || device->asked ||
        !atomic_load(&domain->control->file_frames))
        return;
    device->asked = device->waiting = 1;
    device->dropped += missing;
    __atomic_store_n(&domain->control->config[MC_HYPERALLOC_DROP], device->dropped,
                     __ATOMIC_RELEASE);
    mc_config_ask(domain, domain->target_frames);
}

static void target(struct mc_host *host, struct mc_domain *domain)
{
    struct device *device = domain->device;

    device->asked = device->waiting = 0;
    shrink(host, domain);
    grow(host, domain);
    ask_to_drop(domain);
}

static int64_t request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    struct device *device = domain->device;

    switch (record->op) {
    case MC_OP_INSTALL:
        return mc_install(host, domain, record->arg[0]);
    case MC_OP_GROW:            /* the limit is reached: nothing to grow by asking */
        domain->counters.refused++;
        return MC_ETARGET;
    case MC_OP_RELEASE:         /* soft reclaim, without waiting for the timer */
        if (!record->arg[0] || record->arg[0] > MC_GROW_AREAS_MAX)
            return MC_EINDEX;
        return mc_pull_areas(host, domain, (uint32_t)record->arg[0], MC_PULL_SOFT, 0);
    case MC_OP_CACHE_DROPPED:   /* for an older request: no answer to this one */
        if (device->waiting && record->arg[0] == device->dropped) {
            device->waiting = 0;
            shrink(host, domain);
        }
        return MC_OK;
    default:
        return MC_EOP;
    }
}

static void arm(struct mc_domain *domain, uint64_t now_ns)
{
    uint64_t period_ns = domain->options[MC_HYPERALLOC_PERIOD] * NS_PER_MS;

    domain->timer_ns = period_ns ? now_ns + period_ns : 0;
}

static void timer(struct mc_host *host, struct mc_domain *domain, uint64_t now_ns)
{
    if (mc_pull_areas(host, domain, SOFT_PER_HOLD, MC_PULL_SOFT, 0) < SOFT_PER_HOLD)
        arm(domain, now_ns);
}

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    domain->device = calloc(1, sizeof(struct device));
    return domain->device ? MC_OK : MC_ENOMEM;
}

static void close_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    free(domain->device);
}

static int boot(struct mc_host *host, struct mc_domain *domain)
{
    *(struct device *)domain->device = (struct device){0};
    arm(domain, mc_clock_ns());
    return mc_boot_populated(host, domain);
}

static void offer(struct mc_host *host, struct mc_domain *domain)
{
    grow(host, domain);
}

static int give(struct mc_host *host, struct mc_domain *donor, int hard)
{
    return mc_pull_areas(host, donor, 1, hard ? MC_PULL_HARD : MC_PULL_SOFT, 0) == 1;
}

static int reach(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    const struct device *device = domain->device;
    uint32_t limit = limit_areas(domain);

    (void)host;
    *why = MC_WHY_NONE;
    if (mc_in_transit(domain) || limit < domain->target_areas)
        return MC_MOVING;
    if (limit == domain->target_areas)
        return MC_REACHED;
    *why = device->waiting ? MC_WHY_SILENT : mc_why_not_taken(domain);
    return device->waiting || *why == MC_WHY_NONE ? MC_MOVING : MC_PARTIAL;
}

/* What was freed since is taken as well: the limit is hard. */
static int enforce(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t limit = limit_areas(domain);

    if (limit <= domain->target_areas ||
        !(domain->counts[MC_A_SOFT] || mc_spare_areas(domain, 1)))
        return 0;
    shrink(host, domain);
    return limit_areas(domain) < limit;
}

const struct mc_mechanism mc_hyperalloc = {
    .name = "hyperalloc",
    .id = MC_HYPERALLOC,
    .granule_frames = MC_AREA_FRAMES,
    .dma_safe = 1,
    .options = {{"period_ms", 5000, 0, 3600000}},
    .open = open_device,
    .boot = boot,
    .target = target,
    .offer = offer,
    .close = close_device,
    .request = request,
    .jobs = {grow, enforce},
    .timer = timer,
    .give = give,
    .size = size,
    .reach = reach,
};
