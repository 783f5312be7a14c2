/* evict.c: see evict.h. */
#include "evict.h"

#include "kernel.h"
#include "mappings.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"
#include "recency.h"
#include "say.h"
#include "slots.h"
#include "tmem.h"
#include "unshare.h"

#include <string.h>
#include <sys/uio.h>

#define PAGES_LOOKED_MAX (1 << 22)  /* by one turn of the hand: 16 GiB, some ms */
#define STEPS_MAX 4096
#define SWEEPS_MAX 4                /* of one turn: the second may take what the first has left */
#define REFUSALS_MAX 64             /* runs refused in one turn */
#define WAITS_MAX 20                /* of 1 ms, for other processes of the domain to give */
#define WAIT_NS 1000000

#define BLOCKED_NS 50000000         /* after that in vain, how long nobody waits again */

static uint64_t blocked_until_ns;
static int is_stuck;                /* nothing but what a living process shares could be taken */
static int hand_index;
static uint64_t hand_at;
static int has_taken;               /* in this sweep */

struct run {                        /* pages in the staging area */
    uint64_t pages[MCP_RUN_PAGES];
    uint32_t slots[MCP_RUN_PAGES];
    int count, room;
};

static uint8_t *staged(int place)
{
    return mcp_self.stage + (uint64_t)place * MCP_PAGE_BYTES;
}

/* The tracked range under the hand, or NULL at the end of the list: the hand begins anew. */
static struct mcp_range *range_under_hand(void)
{
    while (hand_index < mcp_ranges_count()) {
        struct mcp_range *range = mcp_range_at(hand_index);
        if (range->kind == MCP_NATIVE && mcp_range_track(range) < 0)
            continue;               /* it is gone from the list */
        if (range->kind == MCP_TRACKED && hand_at < range->end) {
            if (hand_at < range->start)
                hand_at = range->start;
            return range;
        }
        hand_index++;
    }
    hand_index = 0;
    hand_at = 0;
    return NULL;
}

/* The next page to take in [page, end). *looked counts. */
static uint64_t next_cold(uint64_t page, uint64_t end, int *looked)
{
    for (page = mcp_table_next(page, end); page < end && *looked < PAGES_LOOKED_MAX;
         page = mcp_table_next(page + 1, end), ++*looked) {
        uint32_t word = mcp_table_at(page);
        if (mcp_state_of(word) != MCP_RESIDENT)
            continue;
        if (mcp_recency_is_cold(word))
            break;
        mcp_recency_left(word);
    }
    return page;
}

/* The kernel does not move [page, page + length): shared with a fork, pinned, locked; or gone. */
static void refused(uint64_t page, uint64_t length, int64_t why)
{
    if (why == -ENOENT) {           /* the first is not there: the kernel freed it */
        mcp_table_set(page, 0);
        mcp_charge(&mcp_self.member, -1);
        hand_at = (page + 1) << MCP_PAGE_SHIFT;
        return;
    }
    mcp_count(&mcp_self.member, MCP_BUSY_RUNS, 1);
    for (uint64_t k = 0; k < length; k++)
        mcp_table_set(page + k, mcp_recency_rest(mcp_table_at(page + k)));
    hand_at = (page + length) << MCP_PAGE_SHIFT;
}

static int64_t move(const struct run *run, uint64_t page, uint64_t length)
{
    return mcp_uffd_move(mcp_self.stage_uffd, (uint64_t)(uintptr_t)staged(run->count),
                         page << MCP_PAGE_SHIFT, length * MCP_PAGE_BYTES);
}

/* Move one run of adjacent cold pages behind those that are staged; 0: stop for now; -EAGAIN. */
static int stage_run(struct run *run, uint64_t page, uint64_t end, int *refusals)
{
    uint64_t length = 1, most = (uint64_t)(run->room - run->count);
    while (length < most && page + length < end &&
           mcp_recency_is_cold(mcp_table_at(page + length)))
        length++;
    int64_t moved = move(run, page, length);
    if (moved == -EBUSY) {          /* a fork has shared it, unless it is pinned */
        int64_t own = mcp_unshare(page, length, is_stuck);
        if (own > 0)
            moved = move(run, page, (uint64_t)own);
    }
    if (moved == -EAGAIN)           /* an event waits to be read */
        return -EAGAIN;
    if (moved <= 0) {
        refused(page, length, moved);
        return ++*refusals < REFUSALS_MAX;
    }
    for (int64_t k = 0; k < moved >> MCP_PAGE_SHIFT; k++)
        run->pages[run->count++] = page + (uint64_t)k;
    hand_at = (page << MCP_PAGE_SHIFT) + (uint64_t)moved;
    has_taken = 1;
    return 1;
}

static int stage(struct run *run)
{
    int looked = 0, refusals = 0, wraps = 0;
    for (int step = 0; step < STEPS_MAX && run->count < run->room; step++) {
        struct mcp_range *range = range_under_hand();
        if (!range) {
            if (++wraps > SWEEPS_MAX)
                return 0;
            mcp_recency_sweep(has_taken);
            has_taken = 0;
            continue;
        }
        uint64_t end = range->end >> MCP_PAGE_SHIFT;
        uint64_t page = next_cold(hand_at >> MCP_PAGE_SHIFT, end, &looked);
        if (looked >= PAGES_LOOKED_MAX) {
            hand_at = page << MCP_PAGE_SHIFT;
            return 0;
        }
        if (page >= end) {
            hand_at = range->end;
            continue;
        }
        int status = stage_run(run, page, end, &refusals);
        if (status <= 0)
            return status;
    }
    return 0;
}

