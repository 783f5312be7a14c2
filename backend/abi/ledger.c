/* ledger.c: whole areas. holes.c has single frames. See ledger.h. */
#include "books.h"
#include "ledger.h"

#define TO(state) (1u << MC_A_##state)
/* Bits of the states that may follow each. PUNCH_SOFT to INSTALLED: the guest wants it back before
 * the keeper has begun. PUNCHING to PUNCH: the kernel refused; the keeper tries again. */
static const uint16_t ledger_followers[MC_A_STATES] = {
    [MC_A_HARD] = TO(SOFT) | TO(POPULATING) | TO(INSTALLED),
    [MC_A_SOFT] = TO(HARD) | TO(POPULATING),
    [MC_A_POPULATING] = TO(HARD) | TO(SOFT) | TO(READY) | TO(INSTALLED) | TO(PUNCH_HARD) |
                        TO(PUNCH_SOFT),
    [MC_A_READY] = TO(INSTALLED) | TO(PUNCH_HARD),
    [MC_A_INSTALLED] = TO(PUNCH_HARD) | TO(PUNCH_SOFT),
    [MC_A_PUNCH_HARD] = TO(PUNCHING_HARD),
    [MC_A_PUNCH_SOFT] = TO(PUNCHING_SOFT) | TO(INSTALLED),
    [MC_A_PUNCHING_HARD] = TO(HARD) | TO(PUNCH_HARD),
    [MC_A_PUNCHING_SOFT] = TO(SOFT) | TO(PUNCH_SOFT),
};

static uint64_t *ledger_sum_of(struct mc_host *host, enum mc_area_state state)
{
    return state <= MC_A_SOFT ? &host->free_frames
           : state == MC_A_READY ? &host->ready_frames
           : state == MC_A_INSTALLED ? &host->installed_frames : &host->transit_frames;
}

uint32_t mc_bank_choose(const struct mc_host *host, uint64_t frames, int remote_first)
{
    uint32_t best = MC_NO_BANK;
    MC_CHECK(host->bank_count && host->bank_count <= MC_BANKS_MAX, "%u banks", host->bank_count);
    for (uint32_t i = 0; i < host->bank_count; i++) {
        const struct mc_bank *bank = &host->banks[i];
        const struct mc_bank *chosen = best == MC_NO_BANK ? NULL : &host->banks[best];
        int wanted = !bank->remote == !remote_first;
        int chosen_wanted = chosen && !chosen->remote == !remote_first;
        MC_CHECK(bank->free_frames <= bank->total_frames, "bank %u: %lu free of %lu", i,
                 bank->free_frames, bank->total_frames);
        if (!bank->withdrawn && bank->free_frames >= frames &&
            (!chosen || wanted > chosen_wanted ||
             (wanted == chosen_wanted && bank->free_frames > chosen->free_frames)))
            best = i;
    }
    return best;
}

uint32_t mc_bank_pick(const struct mc_host *host, uint64_t frames, uint32_t wanted)
{
    if (wanted < host->bank_count && !host->banks[wanted].withdrawn &&
        host->banks[wanted].free_frames >= frames)
        return wanted;
    return mc_bank_choose(host, frames, 0);
}

int mc_has_free(const struct mc_host *host, uint64_t frames)
{
    MC_CHECK(host->free_frames <= host->total_frames, "%lu frames free of %lu", host->free_frames,
             host->total_frames);
    return host->free_frames >= host->slack_frames + host->promised_frames + frames &&
           mc_bank_pick(host, frames, 0) != MC_NO_BANK;
}

static void ledger_clear_holes(struct mc_domain *domain, uint32_t area)
{
    if (!domain->hole_counts[area])
        return;
    for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
        domain->holes[area * MC_AREA_ROWS + row] = 0;
    domain->hole_counts[area] = 0;
}

/* Take `frames` out of a bank, `wanted` if that has them; the bank. The caller has asked before
 * whether there is one. */
static uint8_t ledger_charge(struct mc_host *host, uint64_t frames, uint32_t wanted)
{
    uint32_t bank = mc_bank_pick(host, frames, wanted);
    MC_CHECK(bank != MC_NO_BANK, "no bank has %lu frames, host has %lu free", frames,
             host->free_frames);
    host->banks[bank].free_frames -= frames;
    return (uint8_t)bank;
}

