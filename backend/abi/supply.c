/* supply.c: where an area of memory comes from, and how it reaches a domain. See host.h.
 *
 * An area for a domain, cheapest source first:
 *   1. ready      populated ahead of need for this domain: one compare-and-swap.
 *   2. free       the host has more than its slack: populate (about 1 ms per 2 MiB of 4 KiB pages).
 *   3. a donor    another domain has a wholly free area to spare: its word is swapped at once, its
 *                 punch is the worker's; the receiver is served out of ready or slack.
 *   4. tmem       a slab area, ephemeral pages evicted if need be; discarded at once.
 * Sources 3 and 4 make the grant a transfer. Nothing left: MC_ENOMEM, at once.
 */
#include "host.h"

#define MC_TRANSIT_WAITS_MAX 16
#define MC_TRANSIT_WAIT_NS 20000000

static uint32_t *ledger_of(struct mc_host *host, int state)
{
    switch (state) {
    case MC_A_HARD:
    case MC_A_SOFT:
        return &host->free_areas;
    case MC_A_READY:
        return &host->ready_areas;
    case MC_A_INSTALLED:
        return &host->installed_areas;
    default:
        return &host->transit_areas;
    }
}

/* The only way an area changes state: both counts and the ledger follow. */
void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state)
{
    int old = domain->states[area];

    --*ledger_of(host, old);
    ++*ledger_of(host, state);
    domain->counts[old]--;
    domain->counts[state]++;
    domain->states[area] = (uint8_t)state;
    if (domain->control)
        atomic_store_explicit(&domain->control->current_frames,
                              (uint64_t)domain->counts[MC_A_INSTALLED] * MC_AREA_FRAMES,
                              memory_order_relaxed);
}

/* Areas a domain has or is about to have; what its target is compared with. */
uint32_t mc_domain_held(const struct mc_domain *domain)
{
    return domain->counts[MC_A_INSTALLED] + domain->counts[MC_A_READY] +
           domain->counts[MC_A_POPULATING];
}

static int is_wholly_free(const struct mc_domain *domain, uint32_t area)
{
    int64_t word = mc_area_word(&domain->frames, area);

    return word >= 0 && (word & MC_AREA_FREE_MASK) == MC_AREA_FRAMES &&
           !(word & (MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_EVICTED));
}

/* Installed areas the guest has not begun to use, by its own words: a hint, never a count we keep.
 * Stops at the number of interest. */
static uint32_t spare_areas(const struct mc_domain *domain, uint32_t enough)
{
    uint32_t spare = 0;

    for (uint32_t area = 0; area < domain->areas && spare < enough; area++)
        spare += domain->states[area] == MC_A_INSTALLED && is_wholly_free(domain, area);
    return spare;
}

/* 1 when the domain has less credit than it should and may have more. */
int mc_domain_credit(const struct mc_domain *domain)
{
    return domain->credit_areas && domain->counts[MC_A_INSTALLED] < domain->target_areas &&
           spare_areas(domain, domain->credit_areas) < domain->credit_areas;
}

/* Take one wholly free area out of a domain; 1 if there was one. The worker punches it. */
static int take_one(struct mc_host *host, struct mc_domain *donor, int hard)
{
    for (uint32_t area = donor->areas; area-- > 0;) {
        uint16_t generation = donor->generations[area] + 1;
        int status;

        /* Already without backing: bookkeeping only, it frees nothing. */
        if (donor->states[area] == MC_A_SOFT && hard &&
            !mc_area_hard_reclaim(&donor->frames, area, generation)) {
            donor->generations[area] = generation;
            mc_area_set(host, donor, area, MC_A_HARD);
            continue;
        }
        if (donor->states[area] != MC_A_INSTALLED || !is_wholly_free(donor, area))
            continue;
        status = hard ? mc_area_hard_reclaim(&donor->frames, area, generation)
                      : mc_area_soft_reclaim(&donor->frames, area, generation);
        if (status)
            continue;
        donor->generations[area] = generation;
        mc_area_set(host, donor, area, hard ? MC_A_PUNCH_HARD : MC_A_PUNCH_SOFT);
        donor->counters.reclaimed_areas++;
        pthread_cond_signal(&host->own->work);
        return 1;
    }
    return 0;
}

/* Hard reclaim up to `areas` wholly free areas; how many were taken. */
uint32_t mc_supply_take(struct mc_host *host, struct mc_domain *domain, uint32_t areas)
{
    uint32_t taken = 0;

    domain->growing = 0;
    while (taken < areas && take_one(host, domain, 1))
        taken++;
    return taken;
}