static int is_zero(const uint8_t *page)
{
    const uint64_t *words = (const void *)page;
    return !words[0] && !memcmp(words, words + 1, MCP_PAGE_BYTES - sizeof *words);
}

/* The word of a staged page that is stored: its level stays. */
static uint32_t word_out(const struct run *run, int place, enum mcp_state state)
{
    return mcp_word_of(state, mcp_level_of(mcp_table_at(run->pages[place])), run->slots[place]);
}

/* Write staged pages places[0..count) to their slots, adjacent slots by one call. */
static void write_out(const struct run *run, const int *places, int count)
{
    struct iovec parts[MCP_RUN_PAGES];
    for (int k = 0, n; k < count; k += n) {
        uint32_t first = run->slots[places[k]];
        for (n = 0; k + n < count && run->slots[places[k + n]] == first + (uint32_t)n; n++)
            parts[n] = (struct iovec){staged(places[k + n]), MCP_PAGE_BYTES};
        long offset = (long)first * (long)MCP_PAGE_BYTES;
        long wrote = mcp_syscall(SYS_pwritev, mcp_self.swap_fd, (long)parts, n, offset, 0, 0);
        if (wrote != (long)n * (long)MCP_PAGE_BYTES)
            mcp_die("the swap file cannot be written:", wrote);
        for (int j = 0; j < n; j++)
            mcp_table_set(run->pages[places[k + j]],
                          word_out(run, places[k + j], MCP_DISK));
    }
    mcp_count(&mcp_self.member, MCP_DISK_PAGES_OUT, (uint64_t)count);
}

/* Every staged page gets its place. The slots of zero pages, and those left over, are unused. */
static void store(struct run *run)
{
    const uint8_t *puts[MCP_RUN_PAGES];
    uint32_t slots[MCP_RUN_PAGES], unused[MCP_RUN_PAGES];
    int places[MCP_RUN_PAGES], count = 0, unused_count = 0, disk_count = 0;
    for (int k = 0; k < run->room; k++) {
        if (k < run->count && !is_zero(staged(k))) {
            places[count] = k;
            puts[count] = staged(k);
            slots[count++] = run->slots[k];
            continue;
        }
        if (k < run->count)
            mcp_table_set(run->pages[k], 0);
        unused[unused_count++] = run->slots[k];
    }
    uint64_t taken = count ? mcp_tmem_put(&mcp_self.member, slots, puts, count) : 0;
    for (int k = 0; k < count; k++) {
        if (taken >> k & 1)
            mcp_table_set(run->pages[places[k]], word_out(run, places[k], MCP_TMEM));
        else
            places[disk_count++] = places[k];
    }
    if (disk_count)
        write_out(run, places, disk_count);
    mcp_slots_drop(&mcp_self.member, unused, unused_count, 0);
    mcp_count(&mcp_self.member, MCP_ZERO_PAGES_OUT, (uint64_t)(run->count - count));
    mcp_count(&mcp_self.member, MCP_TMEM_PAGES_OUT, (uint64_t)(count - disk_count));
    mcp_count(&mcp_self.member, MCP_REFUSED_PAGES, (uint64_t)disk_count);
}

int mcp_evict(void)
{
    struct run run = {.count = 0};
    uint64_t begin_ns = mcp_now_ns();
    run.room = mcp_slots_take(&mcp_self.member, run.slots, MCP_RUN_PAGES);
    if (run.room == 0) {            /* the swap file is full */
        mcp_slots_settle(&mcp_self.member);
        return 0;
    }
    int status = mcp_gate_close() ? 1 : -EAGAIN;
    if (status > 0) {
        status = stage(&run);
        mcp_gate_open();
    }
    store(&run);
    if (run.count) {
        mcp_syscall(SYS_madvise, (long)mcp_self.stage, (long)run.count * (long)MCP_PAGE_BYTES,
                    MADV_DONTNEED, 0, 0, 0);
        mcp_charge(&mcp_self.member, -run.count);
    }
    mcp_count(&mcp_self.member, MCP_RECLAIM_NS, mcp_now_ns() - begin_ns);
    return run.count ? run.count : status;
}

int mcp_evict_has_passed(uint64_t page)
{
    return page << MCP_PAGE_SHIFT < hand_at;
}

int mcp_evict_for(int64_t pages)
{
    int waits = mcp_now_ns() < blocked_until_ns ? WAITS_MAX : 0;
    while (waits < WAITS_MAX && mcp_room_pages(mcp_self.member.family) < pages) {
        int freed = mcp_evict();
        is_stuck = freed == 0;
        if (freed < 0)
            return freed;
        if (freed)
            continue;
        if (++waits == WAITS_MAX)
            blocked_until_ns = mcp_now_ns() + BLOCKED_NS;
        mcp_sleep_ns(WAIT_NS);
    }
    return 0;
}
