/* cmm_channel.c: the messages between dom0 and the guests' drivers. See cmm_dom0.h, cmm.h. */
#include "cmm_dom0.h"

#include <sys/epoll.h>

#define CMM_EVENTS_MAX 16
#define CMM_WAIT_NS_MAX 60000000000u    /* the most that answer_ms may be */

int mc_cmm_has_dom0(const struct mc_domain *domain)
{
    return mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->id == MC_CMM &&
           cmm_of(domain)->dom0;
}

uint64_t mc_cmm_driver_word(const struct mc_domain *domain, uint32_t index)
{
    MC_CHECK_IN(domain, index < sizeof domain->control->driver / sizeof *domain->control->driver,
                "word %u of the driver", index);
    return __atomic_load_n(&domain->control->driver[index], __ATOMIC_ACQUIRE);
}

void mc_cmm_ring(struct mc_host *host, struct mc_domain *domain)
{
    cmm_of(domain)->unrung = 0;
    mc_guest_ring(host, domain);
}

/* Take the areas of one offer: a bit for each that was not taken. */
static uint32_t cmm_take_offered(struct mc_host *host, struct mc_domain *domain, uint32_t count)
{
    uint32_t left = 0;
    MC_CHECK_IN(domain, count <= MC_CMM_OFFER_MAX, "offer of %u areas", count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = mc_cmm_driver_word(domain, MC_CMM_OFFERED + i / 4);
        uint32_t area = word >> 16 * (i % 4) & 0xffff;
        int status = area < domain->areas ? mc_pull(host, domain, area, MC_PULL_CLAIMED)
                                          : MC_EINDEX;
        /* What the process before took of this offer is taken. */
        if (status == MC_ESTATE && cmm_of(domain)->is_again &&
            domain->states[area] != MC_A_INSTALLED)
            continue;
        if (status && status != MC_EPERM)
            mc_count_bad(domain);
        left |= (uint32_t)(status != MC_OK) << i;
        cmm_of(domain)->given_areas += status == MC_OK;
    }
    return left;
}

/* Take what one domain offers; 1 when there was an offer. */
static int cmm_collect_from(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_cmm *device = cmm_of(domain);
    uint64_t offer = mc_cmm_driver_word(domain, MC_CMM_OFFER);
    uint32_t count = (uint32_t)offer, left;
    if (mc_cmm_number(offer) == device->collected)
        return 0;
    if (!count || count > MC_CMM_OFFER_MAX) {
        mc_count_bad(domain);
        count = 0;
    }
    left = cmm_take_offered(host, domain, count);
    domain->growing = 0;
    device->unrung = 1;         /* the asker, who waits for this memory, is rung first */
    mc_config_write(domain, MC_CMM_TAKEN, mc_cmm_message(mc_cmm_number(offer), left));
    device->collected = mc_cmm_number(offer);   /* last: else the offer is dealt with again */
    device->is_again = 0;
    mc_reach_note(host, domain);
    return 1;
}

int mc_cmm_collect(struct mc_host *host)
{
    struct mc_domain *domain;
    int offers = 0;
    MC_CHECK_LOCKED(host);
    for (uint64_t mask = mc_attached(host); (domain = mc_next(host, &mask));)
        offers += mc_cmm_has_dom0(domain) && cmm_collect_from(host, domain);
    return offers;
}

void mc_cmm_wait(struct mc_dom0 *dom0, uint64_t longest_ns)
{
    struct epoll_event events[CMM_EVENTS_MAX];
    struct mc_domain *domain;
    MC_CHECK(longest_ns && longest_ns <= CMM_WAIT_NS_MAX, "dom0 waits for %lu ns", longest_ns);
    for (uint64_t mask = mc_attached(dom0->host); (domain = mc_next(dom0->host, &mask));)
        if (mc_cmm_has_dom0(domain) && cmm_of(domain)->unrung)
            mc_cmm_ring(dom0->host, domain);
    mc_host_unlock(dom0->host);
    epoll_wait(dom0->epoll_fd, events, CMM_EVENTS_MAX,
               (int)((longest_ns + MC_NS_PER_MS - 1) / MC_NS_PER_MS));
    mc_host_lock(dom0->host);
}
