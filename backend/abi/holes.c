/* holes.c: single frames of the ledger: holes that a guest made, and pins. See ledger.h. */
#include "ledger.h"

static int holes_bit(const uint64_t *bits, uint64_t frame)
{
    return bits[frame / 64] >> frame % 64 & 1;
}

static void holes_flip(uint64_t *bits, uint64_t frame)
{
    bits[frame / 64] ^= 1ull << frame % 64;
}

int mc_is_hole(const struct mc_domain *domain, uint64_t frame)
{
    MC_CHECK_IN(domain, frame < mc_maxmem_frames(domain), "frame %lu", frame);
    return holes_bit(domain->holes, frame);
}

/* One installed frame becomes a hole in flight. */
static void holes_open(struct mc_host *host, struct mc_domain *domain, uint64_t frame)
{
    uint16_t *holes = &domain->hole_counts[frame / MC_AREA_FRAMES];
    MC_CHECK(*holes < MC_AREA_FRAMES && domain->installed_frames && host->installed_frames,
             "domain %u, frame %lu: %u holes, %lu installed, of the host %lu", domain->domid, frame,
             *holes, domain->installed_frames, host->installed_frames);
    holes_flip(domain->holes, frame);
    ++*holes;
    domain->installed_frames--;
    domain->counters.shrunk_frames++;
    domain->flight_frames++;
    host->installed_frames--;
    host->transit_frames++;
}

/* One hole becomes an installed frame, charged to the bank of its area. */
static void holes_close(struct mc_host *host, struct mc_domain *domain, uint64_t frame)
{
    uint16_t *holes = &domain->hole_counts[frame / MC_AREA_FRAMES];
    struct mc_bank *bank = &host->banks[domain->banks[frame / MC_AREA_FRAMES]];
    MC_CHECK(*holes && host->free_frames && bank->free_frames,
             "domain %u, frame %lu: %u holes, %lu free, of its bank %lu", domain->domid, frame,
             *holes, host->free_frames, bank->free_frames);
    holes_flip(domain->holes, frame);
    --*holes;
    domain->installed_frames++;
    domain->counters.grown_frames++;
    bank->free_frames--;
    host->free_frames--;
    host->installed_frames++;
}

/* 1 when the guest may name this frame in this way. */
static int holes_may_move(struct mc_domain *domain, uint64_t frame, int make)
{
    if (frame >= mc_maxmem_frames(domain) ||
        domain->states[frame / MC_AREA_FRAMES] != MC_A_INSTALLED ||
        holes_bit(domain->holes, frame) == make)
        return 0;
    if (!make || !holes_bit(domain->pins, frame))
        return 1;
    domain->counters.refused_dma++;
    return 0;
}

void mc_holes_punch(struct mc_host *host, struct mc_domain *domain, uint32_t *frames,
                    uint32_t count)
{
    mc_domain_hold(host, domain);
    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && frames[end] == frames[end - 1] + 1; end++)
            ;
        mc_punch(domain->ram_fd, (uint64_t)frames[first] * MC_FRAME_BYTES,
                 (uint64_t)(end - first) * MC_FRAME_BYTES);
    }
    mc_domain_let_go(host, domain);
}

/* The punch of `made` frames has ended: they are free, per bank. */
static void holes_land(struct mc_host *host, struct mc_domain *domain, uint32_t made,
                       const uint32_t *banks)
{
    MC_CHECK_IN(domain, domain->flight_frames >= made && host->transit_frames >= made,
                "%u frames of %lu in flight, of the host %lu", made, domain->flight_frames,
                host->transit_frames);
    domain->flight_frames -= made;
    host->transit_frames -= made;
    host->free_frames += made;
    for (uint32_t i = 0; i < host->bank_count; i++) {
        struct mc_bank *bank = &host->banks[i];
        bank->free_frames += banks[i];
        MC_CHECK(bank->free_frames <= bank->total_frames, "bank %u: %lu free of %lu", i,
                 bank->free_frames, bank->total_frames);
    }
}

