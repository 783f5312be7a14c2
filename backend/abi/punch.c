/* punch.c: gives the pages of areas that were taken from a guest back to the kernel.
 *
 * Rules: under the lock, which these release. The keeper of the domain alone calls them (or the
 *        main thread, of a domain that has no keeper): the kernel takes the lock of the file's
 *        inode, which any process that shares the file can keep for as long as it likes.
 *        An area that the kernel refused to punch is due again after MC_PUNCH_RETRY_NS, and stays
 *        charged until then.
 */
#include "mechanism.h"

#define MC_PUNCH_AREAS_MAX 32
#define MC_PUNCH_RETRY_NS 20000000

static int punch_is_due(uint8_t state)
{
    return state == MC_A_PUNCH_HARD || state == MC_A_PUNCH_SOFT;
}

/* State of a punching area afterwards. */
static enum mc_area_state punch_after(uint8_t state, int failed)
{
    MC_CHECK(state == MC_A_PUNCHING_HARD || state == MC_A_PUNCHING_SOFT,
             "an area of state %u was punched", state);
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

int mc_is_punch_due(const struct mc_domain *domain)
{
    return domain->counts[MC_A_PUNCH_HARD] || domain->counts[MC_A_PUNCH_SOFT];
}

int mc_punch_own(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t first, end;
    int failed;
    MC_CHECK_LOCKED(host);
    if (!mc_is_punch_due(domain) || mc_clock_ns() < domain->punch_ns)
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
    if (failed)
        domain->punch_ns = mc_clock_ns() + MC_PUNCH_RETRY_NS;
    else
        mc_work_hungry(host);
    return !failed;
}