/* Withdraw what was populated ahead of need beyond the target; how many areas. */
uint32_t mc_supply_withdraw(struct mc_host *host, struct mc_domain *domain)
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

/* Withdraw an area populated ahead of need for another domain. */
static int take_ready(struct mc_host *host, const struct mc_domain *receiver)
{
    struct mc_domain *donor;

    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        if (donor == receiver || mc_phase_of(donor) != MC_ACTIVE || !donor->counts[MC_A_READY])
            continue;
        for (uint32_t area = 0; area < donor->areas; area++)
            if (donor->states[area] == MC_A_READY) {
                mc_area_set(host, donor, area, MC_A_PUNCH_HARD);
                pthread_cond_signal(&host->own->work);
                return 1;
            }
    }
    return 0;
}

/* Who gives: first a domain above its target (hard), then the one with most to spare (soft). */
static int take_spare(struct mc_host *host, const struct mc_domain *receiver)
{
    struct mc_domain *best = NULL, *donor;
    uint32_t best_spare = 0;

    for (uint64_t mask = mc_attached(host); (donor = mc_next(host, &mask));) {
        uint32_t spare;

        if (donor == receiver || mc_phase_of(donor) != MC_ACTIVE)
            continue;
        if (donor->counts[MC_A_INSTALLED] > donor->target_areas && take_one(host, donor, 1))
            return 1;
        spare = spare_areas(donor, donor->areas);
        if (spare > donor->credit_areas && spare > best_spare) {
            best = donor;
            best_spare = spare;
        }
    }
    return best && take_one(host, best, 0);
}

static int take_from_donor(struct mc_host *host, const struct mc_domain *receiver)
{
    return take_spare(host, receiver) || take_ready(host, receiver);
}

/* tmem gives one slab area back to the host; 1 if it did. */
int mc_supply_tmem_give(struct mc_host *host)
{
    int64_t area;

    if (!host->tmem_areas || !host->tmem.shrink)
        return 0;
    area = host->tmem.shrink(host->tmem.state);
    if (area < 0 || area >= host->tmem.slab_areas)
        return 0;
    mc_discard(host->tmem.slab + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES);
    host->slab_used[area] = 0;
    host->tmem_areas--;
    host->free_areas++;
    return 1;
}

/* 1 when what the worker is about to punch brings more free than the slack and what is promised:
 * then it is taken from the slack. */
static int is_coming(struct mc_host *host)
{
    uint32_t due = 0;
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE)
            for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
                due += domain->counts[state];
    return host->free_areas + due > host->slack_areas + host->promised_areas;
}

static int wait_for_transit(struct mc_host *host)
{
    pthread_cond_signal(&host->own->work);
    for (int i = 0; i < MC_TRANSIT_WAITS_MAX && !host->free_areas && host->transit_areas; i++)
        mc_wait_done(host, MC_TRANSIT_WAIT_NS);
    return host->free_areas ? MC_OK : MC_ENOMEM;
}

/* Make sure the ledger has an area this domain may take; sets *path when it had to be taken away
 * from somebody. 0, or MC_ENOMEM. The lock may be released meanwhile. */
static int find_free(struct mc_host *host, const struct mc_domain *domain, int *path)
{
    if (mc_has_free(host))
        return MC_OK;
    if (is_coming(host))
        return wait_for_transit(host);
    if (take_from_donor(host, domain)) {
        *path = MC_PATH_TRANSFER;
        return wait_for_transit(host);
    }
    if (mc_supply_tmem_give(host)) {
        *path = MC_PATH_TRANSFER;
        return MC_OK;
    }
    return MC_ENOMEM;
}

/* Populate an area that is in no use; the lock is released meanwhile. Ends in `state`, or as it
 * was when the kernel has no memory (and due to be punched, should it keep what there is). */
