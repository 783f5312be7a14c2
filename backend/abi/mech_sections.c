/* mech_sections.c: sections of many areas, each out of one bank. See sections.h.
 *
 *   size         what is installed: whole sections, but for those that pins kept half at a reboot.
 *   target       rings the guest's bell. The guest asks by SECTION_NEXT what it is to do
 *                (sections_plan.c) until there is nothing.
 *   online       all areas of a section are plugged, or none, charged to one bank. Their pages come
 *                as the guest touches them.
 *   offline      the guest has emptied the section and offers it: all areas are taken, or none.
 *   partial      what the guest cannot empty stays, with the reason, until the target is set again,
 *                the banks change, or the guest says that it has made room. The guest's bell rings
 *                again once the banks can give what they could not.
 */
#include "books.h"
#include "sections_device.h"

#include <string.h>

#define MC_SECTION_WAIT_NS 1000000000u      /* a SECTION_NEXT waits no longer for memory */
#define MC_BOOT_LOOK_NS 20000000

/* Areas of a section: Linux' size, if that leaves four sections to resize by; of smaller domains a
 * quarter. Whole sections make up maxmem. 0 when the option asks for what cannot be. */
static uint32_t sections_size_in_areas(const struct mc_domain *domain)
{
    uint64_t asked = domain->options[MC_SECTIONS_AREAS];
    uint32_t areas = MC_SECTION_AREAS_LINUX;
    if (asked)
        return asked & (asked - 1) || domain->areas % asked ? 0 : (uint32_t)asked;
    while (areas > 1 && (domain->areas % areas || areas > domain->areas / 4))
        areas /= 2;
    return areas;
}

static int sections_open(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = sections_of(domain);
    uint32_t areas = sections_size_in_areas(domain);
    (void)host;
    if (!areas)
        return MC_EINDEX;
    MC_CHECK_IN(domain, domain->areas <= MC_MAX_AREAS, "%u areas", domain->areas);
    device->areas = areas;
    device->count = domain->areas / areas;
    domain->options[MC_SECTIONS_AREAS] = areas;
    domain->granule_frames = areas * MC_AREA_FRAMES;
    domain->boot_areas = (domain->boot_areas + areas - 1) / areas * areas;
    return MC_OK;
}

/* The bell rings anew: what the guest said after the last one is void. */
static void sections_forget_answers(struct mc_sections *device)
{
    MC_CHECK(device->count && device->count <= MC_MAX_AREAS, "%u sections", device->count);
    memset(device->stays, MC_SECTION_MAY_GO, device->count);
    device->asked = MC_NO_SECTION;
    device->why = MC_WHY_NONE;
    device->starved_frames = 0;
}

static int sections_boot(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = sections_of(domain);
    enum mc_sections_result result = MC_SECTIONS_DONE;
    uint64_t until_ns = mc_clock_ns() + MC_BOOT_NS_MAX;
    MC_CHECK_IN(domain, device->areas && domain->boot_areas % device->areas == 0,
                "boots with %u areas, sections of %u", domain->boot_areas, device->areas);
    MC_CHECK_IN(domain, domain->boot_areas <= domain->areas, "boots with %u areas of %u",
                domain->boot_areas, domain->areas);
    sections_forget_answers(device);
    device->next_waits = 0;
    for (uint32_t i = 0; i < domain->boot_areas / device->areas && !result; i++) {
        mc_redeem(host, domain, device->areas);
        result = mc_section_plug(host, domain, i);
        while (result == MC_SECTIONS_WAITS && mc_clock_ns() < until_ns) {
            mc_wait_done(host, MC_BOOT_LOOK_NS);
            result = mc_section_plug(host, domain, i);
        }
    }
    if (result == MC_SECTIONS_DONE)
        return MC_OK;
    return result == MC_SECTIONS_SPOILT ? MC_ESTATE : MC_ENOMEM;
}

/* Also called when the banks have changed. */
static void sections_ring_target(struct mc_host *host, struct mc_domain *domain)
{
    MC_CHECK_LOCKED(host);
    sections_forget_answers(sections_of(domain));
    mc_config_ask(domain, domain->target_frames);
}

static void sections_offer_target(struct mc_host *host, struct mc_domain *domain)
{
    if (domain->installed_frames != domain->target_frames)
        sections_ring_target(host, domain);
}

