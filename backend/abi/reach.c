/* reach.c: how far a domain is on its way to its target, and what host and driver tell each other.
 * See mechanism.h.
 */
#include "mechanism.h"

void mc_config_ask(struct mc_domain *domain, uint64_t frames)
{
    struct mc_control *control = domain->control;

    MC_CHECK(control && frames <= mc_maxmem_frames(domain),
             "domain %u: asked for %lu frames of %lu", domain->domid, frames,
             mc_maxmem_frames(domain));
    atomic_store(&control->requested_frames, frames);
    mc_bell_set((uint32_t *)&control->config_bell, (uint32_t *)&control->config_waiters,
                ++domain->config_bell);
}

int mc_config_settled(const struct mc_domain *domain, int32_t *status)
{
    uint32_t seen;

    MC_CHECK(domain->control, "domain %u: phase %d, without control", domain->domid,
             mc_phase_of(domain));
    /* The driver writes its status before config_seen: read in the other order, an old status would
     * stand for the new bell. */
    seen = atomic_load(&domain->control->config_seen);
    *status = atomic_load(&domain->control->driver_status);
    return seen == domain->config_bell && *status != MC_STEP_MORE;
}

/* The service thread alone writes the ring. At most MC_RING_SLOTS records are outstanding. */
void mc_answer(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record)
{
    uint32_t count = domain->answer_count;

    MC_CHECK_LOCKED(host);
    MC_CHECK(record->op != MC_OP_NOP, "domain %u: answer to op %u was kept", domain->domid,
             record->op);
    if (!MC_CHECK_DOMAIN(host, domain, count < MC_RING_SLOTS, "%u answers wait", count))
        return;
    domain->answers[count] = *record;
    __atomic_store_n(&domain->answer_count, count + 1, __ATOMIC_RELEASE);
    mc_eventfd_ring(host->kick_fd);
}

uint64_t mc_size(const struct mc_domain *domain)
{
    uint64_t frames = domain->mechanism->size ? domain->mechanism->size(domain)
                                              : domain->installed_frames;

    MC_CHECK(frames <= mc_maxmem_frames(domain), "domain %u: %lu frames of %lu", domain->domid,
             frames, mc_maxmem_frames(domain));
    return frames;
}

static enum mc_why reach_why(int32_t driver_status)
{
    switch (driver_status) {
    case MC_ENOMEM:
        return MC_WHY_NO_MEMORY;
    case MC_ESTATE:
        return MC_WHY_IN_USE;
    case MC_EPERM:
        return MC_WHY_PINNED;
    default:
        return MC_WHY_GUEST;
    }
}

/* For mechanisms whose driver does the work. */
enum mc_reach mc_reach_default(struct mc_host *host, const struct mc_domain *domain,
                               enum mc_why *why)
{
    int32_t status;

    (void)host;
    *why = MC_WHY_NONE;
    if (mc_size(domain) == domain->target_frames)
        return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
    if (mc_config_settled(domain, &status)) {
        *why = reach_why(status);
        return mc_in_transit(domain) ? MC_MOVING : MC_PARTIAL;
    }
    *why = MC_WHY_SILENT;
    return MC_MOVING;
}

enum mc_reach mc_reach_note(struct mc_host *host, struct mc_domain *domain)
{
    const struct mc_mechanism *mechanism = domain->mechanism;
    enum mc_reach reach;

    MC_CHECK_LOCKED(host);
    MC_CHECK(domain->control && domain->target_frames <= mc_maxmem_frames(domain),
             "domain %u: phase %d, target of %lu frames, or no control", domain->domid,
             mc_phase_of(domain), domain->target_frames);
    reach = mechanism->reach ? mechanism->reach(host, domain, &domain->why)
                             : mc_reach_default(host, domain, &domain->why);
    MC_CHECK(reach <= MC_PARTIAL && domain->why < MC_WHYS, "domain %u: reach %d, why %d",
             domain->domid, reach, domain->why);
    if (reach == MC_REACHED && !domain->counters.reached_ns)
        domain->counters.reached_ns = mc_clock_ns();
    atomic_store_explicit(&domain->control->plugged_frames, mc_size(domain), memory_order_relaxed);
    return reach;
}

enum mc_why mc_why_not_taken(const struct mc_domain *domain)
{
    enum mc_why why = MC_WHY_IN_USE;

    for (uint32_t area = 0; area < domain->areas; area++) {
        if (mc_is_spare(domain, area))
            return MC_WHY_NONE;
        if (domain->states[area] == MC_A_INSTALLED && domain->pin_counts[area])
            why = MC_WHY_PINNED;
    }
    return why;
}
