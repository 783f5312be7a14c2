/* holes.c: single frames of the ledger: holes a guest made, and pins. See ledger.h. */
#include "ledger.h"

#include <stdlib.h>

static int bit_of(const uint64_t *bits, uint64_t frame)
{
    return bits && bits[frame / 64] >> frame % 64 & 1;
}

static void flip(uint64_t *bits, uint64_t frame)
{
    bits[frame / 64] ^= 1ull << frame % 64;
}

int mc_is_hole(const struct mc_domain *domain, uint64_t frame)
{
    return bit_of(domain->holes, frame);
}

/* One frame out of (make) or into (not make) what the guest holds. */
static void move_frame(struct mc_host *host, struct mc_domain *domain, uint64_t frame, int make)
{
    uint32_t area = (uint32_t)(frame / MC_AREA_FRAMES);
    uint64_t *from = make ? &host->installed_frames : &host->free_frames;
    uint64_t *to = make ? &host->transit_frames : &host->installed_frames;

    flip(domain->holes, frame);
    --*from;
    ++*to;
    if (make) {
        domain->hole_counts[area]++;
        domain->installed_frames--;
        domain->counters.shrunk_frames++;
        domain->flight_frames++;
    } else {
        domain->hole_counts[area]--;
        domain->installed_frames++;
        domain->counters.grown_frames++;
        host->banks[domain->banks[area]].free_frames--;
    }
}

/* 1 when the guest may name this frame in this way. */
static int is_movable(struct mc_domain *domain, uint64_t frame, int make)
{
    if (frame >= (uint64_t)domain->areas * MC_AREA_FRAMES ||
        domain->states[frame / MC_AREA_FRAMES] != MC_A_INSTALLED ||
        bit_of(domain->holes, frame) == make)
        return 0;
    if (!make || !bit_of(domain->pins, frame))
        return 1;
    domain->counters.refused_dma++;
    return 0;
}

static int punch_frames(int fd, const uint32_t *frames, uint32_t count)
{
    int failed = 0;

    for (uint32_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && frames[end] == frames[end - 1] + 1; end++)
            ;
        failed |= mc_punch(fd, (uint64_t)frames[first] * MC_FRAME_BYTES,
                           (uint64_t)(end - first) * MC_FRAME_BYTES);
    }
    return failed;
}

/* A frame the kernel did not punch after all stays a hole: it is used by nobody. */
uint32_t mc_holes_make(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, uint32_t *bad)
{
    uint32_t done[MC_AREA_FRAMES], made = 0, banks[MC_BANKS_MAX] = {0};

    *bad = 0;
    for (uint32_t i = 0; i < count && made < MC_AREA_FRAMES; i++) {
        if (!is_movable(domain, frames[i], 1)) {
            ++*bad;
            continue;
        }
        move_frame(host, domain, frames[i], 1);
        banks[domain->banks[frames[i] / MC_AREA_FRAMES]]++;
        done[made++] = frames[i];
    }
    domain->users++;
    mc_host_unlock(host);
    punch_frames(domain->ram_fd, done, made);
    mc_host_lock(host);
    domain->users--;
    domain->flight_frames -= made;
    host->transit_frames -= made;
    host->free_frames += made;
    for (uint32_t bank = 0; bank < host->bank_count; bank++)
        host->banks[bank].free_frames += banks[bank];
    if (domain->control)
        atomic_store_explicit(&domain->control->current_frames, domain->installed_frames,
                              memory_order_relaxed);
    pthread_cond_broadcast(&host->own->done);
    return made;
}

uint32_t mc_holes_fill(struct mc_host *host, struct mc_domain *domain, const uint32_t *frames,
                       uint32_t count, int slack_too, uint32_t *bad)
{
    uint32_t filled = 0;

    *bad = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct mc_bank *bank;

        if (!is_movable(domain, frames[i], 0)) {
            ++*bad;
            continue;
        }
        bank = &host->banks[domain->banks[frames[i] / MC_AREA_FRAMES]];
        if (!bank->free_frames || !(slack_too || mc_has_free(host, 1)))
            break;
        move_frame(host, domain, frames[i], 0);
        filled++;
    }
    atomic_store_explicit(&domain->control->current_frames, domain->installed_frames,
                          memory_order_relaxed);
    return filled;
}

static int may_pin(const struct mc_domain *domain, uint64_t frame, uint64_t count)
{
    for (uint64_t f = frame; f < frame + count; f++)
        if (domain->states[f / MC_AREA_FRAMES] != MC_A_INSTALLED || bit_of(domain->holes, f))
            return 0;
    return 1;
}

static void set_pins(struct mc_domain *domain, uint64_t frame, uint64_t count, int pin)
{
    for (uint64_t f = frame; f < frame + count; f++) {
        if (bit_of(domain->pins, f) == pin)
            continue;
        flip(domain->pins, f);
        domain->pin_counts[f / MC_AREA_FRAMES] += pin ? 1 : -1;
        domain->pinned_frames += pin ? 1 : -1;
    }
}

/* Main thread. Pinned first, populated then: what is pinned nobody takes meanwhile. */
int mc_domain_pin(struct mc_host *host, uint32_t domid, uint64_t frame, uint64_t count, int pin)
{
    struct mc_domain *domain;
    uint64_t limit;
    int status = MC_OK;

    if (domid >= MC_MAX_DOMAINS)
        return MC_EINDEX;
    domain = &host->domains[domid];
    limit = (uint64_t)domain->areas * MC_AREA_FRAMES;
    if (mc_phase_of(domain) != MC_ACTIVE)
        return MC_ESTATE;
    if (!count || frame >= limit || count > limit - frame)
        return MC_EINDEX;
    mc_host_lock(host);
    if (!domain->pins)
        domain->pins = calloc((size_t)domain->areas * MC_AREA_ROWS, sizeof *domain->pins);
    if (!domain->pins)
        status = MC_ENOMEM;
    else if (pin && !may_pin(domain, frame, count))
        status = MC_EFOREIGN;
    else
        set_pins(domain, frame, count, pin != 0);
    mc_host_unlock(host);
    if (status || !pin)
        return status;
    return mc_populate_write(domain->ram + frame * MC_FRAME_BYTES, count * MC_FRAME_BYTES)
               ? MC_ENOMEM : MC_OK;
}
