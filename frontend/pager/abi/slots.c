/* slots.c: see slots.h. */
#include "slots.h"

#include "tmem.h"

static uint64_t bit_of(int row)
{
    return 1ull << row;
}

int mcp_slots_take(struct mcp_member *member, uint32_t *out, int want)
{
    struct mcp_family *family = member->family;
    uint64_t at = atomic_load_explicit(&family->hand, memory_order_relaxed);
    int got = 0;
    for (uint64_t looked = 0; looked < family->slots && got < want; looked++, at++) {
        uint64_t none = 0, slot = at % family->slots;
        if (atomic_load_explicit(&member->owners[slot], memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&member->owners[slot], &none, bit_of(member->row)))
            out[got++] = (uint32_t)slot;
    }
    atomic_store_explicit(&family->hand, at % family->slots, memory_order_relaxed);
    atomic_fetch_add(&family->outside_pages, got);
    return got;
}

void mcp_slot_share(struct mcp_member *member, uint32_t slot, int other_row)
{
    atomic_fetch_or(&member->owners[slot], bit_of(other_row));
}

/* Under the lock when flushed: clear the bits of `row`, flushing pages that nobody has then. */
static void drop(struct mcp_member *member, const uint32_t *slots, int count, int in_tmem, int row)
{
    uint32_t last[MCP_RUN_PAGES];
    int lasts = 0;
    for (int k = 0; k < count; k++)
        if (atomic_load(&member->owners[slots[k]]) == bit_of(row))
            last[lasts++] = slots[k];
    if (in_tmem && lasts)
        mcp_tmem_flush(member, last, lasts);
    for (int k = 0; k < count; k++)
        if (atomic_fetch_and(&member->owners[slots[k]], ~bit_of(row)) == bit_of(row))
            atomic_fetch_sub(&member->family->outside_pages, 1);
}

void mcp_slots_drop(struct mcp_member *member, const uint32_t *slots, int count, int in_tmem)
{
    if (!count)
        return;
    if (!in_tmem) {
        drop(member, slots, count, 0, member->row);
        return;
    }
    mcp_tmem_lock(member);
    drop(member, slots, count, 1, member->row);
    mcp_tmem_release(member);
}

static uint32_t soon[MCP_RUN_PAGES];
static int soon_count;

void mcp_slots_settle(struct mcp_member *member)
{
    mcp_slots_drop(member, soon, soon_count, 1);
    soon_count = 0;
}

void mcp_slots_drop_soon(struct mcp_member *member, const uint32_t *slots, int count, int in_tmem)
{
    if (!in_tmem) {
        mcp_slots_drop(member, slots, count, 0);
        return;
    }
    for (int k = 0; k < count; k++) {
        soon[soon_count++] = slots[k];
        if (soon_count == MCP_RUN_PAGES)
            mcp_slots_settle(member);
    }
}

void mcp_row_bury(struct mcp_member *member, int row)
{
    struct mcp_family *family = member->family;
    uint32_t found[MCP_RUN_PAGES];
    int count = 0;
    atomic_store(&family->rows[row].used_pages, 0);
    for (uint64_t slot = 0; slot < family->slots; slot++) {
        if (atomic_load_explicit(&member->owners[slot], memory_order_relaxed) & bit_of(row))
            found[count++] = (uint32_t)slot;
        if (count && (count == MCP_RUN_PAGES || slot + 1 == family->slots)) {
            mcp_tmem_lock(member);
            drop(member, found, count, 1, row);
            mcp_tmem_release(member);
            count = 0;
        }
    }
}
