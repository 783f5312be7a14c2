/* mechanism.c: the table of mechanisms, and what several of them do alike. See mechanism.h. */
#include "mechanism.h"

#include <string.h>

static const struct mc_mechanism *const table[MC_MECHANISMS] = {
    [MC_DIRECT] = &mc_direct, [MC_BALLOON] = &mc_balloon, [MC_VIRTIO_MEM] = &mc_virtio_mem,
    [MC_SECTIONS] = &mc_sections, [MC_CMM] = &mc_cmm, [MC_HYPERALLOC] = &mc_hyperalloc,
};

const struct mc_mechanism *mc_mechanism(uint32_t id)
{
    return id < MC_MECHANISMS ? table[id] : NULL;
}

int mc_mechanism_find(const char *name)
{
    for (uint32_t id = 0; id < MC_MECHANISMS; id++)
        if (!strcmp(table[id]->name, name))
            return (int)id;
    return MC_EINDEX;
}

int mc_option_find(int mechanism, const char *name, uint64_t *least, uint64_t *most)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    for (int i = 0; found && i < MC_OPTIONS_MAX && found->options[i].name; i++)
        if (!strcmp(found->options[i].name, name)) {
            *least = found->options[i].least;
            *most = found->options[i].most;
            return i;
        }
    return MC_EINDEX;
}

void mc_option_defaults(int mechanism, uint64_t *options)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    for (int i = 0; i < MC_OPTIONS_MAX; i++)
        options[i] = found ? found->options[i].value : 0;
}

uint32_t mc_mechanism_granule(int mechanism)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    return found ? found->granule_frames : 0;
}

int mc_mechanism_dma_safe(int mechanism)
{
    const struct mc_mechanism *found = mc_mechanism((uint32_t)mechanism);

    return found && found->dma_safe;
}

int mc_boot_populated(struct mc_host *host, struct mc_domain *domain)
{
    int path, status = MC_OK;

    for (uint32_t area = 0; area < domain->boot_areas && !status; area++) {
        if (domain->states[area] != MC_A_HARD)      /* pinned: it was never taken */
            continue;
        mc_redeem(host, domain, 1);
        status = mc_supply_find(host, domain, &path);
        if (!status)
            status = mc_populate(host, domain, area, MC_A_READY);
        if (!status)
            status = mc_grant(host, domain, area);
    }
    return status;
}

int mc_boot_plugged(struct mc_host *host, struct mc_domain *domain)
{
    int path, status = MC_OK;

    for (uint32_t area = 0; area < domain->boot_areas && !status; area++) {
        if (domain->states[area] != MC_A_HARD)
            continue;
        mc_redeem(host, domain, 1);
        status = mc_supply_find(host, domain, &path);
        if (!status)
            status = mc_plug_found(host, domain, area);
    }
    return status;
}

void mc_config_ask(struct mc_domain *domain, uint64_t frames)
{
    struct mc_control *control = domain->control;

    atomic_store(&control->requested_frames, frames);
    mc_bell_set((uint32_t *)&control->config_bell, (uint32_t *)&control->config_waiters,
                ++domain->config_bell);
}

int mc_config_settled(const struct mc_domain *domain, int32_t *status)
{
    /* The driver writes its status first: the other way round an old one would stand for it. */
    uint32_t seen = atomic_load(&domain->control->config_seen);

    *status = atomic_load(&domain->control->driver_status);
    return seen == domain->config_bell && *status != MC_STEP_MORE;
}

uint64_t mc_size(const struct mc_domain *domain)
{
    return domain->mechanism->size ? domain->mechanism->size(domain) : domain->installed_frames;
}

/* For mechanisms whose driver does the work. */
int mc_reach_default(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    int32_t status;

    (void)host;
    *why = MC_WHY_NONE;
    if (mc_size(domain) == domain->target_frames)
        return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
    if (mc_config_settled(domain, &status)) {
        *why = status == MC_ENOMEM ? MC_WHY_NO_MEMORY
               : status == MC_ESTATE ? MC_WHY_IN_USE
               : status == MC_EPERM ? MC_WHY_PINNED : MC_WHY_GUEST;
        return mc_in_transit(domain) ? MC_MOVING : MC_PARTIAL;
    }
    *why = MC_WHY_SILENT;
    return MC_MOVING;
}

int mc_reach_note(struct mc_host *host, struct mc_domain *domain)
{
    const struct mc_mechanism *mechanism = domain->mechanism;
    int reach = mechanism->reach ? mechanism->reach(host, domain, &domain->why)
                                 : mc_reach_default(host, domain, &domain->why);

    if (reach == MC_REACHED && !domain->counters.reached_ns)
        domain->counters.reached_ns = mc_clock_ns();
    atomic_store_explicit(&domain->control->plugged_frames, mc_size(domain), memory_order_relaxed);
    return reach;
}

uint32_t mc_why_not_taken(const struct mc_domain *domain)
{
    uint32_t why = MC_WHY_IN_USE;

    for (uint32_t area = 0; area < domain->areas; area++) {
        if (mc_is_spare(domain, area))
            return MC_WHY_NONE;
        if (domain->states[area] == MC_A_INSTALLED && domain->pin_counts[area])
            why = MC_WHY_PINNED;
    }
    return why;
}

/* A word that does not say evicted needs no telling: the area is backed, and that is the answer. */
static void tell_installed(struct mc_domain *domain, uint32_t area)
{
    mc_area_install(&domain->frames, area, domain->generations[area]);
}

static int install(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int path = MC_PATH_RING, status;

    mc_wait_area(host, domain, area, 1u << MC_A_PUNCHING_SOFT);
    switch (domain->states[area]) {
    case MC_A_PUNCH_SOFT:       /* the worker has not begun: keep the pages */
        mc_area_set(host, domain, area, MC_A_INSTALLED);
        /* fall through */
    case MC_A_INSTALLED:        /* or another thread of the guest has asked already */
        tell_installed(domain, area);
        return MC_OK;
    case MC_A_SOFT:
        break;
    default:
        return MC_EFOREIGN;
    }
    if (domain->counts[MC_A_INSTALLED] >= domain->target_areas)
        return MC_ETARGET;
    status = mc_supply_find(host, domain, &path);
    if (!status && domain->states[area] != MC_A_SOFT)
        status = MC_ESTATE;
    if (!status)
        status = mc_populate(host, domain, area, MC_A_INSTALLED);
    if (status)
        return status;
    domain->counters.grants[path]++;
    tell_installed(domain, area);
    return MC_OK;
}

int mc_install(struct mc_host *host, struct mc_domain *domain, uint64_t area)
{
    int status = area < domain->areas ? install(host, domain, (uint32_t)area) : MC_EINDEX;

    domain->counters.refused += status == MC_ENOMEM || status == MC_ETARGET;
    return status;
}

/* The service thread pushes it: it alone uses the ring. At most MC_RING_SLOTS are outstanding. */
void mc_answer(struct mc_host *host, struct mc_domain *domain, const struct mc_record *record)
{
    uint32_t count = domain->answer_count;

    if (!MC_CHECK_DOMAIN(host, domain, count < MC_RING_SLOTS, "%u answers wait", count))
        return;
    domain->answers[count] = *record;
    __atomic_store_n(&domain->answer_count, count + 1, __ATOMIC_RELEASE);
    mc_eventfd_ring(host->kick_fd);
}
