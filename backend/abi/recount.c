/* recount.c: areas and sums of a ledger whose process was killed. See recover.h. */
#include "books.h"
#include "recover.h"

#include <string.h>

static uint32_t recount_ones(const uint64_t *bits, uint32_t area)
{
    uint32_t count = 0;
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        count += (uint32_t)__builtin_popcountll(bits[area * MC_AREA_ROWS + row]);
    return count;
}

static void recount_set_holes(struct mc_domain *domain, uint32_t area, uint64_t bits)
{
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        domain->holes[area * MC_AREA_ROWS + row] = bits;
}

/* The one area that was on its way to the guest (ledger.c), or that was being taken out of a tree:
 * the guest's word has arrived or not. */
static void recount_finish_step(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_area_step *step = &host->step;
    uint32_t area = step->area;
    MC_CHECK_IN(domain, step->next <= MC_A_STATES && step->hollow <= 1,
                "area %u was to come as state %u", area, step->next);
    if (step->domain != domain->domid + 1 || area >= domain->areas)
        return;
    if (!mc_word(&domain->frames, area).reclaimed) {
        if (step->hollow)
            recount_set_holes(domain, area, UINT64_MAX);
        if (step->next != MC_A_STATES)
            domain->states[area] = (uint8_t)step->next;
        mc_tree_mend(&domain->frames, area);
    }
    MC_BOOKED();
    step->domain = 0;
}

/* The state of an area, once what was under way is finished or due. */
static enum mc_area_state recount_state(const struct mc_domain *domain, uint32_t area)
{
    int reclaimed = mc_word(&domain->frames, area).reclaimed;
    uint8_t state = domain->states[area];
    switch (state) {
    case MC_A_POPULATING:       /* as much of it as the kernel gave is there */
        return reclaimed ? MC_A_PUNCH_HARD : MC_A_PUNCH_SOFT;
    case MC_A_SOFT:
        return reclaimed ? MC_A_HARD : MC_A_SOFT;
    case MC_A_INSTALLED:
        return reclaimed && !domain->pin_counts[area] ? MC_A_PUNCH_HARD : MC_A_INSTALLED;
    case MC_A_PUNCHING_HARD:
        return MC_A_PUNCH_HARD;
    case MC_A_PUNCHING_SOFT:
        return MC_A_PUNCH_SOFT;
    default:
        return (enum mc_area_state)state;
    }
}

static int recount_is_due(enum mc_area_state state)
{
    return state == MC_A_PUNCH_HARD || state == MC_A_PUNCH_SOFT;
}

int64_t mc_recount_areas(struct mc_host *host, struct mc_domain *domain)
{
    int64_t due = 0;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, domain->areas <= MC_MAX_AREAS, "%u areas are counted anew", domain->areas);
    recount_finish_step(host, domain);
    for (uint32_t area = 0; area < domain->areas; area++) {
        uint8_t was = domain->states[area];
        enum mc_area_state state;
        if (was >= MC_A_STATES)
            return MC_EBROKEN;
        domain->pin_counts[area] = (uint16_t)recount_ones(domain->pins, area);
        state = recount_state(domain, area);
        /* The guest knows by the generation that the backing has gone. Bumped before the state, so
         * that a kill in between bumps twice, which is as good. */
        if (state != was && (was == MC_A_INSTALLED || was == MC_A_SOFT))
            domain->generations[area]++;
        MC_BOOKED();
        domain->states[area] = (uint8_t)state;
        if (state <= MC_A_SOFT)
            recount_set_holes(domain, area, 0);
        domain->hole_counts[area] = (uint16_t)recount_ones(domain->holes, area);
        due += recount_is_due(state);
    }
    return due;
}

/* The sums of one domain, and what it adds to those of its banks and of the host. */
static void recount_domain(struct mc_host *host, struct mc_domain *domain)
{
    memset(domain->counts, 0, sizeof domain->counts);
    domain->installed_frames = domain->flight_frames = domain->pinned_frames = 0;
    for (uint32_t area = 0; area < domain->areas; area++) {
        enum mc_area_state state = (enum mc_area_state)domain->states[area];
        uint64_t frames = MC_AREA_FRAMES - domain->hole_counts[area];
        MC_CHECK_IN(domain, state < MC_A_STATES && domain->hole_counts[area] <= MC_AREA_FRAMES,
                    "area %u of state %d has %u holes", area, state, domain->hole_counts[area]);
        domain->counts[state]++;
        domain->pinned_frames += domain->pin_counts[area];
        if (state <= MC_A_SOFT)
            continue;
        /* An area that had just come to the guest may not have been charged yet. */
        if (domain->banks[area] >= host->bank_count)
            domain->banks[area] = 0;
        host->banks[domain->banks[area]].free_frames -= frames;
        if (state == MC_A_INSTALLED) {
            domain->installed_frames += frames;
            host->installed_frames += frames;
        } else if (state == MC_A_READY) {
            host->ready_frames += frames;
        } else {
            host->transit_frames += frames;
        }
    }
}

static void recount_tmem(struct mc_host *host)
{
    host->tmem_frames = 0;
    for (uint32_t i = 0; i < host->tmem.slab_areas; i++)
        if (host->slab_used[i]) {
            MC_CHECK(host->slab_used[i] <= host->bank_count, "slab area %u: bank %d of %u", i,
                     host->slab_used[i] - 1, host->bank_count);
            host->banks[host->slab_used[i] - 1].free_frames -= MC_AREA_FRAMES;
            host->tmem_frames += MC_AREA_FRAMES;
        }
}

/* What is left of a bank is free, or gone when it is withdrawn; 0 when more is used than it has. */
static int recount_bank(struct mc_host *host, struct mc_bank *bank)
{
    MC_CHECK(bank->withdrawn <= 1, "a bank of %lu frames: withdrawn is %u", bank->size_frames,
             bank->withdrawn);
    if (bank->free_frames > bank->size_frames)      /* below 0 */
        return 0;
    bank->total_frames = bank->size_frames;
    bank->gone_frames = 0;
    if (bank->withdrawn) {
        bank->gone_frames = bank->free_frames;
        bank->total_frames -= bank->free_frames;
        bank->free_frames = 0;
    }
    host->total_frames += bank->total_frames;
    host->free_frames += bank->free_frames;
    return 1;
}

int mc_recount_sums(struct mc_host *host)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK(host->bank_count && host->bank_count <= MC_BANKS_MAX, "%u banks", host->bank_count);
    host->installed_frames = host->ready_frames = host->transit_frames = 0;
    host->total_frames = host->free_frames = 0;
    for (uint32_t i = 0; i < host->bank_count; i++)
        host->banks[i].free_frames = host->banks[i].size_frames;
    for (uint32_t domid = 0; domid < MC_MAX_DOMAINS; domid++)
        if (host->domains[domid].states)
            recount_domain(host, &host->domains[domid]);
    recount_tmem(host);
    for (uint32_t i = 0; i < host->bank_count; i++)
        if (!recount_bank(host, &host->banks[i]))
            return MC_EBROKEN;
    return MC_OK;
}
