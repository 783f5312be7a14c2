/* serve.c: see serve.h. */
#include "serve.h"

#include "adopt.h"
#include "events.h"
#include "evict.h"
#include "fork.h"
#include "kernel.h"
#include "pager.h"
#include "say.h"
#include "slots.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#define POLL_MS 5
#define STACK_BYTES (256 * 1024)
#define FREE_PAGES_LEAST 128        /* reclaim begins below this, or a part of the limit */
#define FREE_PAGES_MOST 512
#define LIMIT_SHARE 64
#define OWN_FDS 8

static _Atomic uint32_t is_apart;   /* the pager serves, with descriptors of its own */

/* Keep our descriptors only, in a table of our own. */
static void go_apart(void)
{
    int own[OWN_FDS] = {mcp_self.uffd,    mcp_self.stage_uffd, mcp_self.pagemap, mcp_self.swap_fd,
                        mcp_self.connection, mcp_self.wake_fd, mcp_self.member.bell_fd,
                        mcp_self.fork_socket};
    long status = mcp_syscall(SYS_unshare, CLONE_FILES, 0, 0, 0, 0, 0);
    if (status < 0)
        mcp_die("no descriptors of its own for the pager:", status);
    for (int i = 1; i < OWN_FDS; i++)
        for (int k = i; k > 0 && own[k - 1] > own[k]; k--) {
            int other = own[k];
            own[k] = own[k - 1];
            own[k - 1] = other;
        }
    unsigned int first = 0;
    for (int i = 0; i < OWN_FDS; i++) {
        if (own[i] < 0)
            continue;
        if ((unsigned int)own[i] > first)
            mcp_syscall(SYS_close_range, first, own[i] - 1, 0, 0, 0, 0);
        first = (unsigned int)own[i] + 1;
    }
    mcp_syscall(SYS_close_range, first, ~0u, 0, 0, 0, 0);
}

/* Wait for something to do; what need not be done at once is done when nothing comes. */
static void rest(void)
{
    struct pollfd fds[3] = {{mcp_self.uffd, POLLIN, 0}, {mcp_self.wake_fd, POLLIN, 0},
                            {mcp_self.connection, POLLIN, 0}};
    uint64_t told;
    if (poll(fds, 3, POLL_MS) == 0)
        mcp_slots_settle(&mcp_self.member);
    if (fds[1].revents)
        mcp_syscall(SYS_read, mcp_self.wake_fd, (long)&told, 8, 0, 0, 0);
    if (fds[2].revents || atomic_load(&mcp_self.member.family->is_gone))
        mcp_die("the domain of this program has ended", 0);
}

static int is_short(void)
{
    int64_t least = atomic_load(&mcp_self.member.family->limit_pages) / LIMIT_SHARE;
    if (least > FREE_PAGES_MOST)
        least = FREE_PAGES_MOST;
    if (least < FREE_PAGES_LEAST)
        least = FREE_PAGES_LEAST;
    return mcp_room_pages(mcp_self.member.family) < least;
}

static void *serve(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "memcoord-pager");
    go_apart();
    if (mcp_self.is_child)      /* until then the parent reads the child's events, and drops them */
        mcp_fork_adopt();
    atomic_store(&is_apart, 1);
    mcp_futex(&is_apart, MCP_FUTEX_WAKE, 1, 0);
    for (;;) {
        mcp_fork_stand_still();
        mcp_adopt_more();           /* what a fork has copied counts, and is found while busy too */
        int read = mcp_events_read();
        if (mcp_events_serve() + read > 0)
            continue;
        if (is_short() && mcp_evict() > 0)
            continue;
        mcp_fork_tend();
        rest();
    }
    return NULL;
}

void mcp_serve_start(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    atomic_store(&is_apart, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int status = pthread_create(&thread, &attributes, serve, NULL);
    pthread_attr_destroy(&attributes);
    if (status)
        mcp_die("no thread for the pager:", status);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (uint64_t end_ns = mcp_now_ns() + MCP_CALL_NS; !atomic_load(&is_apart);) {
        mcp_futex(&is_apart, MCP_FUTEX_WAIT, 0, MCP_CALL_NS);
        if (mcp_now_ns() > end_ns)
            mcp_die("the pager does not start", 0);
    }
    mcp_pager_close_private();
}
