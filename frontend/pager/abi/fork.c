/* fork.c: see fork.h. The child's half of the books is adopt.c's. */
#include "fork.h"

#include "adopt.h"
#include "connect.h"
#include "events.h"
#include "fault.h"
#include "kernel.h"
#include "notes.h"
#include "page_table.h"
#include "pager.h"
#include "patch.h"
#include "ranges.h"
#include "say.h"
#include "slots.h"

#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define POLL_MS 5
#define CHANGING_NS 2000000000ull   /* for other threads to leave their calls */
#define STEP_NS 20000
#define MESSAGES 16
#define STRAYS_MAX 64
#define DROPPED_MAX 256             /* changes of a child until its pager runs */
#define SHARED_FDS 5                /* a child gets: uffd, connection, swap file, bell, device */

static void (*start_thread)(void);
static int sockets[2];              /* parent's pager, child; in the program's descriptors */
static _Atomic uint32_t has_returned;   /* the forking thread; the next may use `sockets` */
static __thread int is_forking __attribute__((tls_model("initial-exec")));
static int is_child_of_ours;
static struct mcp_patch of_fork;
static int strays[STRAYS_MAX], stray_count;
static struct { uint64_t start, end; } dropped[DROPPED_MAX];
static int dropped_count;

static void close_fd(int fd)
{
    mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
}

/* ---- the forking thread ---- */

static void want(void)
{
    is_forking = atomic_load(&mcp_self.is_on);
}

static void stand_still(void)
{
    uint32_t state = MCP_RUNNING;
    while (!atomic_compare_exchange_strong(&mcp_self.frozen, &state, MCP_WANTED)) {
        mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAIT, state, STEP_NS);
        state = MCP_RUNNING;
    }
    for (uint64_t end_ns = mcp_now_ns() + CHANGING_NS;
         atomic_load(&mcp_self.changing) && mcp_now_ns() < end_ns;)
        mcp_sleep_ns(STEP_NS);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        mcp_die("no descriptors for a fork:", -errno);
    sockets[0] = mcp_fd_high(sockets[0]);
    sockets[1] = mcp_fd_high(sockets[1]);
    atomic_store(&has_returned, 0);
    atomic_store(&mcp_self.frozen, MCP_READY);
    mcp_pager_wake();
    while ((state = atomic_load(&mcp_self.frozen)) != MCP_FROZEN)
        mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAIT, state, MCP_CALL_NS);
}

/* Until the child serves itself. Who has forked often ends next, and its pager with it: the child
 * would lose its memory in the middle of the hand-over. */
static void wait_for_child(void)
{
    while (atomic_load(&mcp_self.frozen) == MCP_FROZEN)     /* see_through has a bound */
        mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAIT, MCP_FROZEN, MCP_CALL_NS);
}

/* In the place of the C library's _Fork, which its fork calls when it holds every lock of malloc
 * and of stdio: a thread that waits at the gate inside malloc cannot keep this one from its copy
 * then, and no second thread can be here. */
static pid_t with_pager(void)
{
    int is_ours = is_forking;       /* not when the program calls _Fork itself */
    is_forking = 0;
    if (is_ours)
        stand_still();
    mcp_patch_undo(&of_fork);
    pid_t pid = ((pid_t (*)(void))(uintptr_t)of_fork.theirs)();
    int error = errno;
    mcp_patch_redo(&of_fork);
    if (is_ours && pid != 0) {
        close_fd(sockets[0]);
        close_fd(sockets[1]);
        atomic_store(&has_returned, 1);
        wait_for_child();
    }
    errno = error;
    is_child_of_ours = is_ours && pid == 0;
    return pid;
}

/* After the C library has let go of its locks, which a new thread needs. Until here the parent's
 * pager serves. */
static void in_child(void)
{
    int row, fds[SHARED_FDS];
    if (!is_child_of_ours)
        return;
    is_child_of_ours = 0;
    close_fd(sockets[0]);
    close_fd(mcp_self.uffd);        /* the parent's, of the parent's memory */
    close_fd(mcp_self.wake_fd);
    int status = mcp_receive_fds(sockets[1], &row, fds, SHARED_FDS);
    if (status < 0)
        mcp_die("a forked process cannot take over its memory:", status);
    mcp_self.uffd = mcp_fd_high(fds[0]);
    mcp_self.connection = mcp_fd_high(fds[1]);
    mcp_self.swap_fd = mcp_fd_high(fds[2]);
    mcp_self.member.bell_fd = mcp_fd_high(fds[3]);
    mcp_self.device = mcp_fd_high(fds[4]);
    mcp_self.member.row = mcp_self.child_row;
    mcp_self.fork_socket = sockets[1];
    mcp_self.wake_fd = mcp_fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    mcp_pager_open_stage();
    mcp_notes_reset();
    mcp_events_forget();
    stray_count = 0;
    mcp_self.is_child = 1;
    atomic_store(&mcp_self.changing, 0);
    atomic_store(&mcp_self.frozen, MCP_RUNNING);
    start_thread();
}

