/* mappings.c: see mappings.h. */
#include "mappings.h"

#include "kernel.h"
#include "notes.h"
#include "pager.h"
#include "ranges.h"

#include <signal.h>

#define GATE_NS 100000000           /* a look at the gate without having been woken */
#define WAKE_ALL 1000
#define STEP_NS 20000

static _Atomic uint32_t waiters;

static void wait_for_gate(uint32_t state)
{
    atomic_fetch_add(&waiters, 1);
    mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAIT, state, GATE_NS);
    atomic_fetch_sub(&waiters, 1);
}

void mcp_gate_enter(void)
{
    for (;;) {
        atomic_fetch_add(&mcp_self.changing, 1);
        uint32_t state = atomic_load(&mcp_self.frozen);
        if (state == MCP_RUNNING)
            return;
        atomic_fetch_sub(&mcp_self.changing, 1);
        wait_for_gate(state);
    }
}

void mcp_gate_leave(void)
{
    atomic_fetch_sub(&mcp_self.changing, 1);
}

void mcp_gate_enter_alone(uint64_t *signals)
{
    uint64_t all = ~0ull;
    mcp_syscall(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)signals, sizeof all, 0, 0);
    uint32_t state = MCP_RUNNING;
    while (!atomic_compare_exchange_strong(&mcp_self.frozen, &state, MCP_MOVING)) {
        wait_for_gate(state);
        state = MCP_RUNNING;
    }
    while (atomic_load(&mcp_self.changing))     /* the pager hears their events, or all ends */
        mcp_sleep_ns(STEP_NS);
}

void mcp_gate_leave_alone(const uint64_t *signals)
{
    atomic_store(&mcp_self.frozen, MCP_RUNNING);
    if (atomic_load(&waiters))
        mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAKE, WAKE_ALL, 0);
    mcp_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)signals, 0, sizeof *signals, 0, 0);
}

void mcp_gate_open(void)
{
    uint32_t closed = MCP_CLOSED;   /* a fork keeps it closed by itself */
    if (atomic_compare_exchange_strong(&mcp_self.frozen, &closed, MCP_RUNNING) &&
        atomic_load(&waiters))
        mcp_futex(&mcp_self.frozen, MCP_FUTEX_WAKE, WAKE_ALL, 0);
}

int mcp_gate_close(void)
{
    uint32_t state = MCP_RUNNING;
    if (!atomic_compare_exchange_strong(&mcp_self.frozen, &state, MCP_CLOSED) &&
        state != MCP_READY)
        return 0;
    if (atomic_load(&mcp_self.changing)) {
        mcp_gate_open();
        return 0;
    }
    mcp_notes_apply();
    return 1;
}

/* What was reserved of [start, end) may be touched from now on: charged whole, room or no room. It
 * is tracked, and charged by the page, as soon as pages must be taken out. */
static void claim_reserved(uint64_t start, uint64_t end)
{
    int index = mcp_range_find(start);
    while (index < mcp_ranges_count() && mcp_range_at(index)->start < end) {
        struct mcp_range range = *mcp_range_at(index);
        if (range.kind != MCP_RESERVED) {
            index++;
            continue;
        }
        uint64_t from = range.start > start ? range.start : start;
        uint64_t to = range.end < end ? range.end : end;
        mcp_ranges_cut(from, to, MCP_RESERVED);
        mcp_charge_forced(&mcp_self.member, (int64_t)((to - from) >> MCP_PAGE_SHIFT));
        mcp_ranges_add(from, to, MCP_NATIVE);
        index = mcp_range_find(to);
    }
}

void mcp_notes_apply(void)
{
    enum mcp_note what;
    uint64_t start, end;
    while (mcp_note_next(&what, &start, &end)) {
        if (what == MCP_NOTE_VOID)
            continue;
        if (what == MCP_NOTE_USABLE) {
            claim_reserved(start, end);
            continue;
        }
        mcp_ranges_cut(start, end, MCP_NATIVE | MCP_RESERVED);
        if (what == MCP_NOTE_NATIVE)
            mcp_ranges_add(start, end, MCP_NATIVE);
        if (what == MCP_NOTE_RESERVED)
            mcp_ranges_add(start, end, MCP_RESERVED);
        if (what == MCP_NOTE_TRACKED) {
            mcp_charge_forced(&mcp_self.member, mcp_ranges_account(start, end));
            mcp_ranges_add(start, end, MCP_TRACKED);
        }
    }
}
