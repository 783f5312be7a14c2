/* sections_plan.c: which section comes or goes next. See sections_device.h.
 *
 * A guest asks by SECTION_NEXT until the answer is NOTHING or STUCK:
 *   1. below the target       a section is plugged: one that pins kept half at a reboot, else the
 *                             first empty one. Its chunk is out of one bank.
 *   2. a whole section above  a section goes: one on a withdrawn bank, then one on the less wanted
 *                             kind of bank (remote, or local with remote_first), then the emptiest
 *                             by the guest's words, then the highest.
 *   3. on a withdrawn bank    with a chunk in another bank, an empty section is plugged first, and
 *                             rule 2 takes the old one. Without an empty section the old one goes
 *                             first.
 *   4. else                   NOTHING when the domain is where it should be, STUCK when it is not.
 */
#include "sections_device.h"

struct mc_section mc_section_look(const struct mc_domain *domain, uint32_t section)
{
    struct mc_area_run run = mc_section_areas(domain, section);
    struct mc_section seen = {.bank = MC_NO_BANK};
    for (uint32_t area = run.first; area < run.end; area++) {
        uint32_t free;
        seen.transit += domain->states[area] > MC_A_SOFT && domain->states[area] != MC_A_INSTALLED;
        if (domain->states[area] != MC_A_INSTALLED)
            continue;
        MC_CHECK_IN(domain, !seen.installed || seen.bank == domain->banks[area],
                    "area %u is of bank %u, its section of %u", area, domain->banks[area],
                    seen.bank);
        seen.installed++;
        seen.pinned += domain->pin_counts[area] != 0;
        seen.bank = domain->banks[area];
        free = mc_word(&domain->frames, area).free;     /* the guest may write up to 1023 */
        seen.free_frames += free < MC_AREA_FRAMES ? free : MC_AREA_FRAMES;
    }
    return seen;
}

static int sections_is_withdrawn(const struct mc_host *host, const struct mc_section *seen)
{
    if (!seen->installed)
        return 0;
    MC_CHECK(seen->bank < host->bank_count, "section of bank %u, of %u banks", seen->bank,
             host->bank_count);
    return host->banks[seen->bank].withdrawn != 0;
}

int mc_sections_must_move(const struct mc_host *host, const struct mc_domain *domain)
{
    uint32_t withdrawn = 0;
    for (uint32_t i = 0; i < host->bank_count; i++)
        withdrawn |= host->banks[i].withdrawn;
    for (uint32_t i = 0; i < sections_of(domain)->count && withdrawn; i++) {
        struct mc_section seen = mc_section_look(domain, i);
        if (sections_is_withdrawn(host, &seen))
            return 1;
    }
    return 0;
}

static uint64_t sections_needed_frames(const struct mc_host *host, uint64_t frames)
{
    return host->slack_frames + host->promised_frames + frames;
}

int mc_section_has_chunk(const struct mc_host *host, const struct mc_domain *domain,
                         uint64_t frames, uint32_t bank, uint32_t *chosen)
{
    MC_CHECK_IN(domain, frames && (bank == MC_NO_BANK || bank < host->bank_count),
                "chunk of %lu frames of bank %u, of %u banks", frames, bank, host->bank_count);
    *chosen = bank;
    if (bank == MC_NO_BANK)
        *chosen = mc_bank_choose(host, frames, (int)domain->options[MC_SECTIONS_REMOTE]);
    return *chosen != MC_NO_BANK && !host->banks[*chosen].withdrawn &&
           host->banks[*chosen].free_frames >= frames &&
           host->free_frames >= sections_needed_frames(host, frames);
}

