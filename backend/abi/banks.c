/* banks.c: see banks.h. */
#include "banks.h"
#include "mechanism.h"

#include <string.h>

uint32_t mc_bank_choose(const struct mc_host *host, uint64_t frames, int remote_first)
{
    uint32_t best = MC_NO_BANK;

    for (uint32_t i = 0; i < host->bank_count; i++) {
        const struct mc_bank *bank = &host->banks[i];
        const struct mc_bank *chosen = best == MC_NO_BANK ? NULL : &host->banks[best];
        int wanted = !bank->remote == !remote_first;
        int chosen_wanted = chosen && !chosen->remote == !remote_first;

        if (!bank->withdrawn && bank->free_frames >= frames &&
            (!chosen || wanted > chosen_wanted ||
             (wanted == chosen_wanted && bank->free_frames > chosen->free_frames)))
            best = i;
    }
    return best;
}

/* `frames` more or less (negative) of a bank, free in any case. */
static void resize(struct mc_host *host, struct mc_bank *bank, int64_t frames)
{
    bank->total_frames += (uint64_t)frames;
    bank->free_frames += (uint64_t)frames;
    bank->gone_frames -= (uint64_t)frames;
    host->total_frames += (uint64_t)frames;
    host->free_frames += (uint64_t)frames;
}

void mc_banks_drain(struct mc_host *host)
{
    for (uint32_t i = 0; i < host->bank_count; i++)
        if (host->banks[i].withdrawn)
            resize(host, &host->banks[i], -(int64_t)host->banks[i].free_frames);
}

/* What cannot be reached any more, or can be now, is looked at anew. */
static void ask_sections(struct mc_host *host)
{
    struct mc_domain *domain;

    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->id == MC_SECTIONS)
            domain->mechanism->target(host, domain);
    mc_work(host);
}

int mc_bank_withdraw(struct mc_host *host, uint32_t bank)
{
    int status = MC_ESTATE;

    if (bank >= host->bank_count)
        return MC_EINDEX;
    mc_host_lock(host);
    if (!host->banks[bank].withdrawn) {
        host->banks[bank].withdrawn = 1;
        mc_banks_drain(host);
        ask_sections(host);
        status = MC_OK;
    }
    mc_host_unlock(host);
    return status;
}

int mc_bank_restore(struct mc_host *host, uint32_t bank)
{
    int status = MC_ESTATE;

    if (bank >= host->bank_count)
        return MC_EINDEX;
    mc_host_lock(host);
    if (host->banks[bank].withdrawn) {
        host->banks[bank].withdrawn = 0;
        resize(host, &host->banks[bank], (int64_t)host->banks[bank].gone_frames);
        ask_sections(host);
        status = MC_OK;
    }
    mc_host_unlock(host);
    return status;
}

static uint64_t charged(const struct mc_domain *domain, uint32_t bank)
{
    uint64_t frames = 0;

    for (uint32_t area = 0; domain->states && area < domain->areas; area++)
        if (domain->banks[area] == bank && domain->states[area] > MC_A_SOFT)
            frames += MC_AREA_FRAMES - domain->hole_counts[area];
    return frames;
}

int mc_bank_usage(struct mc_host *host, uint32_t bank, struct mc_bank_usage *usage)
{
    if (bank >= host->bank_count)
        return MC_EINDEX;
    mc_host_lock(host);
    mc_banks_drain(host);
    memset(usage, 0, sizeof *usage);
    usage->bank = host->banks[bank];
    for (uint32_t i = 0; i < MC_MAX_DOMAINS; i++)
        usage->domain_frames[i] = charged(&host->domains[i], bank);
    for (uint32_t i = 0; host->slab_used && i < host->tmem.slab_areas; i++)
        usage->tmem_frames += host->slab_used[i] == bank + 1 ? MC_AREA_FRAMES : 0;
    mc_host_unlock(host);
    return MC_OK;
}