static void ledger_credit(struct mc_host *host, uint64_t frames, uint32_t index)
{
    struct mc_bank *bank = &host->banks[index];
    MC_CHECK(index < host->bank_count, "bank %u of %u", index, host->bank_count);
    MC_CHECK(bank->free_frames + frames <= bank->total_frames, "bank %u: %lu + %lu free of %lu",
             index, bank->free_frames, frames, bank->total_frames);
    bank->free_frames += frames;
}

/* `frames` from one sum of the ledger to another. */
static void ledger_move(uint64_t *from, uint64_t *to, uint64_t frames)
{
    MC_CHECK(*from >= frames, "%lu frames of %lu", frames, *from);
    *from -= frames;
    *to += frames;
}

/* The sums that change with one area's state, of the host, its bank and the domain. */
static void ledger_set_sums(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                            enum mc_area_state old, enum mc_area_state state)
{
    uint64_t *from = ledger_sum_of(host, old), *to = ledger_sum_of(host, state);
    uint64_t frames = MC_AREA_FRAMES - domain->hole_counts[area];
    MC_CHECK(domain->hole_counts[area] <= MC_AREA_FRAMES, "domain %u, area %u: %u holes",
             domain->domid, area, domain->hole_counts[area]);
    if (from == to)
        return;
    ledger_move(from, to, frames);
    if (from == &host->free_frames)
        domain->banks[area] = ledger_charge(host, frames, domain->banks[area]);
    if (to == &host->free_frames)
        ledger_credit(host, frames, domain->banks[area]);
    if (old == MC_A_INSTALLED) {
        MC_CHECK_IN(domain, domain->installed_frames >= frames, "%lu frames of %lu", frames,
                    domain->installed_frames);
        domain->installed_frames -= frames;
        domain->counters.shrunk_frames += frames;
    } else if (state == MC_A_INSTALLED) {
        domain->installed_frames += frames;
        domain->counters.grown_frames += frames;
    }
    mc_show_current(domain);
}

static inline void ledger_set(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                              enum mc_area_state state)
{
    enum mc_area_state old = (enum mc_area_state)domain->states[area];
    MC_CHECK(domain->counts[old] > 0, "domain %u, area %u: none is counted in state %d",
             domain->domid, area, old);
    if (old > MC_A_SOFT || state > MC_A_SOFT)   /* HARD and SOFT are one sum */
        ledger_set_sums(host, domain, area, old, state);
    domain->counts[old]--;
    domain->counts[state]++;
    MC_BOOKED();                /* its bank before its state, its holes after */
    domain->states[area] = (uint8_t)state;
    MC_BOOKED();
    if (state <= MC_A_SOFT)
        ledger_clear_holes(domain, area);
}

/* As mc_area_set, of an area that there is. The caller has checked the lock, once for all areas. */
static inline void ledger_change(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                                 enum mc_area_state state)
{
    uint8_t old = domain->states[area];
    MC_CHECK(old < MC_A_STATES && ledger_followers[old] >> state & 1,
             "domain %u, area %u: state %u to %d", domain->domid, area, old, state);
    ledger_set(host, domain, area, state);
}

void mc_area_set(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                 enum mc_area_state state)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "area %u of %u", area, domain->areas);
    ledger_change(host, domain, area, state);
}

uint32_t mc_domain_held(const struct mc_domain *domain)
{
    uint32_t held = domain->counts[MC_A_INSTALLED] + domain->counts[MC_A_READY] +
                    domain->counts[MC_A_POPULATING];
    MC_CHECK_IN(domain, held <= domain->areas, "holds %u areas of %u", held, domain->areas);
    return held;
}

int mc_in_transit(const struct mc_domain *domain)
{
    uint32_t areas = domain->counts[MC_A_POPULATING];
    for (int state = MC_A_PUNCH_HARD; state <= MC_A_PUNCHING_SOFT; state++)
        areas += domain->counts[state];
    MC_CHECK_IN(domain, areas <= domain->areas, "%u areas in transit of %u", areas, domain->areas);
    return areas || domain->flight_frames;
}

uint64_t mc_backed_frames(const struct mc_domain *domain)
{
    uint32_t backless = domain->counts[MC_A_HARD] + domain->counts[MC_A_SOFT];
    MC_CHECK_IN(domain, backless + domain->counts[MC_A_INSTALLED] <= domain->areas,
                "%u areas without backing and %u installed of %u", backless,
                domain->counts[MC_A_INSTALLED], domain->areas);
    return (uint64_t)(domain->areas - backless - domain->counts[MC_A_INSTALLED]) * MC_AREA_FRAMES +
           domain->installed_frames + domain->flight_frames;
}

