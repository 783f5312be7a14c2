/* supply.c: where an area of memory comes from when a domain may have one more. See ledger.h.
 *
 * Cheapest source first:
 *   1. free       the host has more than its slack.
 *   2. coming     keepers are about to punch areas that bring more: the receiver is served out of
 *                 the slack meanwhile.
 *   3. a donor    whose mechanism can give without its guest: first a domain above its target
 *                 (hard), then the domain with most to spare (soft), then an area that stands ready
 *                 for another domain. The donor's word is swapped at once, the donor's keeper
 *                 punches, the receiver is served out of the slack.
 *   4. tmem       a slab area, ephemeral pages evicted if need be; its pages are discarded at once.
 * Sources 3 and 4 make the grant a transfer. Nothing left: MC_ENOMEM, at once.
 *
 * A donor can keep its file from being punched. A file whose punch runs for longer than
 * MC_FILE_SLOW_NS brings nothing, and its domain is asked for nothing more.
 */
#include "mechanism.h"

#include <time.h>

#define MC_SUPPLY_LOOK_NS 20000000
#define MC_SUPPLY_GIVE_MAX 64   /* areas taken from a donor in one hold of the lock */
#define MC_BREATH_NS 20000

static int supply_is_answering(const struct mc_domain *domain)
{
    return mc_phase_of(domain) == MC_ACTIVE && !mc_file_is_late(domain, MC_FILE_SLOW_NS);
}

/* Withdraw an area populated ahead of need for another domain; 1 if there was one. */
static int supply_take_ready(struct mc_host *host, const struct mc_domain *receiver)
{
    struct mc_domain *donor;
    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        int64_t area;
        if (donor == receiver || !supply_is_answering(donor))
            continue;
        area = mc_find_state(donor, MC_A_READY);
        if (area < 0)
            continue;
        mc_area_set(host, donor, (uint32_t)area, MC_A_PUNCH_HARD);
        mc_work(host, donor);
        return 1;
    }
    return 0;
}

static int supply_may_give(const struct mc_domain *donor, const struct mc_domain *receiver)
{
    return donor != receiver && donor->mechanism->give &&
           supply_is_answering(donor);
}

static uint32_t supply_give(struct mc_host *host, struct mc_domain *donor, int hard, uint32_t most)
{
    uint32_t gave = donor->mechanism->give(host, donor, hard, most);
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(donor, gave <= most && (!gave || host->transit_frames || host->free_frames),
                "says it gave %u of %u areas, %lu frames are free, %lu in transit", gave, most,
                host->free_frames, host->transit_frames);
    return gave;
}

/* The domain of `mask` with most to spare beyond its credit, or NULL; *spare is how much. */
static struct mc_domain *supply_most_spare(struct mc_host *host, uint64_t mask,
                                           const struct mc_domain *receiver, uint32_t *most)
{
    struct mc_domain *best = NULL, *donor;
    *most = 0;
    while ((donor = mc_next(host, &mask))) {
        uint32_t spare = supply_may_give(donor, receiver) ? mc_spare_areas(donor, donor->areas) : 0;
        spare -= spare < donor->credit_areas ? spare : donor->credit_areas;
        if (spare > *most) {
            best = donor;
            *most = spare;
        }
    }
    return best;
}

static int supply_is_above(const struct mc_domain *donor)
{
    return mc_size(donor) > donor->target_frames;
}

/* Never an area that stands ready for another domain: two growing domains would take it in turns.
 * The richest donor may be unable to give without asking its guest; then the next richest is
 * asked. */
