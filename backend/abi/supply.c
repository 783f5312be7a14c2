/* supply.c: where an area of memory comes from when a domain may have one more. See ledger.h.
 *
 * Cheapest source first:
 *   1. free       the host has more than its slack.
 *   2. coming     the worker is about to punch areas that bring more: the receiver is served out of
 *                 the slack meanwhile.
 *   3. a donor    whose mechanism can give without its guest: first a domain above its target
 *                 (hard), then the domain with most to spare (soft), then an area that stands ready
 *                 for another domain. The donor's word is swapped at once, the worker punches, the
 *                 receiver is served out of the slack.
 *   4. tmem       a slab area, ephemeral pages evicted if need be; its pages are discarded at once.
 * Sources 3 and 4 make the grant a transfer. Nothing left: MC_ENOMEM, at once.
 */
#include "mechanism.h"

/* Withdraw an area populated ahead of need for another domain; 1 if there was one. */
static int supply_take_ready(struct mc_host *host, const struct mc_domain *receiver)
{
    struct mc_domain *donor;
    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        int64_t area;
        if (donor == receiver || mc_phase_of(donor) != MC_ACTIVE)
            continue;
        area = mc_find_state(donor, MC_A_READY);
        if (area < 0)
            continue;
        mc_area_set(host, donor, (uint32_t)area, MC_A_PUNCH_HARD);
        mc_work(host);
        return 1;
    }
    return 0;
}

static int supply_may_give(const struct mc_domain *donor, const struct mc_domain *receiver)
{
    return donor != receiver && mc_phase_of(donor) == MC_ACTIVE && donor->mechanism->give;
}

static int supply_give(struct mc_host *host, struct mc_domain *donor, int hard)
{
    int gave = donor->mechanism->give(host, donor, hard);
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(donor, !gave || host->transit_frames || host->free_frames,
                "says it gave, %lu frames are free, %lu in transit", host->free_frames,
                host->transit_frames);
    return gave;
}

/* The domain of `mask` with most to spare beyond its credit, or NULL. */
static struct mc_domain *supply_most_spare(struct mc_host *host, uint64_t mask,
                                           const struct mc_domain *receiver)
{
    struct mc_domain *best = NULL, *donor;
    uint32_t best_spare = 0;
    while ((donor = mc_next(host, &mask))) {
        uint32_t spare = supply_may_give(donor, receiver) ? mc_spare_areas(donor, donor->areas) : 0;
        if (spare > donor->credit_areas && spare > best_spare) {
            best = donor;
            best_spare = spare;
        }
    }
    return best;
}

/* Never an area that stands ready for another domain: two growing domains would take it in turns.
 * The richest donor may be unable to give without asking its guest; then the next richest is
 * asked. */
int mc_supply_take_spare(struct mc_host *host, const struct mc_domain *receiver)
{
    uint64_t asked = mc_attached(host);
    struct mc_domain *donor;
    MC_CHECK_LOCKED(host);
    for (uint64_t mask = asked; (donor = mc_next(host, &mask));)
        if (supply_may_give(donor, receiver) && mc_size(donor) > donor->target_frames &&
            supply_give(host, donor, 1))
            return 1;
    while ((donor = supply_most_spare(host, asked, receiver))) {
        if (supply_give(host, donor, 0))
            return 1;
        asked &= ~(1ull << donor->domid);
    }
    return 0;
}

int mc_supply_take_from_donor(struct mc_host *host, const struct mc_domain *receiver)
{
    return mc_supply_take_spare(host, receiver) || supply_take_ready(host, receiver);
}

/* tmem gives one slab area to the host; 1 if it did. Keeps the lock: callers have looked before. */
int mc_supply_tmem_give(struct mc_host *host)
{
    int64_t area;
    MC_CHECK_LOCKED(host);
    if (!host->tmem_frames || !host->tmem.shrink)
        return 0;
    area = host->tmem.shrink(host->tmem.state);
    if (area < 0)               /* every slab area holds persistent pages */
        return 0;
    MC_CHECK(area < host->tmem.slab_areas, "tmem gives slab area %ld of %u", area,
             host->tmem.slab_areas);
    MC_CHECK(host->tmem.slab, "tmem gives slab area %ld of a slab at 0", area);
    mc_discard(host->tmem.slab + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES);
    mc_tmem_discharge(host, (uint32_t)area);
    return 1;
}

/* 1 when the areas that the worker is about to punch make more free than slack and promise. */
static int supply_is_coming(struct mc_host *host)
{
    uint64_t due = host->free_frames;
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE)
            for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
                due += (uint64_t)domain->counts[state] * MC_AREA_FRAMES;
    return due >= host->slack_frames + host->promised_frames + MC_AREA_FRAMES;
}

static int supply_has_area(const struct mc_host *host)
{
    return mc_bank_pick(host, MC_AREA_FRAMES, 0) != MC_NO_BANK;
}

/* Until an area may be charged: 0, or MC_ENOMEM. */
static int supply_wait_for_transit(struct mc_host *host)
{
    mc_work(host);
    for (int i = 0; i < MC_TRANSIT_WAITS_MAX && !supply_has_area(host) && host->transit_frames; i++)
        if (!mc_punch_due(host))        /* takes less time than waiting for the worker */
            mc_wait_done(host, MC_TRANSIT_WAIT_NS);
    return supply_has_area(host) ? MC_OK : MC_ENOMEM;
}

int mc_supply_find(struct mc_host *host, const struct mc_domain *domain, int *path)
{
    MC_CHECK_LOCKED(host);
    if (mc_has_free(host, MC_AREA_FRAMES))
        return MC_OK;
    if (supply_is_coming(host))
        return supply_wait_for_transit(host);
    if (mc_supply_take_from_donor(host, domain)) {
        *path = MC_PATH_TRANSFER;
        return supply_wait_for_transit(host);
    }
    if (mc_supply_tmem_give(host)) {
        *path = MC_PATH_TRANSFER;
        return supply_has_area(host) ? MC_OK : MC_ENOMEM;      /* none when its bank is withdrawn */
    }
    return MC_ENOMEM;
}