/* As mc_section_has_chunk, once idle donors and tmem have given what they can. */
static enum mc_sections_result sections_find_chunk(struct mc_host *host, struct mc_domain *domain,
                                                   uint64_t frames, uint32_t bank,
                                                   uint32_t *chosen)
{
    struct mc_sections *device = sections_of(domain);
    uint64_t needed = sections_needed_frames(host, frames);
    MC_CHECK_IN(domain, frames <= (uint64_t)device->areas * MC_AREA_FRAMES,
                "chunk of %lu frames, sections of %u areas", frames, device->areas);
    mc_banks_drain(host);
    if (host->free_frames < needed)
        mc_supply_gather(host, domain, frames, 0);
    if (mc_section_has_chunk(host, domain, frames, bank, chosen))
        return MC_SECTIONS_DONE;
    if (host->transit_frames) {
        return MC_SECTIONS_WAITS;
    }
    device->starved_frames = frames;
    device->starved_bank = bank;
    device->why = host->free_frames >= needed ? MC_WHY_BANK : MC_WHY_NO_MEMORY;
    return MC_SECTIONS_NO_MEMORY;
}

enum mc_sections_result mc_section_plug(struct mc_host *host, struct mc_domain *domain,
                                        uint32_t section)
{
    struct mc_section seen = mc_section_look(domain, section);
    struct mc_area_run run = mc_section_areas(domain, section);
    uint64_t missing = mc_area_run_frames(run) - (uint64_t)seen.installed * MC_AREA_FRAMES;
    enum mc_sections_result result = MC_SECTIONS_DONE;
    uint32_t bank = seen.bank;
    MC_CHECK_LOCKED(host);
    if (missing)
        result = sections_find_chunk(host, domain, missing, seen.bank, &bank);
    for (uint32_t area = run.first; area < run.end && result == MC_SECTIONS_DONE; area++) {
        int status;
        if (domain->states[area] == MC_A_INSTALLED)
            continue;
        MC_CHECK_IN(domain, domain->states[area] == MC_A_HARD, "area %u of state %u is plugged",
                    area, domain->states[area]);
        domain->banks[area] = (uint8_t)bank;
        status = mc_plug(host, domain, area);
        MC_CHECK_IN(domain, status != MC_ENOMEM, "area %u: bank %u had %lu frames", area, bank,
                    missing);
        result = status ? MC_SECTIONS_SPOILT : MC_SECTIONS_DONE;
    }
    return result;
}

/* The section to plug next, or MC_NO_SECTION; *transit is 1 when one is still being punched. */
static uint32_t sections_pick_to_plug(const struct mc_host *host, const struct mc_domain *domain,
                                      int *transit)
{
    const struct mc_sections *device = sections_of(domain);
    uint32_t empty = MC_NO_SECTION;
    *transit = 0;
    for (uint32_t i = 0; i < device->count; i++) {
        struct mc_section seen = mc_section_look(domain, i);
        *transit |= seen.transit != 0;
        if (seen.transit || seen.installed == device->areas || sections_is_withdrawn(host, &seen))
            continue;
        if (seen.installed)
            return i;
        empty = empty == MC_NO_SECTION ? i : empty;
    }
    return empty;
}

static enum mc_served sections_answer(struct mc_record *record, int64_t status)
{
    MC_CHECK(status >= MC_EBROKEN && status <= MC_SECTION_STUCK, "answer %ld", status);
    return mc_answered(record, status);
}

/* Answer with something for the guest to do. */
static enum mc_served sections_answer_todo(const struct mc_domain *domain,
                                           struct mc_record *record, enum mc_section_todo todo,
                                           uint32_t section)
{
    struct mc_section seen = mc_section_look(domain, section);
    MC_CHECK_IN(domain, seen.installed && !seen.transit, "todo %d: section %u has %u areas", todo,
                section, seen.installed);
    record->arg[0] = section;
    record->arg[1] = seen.bank;
    record->arg[2] = seen.installed;
    return sections_answer(record, todo);
}

static enum mc_served sections_answer_failure(struct mc_record *record,
                                              enum mc_sections_result result)
{
    MC_CHECK(result != MC_SECTIONS_DONE, "op %u: no failure", record->op);
    if (result == MC_SECTIONS_WAITS)
        return MC_KEPT;
    return sections_answer(record, result == MC_SECTIONS_SPOILT ? MC_ESTATE : MC_ENOMEM);
}

