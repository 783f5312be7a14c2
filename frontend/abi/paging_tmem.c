/* paging_tmem.c: a guest's pages as records of the tmem ring. Names are those of
 * frontend.paging.frontswap, device 0, and of frontend.paging.cleancache, inode 0. */
#include "paging_private.h"

#define OBJECTS_SHIFT 4     /* 16 objects to a device */

static struct mc_record *batch_add(struct mc_batch *batch, enum mc_op op)
{
    MC_CHECK(batch->count < MC_RING_SLOTS, "%u records are in the batch", batch->count);
    struct mc_record *record = &batch->records[batch->count++];
    *record = (struct mc_record){.op = (uint16_t)op};
    return record;
}

static void record_name(const struct mc_paging *paging, struct mc_record *record, uint32_t page)
{
    if (paging->table[page].flags & MC_PAGE_FILE) {
        record->arg[0] = (uint64_t)paging->options.cleancache_pool | (uint64_t)page << 32;
        return;
    }
    record->arg[0] = (uint64_t)paging->options.frontswap_pool |
                     (uint64_t)(page >> OBJECTS_SHIFT) << 32;
    record->arg[1] = page & ((1u << OBJECTS_SHIFT) - 1);
}

void mc_tmem_add_get(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                     uint32_t frame)
{
    struct mc_record *record = batch_add(batch, MC_OP_GET);
    record_name(paging, record, page);
    record->arg[4] = frame;
    if (!(paging->table[page].flags & MC_PAGE_FILE))    /* a file's page is gone by itself */
        record_name(paging, batch_add(batch, MC_OP_FLUSH_PAGE), page);
}

void mc_tmem_add_put(struct mc_paging *paging, struct mc_batch *batch, uint32_t page,
                     uint32_t frame)
{
    struct mc_record *record = batch_add(batch, MC_OP_PUT);
    record_name(paging, record, page);
    record->arg[4] = frame;
    paging->counted.puts++;
}

int mc_tmem_submit(struct mc_paging *paging, struct mc_batch *batch)
{
    if (batch->count == 0)
        return MC_OK;
    if (paging->own->broken == MC_OK)
        paging->own->broken = mc_guest_call(paging->guest, MC_RING_TMEM, batch->records,
                                            batch->count);
    if (paging->own->broken == MC_OK)
        return MC_OK;
    return mc_paging_fail(paging, MC_PAGING_STATUS, MC_NO_PAGE, paging->own->broken, 0);
}
