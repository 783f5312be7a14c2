/* cmm_channel.c: the messages between dom0 and the guests' drivers. See cmm_dom0.h, cmm.h. */
#include "cmm_dom0.h"

#include <sys/epoll.h>

#define CMM_EVENTS_MAX 16
#define CMM_WAIT_NS_MAX 60000000000u    /* the most that answer_ms may be */
#define NS_PER_MS 1000000u

int mc_cmm_has_dom0(const struct mc_domain *domain)
{
    return mc_phase_of(domain) == MC_ACTIVE && domain->mechanism->id == MC_CMM &&
           cmm_of(domain)->dom0;
}

uint64_t mc_cmm_driver_word(const struct mc_domain *domain, uint32_t index)
{
    MC_CHECK(index < sizeof domain->control->driver / sizeof *domain->control->driver,
             "domain %u: word %u of the driver", domain->domid, index);
    return __atomic_load_n(&domain->control->driver[index], __ATOMIC_ACQUIRE);
}

void mc_cmm_write_config(struct mc_domain *domain, uint32_t index, uint64_t word)
{
    MC_CHECK(index < sizeof domain->control->config / sizeof *domain->control->config,
             "domain %u: word %u of the configuration", domain->domid, index);
    __atomic_store_n(&domain->control->config[index], word, __ATOMIC_RELEASE);
}

void mc_cmm_ring(struct mc_host *host, struct mc_domain *domain)
{
    cmm_of(domain)->unrung = 0;
    if (domain->relayed) {
        __atomic_fetch_or(&host->relay_mask, 1ull << domain->domid, __ATOMIC_RELEASE);
        mc_eventfd_ring(host->relay_fd);
        return;
    }
    mc_bell_ring((uint32_t *)&domain->control->guest_bell,
                 (uint32_t *)&domain->control->guest_waiters);
}

/* Take the areas of one offer: a bit for each that was not taken. */
static uint32_t cmm_take_offered(struct mc_host *host, struct mc_domain *domain, uint32_t count)
{
    uint32_t left = 0;

    MC_CHECK(count <= MC_CMM_OFFER_MAX, "domain %u: offer of %u areas", domain->domid, count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = mc_cmm_driver_word(domain, MC_CMM_OFFERED + i / 4);
        uint32_t area = word >> 16 * (i % 4) & 0xffff;
        int status = area < domain->areas ? mc_pull(host, domain, area, MC_PULL_CLAIMED)
                                          : MC_EINDEX;

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
    device->collected = mc_cmm_number(offer);
    device->unrung = 1;         /* the asker, who waits for this memory, is rung first */
    mc_cmm_write_config(domain, MC_CMM_TAKEN, mc_cmm_message(device->collected, left));
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
               (int)((longest_ns + NS_PER_MS - 1) / NS_PER_MS));
    mc_host_lock(dom0->host);
}
