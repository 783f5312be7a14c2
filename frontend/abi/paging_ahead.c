/* paging_ahead.c: reading ahead from the swap file, as Linux's mm/swap_state.c does it.
 *
 * Pages that left memory together lie together in the file, and are likely to be wanted together.
 * How many are read goes by how many of the last read were used: none, and the slot is not beside
 * the last one: 1; else 2 or more, a power of two up to ahead_pages. Pages read ahead count as
 * used now; a page that is not used goes again without being written.
 */
#include "paging_private.h"

static uint32_t power_above(uint32_t number)
{
    uint32_t power = 4;
    while (power < number)
        power <<= 1;
    return power;
}

/* swapin_nr_pages() of Linux. */
uint32_t mc_ahead_window(struct mc_paging *paging, uint32_t slot)
{
    struct mc_paging_private *own = paging->own;
    uint32_t most = mc_paging_share(paging->limit, paging->options.ahead_pages), pages = 2;
    if (own->ahead_hits)
        pages = power_above(own->ahead_hits + 2);
    else if (slot != own->ahead_slot + 1 && slot + 1 != own->ahead_slot)
        pages = 1;
    if (pages < own->ahead_last / 2)
        pages = own->ahead_last / 2;
    return pages < most ? pages : most;
}

/* Whether the page in a slot may come along. */
static int may_come(const struct mc_paging *paging, uint32_t slot)
{
    uint32_t page = paging->own->slot_pages[slot];
    return page != MC_NO_PAGE && !(paging->table[page].flags & MC_PAGE_RESIDENT) &&
           paging->table[page].flags & MC_PAGE_ON_DISK;
}

static void come_along(struct mc_paging *paging, uint32_t slot, uint32_t frame)
{
    uint32_t page = paging->own->slot_pages[slot];
    mc_order_add(paging, page, frame, ++paging->tick);
    paging->table[page].flags |= MC_PAGE_AHEAD;
    paging->counted.ahead++;
}

void mc_ahead_note(struct mc_paging *paging, uint32_t slot, uint32_t window)
{
    struct mc_paging_private *own = paging->own;
    own->ahead_last = window;
    own->ahead_hits = 0;
    own->ahead_slot = slot;
}

int mc_ahead_read(struct mc_paging *paging, uint32_t page, uint32_t frame)
{
    struct mc_paging_private *own = paging->own;
    void *buffers[MC_PAGING_CLUSTER_MAX];
    int64_t frames[MC_PAGING_CLUSTER_MAX];
    uint32_t slot = paging->table[page].slot, window = mc_ahead_window(paging, slot);
    uint32_t first = slot, end = slot + 1, room = 0;
    mc_ahead_note(paging, slot, window);
    if (paging->limit > paging->resident_count)     /* the page itself takes one */
        room = (uint32_t)(paging->limit - paging->resident_count) - 1;
    if (window > 1 && room > 0) {
        first = slot - slot % window;
        end = first + window < paging->options.pages ? first + window : paging->options.pages;
    }
    for (uint32_t at = first; at < end; at++) {
        frames[at - first] = at == slot ? (int64_t)frame : -1;
        if (at != slot && room > 0 && may_come(paging, at) &&
            (frames[at - first] = mc_frame_at_hand(paging)) >= 0)
            room--;
        buffers[at - first] = frames[at - first] < 0
            ? own->gap
            : (void *)(uintptr_t)mc_frame_address(paging, (uint32_t)frames[at - first]);
    }
    int failed = mc_swap_read(paging, first, buffers, end - first);
    for (uint32_t at = first; at < end; at++) {
        if (at == slot || frames[at - first] < 0)
            continue;
        if (failed)
            own->spares[paging->spare_count++] = (uint32_t)frames[at - first];
        else
            come_along(paging, at, (uint32_t)frames[at - first]);
    }
    return failed ? mc_paging_fail(paging, MC_PAGING_SWAP_READ, page, failed, frame) : MC_OK;
}