static enum mc_served sections_request_next(struct mc_host *host, struct mc_domain *domain,
                                            struct mc_record *record)
{
    struct mc_sections *device = sections_of(domain);
    if (device->next_waits)     /* one at a time: a guest cannot make many of them wait */
        return mc_answered(record, MC_EFULL);
    if (mc_sections_serve_next(host, domain, record) == MC_ANSWERED)
        return MC_ANSWERED;
    device->next = *record;
    device->until_ns = mc_clock_ns() + MC_SECTION_WAIT_NS;
    MC_BOOKED();
    device->next_waits = 1;
    return MC_KEPT;
}

/* MC_OK when all of the section's areas may go: without pins, claimed as far as the guest's words
 * say. MC_EPERM, MC_ESTATE. */
static enum mc_status sections_check_offered(struct mc_domain *domain, uint32_t section)
{
    struct mc_area_run run = mc_section_areas(domain, section);
    if (mc_section_look(domain, section).pinned) {
        domain->counters.refused_dma++;
        sections_of(domain)->stays[section] = MC_SECTION_PINNED;
        return MC_EPERM;
    }
    for (uint32_t area = run.first; area < run.end; area++)
        if (domain->states[area] == MC_A_INSTALLED && !mc_area_is_claimed(domain, area))
            return MC_ESTATE;
    return MC_OK;
}

/* Take the areas of a section that the guest has claimed. A guest that changes its words meanwhile
 * keeps part of the section, which is charged to it. */
static int sections_take(struct mc_host *host, struct mc_domain *domain, uint32_t section)
{
    struct mc_area_run run = mc_section_areas(domain, section);
    int status = sections_check_offered(domain, section);
    for (uint32_t area = run.first; area < run.end && !status; area++)
        if (domain->states[area] == MC_A_INSTALLED)
            status = mc_pull(host, domain, area, MC_PULL_CLAIMED);
    return status;
}

static int sections_request_offlined(struct mc_host *host, struct mc_domain *domain,
                                     const struct mc_record *record)
{
    struct mc_sections *device = sections_of(domain);
    uint64_t section = record->arg[0];
    if (section >= device->count)
        return MC_EINDEX;
    if (section != device->asked && !mc_is_memory_again(domain, record))
        return MC_ETARGET;
    device->asked = MC_NO_SECTION;
    return sections_take(host, domain, (uint32_t)section);
}

/* The guest was asked for the section and cannot empty it. */
static int sections_note_stays(struct mc_host *host, struct mc_domain *domain, uint32_t section,
                               enum mc_section_stays why)
{
    struct mc_sections *device = sections_of(domain);
    MC_CHECK_IN(domain, section == device->asked, "section %u stays, %u was asked for", section,
                device->asked);
    if (!MC_CHECK_DOMAIN(host, domain, device->stays[section] == MC_SECTION_MAY_GO,
                         "section %u was asked for, and stays for %u", section,
                         device->stays[section]))
        return MC_EBROKEN;
    device->asked = MC_NO_SECTION;
    device->stays[section] = (uint8_t)why;
    return MC_OK;
}

static int sections_request_kept(struct mc_host *host, struct mc_domain *domain,
                                 const struct mc_record *record)
{
    const struct mc_sections *device = sections_of(domain);
    uint64_t section = record->arg[0];
    if (section >= device->count)
        return MC_EINDEX;
    if (section != device->asked)       /* it answers an older bell */
        return MC_OK;
    return sections_note_stays(host, domain, (uint32_t)section,
                               record->arg[1] == (uint64_t)-MC_EPERM ? MC_SECTION_PINNED
                                                                     : MC_SECTION_IN_USE);
}

static enum mc_served sections_request(struct mc_host *host, struct mc_domain *domain,
                                       struct mc_record *record)
{
    switch (record->op) {
    case MC_OP_SECTION_NEXT:
        return sections_request_next(host, domain, record);
    case MC_OP_SECTION_OFFLINED:
        return mc_answered(record, sections_request_offlined(host, domain, record));
    case MC_OP_SECTION_KEPT:
        return mc_answered(record, sections_request_kept(host, domain, record));
    default:
        return mc_answered(record, MC_EOP);
    }
}

