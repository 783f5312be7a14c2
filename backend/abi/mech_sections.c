/* mech_sections.c: sections of many areas, each out of one bank. See sections.h.
 *
 *   size         what is installed; whole sections, but for those that pins kept half at a reboot.
 *   target       rings the guest, which asks what is next (sections_plan.c) until nothing is.
 *   online       all areas of a section are plugged, charged to one bank, without pages: these come
 *                as the guest touches them. All or none of it.
 *   offline      the guest has emptied the section and offers it: all areas are taken, or none.
 *   partial      what the guest cannot empty stays, with the reason, until the target is set
 *                again, the banks change or the guest says it has made room; what the banks could
 *                not give is offered once they can.
 */
#include "sections_device.h"

#include <stdlib.h>
#include <string.h>

#define MC_SECTION_WAIT_NS 1000000000u      /* a NEXT is kept no longer */
#define MC_BOOT_WAITS_MAX 50
#define MC_BOOT_WAIT_NS 20000000

static struct mc_sections *device_of(const struct mc_domain *domain)
{
    return domain->device;
}

/* Linux' size, if that leaves four sections to resize by; of smaller domains a quarter. Whole
 * sections make up maxmem. 0 when what was asked for cannot be. */
static uint32_t section_areas(const struct mc_domain *domain)
{
    uint64_t asked = domain->options[MC_SECTIONS_AREAS];
    uint32_t areas = MC_SECTION_AREAS_LINUX;

    if (asked)
        return asked & (asked - 1) || domain->areas % asked ? 0 : (uint32_t)asked;
    while (areas > 1 && (domain->areas % areas || areas > domain->areas / 4))
        areas /= 2;
    return areas;
}

static int open_device(struct mc_host *host, struct mc_domain *domain)
{
    uint32_t areas = section_areas(domain);
    struct mc_sections *device;

    (void)host;
    if (!areas)
        return MC_EINDEX;
    device = calloc(1, sizeof *device + domain->areas / areas);
    if (!device)
        return MC_ENOMEM;
    device->areas = areas;
    device->count = domain->areas / areas;
    device->kept = (uint8_t *)(device + 1);
    domain->device = device;
    domain->options[MC_SECTIONS_AREAS] = areas;
    domain->granule_frames = areas * MC_AREA_FRAMES;
    domain->boot_areas = (domain->boot_areas + areas - 1) / areas * areas;
    return MC_OK;
}

static void close_device(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    free(domain->device);
}

/* A new bell: what was true of the old one is void. */
static void forget(struct mc_sections *device)
{
    memset(device->kept, 0, device->count);
    device->asked = MC_NO_SECTION;
    device->why = MC_WHY_NONE;
    device->starved_frames = 0;
}

static int boot(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = device_of(domain);
    int64_t status = MC_OK;

    forget(device);
    device->waiting = 0;
    for (uint32_t i = 0; i < domain->boot_areas / device->areas && !status; i++) {
        mc_redeem(host, domain, device->areas);
        status = mc_section_plug(host, domain, i);
        for (int waits = 0; status == MC_LATER; waits++) {
            mc_wait_done(host, MC_BOOT_WAIT_NS);
            status = waits < MC_BOOT_WAITS_MAX ? mc_section_plug(host, domain, i) : MC_ENOMEM;
        }
    }
    return (int)status;
}

/* Also when the banks have changed. */
static void target(struct mc_host *host, struct mc_domain *domain)
{
    (void)host;
    forget(device_of(domain));
    mc_config_ask(domain, domain->target_frames);
}

static void offer(struct mc_host *host, struct mc_domain *domain)
{
    if (domain->installed_frames != domain->target_frames)
        target(host, domain);
}

static int64_t serve_next(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    struct mc_sections *device = device_of(domain);
    int64_t status;

    if (device->waiting)        /* one at a time: a guest that floods us waits for nothing */
        return MC_EFULL;
    status = mc_sections_next(host, domain, record);
    if (status == MC_LATER) {
        device->waiting = 1;
        device->record = *record;
        device->until_ns = mc_clock_ns() + MC_SECTION_WAIT_NS;
    }
    return status;
}

/* All of the section's areas may go: they are claimed as far as the guest's words say. */
static int64_t may_take(struct mc_domain *domain, uint32_t section)
{
    struct mc_section seen = mc_section_look(domain, section);
    uint32_t areas = device_of(domain)->areas;

    if (seen.pinned) {
        domain->counters.refused_dma++;
        device_of(domain)->kept[section] = -MC_EPERM;
        return MC_EPERM;
    }
    for (uint32_t area = section * areas; area < (section + 1) * areas; area++) {
        int64_t word = mc_area_word(&domain->frames, area);

        if (domain->states[area] == MC_A_INSTALLED &&
            (word & (MC_AREA_FREE_MASK | MC_AREA_HUGE | MC_AREA_RECLAIMED)) != MC_AREA_HUGE)
            return MC_ESTATE;
    }
    return MC_OK;
}

