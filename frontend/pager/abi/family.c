/* family.c: see family.h. */
#include "family.h"

#include "kernel.h"

int mcp_member_join(struct mcp_member *member, int family_fd, int ram_fd, int meta_fd, int bell_fd,
                    int row)
{
    struct mcp_family *family = mcp_map_file(family_fd, sizeof *family, 0);
    if (!family)
        return -ENOMEM;
    uint64_t bytes = family->bytes;
    mcp_syscall(SYS_munmap, (long)family, (long)sizeof *family, 0, 0, 0, 0);
    family = mcp_map_file(family_fd, bytes, 0);
    if (!family)
        return -ENOMEM;
    uint8_t *meta = mcp_map_file(meta_fd, family->meta_bytes, 0);
    uint8_t *staging = mcp_map_file(ram_fd, MCP_RUN_PAGES * MCP_PAGE_BYTES, family->staging_offset);
    if (!meta || !staging)
        return -ENOMEM;
    *member = (struct mcp_member){
        .family = family,
        .owners = (void *)((uint8_t *)family + sizeof *family),
        .control = (void *)meta,
        .ring = (void *)(meta + family->tmem_ring_offset),
        .staging = staging,
        .bell_fd = bell_fd,
        .row = row,
    };
    return 0;
}

int64_t mcp_used_pages(const struct mcp_family *family)
{
    int64_t sum = 0;
    for (int i = 0; i < MCP_ROWS; i++)
        sum += atomic_load(&family->rows[i].used_pages);
    return sum;
}

int64_t mcp_room_pages(const struct mcp_family *family)
{
    return atomic_load(&family->limit_pages) - mcp_used_pages(family);
}

static void note_peak(struct mcp_family *family, int64_t used)
{
    int64_t peak = atomic_load(&family->peak_pages);
    while (used > peak && !atomic_compare_exchange_weak(&family->peak_pages, &peak, used))
        ;
}

int mcp_charge_try(struct mcp_member *member, int64_t pages)
{
    struct mcp_family *family = member->family;
    atomic_fetch_add(&family->rows[member->row].used_pages, pages);
    int64_t used = mcp_used_pages(family);
    if (used <= atomic_load(&family->limit_pages)) {
        note_peak(family, used);
        return 1;
    }
    atomic_fetch_sub(&family->rows[member->row].used_pages, pages);
    return 0;
}

void mcp_charge(struct mcp_member *member, int64_t pages)
{
    atomic_fetch_add(&member->family->rows[member->row].used_pages, pages);
    if (pages > 0)
        note_peak(member->family, mcp_used_pages(member->family));
}

void mcp_charge_forced(struct mcp_member *member, int64_t pages)
{
    if (mcp_charge_try(member, pages))
        return;
    int64_t room = mcp_room_pages(member->family);
    mcp_charge(member, pages);
    if (room > 0 && room < pages)
        pages -= room;
    mcp_count(member, MCP_FORCED_PAGES, (uint64_t)pages);
}

void mcp_count(struct mcp_member *member, enum mcp_figure figure, uint64_t more)
{
    atomic_fetch_add_explicit(&member->family->figures[figure], more, memory_order_relaxed);
}

void mcp_count_wait(struct mcp_member *member, uint64_t ns)
{
    int bucket = 0;
    while (bucket < MCP_BUCKETS - 1 &&
           ns > (64ull << bucket / 4) * (4 + (uint64_t)bucket % 4) / 4)
        bucket++;
    atomic_fetch_add_explicit(&member->family->waits[bucket], 1, memory_order_relaxed);
    mcp_count(member, MCP_WAIT_NS, ns);
}