int mc_supply_take_spare(struct mc_host *host, const struct mc_domain *receiver)
{
    uint64_t asked = mc_attached(host);
    struct mc_domain *donor;
    uint32_t spare;
    MC_CHECK_LOCKED(host);
    for (uint64_t mask = asked; (donor = mc_next(host, &mask));)
        if (supply_may_give(donor, receiver) && supply_is_above(donor) &&
            supply_give(host, donor, 1, 1))
            return 1;
    while ((donor = supply_most_spare(host, asked, receiver, &spare))) {
        if (supply_give(host, donor, 0, 1))
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

void mc_breathe(struct mc_host *host)
{
    const struct timespec breath = {.tv_nsec = MC_BREATH_NS};
    mc_host_unlock(host);
    nanosleep(&breath, NULL);
    mc_host_lock(host);
}

/* Frames that will be free when the files that answer are punched. */
static uint64_t supply_due_frames(struct mc_host *host)
{
    uint64_t due = host->free_frames;
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (supply_is_answering(domain))
            for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
                due += (uint64_t)domain->counts[state] * MC_AREA_FRAMES;
    return due;
}

/* Areas that are still missing until `frames` are free, or due, beyond slack and promise. */
static uint32_t supply_missing_areas(struct mc_host *host, uint64_t frames)
{
    uint64_t wanted = host->slack_frames + host->promised_frames + frames;
    uint64_t due = supply_due_frames(host);
    return due >= wanted ? 0 : (uint32_t)((wanted - due + MC_AREA_FRAMES - 1) / MC_AREA_FRAMES);
}

int mc_supply_is_coming(struct mc_host *host)
{
    return !supply_missing_areas(host, MC_AREA_FRAMES);
}

/* What a gathering needs to know. */
struct supply_wish {
    const struct mc_domain *receiver;
    uint64_t frames;
    int breathes;
};

static void supply_breathe(struct mc_host *host, const struct supply_wish *wish)
{
    if (wish->breathes)
        mc_breathe(host);
}

/* Have one donor give what is missing, as far as it can, at most `most` areas. */
static void supply_drain(struct mc_host *host, const struct supply_wish *wish,
                         struct mc_domain *donor, int hard, uint32_t most)
{
    uint32_t missing, gave = 1;
    while (most && gave && (missing = supply_missing_areas(host, wish->frames)) &&
           supply_may_give(donor, wish->receiver)) {
        missing = missing < most ? missing : most;
        gave = supply_give(host, donor, hard,
                           missing < MC_SUPPLY_GIVE_MAX ? missing : MC_SUPPLY_GIVE_MAX);
        most -= gave;
        supply_breathe(host, wish);
    }
}

static void supply_drain_above(struct mc_host *host, const struct supply_wish *wish)
{
    struct mc_domain *donor;
    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        uint64_t size;
        if (!supply_may_give(donor, wish->receiver))
            continue;
        size = mc_size(donor);
        if (size > donor->target_frames)
            supply_drain(host, wish, donor, 1,
                         (uint32_t)((size - donor->target_frames + MC_AREA_FRAMES - 1) /
                                    MC_AREA_FRAMES));
    }
}

void mc_supply_gather(struct mc_host *host, const struct mc_domain *receiver, uint64_t frames,
                      int breathes)
{
    const struct supply_wish wish = {receiver, frames, breathes};
    uint64_t asked = mc_attached(host);
    struct mc_domain *donor;
    uint32_t spare;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(receiver, frames <= mc_maxmem_frames(receiver), "gathers %lu frames", frames);
    while (supply_missing_areas(host, frames) && mc_supply_tmem_give(host))
        supply_breathe(host, &wish);
    supply_drain_above(host, &wish);
    while (supply_missing_areas(host, frames) &&
           (donor = supply_most_spare(host, asked, receiver, &spare))) {
        asked &= ~(1ull << donor->domid);
        supply_drain(host, &wish, donor, 0, spare);
    }
    for (uint32_t i = 0; i < MC_MAX_DOMAINS && supply_missing_areas(host, frames); i++)
        if (!supply_take_ready(host, receiver))
            break;
}

static int supply_has_area(const struct mc_host *host)
{
    return mc_bank_pick(host, MC_AREA_FRAMES, 0) != MC_NO_BANK;
}

/* Until an area may be charged: 0, or MC_ENOMEM. Punches what is due of the domain itself
 * and waits for the keepers of others. */
static int supply_wait_for_transit(struct mc_host *host, struct mc_domain *domain,
                                   uint64_t until_ns)
{
    while (!supply_has_area(host) && mc_clock_ns() < until_ns &&
           supply_due_frames(host) >= MC_AREA_FRAMES)
        if (!mc_punch_own(host, domain))
            mc_wait_done(host, MC_SUPPLY_LOOK_NS);
    return supply_has_area(host) ? MC_OK : MC_ENOMEM;
}

int mc_supply_find_now(struct mc_host *host, struct mc_domain *domain, int *path)
{
    MC_CHECK_LOCKED(host);
    if (mc_has_free(host, MC_AREA_FRAMES))
        return MC_OK;
    if (!supply_has_area(host))         /* even the slack is gone until something is punched */
        return MC_LATER;
    if (mc_supply_is_coming(host))
        return MC_OK;
    if (!mc_supply_take_from_donor(host, domain))
        return MC_LATER;
    *path = MC_PATH_TRANSFER;
    return MC_OK;
}

int mc_supply_find(struct mc_host *host, struct mc_domain *domain, int *path)
{
    uint64_t until_ns = domain->supply_until_ns ? domain->supply_until_ns
                                                : mc_clock_ns() + MC_SUPPLY_NS_MAX;
    MC_CHECK_LOCKED(host);
    if (mc_has_free(host, MC_AREA_FRAMES))
        return MC_OK;
    if (mc_supply_is_coming(host) && !supply_wait_for_transit(host, domain, until_ns))
        return MC_OK;
    do {                        /* a donor whose file does not answer is followed by another */
        if (!mc_supply_take_from_donor(host, domain))
            break;
        *path = MC_PATH_TRANSFER;
        if (!supply_wait_for_transit(host, domain, until_ns))
            return MC_OK;
    } while (mc_clock_ns() < until_ns);
    if (mc_supply_tmem_give(host)) {
        *path = MC_PATH_TRANSFER;
        return supply_has_area(host) ? MC_OK : MC_ENOMEM;      /* none when its bank is withdrawn */
    }
    return MC_ENOMEM;
}
