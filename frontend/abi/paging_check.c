/* paging_check.c: a recount of a guest's paging, for tests and the end of a run. */
#include "paging_private.h"

#include <stdlib.h>

static int is_set(uint64_t *bits, uint64_t bit)
{
    uint64_t mask = 1ull << bit % 64;
    int was = (bits[bit / 64] & mask) != 0;
    bits[bit / 64] |= mask;
    return was;
}

/* One page; 0, or the line of what is wrong. `frames` has a bit for each frame seen. */
static int check_page(const struct mc_paging *paging, uint32_t page, uint64_t *frames)
{
    const struct mc_page *entry = &paging->table[page];
    uint32_t flags = entry->flags, resident = flags & MC_PAGE_RESIDENT;
    if (resident && flags & MC_PAGE_IN_TMEM)
        return __LINE__;        /* resident, and in tmem */
    if (flags & MC_PAGE_IN_TMEM && flags & MC_PAGE_ON_DISK)
        return __LINE__;        /* in tmem, and on disk */
    if (flags & MC_PAGE_FILE && flags & (MC_PAGE_IN_TMEM | MC_PAGE_ON_DISK))
        return __LINE__;        /* of the file, and swapped */
    if (flags & (MC_PAGE_LEAVING | MC_PAGE_IN_FLIGHT) ||
        (!resident && flags & (MC_PAGE_AHEAD | MC_PAGE_SAMPLED)))
        return __LINE__;        /* a flag that no page at rest has */
    if (flags & MC_PAGE_ON_DISK && paging->own->slot_pages[entry->slot] != page)
        return __LINE__;        /* its slot is another's */
    if (!resident)
        return 0;
    if (entry->at >= paging->resident_count || paging->own->resident[entry->at] != page)
        return __LINE__;        /* resident, and not in the list */
    return entry->frame >= paging->own->maxmem_frames || is_set(frames, entry->frame)
        ? __LINE__ : 0;         /* a frame that holds two pages */
}

int mc_paging_validate(const struct mc_paging *paging, uint32_t *page)
{
    uint64_t *frames = calloc(paging->own->maxmem_frames / 64 + 1, sizeof *frames);
    uint64_t resident = 0, stored = 0, swapped = 0, slots = 0;
    int wrong = frames == NULL ? __LINE__ : 0;
    for (*page = 0; !wrong && *page < paging->options.pages; ++*page) {
        wrong = check_page(paging, *page, frames);
        resident += (paging->table[*page].flags & MC_PAGE_RESIDENT) != 0;
        stored += (paging->table[*page].flags & MC_PAGE_IN_TMEM) != 0;
        swapped += (paging->table[*page].flags & MC_PAGE_ON_DISK) != 0;
    }
    for (uint32_t i = 0; !wrong && i < paging->spare_count; i++)
        wrong = is_set(frames, paging->own->spares[i]) ? __LINE__ : 0;
    for (uint32_t i = 0; i <= paging->options.pages / 64; i++)
        slots += (uint64_t)__builtin_popcountll(paging->own->slots[i]);
    if (!wrong && (resident != paging->resident_count || stored != paging->stored ||
                   swapped != slots))
        wrong = __LINE__;       /* a sum */
    free(frames);
    return wrong ? wrong + 1 : 0;
}