/* A frame that the kernel refuses to punch stays a hole all the same: nobody uses it. */
uint32_t mc_holes_make(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, uint32_t *bad)
{
    uint32_t done[MC_AREA_FRAMES], made = 0, banks[MC_BANKS_MAX] = {0};
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, count <= MC_AREA_FRAMES, "%u frames at once", count);
    *bad = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bank;
        if (!holes_may_move(domain, frames[i], 1)) {
            ++*bad;
            continue;
        }
        bank = domain->banks[frames[i] / MC_AREA_FRAMES];
        MC_CHECK(bank < host->bank_count, "domain %u, frame %u: bank %u of %u", domain->domid,
                 frames[i], bank, host->bank_count);
        holes_open(host, domain, frames[i]);
        banks[bank]++;
        done[made++] = frames[i];
    }
    mc_holes_punch(host, domain, done, made);
    holes_land(host, domain, made, banks);
    mc_show_current(domain);
    return made;
}

uint32_t mc_holes_fill(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, int slack_too, uint32_t *bad)
{
    uint32_t filled = 0;
    MC_CHECK_LOCKED(host);
    MC_CHECK_IN(domain, count <= MC_AREA_FRAMES, "%u frames at once", count);
    *bad = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct mc_bank *bank;
        uint32_t index;
        if (!holes_may_move(domain, frames[i], 0)) {
            ++*bad;
            continue;
        }
        index = domain->banks[frames[i] / MC_AREA_FRAMES];
        MC_CHECK(index < host->bank_count, "domain %u, frame %u: bank %u of %u", domain->domid,
                 frames[i], index, host->bank_count);
        bank = &host->banks[index];
        if (!bank->free_frames || !(slack_too || mc_has_free(host, 1)))
            break;
        holes_close(host, domain, frames[i]);
        filled++;
    }
    mc_show_current(domain);
    return filled;
}

static int holes_may_pin(const struct mc_domain *domain, uint64_t frame, uint64_t count)
{
    for (uint64_t f = frame; f < frame + count; f++)
        if (domain->states[f / MC_AREA_FRAMES] != MC_A_INSTALLED || holes_bit(domain->holes, f))
            return 0;
    return 1;
}

static void holes_set_pins(struct mc_domain *domain, uint64_t frame, uint64_t count, int pin)
{
    for (uint64_t f = frame; f < frame + count; f++) {
        uint16_t *pins = &domain->pin_counts[f / MC_AREA_FRAMES];
        if (holes_bit(domain->pins, f) == pin)
            continue;
        MC_CHECK(pin ? *pins < MC_AREA_FRAMES : *pins > 0 && domain->pinned_frames,
                 "domain %u, frame %lu: %u pins in its area, %lu in all", domain->domid, f, *pins,
                 domain->pinned_frames);
        holes_flip(domain->pins, f);
        *pins += pin ? 1 : -1;
        domain->pinned_frames += pin ? 1 : -1;
    }
    MC_CHECK_IN(domain, domain->pinned_frames <= domain->installed_frames,
                "%lu frames pinned of %lu", domain->pinned_frames, domain->installed_frames);
}

/* Main thread. Frames are pinned before they are populated, so that nobody takes them meanwhile. */
int mc_domain_pin(struct mc_host *host, uint32_t domid, uint64_t frame, uint64_t count, int pin)
{
    int status;
    struct mc_domain *domain = mc_domain_at(host, domid, &status);
    uint64_t limit = domain ? mc_maxmem_frames(domain) : 0;
    if (status)
        return status;
    if (mc_phase_of(domain) != MC_ACTIVE)
        return MC_ESTATE;
    if (!count || frame >= limit || count > limit - frame)
        return MC_EINDEX;
    mc_host_lock(host);
    if (pin && !holes_may_pin(domain, frame, count))
        status = MC_EFOREIGN;
    else
        holes_set_pins(domain, frame, count, pin != 0);
    mc_host_unlock(host);
    if (status || !pin)
        return status;
    return mc_populate_write(domain->ram + frame * MC_FRAME_BYTES, count * MC_FRAME_BYTES)
               ? MC_ENOMEM : MC_OK;
}
