/* paging_evict.c: pages leave memory: to tmem, to disk if they must, or nowhere. */
#include "guest_private.h"
#include "paging_private.h"

#define UNASKED INT64_MAX   /* tmem was not offered the page, or its answer does not matter */
#define NO_MEMORY_PAGES 2   /* evicted by a guest that gets no frame */

void mc_leave_begin(struct mc_paging *paging, struct mc_leaving *leaving, struct mc_batch *batch)
{
    uint32_t page = mc_order_take(paging);
    MC_CHECK(page != MC_NO_PAGE, "no page to evict of %u", paging->resident_count);
    const struct mc_page *entry = &paging->table[page];
    int is_file = (entry->flags & MC_PAGE_FILE) != 0;
    int64_t pool = is_file ? paging->options.cleancache_pool : paging->options.frontswap_pool;
    leaving->pages[leaving->count] = page;
    leaving->answers[leaving->count++] = is_file || pool < 0 ? UNASKED : batch->count;
    if (pool >= 0)
        mc_tmem_add_put(paging, batch, page, entry->frame);
}

static void page_leave(struct mc_paging *paging, uint32_t page)
{
    mc_sample_forget(paging, page);
    mc_order_remove(paging, page);
    paging->own->spares[paging->spare_count++] = paging->table[page].frame;
}

/* What became of a page after tmem's answer: 1 it may go, 0 it must be written, or
 * MC_PAGING_FAILED. */
static int page_stored(struct mc_paging *paging, uint32_t page, int64_t answer)
{
    struct mc_page *entry = &paging->table[page];
    if (entry->flags & MC_PAGE_FILE)
        return 1;
    if (answer == 1) {
        mc_swap_forget(paging, entry);
        entry->flags |= MC_PAGE_IN_TMEM;
        paging->stored++;
        return 1;
    }
    if (answer < MC_TMEM_BAD)
        return mc_paging_fail(paging, MC_PAGING_REFUSED, page, answer, entry->frame);
    if (answer != UNASKED)
        paging->counted.failed_puts++;
    return (entry->flags & MC_PAGE_ON_DISK) != 0;
}

/* After a batch: pages that may go are gone, those that must be written are listed. */
static int leave_settle(struct mc_paging *paging, const struct mc_leaving *leaving,
                        const struct mc_batch *batch, uint32_t *writes, uint32_t *write_count)
{
    int status = MC_OK;
    for (uint32_t i = 0; i < leaving->count; i++) {
        uint32_t page = leaving->pages[i];
        int64_t answer = leaving->answers[i];
        if (answer != UNASKED)
            answer = batch->records[answer].status;
        int gone = page_stored(paging, page, answer);
        if (gone == 1) {
            page_leave(paging, page);
        } else if (gone == 0) {
            writes[(*write_count)++] = page;
        } else {
            paging->table[page].flags &= ~(uint32_t)MC_PAGE_LEAVING;
            mc_order_forget(paging);
            status = gone;
        }
    }
    return status;
}

static int leave_write(struct mc_paging *paging, const uint32_t *writes, uint32_t count)
{
    int status = mc_swap_write(paging, writes, count);
    for (uint32_t i = 0; i < count; i++) {
        if (paging->table[writes[i]].flags & MC_PAGE_ON_DISK) {
            page_leave(paging, writes[i]);
            continue;
        }
        paging->table[writes[i]].flags &= ~(uint32_t)MC_PAGE_LEAVING;
        mc_order_forget(paging);
    }
    return status;
}

/* Offer up to `count` more pages to tmem and add those that it refuses. */
static int leave_more(struct mc_paging *paging, uint32_t count, uint32_t *writes,
                      uint32_t *write_count)
{
    struct mc_leaving leaving = {.count = 0};
    struct mc_batch batch = {.count = 0};
    uint32_t most = paging->resident_count - *write_count;
    for (count = count < most ? count : most; count > 0; count--)
        mc_leave_begin(paging, &leaving, &batch);
    int status = mc_tmem_submit(paging, &batch);
    return status == MC_OK ? leave_settle(paging, &leaving, &batch, writes, write_count) : status;
}

int mc_leave_end(struct mc_paging *paging, struct mc_leaving *leaving,
                 const struct mc_batch *batch)
{
    uint32_t writes[MC_RING_SLOTS], count = 0;
    int more = MC_OK, status = leave_settle(paging, leaving, batch, writes, &count);
    if (count == 0)
        return status;
    uint32_t cluster = mc_paging_share(paging->limit, paging->options.cluster_pages);
    if (count < cluster && paging->resident_count > cluster)
        more = leave_more(paging, cluster - count, writes, &count);
    int written = leave_write(paging, writes, count);
    if (status == MC_OK)
        status = more;
    return status == MC_OK ? written : status;
}

int mc_evict(struct mc_paging *paging, uint32_t count)
{
    struct mc_leaving leaving = {.count = 0};
    struct mc_batch batch = {.count = 0};
    if (count > paging->resident_count)
        count = paging->resident_count;
    MC_CHECK(count <= MC_RING_SLOTS, "%u pages are to leave at once", count);
    while (leaving.count < count)
        mc_leave_begin(paging, &leaving, &batch);
    int status = mc_tmem_submit(paging, &batch);
    return status == MC_OK ? mc_leave_end(paging, &leaving, &batch) : status;
}

static int64_t frame_allocate(struct mc_paging *paging)
{
    int64_t frame = mc_guest_alloc(paging->guest, paging->options.slot, 0);
    if (frame == MC_ENOMEM || frame == MC_ETARGET) {    /* the last ones may lie in Python's slot */
        mc_guest_drain(paging->guest);
        int64_t drained = mc_frames_alloc(&paging->guest->frames, paging->options.slot, 0);
        frame = drained >= 0 ? drained : frame;
    }
    return frame < (int64_t)paging->own->maxmem_frames ? frame : MC_EBROKEN;
}

int64_t mc_frame_at_hand(struct mc_paging *paging)
{
    if (paging->spare_count > 0)
        return paging->own->spares[--paging->spare_count];
    int64_t frame = mc_frames_alloc(&paging->guest->frames, paging->options.slot, 0);
    return frame >= 0 && frame < (int64_t)paging->own->maxmem_frames ? frame : -1;
}

int64_t mc_free_frame(struct mc_paging *paging, uint32_t page)
{
    if (paging->spare_count > 0)
        return paging->own->spares[--paging->spare_count];
    int64_t frame = frame_allocate(paging);
    if (frame >= 0)
        return frame;
    if ((frame != MC_ENOMEM && frame != MC_ETARGET) || paging->resident_count == 0)
        return mc_paging_fail(paging, MC_PAGING_STATUS, page, frame, 0);
    /* Asking again before the next look at the target would only cost time, so live within what
     * there is: one page fewer, whose frame is the spare of the next fault. */
    paging->limit = paging->resident_count > 1 ? paging->resident_count - 1 : 1;
    int status = mc_evict(paging, NO_MEMORY_PAGES);
    if (status != MC_OK)
        return status;
    return paging->own->spares[--paging->spare_count];
}
