/* paging_gather.c: moving a guest's pages together, so that whole blocks of its RAM become free.
 *
 * A block is as many frames as a mechanism takes at once: a granule, at least an area. Blocks are
 * kept in the order of how many frames of theirs are used. A frame stays when there is no room to
 * move it; the rest is given back when pages leave.
 */
#include "paging_private.h"

#include <stdlib.h>
#include <string.h>

struct block {
    uint32_t number;
    uint32_t held;
};

struct gather {
    struct mc_paging *paging;
    uint32_t block_frames;
    uint32_t block_count;
    struct block *blocks;
    uint8_t *kept;
    uint32_t *unsuited;         /* frames that came, outside the blocks kept */
    uint32_t unsuited_count;
    int64_t moved;
    int is_full;
};

static int fuller_first(const void *left, const void *right)
{
    const struct block *one = left, *other = right;
    if (one->held != other->held)
        return one->held < other->held ? 1 : -1;
    return one->number < other->number ? -1 : 1;
}

/* Mark the blocks to keep; 0 when none need be emptied. */
static int choose(struct gather *gather, uint64_t frames)
{
    struct mc_paging *paging = gather->paging;
    uint64_t current = atomic_load(&paging->guest->control->current_frames);
    uint64_t keep = current / gather->block_frames, leave = frames / gather->block_frames;
    uint32_t used = 0;
    keep = keep > leave ? keep - leave : 0;
    for (uint32_t i = 0; i < gather->block_count; i++)
        gather->blocks[i].number = i;
    for (uint32_t i = 0; i < paging->resident_count; i++) {
        uint32_t frame = paging->table[paging->own->resident[i]].frame;
        gather->blocks[frame / gather->block_frames].held++;
    }
    for (uint32_t i = 0; i < paging->spare_count; i++)
        gather->blocks[paging->own->spares[i] / gather->block_frames].held++;
    for (uint32_t i = 0; i < gather->block_count; i++)
        used += gather->blocks[i].held > 0;
    if (used <= keep)
        return 0;
    qsort(gather->blocks, gather->block_count, sizeof *gather->blocks, fuller_first);
    for (uint64_t i = 0; i < keep; i++)
        gather->kept[gather->blocks[i].number] = 1;
    return 1;
}

/* Another frame with the same bytes in one of the blocks kept, or the same frame. */
static uint32_t moved(struct gather *gather, uint32_t frame)
{
    struct mc_paging *paging = gather->paging;
    struct mc_frames *frames = &paging->guest->frames;
    if (gather->is_full || gather->kept[frame / gather->block_frames])
        return frame;
    for (;;) {                  /* at most as often as the domain has free frames elsewhere */
        int64_t other = mc_frames_alloc(frames, paging->options.slot, 0);
        if (other < 0 || (uint64_t)other >= paging->own->maxmem_frames ||
            gather->unsuited_count + 2 > paging->own->maxmem_frames) {
            gather->is_full = 1;
            return frame;
        }
        if (!gather->kept[(uint32_t)other / gather->block_frames]) {
            gather->unsuited[gather->unsuited_count++] = (uint32_t)other;
            continue;
        }
        memcpy((void *)(uintptr_t)mc_frame_address(paging, (uint32_t)other),
               (void *)(uintptr_t)mc_frame_address(paging, frame), MC_FRAME_BYTES);
        gather->unsuited[gather->unsuited_count++] = frame;
        gather->moved++;
        return (uint32_t)other;
    }
}

static void move_all(struct gather *gather)
{
    struct mc_paging *paging = gather->paging;
    int status;
    for (uint32_t i = 0; i < paging->resident_count; i++) {
        struct mc_page *entry = &paging->table[paging->own->resident[i]];
        entry->frame = moved(gather, entry->frame);
    }
    for (uint32_t i = 0; i < paging->spare_count; i++)
        paging->own->spares[i] = moved(gather, paging->own->spares[i]);
    mc_frames_free_many(&paging->guest->frames, paging->options.slot, gather->unsuited,
                        gather->unsuited_count, &status);
    paging->counted.moved += gather->moved;
}

int64_t mc_paging_gather(struct mc_paging *paging, uint64_t frames)
{
    uint32_t granule = paging->guest->control->granule_frames;
    uint64_t maxmem = paging->own->maxmem_frames;
    struct gather gather = {.paging = paging};
    gather.block_frames = granule > MC_AREA_FRAMES ? granule : MC_AREA_FRAMES;
    gather.block_count = (uint32_t)((maxmem + gather.block_frames - 1) / gather.block_frames);
    gather.blocks = calloc(gather.block_count, sizeof *gather.blocks);
    gather.kept = calloc(gather.block_count, 1);
    gather.unsuited = malloc(maxmem * sizeof *gather.unsuited);
    if (gather.blocks && gather.kept && gather.unsuited && choose(&gather, frames))
        move_all(&gather);
    free(gather.blocks);
    free(gather.kept);
    free(gather.unsuited);
    mc_slot_drain(&paging->guest->frames, paging->options.slot);
    return gather.moved;
}
