/* banks.c: see banks.h. */
#include "banks.h"

#include "mechanism.h"

#include <string.h>

/* Take a bank's free frames out of the host. */
static void banks_shrink(struct mc_host *host, struct mc_bank *bank)
{
    uint64_t frames = bank->free_frames;
    MC_CHECK(bank->total_frames >= frames && host->free_frames >= frames &&
                 host->total_frames >= frames,
             "bank of %lu frames loses %lu, host has %lu free of %lu", bank->total_frames, frames,
             host->free_frames, host->total_frames);
    bank->total_frames -= frames;
    bank->free_frames = 0;
    bank->gone_frames += frames;
    host->total_frames -= frames;
    host->free_frames -= frames;
}

/* Bring all frames of a bank that left the host back, as free. */
static void banks_regrow(struct mc_host *host, struct mc_bank *bank)
{
    uint64_t frames = bank->gone_frames;
    bank->total_frames += frames;
    bank->free_frames += frames;
    bank->gone_frames = 0;
    host->total_frames += frames;
    host->free_frames += frames;
}

void mc_banks_drain(struct mc_host *host)
{
    MC_CHECK_LOCKED(host);
    for (uint32_t i = 0; i < host->bank_count; i++)
        if (host->banks[i].withdrawn)
            banks_shrink(host, &host->banks[i]);
}

/* Domains of `sections` plan anew: some of their targets can be reached now, some no longer. */
static void banks_ask_sections(struct mc_host *host)
{
    struct mc_domain *domain;
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->id == MC_SECTIONS)
            domain->mechanism->target(host, domain);
    MC_CHECK_LOCKED(host);
    mc_work_hungry(host);
}

int mc_bank_set_withdrawn(struct mc_host *host, uint32_t index, uint32_t withdrawn)
{
    struct mc_bank *bank = &host->banks[index];
    int status = MC_ESTATE;
    if (index >= host->bank_count)
        return MC_EINDEX;
    mc_host_lock(host);
    MC_CHECK(bank->withdrawn <= 1, "bank %u: withdrawn is %u", index, bank->withdrawn);
    if (bank->withdrawn != withdrawn) {
        bank->withdrawn = withdrawn;
        if (withdrawn)
            banks_shrink(host, bank);
        else
            banks_regrow(host, bank);
        banks_ask_sections(host);
        status = MC_OK;
    }
    mc_host_unlock(host);
    return status;
}

static uint64_t banks_charged(const struct mc_domain *domain, uint32_t bank)
{
    uint64_t frames = 0;
    for (uint32_t area = 0; domain->states && area < domain->areas; area++)
        if (domain->banks[area] == bank && domain->states[area] > MC_A_SOFT) {
            MC_CHECK(domain->hole_counts[area] <= MC_AREA_FRAMES, "domain %u, area %u: %u holes",
                     domain->domid, area, domain->hole_counts[area]);
            frames += MC_AREA_FRAMES - domain->hole_counts[area];
        }
    return frames;
}

int mc_bank_usage(struct mc_host *host, uint32_t bank, struct mc_bank_usage *usage)
{
    uint64_t used = 0;
    if (bank >= host->bank_count)
        return MC_EINDEX;
    mc_host_lock(host);
    mc_banks_drain(host);
    memset(usage, 0, sizeof *usage);
    usage->bank = host->banks[bank];
    for (uint32_t i = 0; i < MC_MAX_DOMAINS; i++) {
        usage->domain_frames[i] = banks_charged(&host->domains[i], bank);
        used += usage->domain_frames[i];
    }
    for (uint32_t i = 0; host->slab_used && i < host->tmem.slab_areas; i++) {
        MC_CHECK(host->slab_used[i] <= host->bank_count, "slab area %u: bank %d of %u", i,
                 host->slab_used[i] - 1, host->bank_count);
        usage->tmem_frames += host->slab_used[i] == bank + 1 ? MC_AREA_FRAMES : 0;
    }
    used += usage->tmem_frames;
    MC_CHECK(usage->bank.free_frames + used <= usage->bank.total_frames,
             "bank %u: %lu frames free, %lu used of %lu", bank, usage->bank.free_frames, used,
             usage->bank.total_frames);
    mc_host_unlock(host);
    return MC_OK;
}
