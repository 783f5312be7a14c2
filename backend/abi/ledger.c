/* ledger.c: see ledger.h. Areas; single frames are in holes.c. */
#include "ledger.h"

#define MC_TRANSIT_WAITS_MAX 16
#define MC_TRANSIT_WAIT_NS 20000000

static uint64_t *pool_of(struct mc_host *host, int state)
{
    switch (state) {
    case MC_A_HARD:
    case MC_A_SOFT:
        return &host->free_frames;
    case MC_A_READY:
        return &host->ready_frames;
    case MC_A_INSTALLED:
        return &host->installed_frames;
    default:
        return &host->transit_frames;
    }
}

uint32_t mc_bank_pick(const struct mc_host *host, uint64_t frames, uint32_t wanted)
{
    uint32_t best = MC_NO_BANK;

    if (wanted < host->bank_count && !host->banks[wanted].withdrawn &&
        host->banks[wanted].free_frames >= frames)
        return wanted;
    for (uint32_t i = 0; i < host->bank_count; i++) {
        const struct mc_bank *bank = &host->banks[i];
        const struct mc_bank *chosen = best == MC_NO_BANK ? NULL : &host->banks[best];

        if (!bank->withdrawn && bank->free_frames >= frames &&
            (!chosen || bank->remote < chosen->remote ||
             (bank->remote == chosen->remote && bank->free_frames > chosen->free_frames)))
            best = i;
    }
    return best;
}

int mc_has_free(const struct mc_host *host, uint64_t frames)
{
    return host->free_frames >= host->slack_frames + host->promised_frames + frames &&
           mc_bank_pick(host, frames, 0) != MC_NO_BANK;
}

static void clear_holes(struct mc_domain *domain, uint32_t area)
{
    if (!domain->hole_counts[area])
        return;
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        domain->holes[area * MC_AREA_ROWS + row] = 0;
    domain->hole_counts[area] = 0;
}

/* Where its memory comes from. Whoever charges has asked mc_has_free, so there is a bank. */
static void charge(struct mc_host *host, struct mc_domain *domain, uint32_t area, uint64_t frames)
{
    uint32_t bank = mc_bank_pick(host, frames, domain->banks[area]);

    domain->banks[area] = bank == MC_NO_BANK ? 0 : (uint8_t)bank;
    host->banks[domain->banks[area]].free_frames -= frames;
}

void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state)
{
    int old = domain->states[area];
    uint64_t *from = pool_of(host, old), *to = pool_of(host, state);
    uint64_t frames = MC_AREA_FRAMES - domain->hole_counts[area];

    MC_CHECK(*from >= frames, "domain %u, area %u, %d to %d: %lu frames of %lu", domain->domid, area,
             old, state, frames, *from);
    *from -= frames;
    *to += frames;
    if (from != to && from == &host->free_frames)
        charge(host, domain, area, frames);
    if (from != to && to == &host->free_frames) {
        host->banks[domain->banks[area]].free_frames += frames;
        clear_holes(domain, area);
    }
    if (old == MC_A_INSTALLED && state != MC_A_INSTALLED) {
        domain->installed_frames -= frames;
        domain->counters.shrunk_frames += frames;
    } else if (old != MC_A_INSTALLED && state == MC_A_INSTALLED) {
        domain->installed_frames += frames;
        domain->counters.grown_frames += frames;
    }
    domain->counts[old]--;
    domain->counts[state]++;
    domain->states[area] = (uint8_t)state;
    if (domain->control)
        atomic_store_explicit(&domain->control->current_frames, domain->installed_frames,
                              memory_order_relaxed);
}

uint32_t mc_domain_held(const struct mc_domain *domain)
{
    return domain->counts[MC_A_INSTALLED] + domain->counts[MC_A_READY] +
           domain->counts[MC_A_POPULATING];
}

int mc_in_transit(const struct mc_domain *domain)
{
    uint32_t areas = domain->counts[MC_A_POPULATING];

    for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
        areas += domain->counts[state];
    return areas || domain->flight_frames;
}

static int is_wholly_free(const struct mc_domain *domain, uint32_t area)
{
    int64_t word = mc_area_word(&domain->frames, area);

    return word >= 0 && (word & MC_AREA_FREE_MASK) == MC_AREA_FRAMES &&
           !(word & (MC_AREA_HUGE | MC_AREA_RECLAIMED | MC_AREA_EVICTED | MC_AREA_ISOLATED));
}

