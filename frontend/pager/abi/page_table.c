/* page_table.c: see page_table.h. */
#include "page_table.h"

#include "kernel.h"
#include "pager.h"
#include "say.h"
#include "slots.h"

#define LEAF_SHIFT 18
#define LEAF_PAGES (1ull << LEAF_SHIFT)
#define LEAVES (1ull << (35 - LEAF_SHIFT))  /* 47 bits of addresses */
#define ARENA_LEAVES 256ull                 /* a leaf is of 1 GiB of addresses */

static uint32_t **leaves;
/* Leaves lie where the program has no mapping, ever. A leaf that the kernel put into a hole of the
 * program's, of which the pager had not heard yet, was registered as the program's: the pager then
 * waited for itself. */
static uint32_t *arena;
static uint64_t arena_used;

void mcp_table_open(void)
{
    leaves = mcp_map_private(LEAVES * sizeof *leaves);
    if (!leaves)
        mcp_die("no memory for the table of pages", 0);
    arena = mcp_map_private(ARENA_LEAVES * LEAF_PAGES * sizeof *arena);
}

static uint32_t *new_leaf(void)
{
    if (arena && arena_used < ARENA_LEAVES)
        return arena + arena_used++ * LEAF_PAGES;
    return mcp_map_private(LEAF_PAGES * sizeof *arena);
}

uint32_t mcp_table_at(uint64_t page)
{
    uint64_t leaf = page >> LEAF_SHIFT;
    return leaf < LEAVES && leaves[leaf] ? leaves[leaf][page & (LEAF_PAGES - 1)] : 0;
}

void mcp_table_set(uint64_t page, uint32_t word)
{
    uint64_t leaf = page >> LEAF_SHIFT;
    if (leaf >= LEAVES)
        mcp_die("an address is beyond the table of pages", 0);
    if (!leaves[leaf]) {
        if (!word)
            return;
        leaves[leaf] = new_leaf();
        if (!leaves[leaf])
            mcp_die("no memory for the table of pages", 0);
    }
    leaves[leaf][page & (LEAF_PAGES - 1)] = word;
}

uint64_t mcp_table_next(uint64_t page, uint64_t end)
{
    while (page < end && (page >> LEAF_SHIFT >= LEAVES || !leaves[page >> LEAF_SHIFT]))
        page = ((page >> LEAF_SHIFT) + 1) << LEAF_SHIFT;
    return page < end ? page : end;
}

struct batch { uint32_t slots[MCP_RUN_PAGES]; int count; int in_tmem; };

static void batch_end(struct batch *batch)
{
    mcp_slots_drop(&mcp_self.member, batch->slots, batch->count, batch->in_tmem);
    batch->count = 0;
}

static void batch_add(struct batch *batch, uint32_t slot)
{
    batch->slots[batch->count++] = slot;
    if (batch->count == MCP_RUN_PAGES)
        batch_end(batch);
}

void mcp_table_forget(uint64_t page, uint64_t end)
{
    struct batch tmem = {.in_tmem = 1}, disk = {.in_tmem = 0};
    int64_t gone = 0;
    for (page = mcp_table_next(page, end); page < end; page = mcp_table_next(page + 1, end)) {
        uint32_t word = mcp_table_at(page);
        if (!word)
            continue;
        mcp_table_set(page, 0);
        if (mcp_state_of(word) == MCP_RESIDENT)
            gone++;
        else if (mcp_state_of(word) == MCP_TMEM)
            batch_add(&tmem, mcp_slot_of(word));
        else if (mcp_state_of(word) == MCP_DISK)
            batch_add(&disk, mcp_slot_of(word));
    }
    batch_end(&tmem);
    batch_end(&disk);
    mcp_charge(&mcp_self.member, -gone);
}