static int ledger_is_wholly_free(const struct mc_domain *domain, uint32_t area)
{
    union mc_area_word word = mc_word(&domain->frames, area);
    return mc_word_is_whole(word) && !word.evicted;
}

int mc_is_spare(const struct mc_domain *domain, uint32_t area)
{
    return domain->states[area] == MC_A_INSTALLED && !domain->pin_counts[area] &&
           ledger_is_wholly_free(domain, area);
}

uint32_t mc_spare_areas(const struct mc_domain *domain, uint32_t enough)
{
    uint32_t spare = 0;
    for (uint32_t area = 0; area < domain->areas && spare < enough; area++)
        spare += mc_is_spare(domain, area);
    return spare;
}

int64_t mc_find_state(const struct mc_domain *domain, enum mc_area_state state)
{
    if (!domain->counts[state])
        return -1;
    for (uint32_t area = 0; area < domain->areas; area++)
        if (domain->states[area] == state)
            return area;
    MC_CHECK_IN(domain, !domain->counts[state], "%u areas in state %d, none found",
                domain->counts[state], state);
    return -1;
}

/* The guest's word, which decides; of the next generation when it is pulled. */
static int ledger_pull_word(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                            enum mc_pull how)
{
    static int (*const pulls[])(struct mc_frames *, uint32_t, uint16_t) = {
        [MC_PULL_HARD] = mc_area_hard_reclaim,
        [MC_PULL_SOFT] = mc_area_soft_reclaim,
        [MC_PULL_CLAIMED] = mc_area_surrender,
    };
    uint16_t generation = (uint16_t)(domain->generations[area] + 1);
    int status;
    mc_step_begin(host, domain, area, MC_A_STATES, 0);
    status = pulls[how](&domain->frames, area, generation);
    mc_step_done(host);
    if (!status)
        domain->generations[area] = generation;
    return status;
}

static int ledger_pull(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                       enum mc_pull how)
{
    int state = domain->states[area];
    MC_CHECK(state == MC_A_INSTALLED || !domain->pin_counts[area],
             "domain %u, area %u: %u pins in state %d", domain->domid, area,
             domain->pin_counts[area], state);
    if (state == MC_A_SOFT && how != MC_PULL_SOFT) {
        if (ledger_pull_word(host, domain, area, how))
            return MC_ESTATE;
        ledger_change(host, domain, area, MC_A_HARD);
        return MC_OK;
    }
    if (state != MC_A_INSTALLED || (how != MC_PULL_CLAIMED && !ledger_is_wholly_free(domain, area)))
        return MC_ESTATE;
    if (domain->flight_frames && domain->hole_counts[area])
        return MC_ESTATE;       /* its frames are being punched: that would hit the next holder */
    if (domain->pin_counts[area]) {
        domain->counters.refused_dma++;
        return MC_EPERM;
    }
    if (ledger_pull_word(host, domain, area, how))
        return MC_ESTATE;
    ledger_change(host, domain, area, how == MC_PULL_SOFT ? MC_A_PUNCH_SOFT : MC_A_PUNCH_HARD);
    domain->counters.reclaimed_areas++;
    mc_work(host, domain);
    return MC_OK;
}

int mc_pull(struct mc_host *host, struct mc_domain *domain, uint32_t area, enum mc_pull how)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "area %u of %u", area, domain->areas);
    return ledger_pull(host, domain, area, how);
}

uint32_t mc_pull_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most,
                       enum mc_pull how, int soft_counts)
{
    uint32_t pulled = 0;
    MC_CHECK_LOCKED(host);
    for (uint32_t area = domain->areas; area-- > 0 && pulled < most;) {
        int was_soft = domain->states[area] == MC_A_SOFT;
        if (!ledger_pull(host, domain, area, how))
            pulled += !was_soft || soft_counts;
    }
    return pulled;
}