int mc_is_spare(const struct mc_domain *domain, uint32_t area)
{
    return domain->states[area] == MC_A_INSTALLED && !domain->pin_counts[area] &&
           is_wholly_free(domain, area);
}

/* Stops at the number of interest. */
uint32_t mc_spare_areas(const struct mc_domain *domain, uint32_t enough)
{
    uint32_t spare = 0;

    for (uint32_t area = 0; area < domain->areas && spare < enough; area++)
        spare += mc_is_spare(domain, area);
    return spare;
}

int64_t mc_find_state(const struct mc_domain *domain, int state)
{
    if (domain->counts[state])
        for (uint32_t area = 0; area < domain->areas; area++)
            if (domain->states[area] == state)
                return area;
    return -1;
}

static int pull_word(struct mc_domain *domain, uint32_t area, enum mc_pull how)
{
    uint16_t generation = (uint16_t)(domain->generations[area] + 1);

    switch (how) {
    case MC_PULL_HARD:
        return mc_area_hard_reclaim(&domain->frames, area, generation);
    case MC_PULL_SOFT:
        return mc_area_soft_reclaim(&domain->frames, area, generation);
    case MC_PULL_CLAIMED:
        return mc_area_surrender(&domain->frames, area, generation);
    }
    return MC_ESTATE;
}

int mc_pull(struct mc_host *host, struct mc_domain *domain, uint32_t area, enum mc_pull how)
{
    int state = domain->states[area];

    if (state != MC_A_INSTALLED && (state != MC_A_SOFT || how == MC_PULL_SOFT))
        return MC_ESTATE;
    if (domain->flight_frames && domain->hole_counts[area])
        return MC_ESTATE;       /* a punch of its frames is running: it would hit the next holder */
    if (how != MC_PULL_CLAIMED && state == MC_A_INSTALLED && !is_wholly_free(domain, area))
        return MC_ESTATE;
    if (domain->pin_counts[area]) {
        domain->counters.refused_dma++;
        return MC_EPERM;
    }
    if (pull_word(domain, area, how))
        return MC_ESTATE;
    domain->generations[area]++;
    if (state == MC_A_SOFT) {
        mc_area_set(host, domain, area, MC_A_HARD);
        return MC_OK;
    }
    mc_area_set(host, domain, area, how == MC_PULL_SOFT ? MC_A_PUNCH_SOFT : MC_A_PUNCH_HARD);
    domain->counters.reclaimed_areas++;
    mc_work(host);
    return MC_OK;
}

uint32_t mc_pull_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most,
                       enum mc_pull how, int soft_counts)
{
    uint32_t pulled = 0;

    for (uint32_t area = domain->areas; area-- > 0 && pulled < most;) {
        int was_soft = domain->states[area] == MC_A_SOFT;

        if (!mc_pull(host, domain, area, how))
            pulled += !was_soft || soft_counts;
    }
    return pulled;
}

static int give_pages(const struct mc_host *host, const struct mc_domain *domain, uint32_t area)
{
    uint64_t address = domain->ram + (uint64_t)area * MC_AREA_BYTES;
    const struct mc_bank *bank = &host->banks[domain->banks[area]];

    if (bank->node >= 0)        /* a wish: memory is charged to the bank wherever it lands */
        mc_bind_node(address, MC_AREA_BYTES, bank->node);
    return host->collapse ? mc_populate_huge(address, MC_AREA_BYTES)
                          : mc_populate_write(address, MC_AREA_BYTES);
}

/* What the kernel has no memory for goes back to what it was (and is due to be punched, should it
 * keep what there is). */
