/* sections_plan.c: which section comes or goes next. See sections_device.h.
 *
 *   1. below the target       plug one: what is missing of one that pins kept half, else the first
 *                             empty one; its chunk out of one bank.
 *   2. a whole section above  one goes: on a withdrawn bank, then on the less wanted kind of bank,
 *                             then the emptiest by the guest's words, then the highest.
 *   3. on a withdrawn bank    with a chunk in another bank: plug an empty section first, and 2.
 *                             takes the old one; without an empty section the old one goes first.
 *   4. nothing                or why the domain is not where it should be.
 */
#include "sections_device.h"

static struct mc_sections *device_of(const struct mc_domain *domain)
{
    return domain->device;
}

static uint64_t section_frames(const struct mc_domain *domain)
{
    return (uint64_t)device_of(domain)->areas * MC_AREA_FRAMES;
}

struct mc_section mc_section_look(const struct mc_domain *domain, uint32_t section)
{
    uint32_t areas = device_of(domain)->areas;
    struct mc_section seen = {.bank = MC_NO_BANK};

    for (uint32_t area = section * areas; area < (section + 1) * areas; area++) {
        int64_t word;

        seen.transit += domain->states[area] > MC_A_SOFT && domain->states[area] != MC_A_INSTALLED;
        if (domain->states[area] != MC_A_INSTALLED)
            continue;
        seen.installed++;
        seen.pinned += domain->pin_counts[area] != 0;
        seen.bank = domain->banks[area];
        word = mc_area_word(&domain->frames, area) & MC_AREA_FREE_MASK;
        seen.free_frames += word < MC_AREA_FRAMES ? (uint64_t)word : MC_AREA_FRAMES;
    }
    return seen;
}

static int on_withdrawn(const struct mc_host *host, const struct mc_section *seen)
{
    return seen->installed && host->banks[seen->bank].withdrawn;
}

int mc_sections_must_move(const struct mc_host *host, const struct mc_domain *domain)
{
    uint32_t withdrawn = 0;

    for (uint32_t i = 0; i < host->bank_count; i++)
        withdrawn |= host->banks[i].withdrawn;
    for (uint32_t i = 0; i < device_of(domain)->count && withdrawn; i++) {
        struct mc_section seen = mc_section_look(domain, i);

        if (on_withdrawn(host, &seen))
            return 1;
    }
    return 0;
}

int mc_section_chunk(const struct mc_host *host, const struct mc_domain *domain, uint64_t frames,
                     uint32_t bank, uint32_t *chosen)
{
    *chosen = bank;
    if (bank == MC_NO_BANK)
        *chosen = mc_bank_choose(host, frames, (int)domain->options[MC_SECTIONS_REMOTE]);
    return *chosen != MC_NO_BANK && !host->banks[*chosen].withdrawn &&
           host->banks[*chosen].free_frames >= frames &&
           host->free_frames >= host->slack_frames + host->promised_frames + frames;
}

/* As mc_section_chunk, once idle donors and tmem have given what they can. 0, MC_LATER when enough
 * may be on its way, or MC_ENOMEM. */
static int64_t find_chunk(struct mc_host *host, struct mc_domain *domain, uint64_t frames,
                          uint32_t bank, uint32_t *chosen)
{
    struct mc_sections *device = device_of(domain);
    uint64_t needed = host->slack_frames + host->promised_frames + frames;

    mc_banks_drain(host);
    for (uint32_t i = 0; i < device->areas; i++)
        if (host->free_frames + host->transit_frames >= needed ||
            !(mc_supply_take_from_donor(host, domain) || mc_supply_tmem_give(host)))
            break;
    if (mc_section_chunk(host, domain, frames, bank, chosen))
        return MC_OK;
    if (host->transit_frames) {
        mc_work(host);
        return MC_LATER;
    }
    device->starved_frames = frames;
    device->starved_bank = bank;
    device->why = host->free_frames >= needed ? MC_WHY_BANK : MC_WHY_NO_MEMORY;
    return MC_ENOMEM;
}

int64_t mc_section_plug(struct mc_host *host, struct mc_domain *domain, uint32_t section)
{
    struct mc_section seen = mc_section_look(domain, section);
    uint32_t areas = device_of(domain)->areas, bank;
    int64_t status = find_chunk(host, domain,
                                (uint64_t)(areas - seen.installed) * MC_AREA_FRAMES, seen.bank,
                                &bank);

    for (uint32_t area = section * areas; area < (section + 1) * areas && !status; area++) {
        if (domain->states[area] == MC_A_INSTALLED)
            continue;
        domain->banks[area] = (uint8_t)bank;
        status = mc_plug(host, domain, area);
    }
    return status;
}

/* The section to plug next; MC_NO_SECTION and *transit when it is still being punched. */
static uint32_t find_missing(const struct mc_host *host, const struct mc_domain *domain,
                             int *transit)
{
    uint32_t empty = MC_NO_SECTION;

    *transit = 0;
    for (uint32_t i = 0; i < device_of(domain)->count; i++) {
        struct mc_section seen = mc_section_look(domain, i);

        *transit |= seen.transit != 0;
        if (seen.transit || seen.installed == device_of(domain)->areas || on_withdrawn(host, &seen))
            continue;
        if (seen.installed)
            return i;
        empty = empty == MC_NO_SECTION ? i : empty;
    }
    return empty;
}

static int64_t say(struct mc_record *record, int todo, uint32_t section,
                   const struct mc_section *seen)
{
    record->arg[0] = section;
    record->arg[1] = seen->bank;
    record->arg[2] = seen->installed;
    return todo;
}