static int ledger_give_pages(const struct mc_host *host, const struct mc_domain *domain,
                             uint32_t area)
{
    uint64_t address = mc_area_address(domain, area);
    const struct mc_bank *bank = &host->banks[domain->banks[area]];
    int status;
    if (domain->booked_only)
        return MC_OK;
    if (bank->node >= 0)        /* a wish: memory is charged to the bank wherever it lands */
        mc_bind_node(address, MC_AREA_BYTES, bank->node);
    if (host->collapse)
        return mc_populate_huge(address, MC_AREA_BYTES);
    if (!host->is_small)
        return mc_populate_write(address, MC_AREA_BYTES);
    status = mc_write_zeroes(domain->ram_fd, mc_area_offset(area), MC_AREA_BYTES);
    /* A page that tmem is going to copy must be in the hypervisor's mapping: a fault of the service
     * thread would hold up everybody. */
    if (!status && domain->rings[MC_RING_TMEM].req_cons)
        status = mc_populate_read(address, MC_AREA_BYTES);
    return status;
}

/* An area that the kernel has no memory for goes back to the state it had. The kernel may have
 * given some of its pages: when those cannot be punched here, the area is due to be punched. */
int mc_populate(struct mc_host *host, struct mc_domain *domain, uint32_t area,
                enum mc_area_state state)
{
    enum mc_area_state was = (enum mc_area_state)domain->states[area];
    int failed;
    MC_CHECK_LOCKED(host);
    MC_CHECK(state == MC_A_READY || (state == MC_A_INSTALLED && was == MC_A_SOFT),
             "domain %u, area %u: populated from %d to be %d", domain->domid, area, was, state);
    mc_area_set(host, domain, area, MC_A_POPULATING);
    mc_domain_hold(host, domain);
    failed = ledger_give_pages(host, domain, area);
    if (failed && mc_punch(domain->ram_fd, mc_area_offset(area), MC_AREA_BYTES))
        was = was == MC_A_SOFT ? MC_A_PUNCH_SOFT : MC_A_PUNCH_HARD;
    mc_domain_let_go(host, domain);
    mc_area_set(host, domain, area, failed ? was : state);
    return failed ? MC_ENOMEM : MC_OK;
}

/* The guest's word says that the area is the guest's, then the ledger does. MC_ESTATE when the
 * guest spoilt its word. */
static int ledger_install(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int status;
    mc_step_begin(host, domain, area, MC_A_INSTALLED, 0);
    status = mc_area_grant(&domain->frames, area, domain->generations[area]);
    if (status)
        mc_count_bad(domain);
    else
        mc_area_set(host, domain, area, MC_A_INSTALLED);
    mc_step_done(host);
    return status ? MC_ESTATE : MC_OK;
}

int mc_grant(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "area %u of %u", area, domain->areas);
    if (domain->states[area] != MC_A_READY)
        return MC_ESTATE;
    if (ledger_install(host, domain, area)) {       /* the area is lost to it */
        mc_area_set(host, domain, area, MC_A_PUNCH_HARD);
        mc_work(host, domain);
        return MC_ESTATE;
    }
    return MC_OK;
}

int mc_plug_found(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    const struct mc_bank *bank;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas, "area %u of %u", area, domain->areas);
    if (domain->states[area] != MC_A_HARD)
        return MC_ESTATE;
    if (mc_bank_pick(host, MC_AREA_FRAMES, domain->banks[area]) == MC_NO_BANK)
        return MC_ENOMEM;
    if (ledger_install(host, domain, area))
        return MC_ESTATE;
    bank = &host->banks[domain->banks[area]];
    if (bank->node >= 0)
        mc_bind_node(mc_area_address(domain, area), MC_AREA_BYTES, bank->node);
    return MC_OK;
}

int mc_plug(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    MC_CHECK_LOCKED(host);
    if (domain->states[area] == MC_A_HARD && !mc_has_free(host, MC_AREA_FRAMES))
        return MC_ENOMEM;
    return mc_plug_found(host, domain, area);
}

uint32_t mc_return_areas(struct mc_host *host, struct mc_domain *domain, uint32_t most)
{
    uint32_t returned = 0;
    MC_CHECK_LOCKED(host);
    for (uint32_t area = 0; area < domain->areas && returned < most; area++)
        if (domain->states[area] == MC_A_HARD) {
            mc_step_begin(host, domain, area, MC_A_SOFT, 0);
            if (!mc_area_return(&domain->frames, area, domain->generations[area])) {
                ledger_change(host, domain, area, MC_A_SOFT);
                returned++;
            }
            mc_step_done(host);
        }
    return returned;
}