int mc_populate(struct mc_host *host, struct mc_domain *domain, uint32_t area, int state)
{
    int was = domain->states[area], failed;

    mc_area_set(host, domain, area, MC_A_POPULATING);
    domain->users++;
    mc_host_unlock(host);
    failed = give_pages(host, domain, area);
    if (failed && mc_punch(domain->ram_fd, (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES))
        was = was == MC_A_SOFT ? MC_A_PUNCH_SOFT : MC_A_PUNCH_HARD;     /* the worker tries again */
    mc_host_lock(host);
    domain->users--;
    mc_area_set(host, domain, area, failed ? was : state);
    pthread_cond_broadcast(&host->own->done);
    return failed ? MC_ENOMEM : MC_OK;
}

int mc_grant(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    if (domain->states[area] != MC_A_READY)
        return MC_ESTATE;
    if (mc_area_grant(&domain->frames, area, domain->generations[area])) {
        /* The guest corrupted the word of an area it does not hold: the area is lost to it. */
        mc_count_bad(domain);
        mc_area_set(host, domain, area, MC_A_PUNCH_HARD);
        mc_work(host);
        return MC_ESTATE;
    }
    mc_area_set(host, domain, area, MC_A_INSTALLED);
    return MC_OK;
}

int mc_plug_found(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    const struct mc_bank *bank;

    if (domain->states[area] != MC_A_HARD)
        return MC_ESTATE;
    if (mc_bank_pick(host, MC_AREA_FRAMES, domain->banks[area]) == MC_NO_BANK)
        return MC_ENOMEM;
    if (mc_area_grant(&domain->frames, area, domain->generations[area])) {
        mc_count_bad(domain);
        return MC_ESTATE;
    }
    mc_area_set(host, domain, area, MC_A_INSTALLED);
    bank = &host->banks[domain->banks[area]];
    if (bank->node >= 0)
        mc_bind_node(domain->ram + (uint64_t)area * MC_AREA_BYTES, MC_AREA_BYTES, bank->node);
    return MC_OK;
}

int mc_plug(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    if (domain->states[area] == MC_A_HARD && !mc_has_free(host, MC_AREA_FRAMES))
        return MC_ENOMEM;
    return mc_plug_found(host, domain, area);
}

int mc_return(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    if (domain->states[area] != MC_A_HARD ||
        mc_area_return(&domain->frames, area, domain->generations[area]))
        return MC_ESTATE;
    mc_area_set(host, domain, area, MC_A_SOFT);
    return MC_OK;
}

int mc_plug_hollow(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    if (domain->states[area] != MC_A_HARD ||
        mc_area_return(&domain->frames, area, domain->generations[area]))
        return MC_ESTATE;
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        domain->holes[area * MC_AREA_ROWS + row] = UINT64_MAX;
    domain->hole_counts[area] = MC_AREA_FRAMES;
    mc_area_set(host, domain, area, MC_A_INSTALLED);
    return MC_OK;
}

void mc_tmem_charge(struct mc_host *host, uint32_t slab_area)
{
    uint32_t bank = mc_bank_pick(host, MC_AREA_FRAMES, MC_NO_BANK);

    bank = bank == MC_NO_BANK ? 0 : bank;
    host->slab_used[slab_area] = (uint8_t)(1 + bank);
    host->banks[bank].free_frames -= MC_AREA_FRAMES;
    host->free_frames -= MC_AREA_FRAMES;
    host->tmem_frames += MC_AREA_FRAMES;
}

void mc_tmem_discharge(struct mc_host *host, uint32_t slab_area)
{
    host->banks[host->slab_used[slab_area] - 1].free_frames += MC_AREA_FRAMES;
    host->slab_used[slab_area] = 0;
    host->tmem_frames -= MC_AREA_FRAMES;
    host->free_frames += MC_AREA_FRAMES;
}

/* The pages go before the ledger says they are free. */
void mc_release_all(struct mc_host *host, struct mc_domain *domain, int keep_pinned)
{
    for (uint32_t first = 0, end; first < domain->areas; first = end + 1) {
        for (end = first; end < domain->areas && !(keep_pinned && domain->pin_counts[end]); end++)
            ;
        if (end > first)
            mc_punch(domain->ram_fd, (uint64_t)first * MC_AREA_BYTES,
                     (uint64_t)(end - first) * MC_AREA_BYTES);
    }
    mc_host_lock(host);
    for (uint32_t area = 0; area < domain->areas; area++)
        if (!(keep_pinned && domain->pin_counts[area]))
            mc_area_set(host, domain, area, MC_A_HARD);
    mc_work(host);
    pthread_cond_broadcast(&host->own->done);
    mc_host_unlock(host);
}

void mc_wait_area(struct mc_host *host, const struct mc_domain *domain, uint32_t area,
                  uint32_t states)
{
    for (int i = 0; i < MC_TRANSIT_WAITS_MAX && states >> domain->states[area] & 1; i++)
        mc_wait_done(host, MC_TRANSIT_WAIT_NS);
}
