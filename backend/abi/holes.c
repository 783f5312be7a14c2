/* holes.c: single frames of the ledger: holes that a guest made, and pins. See ledger.h. */
#include "ledger.h"

#include <stdlib.h>
#include <string.h>

#define MC_PIN_NS_MAX 2000000000u       /* the main thread waits no longer for pages of pins */

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

/* Punch frames, neighbours in one call; a bit in `failed` for each that the kernel refused.
 * Releases the lock. */
static void holes_punch(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                        uint32_t count, uint64_t *failed)
{
    mc_domain_hold(host, domain);
    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && frames[end] == frames[end - 1] + 1; end++)
            ;
        if (mc_punch(domain->ram_fd, (uint64_t)frames[first] * MC_FRAME_BYTES,
                     (uint64_t)(end - first) * MC_FRAME_BYTES))
            for (uint32_t i = first; i < end; i++)
                failed[i / 64] |= 1ull << i % 64;
    }
    mc_domain_let_go(host, domain);
}

void mc_holes_punch(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                    uint32_t count)
{
    uint64_t failed[MC_AREA_ROWS] = {0};
    MC_CHECK_IN(domain, count <= MC_AREA_FRAMES, "%u frames at once", count);
    holes_punch(host, domain, frames, count, failed);
}

/* The punch of a frame has ended: the frame is free, of its bank; or, when the kernel refused, the
 * guest's as before. */
static void holes_land(struct mc_host *host, struct mc_domain *domain, uint32_t frame, int failed)
{
    struct mc_bank *bank = &host->banks[domain->banks[frame / MC_AREA_FRAMES]];
    MC_CHECK_IN(domain, domain->flight_frames && host->transit_frames,
                "frame %u lands, %lu in flight, of the host %lu", frame, domain->flight_frames,
                host->transit_frames);
    domain->flight_frames--;
    host->transit_frames--;
    if (failed) {
        holes_flip(domain->holes, frame);
        domain->hole_counts[frame / MC_AREA_FRAMES]--;
        domain->installed_frames++;
        domain->counters.shrunk_frames--;
        host->installed_frames++;
        return;
    }
    host->free_frames++;
    bank->free_frames++;
    MC_CHECK(bank->free_frames <= bank->total_frames, "domain %u, frame %u: %lu free of %lu",
             domain->domid, frame, bank->free_frames, bank->total_frames);
}

uint32_t mc_holes_make(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, uint32_t *bad)
{
    uint64_t failed[MC_AREA_ROWS] = {0};
    uint32_t opened[MC_AREA_FRAMES], made = 0, done = 0;
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
        opened[made++] = frames[i];
    }
    holes_punch(host, domain, opened, made, failed);
    for (uint32_t i = 0; i < made; i++) {
        int refused = failed[i / 64] >> i % 64 & 1;
        holes_land(host, domain, opened[i], refused);
        done += !refused;
    }
    if (done)
        mc_work_hungry(host);
    mc_show_current(domain);
    return done;
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

/* Give pages to the frames that are being pinned. Releases the lock. */
static int holes_populate(struct mc_host *host, struct mc_domain *domain)
{
    uint64_t frame = domain->errand_args[0], count = domain->errand_args[1];
    int failed;
    MC_CHECK_IN(domain, count && frame + count <= mc_maxmem_frames(domain),
                "%lu frames pinned from %lu", count, frame);
    mc_domain_hold(host, domain);
    failed = mc_populate_write(domain->ram + frame * MC_FRAME_BYTES, count * MC_FRAME_BYTES);
    mc_domain_let_go(host, domain);
    return failed ? MC_ENOMEM : MC_OK;
}

/* Pin and populate: pinned first, so that nobody takes the frames meanwhile. Frames that were not
 * populated are pinned as they were before, which is noted by a copy of the bits. */
static int holes_pin(struct mc_host *host, struct mc_domain *domain, uint64_t frame, uint64_t count)
{
    uint64_t first = frame / 64, words = (frame + count - 1) / 64 - first + 1;
    uint64_t *before = malloc(words * sizeof *before);
    int status;
    if (!before)
        return MC_ENOMEM;
    memcpy(before, domain->pins + first, words * sizeof *before);
    holes_set_pins(domain, frame, count, 1);
    domain->errand_args[0] = frame;
    domain->errand_args[1] = count;
    status = mc_errand(host, domain, holes_populate, MC_PIN_NS_MAX);
    for (uint64_t f = frame; status && f < frame + count; f++)
        if (!holes_bit(before, f - first * 64))
            holes_set_pins(domain, f, 1, 0);
    free(before);
    return status;
}

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
    else if (pin)
        status = holes_pin(host, domain, frame, count);
    else
        holes_set_pins(domain, frame, count, 0);
    mc_host_unlock(host);
    return status;
}
