/* start.c: what happens in a program before its main: it becomes a process of its domain.
 *
 * Owns:  the constructor. A program whose environment names no domain is left alone; one that
 *        cannot be served goes on without a limit, and says so.
 */
#include "connect.h"
#include "events.h"
#include "fork.h"
#include "hooks.h"
#include "kernel.h"
#include "notes.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"
#include "say.h"
#include "serve.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define VARIABLE "MEMCOORD_DOMAIN"  /* the command's socket */
#define FEATURES                                                                           \
    (MCP_FEATURE_MOVE | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |            \
     UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_THREAD_ID)

static int join(void)
{
    struct mcp_handed handed;
    int status = mcp_connect(&handed);
    if (status < 0)
        return status;
    mcp_self.connection = mcp_fd_high(handed.connection);
    mcp_self.swap_fd = mcp_fd_high(handed.swap);
    mcp_self.device = mcp_fd_high(handed.device);
    status = mcp_member_join(&mcp_self.member, handed.family, handed.ram, handed.meta,
                             mcp_fd_high(handed.bell), handed.row);
    mcp_syscall(SYS_close, handed.family, 0, 0, 0, 0, 0);
    mcp_syscall(SYS_close, handed.ram, 0, 0, 0, 0, 0);
    mcp_syscall(SYS_close, handed.meta, 0, 0, 0, 0, 0);
    return status;
}

static int open_faults(void)
{
    int fd = mcp_uffd_new(mcp_self.device);
    if (fd < 0)
        return fd;
    mcp_self.uffd = mcp_fd_high(fd);
    int status = mcp_uffd_enable(mcp_self.uffd, FEATURES);
    if (status == -EPERM)           /* in a sandbox nobody may be told of forks by his own right */
        status = mcp_connect_enable(mcp_self.connection, mcp_self.uffd);
    if (status < 0)
        return status;
    /* Without a registered page no fork would be told. */
    void *page = mcp_map_private(MCP_PAGE_BYTES);
    return page ? mcp_uffd_register(mcp_self.uffd, (uint64_t)(uintptr_t)page, MCP_PAGE_BYTES)
                : -ENOMEM;
}

/* The domain's command has been killed, or is being: it takes its programs along. A process that
 * executes another program just then has nobody but itself to end it. */
static int is_gone(int status)
{
    return status == -ECONNREFUSED || status == -ECONNRESET;
}

static void end(void)
{
    mcp_say("ends: its domain has gone, errno", ECONNRESET);
    mcp_syscall(SYS_kill, getpid(), SIGKILL, 0, 0, 0, 0);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv(VARIABLE);
    if (!path || !*path)
        return;
    int status = mcp_fork_is_possible() ? mcp_connect_open(path) : -ENOSYS;
    if (status == 0)
        status = join();
    if (status == 0)
        status = open_faults();
    if (is_gone(status))
        end();
    if (status < 0) {
        mcp_say("runs without a limit: it cannot be served, errno", -status);
        mcp_pager_close_private();
        if (mcp_self.uffd >= 0)
            mcp_syscall(SYS_close, mcp_self.uffd, 0, 0, 0, 0, 0);
        return;
    }
    mcp_self.wake_fd = mcp_fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    mcp_table_open();
    mcp_ranges_open();
    mcp_notes_open();
    mcp_events_open();
    mcp_pager_open_stage();
    mcp_serve_start();
    mcp_fork_open(mcp_serve_start);
    mcp_hooks_open();
    mcp_count(&mcp_self.member, MCP_PROCESSES, 1);
    atomic_store(&mcp_self.is_on, 1);
}