int mc_plug_hollow(struct mc_host *host, struct mc_domain *domain, uint32_t area)
{
    int status;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, area < domain->areas && !domain->hole_counts[area],
                "area %u of %u, or it has holes", area, domain->areas);
    if (domain->states[area] == MC_A_HARD &&
        mc_bank_pick(host, 0, domain->banks[area]) == MC_NO_BANK)
        return MC_ENOMEM;
    if (domain->states[area] != MC_A_HARD)
        return MC_ESTATE;
    mc_step_begin(host, domain, area, MC_A_INSTALLED, 1);
    status = mc_area_return(&domain->frames, area, domain->generations[area]);
    if (!status) {
        for (uint32_t row = 0; row < MC_AREA_ROWS; row++)
            domain->holes[area * MC_AREA_ROWS + row] = UINT64_MAX;
        domain->hole_counts[area] = MC_AREA_FRAMES;
        mc_area_set(host, domain, area, MC_A_INSTALLED);
    }
    mc_step_done(host);
    return status;
}

void mc_tmem_charge(struct mc_host *host, uint32_t slab_area)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK(slab_area < host->tmem.slab_areas && !host->slab_used[slab_area],
             "slab area %u of %u is charged already or is none", slab_area, host->tmem.slab_areas);
    host->slab_used[slab_area] = (uint8_t)(1 + ledger_charge(host, MC_AREA_FRAMES, MC_NO_BANK));
    ledger_move(&host->free_frames, &host->tmem_frames, MC_AREA_FRAMES);
    MC_CHECK(host->tmem_frames <= (uint64_t)host->tmem.slab_areas * MC_AREA_FRAMES,
             "tmem has %lu frames of %u slab areas", host->tmem_frames, host->tmem.slab_areas);
}

void mc_tmem_discharge(struct mc_host *host, uint32_t slab_area)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK(slab_area < host->tmem.slab_areas && host->slab_used[slab_area],
             "slab area %u of %u is not charged", slab_area, host->tmem.slab_areas);
    ledger_credit(host, MC_AREA_FRAMES, host->slab_used[slab_area] - 1u);
    host->slab_used[slab_area] = 0;
    ledger_move(&host->tmem_frames, &host->free_frames, MC_AREA_FRAMES);
}

/* States of an area that its keeper is working on. */
static int ledger_is_under_way(uint8_t state)
{
    return state == MC_A_POPULATING || state == MC_A_PUNCHING_HARD || state == MC_A_PUNCHING_SOFT;
}

void mc_condemn_all(struct mc_host *host, struct mc_domain *domain, int keep_pinned)
{
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, !domain->users && !domain->flight_frames,
                "released with %u users, %lu frames in flight", domain->users,
                domain->flight_frames);
    for (uint32_t area = 0; area < domain->areas; area++) {
        uint8_t state = domain->states[area];
        MC_CHECK(!ledger_is_under_way(state), "domain %u, area %u: released in state %u",
                 domain->domid, area, state);
        if (keep_pinned && domain->pin_counts[area])
            continue;
        if (state == MC_A_READY || state == MC_A_INSTALLED)
            ledger_change(host, domain, area, MC_A_PUNCH_HARD);
        else if (state == MC_A_PUNCH_SOFT)
            ledger_set(host, domain, area, MC_A_PUNCH_HARD);
        else if (state == MC_A_SOFT)
            ledger_change(host, domain, area, MC_A_HARD);
    }
    MC_CHECK_IN(domain, keep_pinned || !domain->installed_frames, "%lu frames are left",
                domain->installed_frames);
}

void mc_forget_all(struct mc_host *host, struct mc_domain *domain)
{
    mc_condemn_all(host, domain, 0);
    for (uint32_t area = 0; area < domain->areas; area++)
        if (domain->states[area] != MC_A_HARD)
            ledger_set(host, domain, area, MC_A_HARD);
    mc_work_hungry(host);
}

void mc_redeem(struct mc_host *host, const struct mc_domain *domain, uint32_t areas)
{
    uint64_t frames = (uint64_t)areas * MC_AREA_FRAMES;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, areas <= domain->areas, "%u areas of %u", areas, domain->areas);
    MC_CHECK_IN(domain, mc_phase_of(domain) != MC_ACTIVE, "boots with %u areas while it is served",
                areas);
    if (mc_phase_of(domain) == MC_EMPTY)
        host->promised_frames -= frames < host->promised_frames ? frames : host->promised_frames;
}
