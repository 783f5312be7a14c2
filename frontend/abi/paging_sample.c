/* paging_sample.c: how much of a guest's memory is idle, by sampling as ESX does.
 *
 * At the start of a period pages are drawn at random. A page that was not used at the end of the
 * period, by its time, was idle (Waldspurger, "Memory Resource Management in VMware ESX Server",
 * OSDI 2002, section 5.3). A page that left memory unused says nothing about what stays there.
 */
#include "paging_private.h"

#define TRIES_PER_PAGE 64

static uint64_t random_next(uint64_t *state)
{
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);    /* splitmix64 */
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

void mc_sample_forget(struct mc_paging *paging, uint32_t page)
{
    struct mc_paging_private *own = paging->own;
    struct mc_page *entry = &paging->table[page];
    if (!(entry->flags & MC_PAGE_SAMPLED))
        return;
    entry->flags &= ~(uint32_t)MC_PAGE_SAMPLED;
    for (uint32_t i = 0; i < own->sample_count; i++) {
        if (own->sample[i].page != page)
            continue;
        own->sample_size -= own->sample[i].used == entry->used;
        own->sample[i].page = MC_NO_PAGE;
    }
}

static void sample_end(struct mc_paging *paging)
{
    struct mc_paging_private *own = paging->own;
    uint32_t unused = 0;
    for (uint32_t i = 0; i < own->sample_count; i++) {
        if (own->sample[i].page == MC_NO_PAGE)
            continue;
        struct mc_page *entry = &paging->table[own->sample[i].page];
        entry->flags &= ~(uint32_t)MC_PAGE_SAMPLED;
        unused += entry->used == own->sample[i].used;
    }
    if (own->sample_size)
        paging->idle_permille = 1000 * (int64_t)unused / own->sample_size;
}

void mc_sample_look(struct mc_paging *paging, uint64_t now_ns)
{
    struct mc_paging_private *own = paging->own;
    uint32_t count = paging->resident_count, wanted = MC_PAGING_SAMPLE_PAGES, tries;
    if (now_ns < own->sample_end_ns)
        return;
    sample_end(paging);
    wanted = wanted < count ? wanted : count;
    own->sample_count = 0;
    for (tries = 0; own->sample_count < wanted && tries < wanted * TRIES_PER_PAGE; tries++) {
        uint32_t at = wanted == count ? own->sample_count
                                      : (uint32_t)(random_next(&own->random) % count);
        struct mc_page *entry = &paging->table[own->resident[at]];
        if (entry->flags & MC_PAGE_SAMPLED)
            continue;
        entry->flags |= MC_PAGE_SAMPLED;
        own->sample[own->sample_count++] =
            (struct mc_sampled){.used = entry->used, .page = own->resident[at]};
    }
    own->sample_size = own->sample_count;
    own->sample_end_ns = now_ns + MC_PAGING_PERIOD_NS;
}