int mcp_fork_is_possible(void)
{
    return dlsym(RTLD_NEXT, "_Fork") != NULL;
}

void mcp_fork_open(void (*start)(void))
{
    start_thread = start;
    pthread_atfork(want, NULL, in_child);
    mcp_patch_make(&of_fork, "_Fork", with_pager);
}

/* ---- the parent's pager ---- */

/* A descriptor of the program's: the pager has a table of its own. */
static int taken_over(int fd)
{
    long self = mcp_syscall(SYS_pidfd_open, mcp_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0), 0, 0, 0, 0,
                            0);
    long ours = self < 0 ? self : mcp_syscall(SYS_pidfd_getfd, self, fd, 0, 0, 0, 0);
    if (self >= 0)
        close_fd((int)self);
    if (ours < 0)
        mcp_die("a fork cannot be prepared:", ours);
    return (int)ours;
}

static void share_all(int row)
{
    for (int i = 0; i < mcp_ranges_count(); i++) {
        uint64_t end = mcp_range_at(i)->end >> MCP_PAGE_SHIFT;
        uint64_t page = mcp_table_next(mcp_range_at(i)->start >> MCP_PAGE_SHIFT, end);
        for (; page < end; page = mcp_table_next(page + 1, end))
            if (mcp_is_outside(mcp_table_at(page)))
                mcp_slot_share(&mcp_self.member, mcp_slot_of(mcp_table_at(page)), row);
    }
}

/* Its memory is gone: a copy says so, whatever the address. */
static int is_dead(int child)
{
    uint64_t nowhere = (uint64_t)(uintptr_t)mcp_self.zeroes;    /* is registered in nobody */
    return mcp_uffd_copy(child, nowhere, mcp_self.zeroes, MCP_PAGE_BYTES) == -ESRCH;
}

/* Whether the child has given up that page since the fork. */
static int is_dropped(uint64_t address)
{
    for (int i = 0; i < dropped_count; i++)
        if (address >= dropped[i].start && address < dropped[i].end)
            return 1;
    return 0;
}

/* Its faults; and what it changes is passed on to its pager, which will be told of it by nobody
 * else. Already now such pages are no more what our table says. */
static void serve_child(int child, int socket)
{
    struct uffd_msg messages[MESSAGES];
    long got = mcp_syscall(SYS_read, child, (long)messages, sizeof messages, 0, 0, 0);
    int count = got > 0 ? (int)(got / (long)sizeof *messages) : 0;
    for (int i = 0; i < count; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            continue;
        if (messages[i].event != UFFD_EVENT_REMOVE && messages[i].event != UFFD_EVENT_UNMAP)
            mcp_die("a forked process moves memory before its pager runs", 0);
        if (dropped_count == DROPPED_MAX)
            mcp_die("a forked process changes too much before its pager runs", 0);
        dropped[dropped_count].start = messages[i].arg.remove.start;
        dropped[dropped_count++].end = messages[i].arg.remove.end;
        if (send(socket, &messages[i], sizeof *messages, MSG_NOSIGNAL) < 0 && !is_dead(child))
            mcp_die("a forked process cannot be told what it has changed:", -errno);
    }
    for (int i = 0; i < count; i++) {
        uint64_t address = messages[i].arg.pagefault.address;
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            mcp_fault_serve_frozen(child, address, is_dropped(address));
    }
}

/* The child's memory, once the kernel has told of it, goes to the child. */
static int handed_over(int socket, const struct mcp_handed *handed)
{
    int child = mcp_events_child();
    int gifts[SHARED_FDS] = {child, handed->connection, handed->swap, handed->bell,
                             handed->device};
    if (child >= 0 && mcp_send_fds(socket, gifts, SHARED_FDS) < 0 && !is_dead(child))
        mcp_die("a forked process cannot be given its memory", 0);
    return child;
}

/* Whether the child's pager runs. From the answer on nobody here may read what the child tells. */
static int is_served(int socket)
{
    int said;
    if (recv(socket, &said, sizeof said, MSG_DONTWAIT) < 0)
        return 0;
    (void)!send(socket, &said, sizeof said, MSG_NOSIGNAL);
    return 1;
}