static int populate(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state)
{
    int was = domain->states[area], failed;

    mc_area_set(host, domain, area, MC_A_POPULATING);
    domain->users++;
    mc_host_unlock(host);
    failed = mc_populate_write(domain->ram + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES);
    if (failed && mc_punch(domain->ram_fd, (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES))
        was = was == MC_A_SOFT ? MC_A_PUNCH_SOFT : MC_A_PUNCH_HARD;     /* the worker tries again */
    mc_host_lock(host);
    domain->users--;
    mc_area_set(host, domain, area, failed ? was : state);
    pthread_cond_broadcast(&host->own->done);
    return failed ? MC_ENOMEM : MC_OK;
}

static int64_t find_state(const struct mc_domain *domain, int state)
{
    if (domain->counts[state])
        for (uint32_t area = 0; area < domain->areas; area++)
            if (domain->states[area] == state)
                return area;
    return -1;
}

/* Populate one area ahead of need, or, when the host has only its slack, take what it will be made
 * of from a domain that can spare it (never from another's ready area: two growing domains would
 * take it in turns). 0 when something was done, or MC_ENOMEM. */
int mc_supply_ready(struct mc_host *host, struct mc_domain *domain)
{
    int64_t area = find_state(domain, MC_A_HARD);

    if (area < 0 || mc_domain_held(domain) >= domain->target_areas)
        return MC_ENOMEM;
    if (mc_has_free(host))
        return populate(host, domain, (uint32_t)area, MC_A_READY);
    return take_spare(host, domain) ? MC_OK : MC_ENOMEM;
}

/* Hand a ready area to the guest. 0, or MC_ENOMEM when none is ready. */
int mc_supply_grant(struct mc_host *host, struct mc_domain *domain, int path)
{
    int64_t area = find_state(domain, MC_A_READY);

    if (area < 0)
        return MC_ENOMEM;
    if (mc_area_grant(&domain->frames, (uint32_t)area, domain->generations[area])) {
        /* The guest corrupted the word of an area it does not hold: the area is lost to it. */
        mc_count_bad(domain);
        mc_area_set(host, domain, (uint32_t)area, MC_A_PUNCH_HARD);
        pthread_cond_signal(&host->own->work);
        return MC_ESTATE;
    }
    mc_area_set(host, domain, (uint32_t)area, MC_A_INSTALLED);
    domain->counters.grants[path]++;
    return MC_OK;
}

/* One area for a domain that asked. */
int mc_supply_grow(struct mc_host *host, struct mc_domain *domain, int *path)
{
    int64_t area;
    int status;

    *path = MC_PATH_RING;
    if (domain->counts[MC_A_INSTALLED] >= domain->target_areas)
        return MC_ETARGET;
    domain->growing = 1;
    if (domain->counts[MC_A_READY]) {
        if (!mc_has_free(host) && take_from_donor(host, domain))
            *path = MC_PATH_TRANSFER;
        pthread_cond_signal(&host->own->work);
        return mc_supply_grant(host, domain, *path);
    }
    status = find_free(host, domain, path);
    if (status) {       /* the last one may be on its way to this very domain */
        for (int i = 0; i < MC_TRANSIT_WAITS_MAX && domain->counts[MC_A_POPULATING]; i++)
            mc_wait_done(host, MC_TRANSIT_WAIT_NS);
        return mc_supply_grant(host, domain, *path) == MC_OK ? MC_OK : status;
    }
    area = find_state(domain, MC_A_HARD);
    if (area < 0)
        return MC_ETARGET;
    status = populate(host, domain, (uint32_t)area, MC_A_READY);
    return status ? status : mc_supply_grant(host, domain, *path);
}

/* A word that does not say evicted needs no telling: the area is backed, and that is the answer. */
static void tell_installed(struct mc_domain *domain, uint32_t area)
{
    mc_area_install(&domain->frames, area, domain->generations[area]);
}

/* Give a soft-reclaimed area its backing again. */
int mc_supply_install(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int path = MC_PATH_RING, status;

    for (int i = 0; i < MC_TRANSIT_WAITS_MAX && domain->states[area] == MC_A_PUNCHING_SOFT; i++)
        mc_wait_done(host, MC_TRANSIT_WAIT_NS);
    switch (domain->states[area]) {
    case MC_A_PUNCH_SOFT:       /* the worker has not begun: keep the pages */
        mc_area_set(host, domain, area, MC_A_INSTALLED);
        /* fall through */
    case MC_A_INSTALLED:        /* or another thread of the guest has asked already */
        tell_installed(domain, area);
        return MC_OK;
    case MC_A_SOFT:
        break;
    default:
        return MC_EFOREIGN;
    }
    if (domain->counts[MC_A_INSTALLED] >= domain->target_areas)
        return MC_ETARGET;
    status = find_free(host, domain, &path);
    if (!status && domain->states[area] != MC_A_SOFT)
        status = MC_ESTATE;
    if (!status)
        status = populate(host, domain, area, MC_A_INSTALLED);
    if (status)
        return status;
    domain->counters.grants[path]++;
    tell_installed(domain, area);
    return MC_OK;
}
