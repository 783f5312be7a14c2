/* ranges.c: see ranges.h. */
#include "ranges.h"

#include "kernel.h"
#include "page_table.h"
#include "pager.h"
#include "say.h"
#include "slots.h"

#include <string.h>

#define RANGES_MAX 65536
#define REGIONS 128

static struct mcp_range *ranges;
static int count;

void mcp_ranges_open(void)
{
    ranges = mcp_map_private(RANGES_MAX * sizeof *ranges);
    if (!ranges)
        mcp_die("no memory for the list of mappings", 0);
}

int mcp_ranges_count(void)
{
    return count;
}

struct mcp_range *mcp_range_at(int index)
{
    return &ranges[index];
}

int mcp_range_find(uint64_t address)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (ranges[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int64_t pages_of(uint64_t start, uint64_t end)
{
    return (int64_t)((end - start) >> MCP_PAGE_SHIFT);
}

static void remove_at(int index)
{
    memmove(ranges + index, ranges + index + 1, sizeof *ranges * (size_t)(--count - index));
}

static void insert_at(int index, struct mcp_range range)
{
    if (count == RANGES_MAX) {
        if (range.kind == MCP_NATIVE)
            mcp_charge(&mcp_self.member, -pages_of(range.start, range.end));
        return;
    }
    memmove(ranges + index + 1, ranges + index, sizeof *ranges * (size_t)(count++ - index));
    ranges[index] = range;
}

void mcp_ranges_cut(uint64_t start, uint64_t end, int kinds)
{
    int index = mcp_range_find(start);
    while (index < count && ranges[index].start < end) {
        struct mcp_range range = ranges[index];
        if (!(range.kind & kinds)) {
            index++;
            continue;
        }
        uint64_t from = range.start > start ? range.start : start;
        uint64_t to = range.end < end ? range.end : end;
        if (range.kind == MCP_NATIVE)
            mcp_charge(&mcp_self.member, -pages_of(from, to));
        remove_at(index);
        if (range.end > end)
            insert_at(index, (struct mcp_range){end, range.end, range.kind});
        if (range.start < start)
            insert_at(index++, (struct mcp_range){range.start, start, range.kind});
    }
}

/* [start, end) overlaps no range and goes before ranges[index]. Returns the next index. */
static int add_free(int index, uint64_t start, uint64_t end, enum mcp_kind kind)
{
    if (index > 0 && ranges[index - 1].end == start && ranges[index - 1].kind == kind) {
        ranges[index - 1].end = end;
        return index;
    }
    int before = count;
    insert_at(index, (struct mcp_range){start, end, kind});
    return index + (count - before);
}

void mcp_ranges_add(uint64_t start, uint64_t end, enum mcp_kind kind)
{
    int index = mcp_range_find(start);
    while (start < end) {
        uint64_t stop = index < count && ranges[index].start < end ? ranges[index].start : end;
        if (stop > start)
            index = add_free(index, start, stop, kind);
        if (index >= count || ranges[index].start >= end)
            return;
        start = ranges[index].end;
        index++;
    }
}

static int64_t account_region(uint64_t page, uint64_t end)
{
    int64_t found = 0;
    for (; page < end; page++) {
        uint32_t word = mcp_table_at(page), slot = mcp_slot_of(word);
        if (mcp_state_of(word) == MCP_RESIDENT || mcp_state_of(word) == MCP_COMMON)
            continue;
        if (mcp_is_outside(word))   /* what is there is newer */
            mcp_slots_drop(&mcp_self.member, &slot, 1, mcp_state_of(word) == MCP_TMEM);
        mcp_table_set(page, mcp_word_of(MCP_RESIDENT, 0, 0));
        found++;
    }
    return found;
}

int64_t mcp_ranges_account(uint64_t start, uint64_t end)
{
    struct mcp_region regions[REGIONS];
    int64_t found = 0;
    while (start < end) {
        struct mcp_scan scan = {
            .size = sizeof scan, .start = start, .end = end, .vec = (uint64_t)(uintptr_t)regions,
            .vec_len = REGIONS, .any_of = MCP_IS_PRESENT | MCP_IS_SWAPPED,
            .return_mask = MCP_IS_PRESENT | MCP_IS_SWAPPED,
        };
        long got = mcp_syscall(SYS_ioctl, mcp_self.pagemap, MCP_PAGEMAP_SCAN, (long)&scan, 0, 0, 0);
        if (got < 0)
            mcp_die("the pages of a mapping could not be counted:", got);
        for (long i = 0; i < got; i++)
            found += account_region(regions[i].start >> MCP_PAGE_SHIFT,
                                    regions[i].end >> MCP_PAGE_SHIFT);
        start = scan.walk_end > start ? scan.walk_end : end;
    }
    return found;
}

int mcp_range_track(struct mcp_range *range)
{
    struct mcp_range was = *range;
    int status = mcp_uffd_register(mcp_self.uffd, was.start, was.end - was.start);
    int64_t there = 0;
    if (status < 0)
        remove_at((int)(range - ranges));
    else {
        range->kind = MCP_TRACKED;
        there = mcp_ranges_account(was.start, was.end);
    }
    mcp_charge(&mcp_self.member, there - pages_of(was.start, was.end));
    return status;
}
