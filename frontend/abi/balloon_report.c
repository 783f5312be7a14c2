/* balloon_report.c: see balloon_report.h.
 *
 * Linux marks a reported page in its free list; the mark goes when the page is allocated. Here the
 * allocator says so through mc_prepare, which notes an area's first use: own->used is cleared when
 * the area is reported.
 */
#include "balloon_report.h"

#include "movable.h"

#include <stdlib.h>

uint8_t *mc_balloon_report_open(const struct mc_guest *guest)
{
    return calloc(guest->frames.area_count, 1);
}

static int is_whole(const struct mc_guest *guest, uint32_t area)
{
    uint32_t word = __atomic_load_n(&guest->frames.areas[area], __ATOMIC_ACQUIRE);

    return (word & (MC_AREA_FREE_MASK | MC_AREA_HUGE | MC_AREA_RECLAIMED)) == MC_AREA_FRAMES;
}

static uint32_t *used_of(struct mc_guest *guest, uint32_t area)
{
    return &guest->own->used[area];
}

/* An area out of the allocator; 0 when somebody was faster. */
static int take(struct mc_guest *guest, uint32_t area)
{
    if (mc_isolate(guest, area) != MC_OK)
        return 0;
    if (mc_claim_area(guest, area) == MC_OK)
        return 1;
    mc_online(guest, area);
    return 0;
}

/* Areas that are free and not reported, into frames; *left gets how many there were beyond. At most
 * half of what is free, so that an allocation meanwhile finds something. */
static uint32_t take_batch(struct mc_guest *guest, uint8_t *reported, uint32_t *frames, int *left)
{
    uint32_t count = 0, whole = 0, most;

    for (uint32_t area = 0; area < guest->frames.area_count; area++) {
        if (__atomic_load_n(used_of(guest, area), __ATOMIC_RELAXED))
            reported[area] = 0;
        whole += is_whole(guest, area);
    }
    most = (whole + 1) / 2 < MC_BALLOON_REPORT_MAX ? (whole + 1) / 2 : MC_BALLOON_REPORT_MAX;
    *left = 0;
    for (uint32_t area = 0; area < guest->frames.area_count && !*left; area++) {
        if (reported[area] || !is_whole(guest, area))
            continue;
        *left = count == most;
        if (!*left && take(guest, area))
            frames[count++] = area * MC_AREA_FRAMES;
    }
    return count;
}

/* What the host refused is asked again when it has been used. */
int mc_balloon_report(struct mc_guest *guest, uint8_t *reported)
{
    uint32_t frames[MC_BALLOON_REPORT_MAX], count;
    uint64_t not_done[4];
    int64_t done = 0;
    int left;

    pthread_mutex_lock(&guest->own->claim_lock);        /* as the mapper: see make_room */
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    count = take_batch(guest, reported, frames, &left);
    if (count)
        done = mc_balloon_tell(guest, MC_OP_BALLOON_REPORT, frames, count, not_done);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t area = frames[i] / MC_AREA_FRAMES;

        reported[area] = 1;
        __atomic_store_n(used_of(guest, area), 0, __ATOMIC_RELEASE);
        mc_online(guest, area);
    }
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&guest->own->claim_lock);
    return left && count && done >= 0;
}