static int64_t online(struct mc_host *host, struct mc_domain *domain, uint32_t section,
                      struct mc_record *record)
{
    uint32_t before = domain->counts[MC_A_INSTALLED];
    int64_t status = mc_section_plug(host, domain, section);
    struct mc_section seen;

    if (status) {
        domain->counters.refused += status == MC_ENOMEM;
        return status;
    }
    domain->counters.grants[MC_PATH_RING] += domain->counts[MC_A_INSTALLED] - before;
    seen = mc_section_look(domain, section);
    return say(record, MC_SECTION_ONLINED, section, &seen);
}

static int64_t grow(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    int transit;
    uint32_t section = find_missing(host, domain, &transit);

    if (section != MC_NO_SECTION)
        return online(host, domain, section, record);
    device_of(domain)->why = MC_WHY_GUEST;
    return transit ? MC_LATER : MC_ESTATE;
}

/* The higher, the sooner it goes. */
static uint64_t rank(const struct mc_host *host, const struct mc_domain *domain,
                     const struct mc_section *seen)
{
    int unwanted = !host->banks[seen->bank].remote == !!domain->options[MC_SECTIONS_REMOTE];

    return (uint64_t)on_withdrawn(host, seen) << 41 | (uint64_t)unwanted << 40 |
           seen->free_frames;
}

/* It is in the guest's hands, was not kept, and is beyond the target or, `moving`, in the way. */
static int may_go(const struct mc_host *host, const struct mc_domain *domain, uint32_t section,
                  int moving, struct mc_section *seen)
{
    if (device_of(domain)->kept[section])
        return 0;
    *seen = mc_section_look(domain, section);
    if (!seen->installed || seen->transit)
        return 0;
    return moving ? on_withdrawn(host, seen)
                  : domain->installed_frames >= domain->target_frames +
                                                    (uint64_t)seen->installed * MC_AREA_FRAMES;
}

/* The one that goes next. When only such with pins are left they are refused here, without
 * troubling the guest. */
static uint32_t pick(struct mc_domain *domain, const struct mc_host *host, int moving)
{
    struct mc_sections *device = device_of(domain);
    uint32_t best = MC_NO_SECTION;
    struct mc_section seen;
    uint64_t most = 0;

    for (uint32_t i = 0; i < device->count; i++)
        if (may_go(host, domain, i, moving, &seen) && !seen.pinned &&
            (best == MC_NO_SECTION || rank(host, domain, &seen) >= most)) {
            best = i;
            most = rank(host, domain, &seen);
        }
    for (uint32_t i = 0; i < device->count && best == MC_NO_SECTION; i++)
        if (may_go(host, domain, i, moving, &seen)) {
            device->kept[i] = -MC_EPERM;
            domain->counters.refused_dma++;
        }
    return best;
}

static int64_t ask(struct mc_domain *domain, uint32_t section, struct mc_record *record)
{
    struct mc_section seen = mc_section_look(domain, section);

    device_of(domain)->asked = section;
    return say(record, MC_SECTION_OFFLINE, section, &seen);
}

static int64_t move(struct mc_host *host, struct mc_domain *domain, uint32_t section,
                    struct mc_record *record)
{
    int transit;
    uint32_t spare = find_missing(host, domain, &transit), bank;
    int64_t status;

    if (spare != MC_NO_SECTION)
        return online(host, domain, spare, record);
    status = find_chunk(host, domain, section_frames(domain), MC_NO_BANK, &bank);
    return status ? status : ask(domain, section, record);
}

/* Nothing is left to be done, or nothing that could be. */
static int64_t conclude(const struct mc_host *host, struct mc_domain *domain,
                        struct mc_record *record)
{
    struct mc_sections *device = device_of(domain);
    int pinned = 0;

    if (domain->installed_frames == domain->target_frames && !mc_sections_must_move(host, domain))
        return MC_SECTION_NOTHING;
    for (uint32_t i = 0; i < device->count; i++)
        pinned |= device->kept[i] == -MC_EPERM;
    device->why = pinned ? MC_WHY_PINNED : MC_WHY_IN_USE;
    record->arg[0] = (uint64_t)(pinned ? -MC_EPERM : -MC_ESTATE);
    return MC_SECTION_STUCK;
}

int64_t mc_sections_next(struct mc_host *host, struct mc_domain *domain, struct mc_record *record)
{
    struct mc_sections *device = device_of(domain);
    uint32_t section;

    if (record->arg[0] == MC_SECTION_ASK_MORE &&
        domain->installed_frames >= domain->target_frames) {
        domain->counters.refused++;
        return MC_ETARGET;
    }
    for (uint32_t i = 0; i < device->count && record->arg[0] == MC_SECTION_ASK_ANEW; i++)
        device->kept[i] = device->kept[i] == -MC_EPERM ? -MC_EPERM : 0;
    device->asked = MC_NO_SECTION;
    device->starved_frames = 0;
    device->why = MC_WHY_NONE;
    if (domain->installed_frames < domain->target_frames)
        return grow(host, domain, record);
    if (domain->installed_frames > domain->target_frames &&
        (section = pick(domain, host, 0)) != MC_NO_SECTION)
        return ask(domain, section, record);
    if (mc_sections_must_move(host, domain) &&
        (section = pick(domain, host, 1)) != MC_NO_SECTION)
        return move(host, domain, section, record);
    return conclude(host, domain, record);
}
