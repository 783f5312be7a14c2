/* adopt.c: see adopt.h. */
#include "adopt.h"

#include "evict.h"
#include "kernel.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"

#define WORDS 512                   /* of the pagemap, by one read */
#define READS_A_STEP 16
#define SHARE_OF_TIME 8             /* at most this part of the pager's time, however busy */
#define PAGEMAP_THERE (3ull << 62)
#define PAGEMAP_EXCLUSIVE (1ull << 56)
#define RESERVE_SHARE 8             /* at most this part of the limit is kept for copies */
#define LEAST_SHARE 256             /* at least this part, or so many pages */
#define LEAST_PAGES 64
#define RATE 2                      /* kept: so many times what the last round has found */
#define DECAY_SHARE 4               /* of the reserve beyond that, given up with each round */

static uint64_t scan_at;            /* address */
static int64_t common_pages, common_seen;
static int64_t reserved_pages;      /* charged, for copies that are not found yet */
static int64_t round_found;
static uint64_t rest_until_ns;

/* Charge up to `wanted` pages ahead, as many as there is room for. */
static void reserve(int64_t wanted)
{
    for (; wanted > 0; wanted /= 2)
        if (mcp_charge_try(&mcp_self.member, wanted)) {
            reserved_pages += wanted;
            return;
        }
}

static int64_t reserve_most(void)
{
    int64_t most = atomic_load(&mcp_self.member.family->limit_pages) / RESERVE_SHARE;
    return most < common_pages ? most : common_pages;
}

/* After a round: what is written next will be as much as last time, or twice that. */
static void reserve_anew(void)
{
    int64_t least = atomic_load(&mcp_self.member.family->limit_pages) / LEAST_SHARE;
    int64_t most = reserve_most(), wanted = RATE * round_found;
    if (least > LEAST_PAGES)
        least = LEAST_PAGES;
    if (wanted < least)
        wanted = least;
    if (wanted > most)
        wanted = most;
    round_found = 0;
    if (reserved_pages > wanted) {
        int64_t share = common_pages ? DECAY_SHARE : 1;
        int64_t given = (reserved_pages - wanted + share - 1) / share;
        reserved_pages -= given;
        mcp_charge(&mcp_self.member, -given);
    } else if (reserved_pages < wanted) {
        mcp_evict_for(wanted - reserved_pages);     /* in vain: it keeps what there is room for */
        reserve(wanted - reserved_pages);
    }
}

void mcp_adopt_all(void)
{
    common_pages = 0;
    reserved_pages = 0;             /* what is here was the parent's */
    for (int i = 0; i < mcp_ranges_count(); i++) {
        struct mcp_range *range = mcp_range_at(i);
        if (range->kind == MCP_RESERVED)
            continue;
        if (range->kind == MCP_NATIVE &&
            mcp_uffd_register(mcp_self.uffd, range->start, range->end - range->start) < 0) {
            range->kind = MCP_RESERVED;     /* charged to nobody, and left alone */
            continue;
        }
        range->kind = MCP_TRACKED;
        mcp_ranges_account(range->start, range->end);
        uint64_t end = range->end >> MCP_PAGE_SHIFT;
        uint64_t page = mcp_table_next(range->start >> MCP_PAGE_SHIFT, end);
        for (; page < end; page = mcp_table_next(page + 1, end)) {
            if (mcp_state_of(mcp_table_at(page)) != MCP_RESIDENT)
                continue;
            mcp_table_set(page, mcp_word_of(MCP_COMMON, 0, 0));
            common_pages++;
        }
    }
    scan_at = 0;
    common_seen = round_found = 0;
    reserve(reserve_most());        /* most is written right after a fork */
}

static int is_own(uint64_t word)
{
    return (word & PAGEMAP_THERE) && (word & PAGEMAP_EXCLUSIVE);
}

/* Charge pages that were found: out of the reserve, the rest as well as there is room. */
static void charge_found(int64_t pages)
{
    int64_t paid = pages < reserved_pages ? pages : reserved_pages;
    round_found += pages;
    reserved_pages -= paid;
    if (pages > paid)
        mcp_charge_forced(&mcp_self.member, pages - paid);
}

/* Look at pages [page, page + count), count <= WORDS. Those that are ours alone are charged, when
 * there is room for them or none can be made. 0; or -EAGAIN: an event waits to be read first. */
static int look(uint64_t page, uint64_t count)
{
    uint64_t words[WORDS];
    int64_t own = 0;
    long bytes = (long)(count * sizeof *words);
    long got = mcp_syscall(SYS_pread64, mcp_self.pagemap, (long)words, bytes, (long)page * 8, 0, 0);
    if (got != bytes)
        return 0;
    for (uint64_t k = 0; k < count; k++)
        own += mcp_state_of(mcp_table_at(page + k)) == MCP_COMMON && is_own(words[k]);
    if (own > reserved_pages && mcp_evict_for(own - reserved_pages) < 0)
        return -EAGAIN;
    own = 0;
    for (uint64_t k = 0; k < count; k++) {      /* some may be no more: room was made meanwhile */
        if (mcp_state_of(mcp_table_at(page + k)) != MCP_COMMON)
            continue;
        if (!(words[k] & PAGEMAP_THERE)) {
            mcp_table_set(page + k, 0);
        } else if (is_own(words[k])) {
            mcp_table_set(page + k, mcp_word_of(MCP_RESIDENT, 0, 0));
            own++;
        } else {
            common_seen++;
        }
    }
    charge_found(own);
    return 0;
}

static void scan_on(void)
{
    for (int reads = 0; common_pages && reads < READS_A_STEP; reads++) {
        int index = mcp_range_find(scan_at);
        if (index == mcp_ranges_count()) {  /* a round is over */
            common_pages = common_seen;
            common_seen = 0;
            scan_at = 0;
            reserve_anew();
            return;
        }
        struct mcp_range range = *mcp_range_at(index);  /* a look may change the list */
        uint64_t start = range.start > scan_at ? range.start : scan_at;
        uint64_t end = range.end >> MCP_PAGE_SHIFT;
        uint64_t page = mcp_table_next(start >> MCP_PAGE_SHIFT, end);
        uint64_t count = end - page < WORDS ? end - page : WORDS;
        if (count && look(page, count) < 0)
            return;
        scan_at = (page + count) << MCP_PAGE_SHIFT;
        if (page + count == end)
            scan_at = range.end;
    }
}

void mcp_adopt_more(void)
{
    uint64_t begin_ns = common_pages ? mcp_now_ns() : 0;
    if (!common_pages || begin_ns < rest_until_ns)
        return;
    scan_on();
    uint64_t end_ns = mcp_now_ns();
    rest_until_ns = end_ns + (SHARE_OF_TIME - 1) * (end_ns - begin_ns);
}
