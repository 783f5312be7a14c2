/* paging_unuse.c: pages come back from tmem before they are asked for, as Linux's frontswap_shrink
 * has it: in the order of their slots, and the next to be evicted. */
#include "paging_private.h"

#define GETS_MAX (MC_RING_SLOTS / 2)    /* a get and a flush each */

static int settle(struct mc_paging *paging, uint32_t page, uint32_t frame, int64_t answer)
{
    if (answer != 1) {
        paging->own->spares[paging->spare_count++] = frame;
        return mc_paging_fail(paging, MC_PAGING_LOST, page, answer, frame);
    }
    paging->table[page].flags &= ~(uint32_t)MC_PAGE_IN_TMEM;
    paging->stored--;
    mc_order_add(paging, page, frame, --paging->own->back_tick);
    return MC_OK;
}

/* Bring these pages; 0, or MC_PAGING_FAILED. */
static int bring(struct mc_paging *paging, const uint32_t *pages, const uint32_t *frames,
                 uint32_t count)
{
    struct mc_batch batch = {.count = 0};
    int failed = MC_OK;
    for (uint32_t i = 0; i < count; i++)
        mc_tmem_add_get(paging, &batch, pages[i], frames[i]);
    int status = mc_tmem_submit(paging, &batch);
    if (status != MC_OK)
        return status;          /* the frames are used no more: late answers may write them */
    for (uint32_t i = 0; i < count; i++)
        if (settle(paging, pages[i], frames[i], batch.records[2 * i].status) != MC_OK)
            failed = MC_PAGING_FAILED;
    return failed;
}

int64_t mc_paging_unuse(struct mc_paging *paging, uint64_t wanted)
{
    uint32_t pages[GETS_MAX], frames[GETS_MAX], count = 0, page = 0;
    uint64_t brought = 0;
    int is_full = 0, status = MC_OK;
    while (status == MC_OK && !is_full && brought < wanted && page < paging->options.pages) {
        for (count = 0; page < paging->options.pages && count < GETS_MAX &&
                        brought + count < wanted; page++) {
            if (!(paging->table[page].flags & MC_PAGE_IN_TMEM))
                continue;
            int64_t frame = paging->spare_count > 0
                ? paging->own->spares[--paging->spare_count]
                : mc_guest_alloc(paging->guest, paging->options.slot, 0);
            if (frame < 0 || (uint64_t)frame >= paging->own->maxmem_frames) {
                is_full = 1;
                break;
            }
            pages[count] = page;
            frames[count++] = (uint32_t)frame;
        }
        status = bring(paging, pages, frames, count);
        brought += count;
    }
    mc_order_forget(paging);
    return status == MC_OK ? (int64_t)brought : status;
}
