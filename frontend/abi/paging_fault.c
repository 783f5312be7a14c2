/* paging_fault.c: a page that is not resident becomes so, in one batch on the tmem ring. */
#include "paging_private.h"

#include <string.h>

int mc_load_may_ask(const struct mc_paging *paging, uint32_t page)
{
    uint32_t flags = paging->table[page].flags;
    return flags & MC_PAGE_FILE ? paging->options.cleancache_pool >= 0
                                : (flags & MC_PAGE_IN_TMEM) != 0;
}

uint32_t mc_load_begin(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                       uint32_t frame)
{
    uint32_t place = batch->count;
    if (!mc_load_may_ask(paging, page))
        return MC_NOT_ASKED;
    mc_tmem_add_get(paging, batch, page, frame);
    return place;
}

int mc_load_read(struct mc_paging *paging, uint32_t page, uint32_t frame, int failed)
{
    struct mc_paging_counted *counted = &paging->counted;
    struct mc_page *entry = &paging->table[page];
    int is_file = (entry->flags & MC_PAGE_FILE) != 0;
    if (failed)
        return mc_paging_fail(paging, is_file ? MC_PAGING_PROGRAM_READ : MC_PAGING_SWAP_READ, page,
                              failed, frame);
    if (!is_file) {
        counted->swap_ins++;
        return MC_OK;
    }
    counted->file_reads++;
    counted->committed_frames += (entry->flags & MC_PAGE_UNREAD) != 0;
    entry->flags &= ~(uint32_t)MC_PAGE_UNREAD;
    return MC_OK;
}

static int load_file(struct mc_paging *paging, uint32_t page, uint32_t frame)
{
    if (paging->options.program_fd >= 0)
        return mc_load_read(paging, page, frame,
                            mc_file_read(paging->options.program_fd,
                                         (uint64_t)page << MC_FRAME_SHIFT,
                                         mc_frame_address(paging, frame)));
    int64_t failed = paging->options.program_read(paging->options.context, page, frame);
    if (failed)
        return mc_paging_fail(paging, MC_PAGING_CALLER, page, failed, frame);
    return mc_load_read(paging, page, frame, 0);
}

static int load_first(struct mc_paging *paging, uint32_t page, uint32_t frame)
{
    if (paging->options.first_touch) {
        int64_t failed = paging->options.first_touch(paging->options.context, page, frame);
        if (failed)
            return mc_paging_fail(paging, MC_PAGING_CALLER, page, failed, frame);
    } else {
        memset((void *)(uintptr_t)mc_frame_address(paging, frame), 0, MC_FRAME_BYTES);
    }
    paging->table[page].flags |= MC_PAGE_FRESH;
    paging->counted.first_touches++;
    paging->counted.committed_frames++;
    return MC_OK;
}

int mc_load_end(struct mc_paging *paging, uint32_t page, uint32_t frame, uint32_t place,
                const struct mc_batch *batch)
{
    int asked = place != MC_NOT_ASKED;
    int64_t answer = asked ? batch->records[place].status : 0;
    struct mc_page *entry = &paging->table[page];
    if (entry->flags & MC_PAGE_FILE) {
        if (!asked || answer != 1)
            return load_file(paging, page, frame);
        paging->counted.tmem_hits++;
        return MC_OK;
    }
    if (asked) {
        if (answer != 1)
            return mc_paging_fail(paging, MC_PAGING_LOST, page, answer, frame);
        entry->flags &= ~(uint32_t)MC_PAGE_IN_TMEM;
        paging->stored--;
        paging->counted.tmem_hits++;
        return MC_OK;
    }
    if (!(entry->flags & MC_PAGE_ON_DISK))
        return load_first(paging, page, frame);
    int status = mc_ahead_read(paging, page, frame);
    paging->counted.swap_ins += status == MC_OK;
    return status;
}

/* The page into `frame`, and the oldest page out when the limit is reached. */
static int exchange(struct mc_paging *paging, uint32_t page, uint32_t frame)
{
    struct mc_leaving leaving = {.count = 0};
    struct mc_batch batch;
    batch.count = 0;
    uint32_t place = mc_load_begin(paging, &batch, page, frame);
    if (paging->resident_count >= paging->limit)
        mc_leave_begin(paging, &leaving, &batch);
    int status = mc_tmem_submit(paging, &batch);
    if (status != MC_OK)
        return status;          /* the frame is used no more: a late answer may write it */
    status = mc_load_end(paging, page, frame, place, &batch);
    /* Before the victim is settled, which may fail: by now tmem has forgotten the page. */
    if (status == MC_OK)
        mc_order_add(paging, page, frame, ++paging->tick);
    else
        paging->own->spares[paging->spare_count++] = frame;
    struct mc_paging_failure failure = paging->failure;
    int left = leaving.count ? mc_leave_end(paging, &leaving, &batch) : MC_OK;
    if (status != MC_OK)
        paging->failure = failure;
    return status == MC_OK ? left : status;
}

/* Make room beforehand for the neighbours that a read from disk brings. */
static int make_room(struct mc_paging *paging, uint32_t page)
{
    const struct mc_page *entry = &paging->table[page];
    if (!(entry->flags & MC_PAGE_ON_DISK) || paging->options.ahead_pages < 2)
        return MC_OK;
    uint64_t wanted = mc_ahead_window(paging, entry->slot);
    uint64_t after = paging->resident_count + wanted;
    if (wanted < 2 || after <= paging->limit)
        return MC_OK;
    return mc_evict(paging, (uint32_t)(after - paging->limit));
}

int mc_fault(struct mc_paging *paging, uint32_t page)
{
    uint64_t begin_ns = mc_paging_now(paging);
    int64_t touched = paging->counted.first_touches;
    paging->counted.faults++;
    int full = paging->resident_count >= paging->limit;
    int status = make_room(paging, page);
    if (status != MC_OK)
        return status;
    int64_t frame = mc_free_frame(paging, page);
    if (frame < 0)
        return (int)frame;
    status = exchange(paging, page, (uint32_t)frame);
    if (status == MC_OK && (full || paging->counted.first_touches == touched))
        paging->counted.stall_ns += (int64_t)(mc_paging_now(paging) - begin_ns);
    return status;
}
