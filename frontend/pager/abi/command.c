/* command.c: see command.h. */
#include "command.h"

#include "family.h"
#include "kernel.h"
#include "slots.h"

#define EXPORTED __attribute__((visibility("default")))
#define FIRST_ID (1ull << 32)       /* no number of a request that the command made itself */

static struct mcp_member command;

static const char *const figure_names[MCP_FIGURES] = {
    "faults", "zero_pages_in", "tmem_pages_in", "disk_pages_in", "ahead_pages_in",
    "zero_pages_out", "tmem_pages_out", "disk_pages_out", "refused_pages", "wait_ns",
    "reclaim_ns", "forks", "busy_runs", "forced_pages", "native_mappings",
    "tracked_mappings", "processes", "spurious_faults",
};

EXPORTED uint64_t mcp_command_family_bytes(uint64_t slots)
{
    uint64_t bytes = sizeof(struct mcp_family) + slots * sizeof(uint64_t);
    return (bytes + MCP_PAGE_BYTES - 1) & ~(MCP_PAGE_BYTES - 1);
}

static int format_lock(struct mcp_family *family)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int status = pthread_mutex_init(&family->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return -status;
}

EXPORTED int mcp_command_open(int family_fd, int ram_fd, int meta_fd, int bell_fd,
                              uint64_t meta_bytes, uint64_t slots, uint32_t staging_frame,
                              uint32_t pool)
{
    struct mcp_family *family = mcp_map_file(family_fd, sizeof *family, 0);
    struct mc_control *control = mcp_map_file(meta_fd, MC_FRAME_BYTES, 0);
    if (!family || !control)
        return -ENOMEM;
    family->slots = slots;
    family->bytes = mcp_command_family_bytes(slots);
    family->meta_bytes = meta_bytes;
    family->tmem_ring_offset = control->tmem_ring_offset;
    family->staging_offset = (uint64_t)staging_frame * MC_FRAME_BYTES;
    family->staging_frame = staging_frame;
    family->pool = pool;
    family->next_id = FIRST_ID;
    int status = format_lock(family);
    mcp_syscall(SYS_munmap, (long)family, (long)sizeof *family, 0, 0, 0, 0);
    mcp_syscall(SYS_munmap, (long)control, MC_FRAME_BYTES, 0, 0, 0, 0);
    if (status == 0)
        status = mcp_member_join(&command, family_fd, ram_fd, meta_fd, bell_fd, -1);
    if (status < 0)
        return status;
    /* Every request so far is answered: both ends stand where the ring does. */
    struct mc_front *front = &command.family->front;
    front->req_prod = front->req_published = atomic_load(&command.ring->req_prod);
    front->rsp_cons = atomic_load(&command.ring->rsp_prod);
    return 0;
}

EXPORTED void mcp_command_close(void)
{
    struct mcp_family *family = command.family;
    mcp_syscall(SYS_munmap, (long)command.control, (long)family->meta_bytes, 0, 0, 0, 0);
    mcp_syscall(SYS_munmap, (long)command.staging, MCP_RUN_PAGES * MCP_PAGE_BYTES, 0, 0, 0, 0);
    mcp_syscall(SYS_munmap, (long)family, (long)family->bytes, 0, 0, 0, 0);
    command = (struct mcp_member){.family = NULL};
}

EXPORTED void mcp_command_limit(int64_t pages)
{
    atomic_store(&command.family->limit_pages, pages);
}

EXPORTED void mcp_command_gone(void)
{
    atomic_store(&command.family->is_gone, 1);
}

EXPORTED void mcp_command_bury(int row)
{
    if (!atomic_load(&command.family->is_gone))     /* else all pages go with the domain */
        mcp_row_bury(&command, row);
}

EXPORTED int64_t mcp_command_figure(int index, const char **name)
{
    struct mcp_family *family = command.family;
    if (index < MCP_FIGURES) {
        *name = figure_names[index];
        return (int64_t)atomic_load(&family->figures[index]);
    }
    switch (index - MCP_FIGURES) {
    case 0:
        *name = "used_pages";
        return mcp_used_pages(family);
    case 1:
        *name = "peak_pages";
        return atomic_load(&family->peak_pages);
    case 2:
        *name = "outside_pages";
        return atomic_load(&family->outside_pages);
    case 3:
        *name = "limit_pages";
        return atomic_load(&family->limit_pages);
    default:
        *name = NULL;
        return -1;
    }
}

EXPORTED int64_t mcp_command_row_pages(int row)
{
    if (row < 0 || row >= MCP_ROWS)
        return 0;
    return atomic_load(&command.family->rows[row].used_pages);
}

EXPORTED uint64_t mcp_command_wait_ns(uint64_t permille)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < MCP_BUCKETS; i++)
        total += atomic_load(&command.family->waits[i]);
    for (int i = 0; total && i < MCP_BUCKETS; i++) {
        seen += atomic_load(&command.family->waits[i]);
        if (seen * 1000 >= total * permille)
            return (64ull << i / 4) * (4 + (uint64_t)i % 4) / 4;
    }
    return 0;
}
