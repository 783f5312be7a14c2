/* paging_order.c: which resident page was used least recently, exactly, at a store per use.
 *
 * A use writes the time into the page's entry, and no list is kept in order. Whoever needs the
 * oldest page takes the next of `ages`, the resident pages sorted by the time they had when that
 * was made. A page that was used or went since is skipped: its time differs, and it is younger than
 * every page in the list. When the list is at its end it is made anew. It is at its end only after
 * every page in it was used or evicted, so a use or an eviction pays for sorting one page.
 */
#include "paging_private.h"

#include <string.h>

#define DIGIT_BITS 8
#define DIGITS (1 << DIGIT_BITS)
#define PREFETCH 8

void mc_order_add(struct mc_paging *paging, uint32_t page, uint32_t frame, uint64_t used)
{
    struct mc_page *entry = &paging->table[page];
    MC_CHECK(paging->resident_count < paging->options.pages, "%u pages are resident already",
             paging->resident_count);
    entry->frame = frame;
    entry->used = used;
    entry->at = paging->resident_count;
    entry->flags |= MC_PAGE_RESIDENT;
    paging->own->resident[paging->resident_count++] = page;
}

void mc_order_remove(struct mc_paging *paging, uint32_t page)
{
    struct mc_page *entry = &paging->table[page];
    uint32_t last = paging->own->resident[--paging->resident_count];
    MC_CHECK(entry->at <= paging->resident_count, "page %u is resident at %u of %u", page,
             entry->at, paging->resident_count);
    paging->own->resident[entry->at] = last;
    paging->table[last].at = entry->at;
    entry->flags &= ~(uint32_t)(MC_PAGE_RESIDENT | MC_PAGE_LEAVING | MC_PAGE_AHEAD);
}

void mc_order_forget(struct mc_paging *paging)
{
    paging->own->age_count = paging->own->age_next = 0;
}

static void sort_by_digit(const struct mc_age *from, struct mc_age *to, uint32_t count,
                          uint64_t base, int shift)
{
    uint32_t starts[DIGITS] = {0}, sum = 0;
    for (uint32_t i = 0; i < count; i++)
        starts[(from[i].used - base) >> shift & (DIGITS - 1)]++;
    for (uint32_t digit = 0; digit < DIGITS; digit++) {
        uint32_t here = starts[digit];
        starts[digit] = sum;
        sum += here;
    }
    for (uint32_t i = 0; i < count; i++)
        to[starts[(from[i].used - base) >> shift & (DIGITS - 1)]++] = from[i];
}

static void order_make(struct mc_paging *paging)
{
    struct mc_paging_private *own = paging->own;
    uint64_t lowest = UINT64_MAX, highest = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < paging->resident_count; i++) {
        uint32_t page = own->resident[i];
        const struct mc_page *entry = &paging->table[page];
        if (entry->flags & MC_PAGE_LEAVING)
            continue;
        own->ages[count++] = (struct mc_age){.used = entry->used, .page = page};
        lowest = entry->used < lowest ? entry->used : lowest;
        highest = entry->used > highest ? entry->used : highest;
    }
    for (int shift = 0; count && shift < 64 && (highest - lowest) >> shift; shift += DIGIT_BITS) {
        struct mc_age *sorted = own->scratch;
        sort_by_digit(own->ages, sorted, count, lowest, shift);
        own->scratch = own->ages;
        own->ages = sorted;
    }
    own->age_count = count;
    own->age_next = 0;
}

/* The next in the list that is as old as it was; MC_NO_PAGE at its end. */
static uint32_t order_next(struct mc_paging *paging)
{
    struct mc_paging_private *own = paging->own;
    while (own->age_next < own->age_count) {
        struct mc_age age = own->ages[own->age_next++];
        struct mc_page *entry = &paging->table[age.page];
        if (own->age_next + PREFETCH < own->age_count)
            __builtin_prefetch(&paging->table[own->ages[own->age_next + PREFETCH].page]);
        if (entry->used != age.used ||
            (entry->flags & (MC_PAGE_RESIDENT | MC_PAGE_LEAVING)) != MC_PAGE_RESIDENT)
            continue;
        entry->flags |= MC_PAGE_LEAVING;
        return (uint32_t)age.page;
    }
    return MC_NO_PAGE;
}

uint32_t mc_order_take(struct mc_paging *paging)
{
    uint32_t page = order_next(paging);
    if (page != MC_NO_PAGE)
        return page;
    order_make(paging);
    return order_next(paging);
}