/* Until the forking thread has returned, and the child's own pager runs, the child is dead, or the
 * fork has failed. */
static void see_through(int socket, const struct mcp_handed *handed)
{
    int child = -1, is_over = 0;
    dropped_count = 0;
    for (uint64_t end_ns = mcp_now_ns() + MCP_CALL_NS;
         !is_over || !atomic_load(&has_returned);) {
        struct pollfd fds[3] = {{mcp_self.uffd, POLLIN, 0}, {child, POLLIN, 0},
                                {is_over ? -1 : socket, POLLIN, 0}};
        int has_left = atomic_load(&has_returned);  /* its event is read below, if there is one */
        poll(fds, 3, POLL_MS);
        while (mcp_events_read() > 0)
            ;
        mcp_events_serve_frozen();
        if (!is_over && child < 0)
            child = handed_over(socket, handed);
        if (child >= 0)
            serve_child(child, socket);
        if (!is_over)
            is_over = child < 0 ? has_left : is_served(socket) || is_dead(child);
        if (is_over && child >= 0) {
            close_fd(child);
            child = -1;
        }
        if (mcp_now_ns() > end_ns)
            mcp_die("a forked process does not take over its memory", 0);
    }
}

void mcp_fork_stand_still(void)
{
    struct mcp_handed handed;
    if (atomic_load(&mcp_self.frozen) != MCP_READY)
        return;
    int socket = taken_over(sockets[0]);
    int status = mcp_connect(&handed);
    if (status < 0)
        mcp_die("no row for a forked process:", status);
    close_fd(handed.family);
    close_fd(handed.ram);
    close_fd(handed.meta);
    do
        mcp_events_serve();
    while (mcp_events_read() > 0);
    mcp_slots_settle(&mcp_self.member);
    mcp_self.child_row = handed.row;
    share_all(handed.row);
    atomic_store(&mcp_self.frozen, MCP_FROZEN);
    mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAKE, 1000, 0);
    see_through(socket, &handed);
    mcp_events_thaw();
    close_fd(handed.connection);
    close_fd(handed.swap);
    close_fd(handed.bell);
    close_fd(handed.device);
    close_fd(socket);
    mcp_count(&mcp_self.member, MCP_FORKS, 1);
    atomic_store(&mcp_self.frozen, MCP_RUNNING);
    mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAKE, 1000, 0);
}

/* ---- the child's pager ---- */

/* An event that the parent passes on; 0 when there is none, with its answer, and at its end. */
static int heard_late(int flags)
{
    struct uffd_msg message;
    ssize_t got;
    do
        got = recv(mcp_self.fork_socket, &message, sizeof message, flags);
    while (got < 0 && errno == EINTR);
    if (got < 0 && !flags)
        mcp_die("the process that forked this one does not let it go", -errno);
    if (got != (ssize_t)sizeof message)
        return 0;
    mcp_events_late(&message);
    return 1;
}

void mcp_fork_adopt(void)
{
    int done = 1;
    while (heard_late(MSG_DONTWAIT))
        ;
    mcp_adopt_all();
    (void)!send(mcp_self.fork_socket, &done, sizeof done, MSG_NOSIGNAL);
    /* Until it answers the parent reads our events, and passes them on. */
    while (heard_late(0))
        ;
    close_fd(mcp_self.fork_socket);
    mcp_self.fork_socket = -1;
    mcp_self.is_child = 0;
}

/* ---- either, when idle ---- */

void mcp_fork_tend(void)
{
    struct uffd_msg message;
    int child = mcp_events_child();
    if (child >= 0 && stray_count == STRAYS_MAX)
        mcp_die("too many processes that were forked past the pager", 0);
    if (child >= 0)
        strays[stray_count++] = child;
    for (int i = 0; i < stray_count; i++) {
        if (mcp_syscall(SYS_read, strays[i], (long)&message, sizeof message, 0, 0, 0) > 0 &&
            message.event == UFFD_EVENT_PAGEFAULT) {
            mcp_say("a process forked by a system call of its own is ended:",
                    message.arg.pagefault.feat.ptid);
            mcp_syscall(SYS_tkill, message.arg.pagefault.feat.ptid, SIGKILL, 0, 0, 0, 0);
        }
        if (is_dead(strays[i])) {
            close_fd(strays[i]);
            strays[i--] = strays[--stray_count];
        }
    }
}