/* Keeper: answer the SECTION_NEXT that waits, if what it waits for has come or its time is over. */
static int sections_serve_waiting(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = sections_of(domain);
    if (!device->next_waits)
        return 0;
    if (!MC_CHECK_DOMAIN(host, domain, device->next.op == MC_OP_SECTION_NEXT && device->until_ns,
                         "op %u waits until %lu", device->next.op, device->until_ns))
        return 0;
    if (mc_sections_serve_next(host, domain, &device->next) == MC_KEPT) {
        if (mc_clock_ns() < device->until_ns)
            return 0;
        device->why = MC_WHY_NO_MEMORY;
        device->next.status = MC_ENOMEM;
    }
    mc_answer(host, domain, &device->next);
    MC_BOOKED();
    device->next_waits = 0;
    return 1;
}

/* Keeper: the banks can give now what they could not. */
static int sections_offer_chunk(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = sections_of(domain);
    uint32_t bank;
    mc_banks_drain(host);
    if (!device->starved_frames || device->next_waits)
        return 0;
    if (!MC_CHECK_DOMAIN(host, domain,
                         device->starved_frames <= (uint64_t)device->areas * MC_AREA_FRAMES,
                         "a chunk of %lu frames is missing, sections of %u areas",
                         device->starved_frames, device->areas))
        return 0;
    if (!mc_section_has_chunk(host, domain, device->starved_frames, device->starved_bank, &bank))
        return 0;
    sections_ring_target(host, domain);
    return 1;
}

static enum mc_reach sections_reach(struct mc_host *host, const struct mc_domain *domain,
                                    enum mc_why *why)
{
    const struct mc_sections *device = sections_of(domain);
    int32_t status;
    MC_CHECK_IN(domain, device->why < MC_WHYS, "why %u", device->why);
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
static int sections_validate(struct mc_host *host, const struct mc_domain *domain)
{
    (void)host;
    for (uint32_t i = 0; i < sections_of(domain)->count; i++) {
        struct mc_area_run run = mc_section_areas(domain, i);
        uint32_t bank = MC_NO_BANK;
        for (uint32_t area = run.first; area < run.end; area++) {
            if (domain->states[area] <= MC_A_SOFT)
                continue;
            if (bank != MC_NO_BANK && domain->banks[area] != bank)
                return MC_EBROKEN;
            bank = domain->banks[area];
        }
    }
    return MC_OK;
}

/* The plan is made anew from the ledger; only the record that waits is kept. */
static int64_t sections_recover(struct mc_host *host, struct mc_domain *domain)
{
    struct mc_sections *device = sections_of(domain);
    if (!MC_CHECK_DOMAIN(host, domain,
                         device->asked == MC_NO_SECTION || device->asked < device->count,
                         "section %u of %u was asked for", device->asked, device->count) ||
        !MC_CHECK_DOMAIN(host, domain,
                         !device->next_waits || device->next.op == MC_OP_SECTION_NEXT,
                         "op %u waits", device->next.op))
        return MC_EBROKEN;
    if (device->next_waits && !mc_keep_again(domain, &device->next))
        device->next_waits = 0;
    return device->next_waits;
}

const struct mc_mechanism mc_sections = {
    .name = "sections",
    .says = "memory hotplug without ACPI: whole sections come and go, bank by bank",
    .id = MC_SECTIONS, .granule_frames = MC_AREA_FRAMES, .dma_safe = 1,
    .options = {[MC_SECTIONS_AREAS] = {"section_areas", 0, 0, MC_SECTION_AREAS_MAX,
                                       "areas in a section, a power of two that divides maxmem; "
                                       "0: 128 MiB, or a quarter of maxmem in a smaller domain"},
                [MC_SECTIONS_REMOTE] = {"remote_first", 0, 0, 1,
                                        "1: remote banks come first and local ones go first"}},
    .device_bytes = sizeof(struct mc_sections), .open = sections_open, .boot = sections_boot,
    .target = sections_ring_target, .offer = sections_offer_target, .request = sections_request,
    .jobs = {[MC_JOB_TAKE] = sections_serve_waiting, [MC_JOB_GIVE] = sections_offer_chunk},
    .reach = sections_reach, .validate = sections_validate, .recover = sections_recover,
};
