/* balloon_areas.c: see balloon_areas.h. */
#include "balloon_areas.h"

void mc_balloon_frames_of(uint32_t area, uint32_t *frames)
{
    for (uint32_t i = 0; i < MC_AREA_FRAMES; i++)
        frames[i] = area * MC_AREA_FRAMES + i;
}

/* 1 when an entry of an array of areas names one that has its frames all, or none of them. */
static int balloon_is_area(const struct mc_domain *domain, uint32_t frame, uint32_t holes)
{
    uint32_t area = frame / MC_AREA_FRAMES;
    return frame % MC_AREA_FRAMES == 0 && area < domain->areas &&
           domain->states[area] == MC_A_INSTALLED && domain->hole_counts[area] == holes &&
           !(domain->pin_counts[area] && !holes);
}

uint32_t mc_balloon_make_areas(struct mc_host *host, struct mc_domain *domain,
                               const uint32_t *firsts, uint32_t count)
{
    uint32_t frames[MC_AREA_FRAMES], bad, wrong = 0;
    MC_CHECK_LOCKED(host);
    for (uint32_t i = 0; i < count && mc_phase_of(domain) == MC_ACTIVE; i++) {
        uint32_t area = firsts[i] / MC_AREA_FRAMES;
        if (!balloon_is_area(domain, firsts[i], 0)) {
            domain->counters.refused_dma += area < domain->areas && domain->pin_counts[area] > 0;
            wrong++;
            continue;
        }
        mc_balloon_frames_of(area, frames);
        mc_holes_make(host, domain, frames, MC_AREA_FRAMES, &bad);
    }
    return wrong;
}

int mc_balloon_choose_bank(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                           uint32_t frames)
{
    uint32_t bank;
    MC_CHECK_LOCKED(host);
    bank = mc_bank_pick(host, frames, domain->banks[area]);
    if (bank == MC_NO_BANK)
        return MC_ENOMEM;
    domain->banks[area] = (uint8_t)bank;
    if (host->banks[bank].node >= 0)
        mc_bind_node(mc_area_address(domain, area), MC_AREA_BYTES, host->banks[bank].node);
    return MC_OK;
}

uint32_t mc_balloon_fill_areas(struct mc_host *host, struct mc_domain *domain,
                               const uint32_t *firsts, uint32_t count)
{
    uint32_t frames[MC_AREA_FRAMES], bad, wrong = 0;
    MC_CHECK_LOCKED(host);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t area = firsts[i] / MC_AREA_FRAMES;
        int path = MC_PATH_RING;
        if (!mc_has_free(host, MC_AREA_FRAMES) &&
            (domain->installed_frames + MC_AREA_FRAMES > domain->target_frames ||
             mc_supply_find(host, domain, &path)))
            break;
        if (!balloon_is_area(domain, firsts[i], MC_AREA_FRAMES)) {
            wrong++;
            continue;
        }
        if (mc_balloon_choose_bank(host, domain, area, MC_AREA_FRAMES))
            break;
        mc_balloon_frames_of(area, frames);
        mc_holes_fill(host, domain, frames, MC_AREA_FRAMES, 1, &bad);
    }
    return wrong;
}

void mc_balloon_punch_areas(struct mc_host *host, struct mc_domain *domain,
                            const uint32_t *firsts, uint32_t count)
{
    uint32_t frames[MC_AREA_FRAMES];
    MC_CHECK_LOCKED(host);
    for (uint32_t i = 0; i < count; i++) {
        if (!balloon_is_area(domain, firsts[i], MC_AREA_FRAMES))
            continue;
        mc_balloon_frames_of(firsts[i] / MC_AREA_FRAMES, frames);
        mc_holes_punch(host, domain, frames, MC_AREA_FRAMES);
    }
}
