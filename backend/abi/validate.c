/* validate.c: recounts the ledger of a host from the states of its areas. See host.h.
 *
 * Rules: any thread, at any time. It answers with a status and aborts nothing: a test, an operator,
 *        or whoever suspects the ledger, asks for it. The checks of the other files stand where the
 *        ledger changes.
 * Lock:  bits are counted MC_VALIDATE_AREAS areas at a time, because what the bits of an area must
 *        equal stands beside that area; then the sums are taken in one hold, which reads a few
 *        bytes of each area and no bits.
 */
#include "mechanism.h"

#include <string.h>

#define MC_VALIDATE_AREAS 1024      /* areas whose bits are counted in one hold of the lock */

static uint32_t validate_ones(const uint64_t *bits, uint32_t area)
{
    uint32_t count = 0;
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        count += (uint32_t)__builtin_popcountll(bits[area * MC_AREA_ROWS + row]);
    return count;
}

/* The sums of the ledger, counted from the areas. */
struct validate_sums {
    uint64_t frames[MC_A_STATES];       /* less holes */
    uint64_t banks[MC_BANKS_MAX];       /* charged */
    uint64_t flight;
};

/* 1 when the counts of holes and pins of some areas are those of their bits. */
static int validate_bits(const struct mc_domain *domain, uint32_t first, uint32_t end)
{
    for (uint32_t area = first; area < end; area++)
        if (domain->hole_counts[area] != validate_ones(domain->holes, area) ||
            domain->pin_counts[area] != validate_ones(domain->pins, area))
            return 0;
    return 1;
}

/* The bits of a domain, a part in each hold of the lock. */
static int validate_all_bits(struct mc_host *host, const struct mc_domain *domain)
{
    uint32_t areas = 0, end = 0;
    int status = MC_OK;
    do {
        uint32_t first = end;
        mc_host_lock(host);
        areas = domain->states ? domain->areas : 0;     /* it may be closed meanwhile */
        end = first + MC_VALIDATE_AREAS < areas ? first + MC_VALIDATE_AREAS : areas;
        if (!validate_bits(domain, first, end))
            status = MC_EBROKEN;
        mc_host_unlock(host);
    } while (!status && end < areas);
    return status;
}

static int validate_domain(struct mc_host *host, const struct mc_domain *domain,
                          struct validate_sums *sums)
{
    uint32_t counts[MC_A_STATES] = {0};
    uint64_t installed = 0, pinned = 0;
    for (uint32_t area = 0; area < domain->areas; area++) {
        uint32_t state = domain->states[area], holes = domain->hole_counts[area];
        if (state >= MC_A_STATES ||
            (state > MC_A_SOFT && domain->banks[area] >= host->bank_count) ||
            (state <= MC_A_SOFT && holes) ||
            (domain->pin_counts[area] && state != MC_A_INSTALLED))
            return MC_EBROKEN;
        counts[state]++;
        sums->frames[state] += MC_AREA_FRAMES - holes;
        if (state > MC_A_SOFT)
            sums->banks[domain->banks[area]] += MC_AREA_FRAMES - holes;
        installed += state == MC_A_INSTALLED ? MC_AREA_FRAMES - holes : 0;
        pinned += domain->pin_counts[area];
    }
    sums->flight += domain->flight_frames;
    if (memcmp(counts, domain->counts, sizeof counts) || installed != domain->installed_frames ||
        pinned != domain->pinned_frames)
        return MC_EBROKEN;
    if (domain->leaving || domain->is_unbooted)     /* areas go, and its mechanism cannot follow */
        return MC_OK;
    return domain->mechanism->validate ? domain->mechanism->validate(host, domain) : MC_OK;
}

/* Frames in flight belong to no bank: their bank is credited when their punch has ended. */
static int validate_banks(const struct mc_host *host, const struct validate_sums *sums)
{
    uint64_t total = 0, free = 0, used = 0;
    for (uint32_t i = 0; i < host->bank_count; i++) {
        const struct mc_bank *bank = &host->banks[i];
        if (bank->free_frames > bank->total_frames ||
            bank->free_frames + sums->banks[i] + sums->flight < bank->total_frames ||
            bank->free_frames + sums->banks[i] > bank->total_frames)
            return 0;
        total += bank->total_frames;
        free += bank->free_frames;
        used += sums->banks[i];
    }
    return total == host->total_frames && free == host->free_frames &&
           free + used + sums->flight == total;
}

int mc_host_validate(struct mc_host *host, uint32_t *where)
{
    struct validate_sums sums = {0};
    const uint64_t *frames = sums.frames;
    uint64_t transit, slab = 0;
    int status = MC_OK;
    for (*where = 0; *where < MC_MAX_DOMAINS; ++*where) {
        status = validate_all_bits(host, &host->domains[*where]);
        if (status)
            return status;
    }
    mc_host_lock(host);
    for (*where = 0; *where < MC_MAX_DOMAINS; ++*where) {
        struct mc_domain *domain = &host->domains[*where];
        if (domain->states)
            status = validate_domain(host, domain, &sums);
        if (status)
            goto out;
    }
    transit = frames[MC_A_POPULATING] + frames[MC_A_PUNCH_HARD] + frames[MC_A_PUNCH_SOFT] +
              frames[MC_A_PUNCHING_HARD] + frames[MC_A_PUNCHING_SOFT] + sums.flight;
    for (uint32_t i = 0; host->slab_used && i < host->tmem.slab_areas; i++)
        if (host->slab_used[i] > host->bank_count) {
            status = MC_EBROKEN;
        } else if (host->slab_used[i]) {
            slab += MC_AREA_FRAMES;
            sums.banks[host->slab_used[i] - 1] += MC_AREA_FRAMES;
        }
    if (frames[MC_A_INSTALLED] != host->installed_frames ||
        frames[MC_A_READY] != host->ready_frames || transit != host->transit_frames ||
        slab != host->tmem_frames || !validate_banks(host, &sums) ||
        host->free_frames + host->installed_frames + host->ready_frames + host->transit_frames +
                host->tmem_frames != host->total_frames)
        status = MC_EBROKEN;
out:
    mc_host_unlock(host);
    return status;
}
