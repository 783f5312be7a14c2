/* punch.c: gives the pages of areas that were taken from guests back to the kernel.
 *
 * Rules: under the lock, which it releases. The worker calls it first in every round; a thread that
 *        waits for memory calls it itself: punching takes less time than waiting for the worker.
 */
#include "mechanism.h"

#define MC_PUNCH_AREAS_MAX 32

static int punch_is_due(uint8_t state)
{
    return state == MC_A_PUNCH_HARD || state == MC_A_PUNCH_SOFT;
}

/* State of a punching area afterwards: an area that the kernel refused to punch is due again. */
static enum mc_area_state punch_after(uint8_t state, int failed)
{
    if (state == MC_A_PUNCHING_HARD)
        return failed ? MC_A_PUNCH_HARD : MC_A_HARD;
    return failed ? MC_A_PUNCH_SOFT : MC_A_SOFT;
}

/* The first area of the domain that is due; there is one. */
static uint32_t punch_first(const struct mc_domain *domain)
{
    uint32_t first = 0;
    while (first < domain->areas && !punch_is_due(domain->states[first]))
        first++;
    MC_CHECK_IN(domain, first < domain->areas, "%u and %u areas are due, none found",
                domain->counts[MC_A_PUNCH_HARD], domain->counts[MC_A_PUNCH_SOFT]);
    return first;
}

/* Punch the first run of due areas of a domain; 1 if there was one. */
static int punch_run(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t first, end;
    int failed;
    if (!domain->counts[MC_A_PUNCH_HARD] && !domain->counts[MC_A_PUNCH_SOFT])
        return 0;
    first = punch_first(domain);
    for (end = first; end < domain->areas && end - first < MC_PUNCH_AREAS_MAX &&
                      punch_is_due(domain->states[end]); end++)
        mc_area_set(host, domain, end, domain->states[end] == MC_A_PUNCH_HARD
                                           ? MC_A_PUNCHING_HARD : MC_A_PUNCHING_SOFT);
    mc_domain_hold(host, domain);
    failed = mc_punch(domain->ram_fd, mc_area_offset(first), mc_area_offset(end - first));
    mc_domain_let_go(host, domain);
    for (uint32_t area = first; area < end; area++)
        mc_area_set(host, domain, area, punch_after(domain->states[area], failed));
    return !failed;
}

int mc_punch_due(struct mc_host *host)
{
    struct mc_domain *domain;
    MC_CHECK_LOCKED(host);
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        if (mc_phase_of(domain) == MC_ACTIVE && punch_run(host, domain)) {
            mc_reach_note(host, domain);
            return 1;
        }
    return 0;
}