/* A guest that changes its words meanwhile keeps part of the section, which is charged to it. */
static int64_t serve_offlined(struct mc_host *host, struct mc_domain *domain,
                              const struct mc_record *record)
{
    struct mc_sections *device = device_of(domain);
    uint64_t section = record->arg[0];
    int64_t status;

    if (section >= device->count)
        return MC_EINDEX;
    if (section != device->asked)
        return MC_ETARGET;
    device->asked = MC_NO_SECTION;
    status = may_take(domain, (uint32_t)section);
    for (uint32_t i = 0; i < device->areas && !status; i++) {
        uint32_t area = (uint32_t)section * device->areas + i;

        if (domain->states[area] == MC_A_INSTALLED)
            status = mc_pull(host, domain, area, MC_PULL_CLAIMED);
    }
    return status;
}

static int64_t serve_kept(struct mc_domain *domain, const struct mc_record *record)
{
    struct mc_sections *device = device_of(domain);
    uint64_t section = record->arg[0];

    if (section >= device->count)
        return MC_EINDEX;
    if (section != device->asked)       /* of an older bell */
        return MC_OK;
    device->asked = MC_NO_SECTION;
    device->kept[section] = record->arg[1] == (uint64_t)-MC_EPERM ? -MC_EPERM : -MC_ESTATE;
    return MC_OK;
}

static int64_t request(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    switch (record->op) {
    case MC_OP_SECTION_NEXT:
        return serve_next(host, domain, record);
    case MC_OP_SECTION_OFFLINED:
        return serve_offlined(host, domain, record);
    case MC_OP_SECTION_KEPT:
        return serve_kept(domain, record);
    default:
        return MC_EOP;
    }
}

/* Worker: what a NEXT waited for may have come. */
static int answer(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = device_of(domain);
    int64_t status;

    if (!device->waiting)
        return 0;
    status = mc_sections_next(host, domain, &device->record);
    if (status == MC_LATER) {
        if (mc_clock_ns() < device->until_ns)
            return 0;
        device->why = MC_WHY_NO_MEMORY;
        status = MC_ENOMEM;
    }
    device->waiting = 0;
    device->record.status = status;
    mc_answer(host, domain, &device->record);
    return 1;
}

/* Worker: what the banks could not give, they can now. */
static int offer_again(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = device_of(domain);
    uint32_t bank;

    mc_banks_drain(host);
    if (!device->starved_frames || device->waiting ||
        !mc_section_chunk(host, domain, device->starved_frames, device->starved_bank, &bank))
        return 0;
    target(host, domain);
    return 1;
}

static int reach(struct mc_host *host, const struct mc_domain *domain, uint32_t *why)
{
    const struct mc_sections *device = device_of(domain);
    int32_t status;

    *why = MC_WHY_NONE;
    if (domain->installed_frames == domain->target_frames && !mc_sections_must_move(host, domain))
        return mc_in_transit(domain) ? MC_MOVING : MC_REACHED;
    *why = MC_WHY_SILENT;
    if (!mc_config_settled(domain, &status) || mc_in_transit(domain))
        return MC_MOVING;
    *why = device->why == MC_WHY_NONE ? MC_WHY_GUEST : device->why;
    return MC_PARTIAL;
}

/* No chunk spans banks. */
static int validate(struct mc_host *host, const struct mc_domain *domain)
{
    const struct mc_sections *device = device_of(domain);

    (void)host;
    for (uint32_t i = 0; i < device->count; i++) {
        uint32_t bank = MC_NO_BANK;

        for (uint32_t area = i * device->areas; area < (i + 1) * device->areas; area++) {
            if (domain->states[area] <= MC_A_SOFT)
                continue;
            if (bank != MC_NO_BANK && domain->banks[area] != bank)
                return MC_EBROKEN;
            bank = domain->banks[area];
        }
    }
    return MC_OK;
}

const struct mc_mechanism mc_sections = {
    .name = "sections",
    .id = MC_SECTIONS,
    .granule_frames = MC_AREA_FRAMES,
    .dma_safe = 1,
    .options = {{"section_areas", 0, 0, MC_SECTION_AREAS_MAX}, {"remote_first", 0, 0, 1}},
    .open = open_device,
    .boot = boot,
    .target = target,
    .offer = offer,
    .close = close_device,
    .request = request,
    .jobs = {answer, offer_again},
    .reach = reach,
    .validate = validate,
};
