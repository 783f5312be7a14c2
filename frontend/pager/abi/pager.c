/* pager.c: see pager.h. */
#include "pager.h"

#include "kernel.h"
#include "say.h"

#include <string.h>

struct mcp_pager mcp_self = {.uffd = -1, .stage_uffd = -1, .pagemap = -1, .swap_fd = -1,
                               .device = -1, .connection = -1, .wake_fd = -1,
                               .fork_socket = -1};

int mcp_fd_high(int fd)
{
    if (fd < 0)
        mcp_die("a file could not be opened:", fd);
    long high = mcp_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, MCP_FD_FIRST, 0, 0, 0);
    if (high < 0)   /* a low limit of open files: stay where it is */
        return fd;
    mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
    return (int)high;
}

void mcp_pager_open_stage(void)
{
    uint64_t bytes = MCP_RUN_PAGES * MCP_PAGE_BYTES;
    if (!mcp_self.stage) {
        mcp_self.stage = mcp_map_private(bytes);
        mcp_self.bounce = mcp_map_private(bytes);
        mcp_self.zeroes = mcp_map_private(bytes);
        if (!mcp_self.stage || !mcp_self.bounce || !mcp_self.zeroes)
            mcp_die("no memory for the pager", 0);
        memset(mcp_self.bounce, 1, bytes);
        memset(mcp_self.zeroes, 0, bytes);
    }
    mcp_self.stage_uffd = mcp_fd_high(mcp_uffd_new(mcp_self.device));
    int status = mcp_uffd_enable(mcp_self.stage_uffd, MCP_FEATURE_MOVE);
    if (status < 0)
        mcp_die("a userfaultfd is not enabled:", status);
    status = mcp_uffd_register(mcp_self.stage_uffd, (uint64_t)(uintptr_t)mcp_self.stage, bytes);
    if (status < 0)
        mcp_die("the staging pages could not be registered:", status);
    mcp_self.pagemap = mcp_fd_high((int)mcp_syscall(
        SYS_openat, AT_FDCWD, (long)"/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0, 0, 0));
}

void mcp_pager_wake(void)
{
    uint64_t one = 1;
    mcp_syscall(SYS_write, mcp_self.wake_fd, (long)&one, 8, 0, 0, 0);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
}

void mcp_pager_close_private(void)
{
    close_fd(mcp_self.stage_uffd);
    close_fd(mcp_self.pagemap);
    close_fd(mcp_self.swap_fd);
    close_fd(mcp_self.device);
    close_fd(mcp_self.connection);
    close_fd(mcp_self.member.bell_fd);
    close_fd(mcp_self.fork_socket);
}
