/* reach.c: how far a domain is on its way to its target, and what host and driver tell each other.
 * See mechanism.h.
 */
#include "mechanism.h"

void mc_config_ask(struct mc_domain *domain, uint64_t frames)
{
    struct mc_control *control = domain->control;
    MC_CHECK_IN(domain, control && frames <= mc_maxmem_frames(domain),
                "asked for %lu frames of %lu", frames, mc_maxmem_frames(domain));
    atomic_store(&control->requested_frames, frames);
    mc_bell_set((uint32_t *)&control->config_bell, (uint32_t *)&control->config_waiters,
                ++domain->config_bell);
}

void mc_config_write(struct mc_domain *domain, uint32_t index, uint64_t word)
{
    MC_CHECK_IN(domain, index < sizeof domain->control->config / sizeof *domain->control->config,
                "word %u of the configuration", index);
    __atomic_store_n(&domain->control->config[index], word, __ATOMIC_RELEASE);
}

void mc_timer_set(struct mc_domain *domain, int option, uint64_t now_ns)
{
    uint64_t period_ms = domain->options[option];
    MC_CHECK_IN(domain, period_ms <= domain->mechanism->options[option].most, "timer of %lu ms",
                period_ms);
    domain->timer_ns = period_ms ? now_ns + period_ms * MC_NS_PER_MS : 0;
}

int mc_config_settled(const struct mc_domain *domain, int32_t *status)
{
    uint32_t seen;
    MC_CHECK_IN(domain, domain->control, "phase %d, without control", mc_phase_of(domain));
    /* The driver writes its status before config_seen: read in the other order, an old status would
     * stand for the new bell. */
    seen = atomic_load(&domain->control->config_seen);
    *status = atomic_load(&domain->control->driver_status);
    return seen == domain->config_bell && *status != MC_STEP_MORE;
}

void mc_guest_ring(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_control *control = domain->control;
    if (!domain->relayed) {
        mc_bell_ring((uint32_t *)&control->guest_bell, (uint32_t *)&control->guest_waiters);
        return;
    }
    MC_CHECK_IN(domain, host->relay_fd >= 0, "relayed by fd %d", host->relay_fd);
    __atomic_fetch_or(&host->relay_mask, 1ull << domain->domid, __ATOMIC_RELEASE);
    mc_eventfd_ring(host->relay_fd);
}

/* The service thread alone writes the ring. At most MC_RING_SLOTS records are outstanding. */
void mc_answer(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record)
{
    uint32_t count = domain->answer_count;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, record->op != MC_OP_NOP, "answer to op %u was kept", record->op);
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
    MC_CHECK_IN(domain, frames <= mc_maxmem_frames(domain), "%lu frames of %lu", frames,
                mc_maxmem_frames(domain));
    return frames;
}

static enum mc_why reach_why(int32_t driver_status)
{
    return driver_status == MC_ENOMEM ? MC_WHY_NO_MEMORY
           : driver_status == MC_ESTATE ? MC_WHY_IN_USE
           : driver_status == MC_EPERM ? MC_WHY_PINNED : MC_WHY_GUEST;
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
    MC_CHECK_IN(domain, domain->control && domain->target_frames <= mc_maxmem_frames(domain),
                "phase %d, target of %lu frames, or no control", mc_phase_of(domain),
                domain->target_frames);
    reach = mechanism->reach ? mechanism->reach(host, domain, &domain->why)
                             : mc_reach_default(host, domain, &domain->why);
    MC_CHECK_IN(domain, reach <= MC_PARTIAL && domain->why < MC_WHYS, "reach %d, why %d", reach,
                domain->why);
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