static enum mc_served sections_plug_and_answer(struct mc_host *host, struct mc_domain *domain,
                                               uint32_t section, struct mc_record *record)
{
    uint32_t before = domain->counts[MC_A_INSTALLED];
    enum mc_sections_result result;
    sections_of(domain)->plugging = section;
    result = mc_section_plug(host, domain, section);
    if (result != MC_SECTIONS_DONE) {
        domain->counters.refused += result == MC_SECTIONS_NO_MEMORY;
        return sections_answer_failure(record, result);
    }
    MC_CHECK_IN(domain, domain->counts[MC_A_INSTALLED] > before, "section %u: %u areas, then %u",
                section, before, domain->counts[MC_A_INSTALLED]);
    domain->counters.grants[MC_PATH_RING] += domain->counts[MC_A_INSTALLED] - before;
    return sections_answer_todo(domain, record, MC_SECTION_ONLINED, section);
}

static enum mc_served sections_grow(struct mc_host *host, struct mc_domain *domain,
                                    struct mc_record *record)
{
    int transit;
    uint32_t section = sections_pick_to_plug(host, domain, &transit);
    MC_CHECK_IN(domain, domain->installed_frames < domain->target_frames, "%lu frames, target %lu",
                domain->installed_frames, domain->target_frames);
    if (section != MC_NO_SECTION)
        return sections_plug_and_answer(host, domain, section, record);
    sections_of(domain)->why = MC_WHY_GUEST;
    return transit ? MC_KEPT : sections_answer(record, MC_ESTATE);
}

/* The higher, the sooner the section goes. */
static uint64_t sections_rank(const struct mc_host *host, const struct mc_domain *domain,
                              const struct mc_section *seen)
{
    int withdrawn = sections_is_withdrawn(host, seen), unwanted;
    MC_CHECK_IN(domain, seen->installed, "a section of %u areas is to go", seen->installed);
    unwanted = !host->banks[seen->bank].remote == !!domain->options[MC_SECTIONS_REMOTE];
    return (uint64_t)withdrawn << 41 | (uint64_t)unwanted << 40 | seen->free_frames;
}

/* 1 when the section is in the guest's hands, may go, and is beyond the target or (`moving`) on a
 * withdrawn bank. */
static int sections_may_go(const struct mc_host *host, const struct mc_domain *domain,
                           uint32_t section, int moving, struct mc_section *seen)
{
    uint8_t stays = sections_of(domain)->stays[section];
    MC_CHECK_IN(domain, stays <= MC_SECTION_PINNED, "section %u stays for %u", section, stays);
    if (stays != MC_SECTION_MAY_GO)
        return 0;
    *seen = mc_section_look(domain, section);
    if (!seen->installed || seen->transit)
        return 0;
    return moving ? sections_is_withdrawn(host, seen)
                  : domain->installed_frames >= domain->target_frames +
                                                    (uint64_t)seen->installed * MC_AREA_FRAMES;
}

/* The section that goes next, or MC_NO_SECTION. When only sections with pins are left, they are
 * refused here, without troubling the guest. */
static uint32_t sections_pick_to_go(const struct mc_host *host, struct mc_domain *domain,
                                    int moving)
{
    struct mc_sections *device = sections_of(domain);
    uint32_t best = MC_NO_SECTION;
    struct mc_section seen;
    uint64_t most = 0;
    for (uint32_t i = 0; i < device->count; i++)
        if (sections_may_go(host, domain, i, moving, &seen) && !seen.pinned &&
            (best == MC_NO_SECTION || sections_rank(host, domain, &seen) >= most)) {
            best = i;
            most = sections_rank(host, domain, &seen);
        }
    for (uint32_t i = 0; i < device->count && best == MC_NO_SECTION; i++)
        if (sections_may_go(host, domain, i, moving, &seen)) {
            device->stays[i] = MC_SECTION_PINNED;
            domain->counters.refused_dma++;
        }
    return best;
}

static enum mc_served sections_ask_to_go(struct mc_domain *domain, uint32_t section,
                                         struct mc_record *record)
{
    struct mc_sections *device = sections_of(domain);
    MC_CHECK_IN(domain, device->asked == MC_NO_SECTION, "section %u, and %u is asked for already",
                section, device->asked);
    device->asked = section;
    return sections_answer_todo(domain, record, MC_SECTION_OFFLINE, section);
}

