/* balloon_report.c: see balloon_report.h.
 *
 * Linux marks a reported page in its free list; the mark goes when the page is allocated. Here the
 * allocator says so through mc_prepare, which notes an area's first use: own->used is cleared when
 * the area is reported.
 */
#include "balloon_report.h"

#include "balloon_array.h"
#include "movable.h"

#include <stdlib.h>

uint8_t *mc_balloon_report_open(const struct mc_guest *guest)
{
    return calloc(guest->frames.area_count, 1);
}

static int report_is_whole(const struct mc_guest *guest, uint32_t area)
{
    return mc_word_is_whole(mc_word(&guest->frames, area));
}

static uint32_t *report_used(struct mc_guest *guest, uint32_t area)
{
    return &guest->own->used[area];
}

/* Take areas that are free and not reported out of use, their first frames into `frames`. Returns
 * how many. *left gets 1 when there are more. At most half of the free areas are taken, so that an
 * allocation meanwhile finds something. */
static uint32_t report_take(struct mc_guest *guest, uint8_t *reported, uint32_t *frames, int *left)
{
    uint32_t count = 0, whole = 0, most;
    for (uint32_t area = 0; area < guest->frames.area_count; area++) {
        if (__atomic_load_n(report_used(guest, area), __ATOMIC_RELAXED))
            reported[area] = 0;
        whole += report_is_whole(guest, area);
    }
    most = (whole + 1) / 2 < MC_BALLOON_REPORT_MAX ? (whole + 1) / 2 : MC_BALLOON_REPORT_MAX;
    *left = 0;
    for (uint32_t area = 0; area < guest->frames.area_count && !*left; area++) {
        if (reported[area] || !report_is_whole(guest, area))
            continue;
        *left = count == most;
        if (!*left && mc_offline(guest, area, 0) == MC_OK)
            frames[count++] = area * MC_AREA_FRAMES;
    }
    return count;
}

/* An area that the host refused counts as reported until it is used again. */
int mc_balloon_report(struct mc_guest *guest, uint8_t *reported)
{
    uint32_t frames[MC_BALLOON_REPORT_MAX], count;
    uint64_t not_done[MC_BALLOON_BITS];
    int64_t done = 0;
    int left;
    pthread_mutex_lock(&guest->own->claim_lock);        /* as the mapper: see guest_make_room */
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    count = report_take(guest, reported, frames, &left);
    if (count)
        done = mc_balloon_tell(guest, MC_OP_BALLOON_REPORT, frames, count, not_done);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t area = frames[i] / MC_AREA_FRAMES;
        reported[area] = 1;
        __atomic_store_n(report_used(guest, area), 0, __ATOMIC_RELEASE);
        mc_online(guest, area);
    }
    __atomic_fetch_add(&guest->own->claims, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&guest->own->claim_lock);
    return left && count && done >= 0;
}
