/* events.c: see events.h. */
#include "events.h"

#include "fault.h"
#include "kernel.h"
#include "mappings.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"
#include "say.h"

#include <sched.h>
#include <string.h>

#define MESSAGES 16
#define FOLLOW_EVERY 32     /* faults between two looks where the faulting thread runs */
#define CHILDREN_MAX 64

static struct uffd_msg *later;
static int later_count;
static uint64_t *filled;    /* pages that were filled while the table was frozen */
static int filled_count;
static int children[CHILDREN_MAX], children_count;
static uint64_t faults_followed;
static int cpu_followed = -1;

void mcp_events_open(void)
{
    later = mcp_map_private(MCP_LATER_MAX * sizeof *later);
    filled = mcp_map_private(MCP_LATER_MAX * sizeof *filled);
    if (!later || !filled)
        mcp_die("no memory for the faults that wait", 0);
}

void mcp_events_forget(void)
{
    later_count = filled_count = 0;
    children_count = 0;
    cpu_followed = -1;
}

int mcp_events_child(void)
{
    return children_count ? children[--children_count] : -1;
}

/* The kernel has moved [from, from + length) to `to`. */
static void moved(uint64_t from, uint64_t to, uint64_t length)
{
    uint64_t start = from >> MCP_PAGE_SHIFT, end = (from + length) >> MCP_PAGE_SHIFT;
    uint64_t shift = (to >> MCP_PAGE_SHIFT) - start;
    mcp_ranges_cut(to, to + length, MCP_ANY);
    for (uint64_t page = mcp_table_next(start, end); page < end;
         page = mcp_table_next(page + 1, end)) {
        uint32_t word = mcp_table_at(page);
        if (word) {
            mcp_table_set(page, 0);
            mcp_table_set(page + shift, word);
        }
    }
    int64_t there = mcp_ranges_account(to, to + length);    /* some of it may have been native */
    mcp_ranges_cut(from, from + length, MCP_ANY);
    mcp_charge_forced(&mcp_self.member, there);
    mcp_ranges_add(to, to + length, MCP_TRACKED);
}

static void apply_event(const struct uffd_msg *message)
{
    uint64_t start = message->arg.remove.start, end = message->arg.remove.end;
    switch (message->event) {
    case UFFD_EVENT_REMOVE:
        mcp_table_forget(start >> MCP_PAGE_SHIFT, end >> MCP_PAGE_SHIFT);
        break;
    case UFFD_EVENT_UNMAP:
        mcp_table_forget(start >> MCP_PAGE_SHIFT, end >> MCP_PAGE_SHIFT);
        mcp_ranges_cut(start, end, MCP_TRACKED);
        break;
    case UFFD_EVENT_REMAP:
        moved(message->arg.remap.from, message->arg.remap.to, message->arg.remap.len);
        break;
    case UFFD_EVENT_FORK:
        if (children_count == CHILDREN_MAX)
            mcp_die("too many forks at once", 0);
        children[children_count++] = (int)message->arg.fork.ufd;
        break;
    default:
        break;
    }
}

void mcp_events_late(const struct uffd_msg *message)
{
    apply_event(message);
    if (message->event == UFFD_EVENT_REMOVE)    /* what is there now came after it */
        mcp_charge_forced(&mcp_self.member, mcp_ranges_account(message->arg.remove.start,
                                                               message->arg.remove.end));
}

int mcp_events_read(void)
{
    struct uffd_msg messages[MESSAGES];
    if (later_count + MESSAGES > MCP_LATER_MAX)
        return 0;
    long got = mcp_syscall(SYS_read, mcp_self.uffd, (long)messages, sizeof messages, 0, 0, 0);
    if (got < 0 && got != -EAGAIN && got != -EINTR)
        mcp_die("the program's faults cannot be read:", got);
    int count = got > 0 ? (int)(got / (long)sizeof *messages) : 0;
    mcp_notes_apply();
    for (int i = 0; i < count; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT)
            later[later_count++] = messages[i];
        else
            apply_event(&messages[i]);
    }
    return count;
}

/* The CPU a thread runs on, from its stat file; -1 when it has ended. */
static int cpu_of(uint32_t thread)
{
    char path[64] = "/proc/self/task/", text[512];
    int at = 16, digits = 0;
    char number[12];
    do {
        number[digits++] = (char)('0' + thread % 10);
        thread /= 10;
    } while (thread);
    while (digits)
        path[at++] = number[--digits];
    memcpy(path + at, "/stat", 6);
    long fd = mcp_syscall(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (fd < 0)
        return -1;
    long got = mcp_syscall(SYS_read, fd, (long)text, sizeof text - 1, 0, 0, 0);
    mcp_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
    text[got > 0 ? got : 0] = 0;
    const char *field = strrchr(text, ')');     /* the name may hold spaces */
    for (int i = 2; field && i < 39; i++)
        field = strchr(field + 1, ' ');
    int cpu = field ? 0 : -1;
    for (field = field ? field + 1 : ""; *field >= '0' && *field <= '9'; field++)
        cpu = cpu * 10 + (*field - '0');
    return cpu;
}

/* Run where the thread runs that waits: waking another CPU costs more than the page. */
static void follow(uint32_t thread)
{
    if (faults_followed++ % FOLLOW_EVERY)
        return;
    int cpu = cpu_of(thread);
    if (cpu < 0 || cpu >= CPU_SETSIZE || cpu == cpu_followed)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    mcp_syscall(SYS_sched_setaffinity, 0, sizeof set, (long)&set, 0, 0, 0);
    cpu_followed = cpu;
}

int mcp_events_serve(void)
{
    int served = 0;
    for (; served < later_count; served++) {    /* grows while an event is looked for */
        uint64_t begin_ns = mcp_now_ns();
        follow(later[served].arg.pagefault.feat.ptid);
        while (mcp_fault_serve(later[served].arg.pagefault.address) == -EAGAIN) {
            if (mcp_now_ns() - begin_ns > MCP_CALL_NS)
                mcp_die("a fault cannot be served: the kernel has an event that it does not tell",
                        0);
            if (!mcp_events_read())
                sched_yield();
        }
        mcp_count(&mcp_self.member, MCP_FAULTS, 1);
        mcp_count_wait(&mcp_self.member, mcp_now_ns() - begin_ns);
    }
    later_count = 0;
    return served;
}

void mcp_events_serve_frozen(void)
{
    while (later_count && filled_count < MCP_LATER_MAX) {
        uint64_t address = later[--later_count].arg.pagefault.address;
        mcp_fault_serve_frozen(mcp_self.uffd, address, 0);
        filled[filled_count++] = address & ~(MCP_PAGE_BYTES - 1);
        mcp_count(&mcp_self.member, MCP_FAULTS, 1);
    }
}

void mcp_events_thaw(void)
{
    int64_t found = 0;
    while (filled_count) {
        uint64_t address = filled[--filled_count];
        found += mcp_ranges_account(address, address + MCP_PAGE_BYTES);
    }
    mcp_charge_forced(&mcp_self.member, found);
}