/* The section is on a withdrawn bank. */
static enum mc_served sections_move(struct mc_host *host, struct mc_domain *domain,
                                    uint32_t section, struct mc_record *record)
{
    struct mc_section seen = mc_section_look(domain, section);
    int transit;
    uint32_t spare = sections_pick_to_plug(host, domain, &transit), bank;
    enum mc_sections_result result;
    MC_CHECK_IN(domain, sections_is_withdrawn(host, &seen), "section %u of bank %u is to move",
                section, seen.bank);
    if (spare != MC_NO_SECTION)
        return sections_plug_and_answer(host, domain, spare, record);
    result = sections_find_chunk(host, domain,
                                 (uint64_t)sections_of(domain)->areas * MC_AREA_FRAMES,
                                 MC_NO_BANK, &bank);
    return result == MC_SECTIONS_DONE ? sections_ask_to_go(domain, section, record)
                                      : sections_answer_failure(record, result);
}

/* Nothing is left to be done, or nothing that could be. */
static enum mc_served sections_conclude(const struct mc_host *host, struct mc_domain *domain,
                                        struct mc_record *record)
{
    struct mc_sections *device = sections_of(domain);
    int pinned = 0;
    MC_CHECK_IN(domain, domain->installed_frames >= domain->target_frames,
                "%lu frames, target %lu, and nothing to do", domain->installed_frames,
                domain->target_frames);
    if (domain->installed_frames == domain->target_frames && !mc_sections_must_move(host, domain))
        return sections_answer(record, MC_SECTION_NOTHING);
    for (uint32_t i = 0; i < device->count; i++)
        pinned |= device->stays[i] == MC_SECTION_PINNED;
    device->why = pinned ? MC_WHY_PINNED : MC_WHY_IN_USE;
    record->arg[0] = (uint64_t)(pinned ? -MC_EPERM : -MC_ESTATE);
    return sections_answer(record, MC_SECTION_STUCK);
}

/* 1 when the process before plugged a whole section for this very record, and was killed before it
 * could say so. */
static int sections_is_plugged_already(const struct mc_domain *domain,
                                       const struct mc_record *record)
{
    const struct mc_sections *device = sections_of(domain);
    return mc_is_memory_again(domain, record) && device->plugging < device->count &&
           mc_section_look(domain, device->plugging).installed == device->areas;
}

enum mc_served mc_sections_serve_next(struct mc_host *host, struct mc_domain *domain,
                                      struct mc_record *record)
{
    struct mc_sections *device = sections_of(domain);
    uint32_t section;
    MC_CHECK_LOCKED(host);
    if (sections_is_plugged_already(domain, record))
        return sections_answer_todo(domain, record, MC_SECTION_ONLINED, device->plugging);
    device->plugging = MC_NO_SECTION;
    if (record->arg[0] == MC_SECTION_ASK_MORE &&
        domain->installed_frames >= domain->target_frames) {
        domain->counters.refused++;
        return sections_answer(record, MC_ETARGET);
    }
    for (uint32_t i = 0; i < device->count && record->arg[0] == MC_SECTION_ASK_ANEW; i++)
        if (device->stays[i] == MC_SECTION_IN_USE)
            device->stays[i] = MC_SECTION_MAY_GO;
    device->asked = MC_NO_SECTION;
    device->starved_frames = 0;
    device->why = MC_WHY_NONE;
    if (domain->installed_frames < domain->target_frames)
        return sections_grow(host, domain, record);
    if (domain->installed_frames > domain->target_frames &&
        (section = sections_pick_to_go(host, domain, 0)) != MC_NO_SECTION)
        return sections_ask_to_go(domain, section, record);
    if (mc_sections_must_move(host, domain) &&
        (section = sections_pick_to_go(host, domain, 1)) != MC_NO_SECTION)
        return sections_move(host, domain, section, record);
    return sections_conclude(host, domain, record);
}
