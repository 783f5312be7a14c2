/* adopt.c: see adopt.h. */
#include "adopt.h"

#include "kernel.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"

#define WORDS 512                   /* of the pagemap, by one read */
#define READS_A_STEP 16
#define SHARE_OF_TIME 8             /* at most this part of the pager's time, however busy */
#define PAGEMAP_THERE (3ull << 62)
#define PAGEMAP_EXCLUSIVE (1ull << 56)

static uint64_t scan_at;            /* address */
static int64_t common_pages, common_seen;
static uint64_t rest_until_ns;

void mcp_adopt_all(void)
{
    common_pages = 0;
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
    common_seen = 0;
}

/* Look at pages [page, page + count), count <= WORDS; those that are ours alone are charged. */
static void look(uint64_t page, uint64_t count)
{
    uint64_t words[WORDS];
    int64_t own = 0;
    long bytes = (long)(count * sizeof *words);
    long got = mcp_syscall(SYS_pread64, mcp_self.pagemap, (long)words, bytes, (long)page * 8, 0, 0);
    for (uint64_t k = 0; got == bytes && k < count; k++) {
        if (mcp_state_of(mcp_table_at(page + k)) != MCP_COMMON)
            continue;
        if (!(words[k] & PAGEMAP_THERE)) {
            mcp_table_set(page + k, 0);
        } else if (words[k] & PAGEMAP_EXCLUSIVE) {
            mcp_table_set(page + k, mcp_word_of(MCP_RESIDENT, 0, 0));
            own++;
        } else {
            common_seen++;
        }
    }
    mcp_charge(&mcp_self.member, own);
}

static void scan_on(void)
{
    for (int reads = 0; common_pages && reads < READS_A_STEP; reads++) {
        int index = mcp_range_find(scan_at);
        if (index == mcp_ranges_count()) {  /* a round is over */
            common_pages = common_seen;
            common_seen = 0;
            scan_at = 0;
            return;
        }
        struct mcp_range *range = mcp_range_at(index);
        uint64_t start = range->start > scan_at ? range->start : scan_at;
        uint64_t end = range->end >> MCP_PAGE_SHIFT;
        uint64_t page = mcp_table_next(start >> MCP_PAGE_SHIFT, end);
        uint64_t count = end - page < WORDS ? end - page : WORDS;
        if (count)
            look(page, count);
        scan_at = (page + count) << MCP_PAGE_SHIFT;
        if (page + count == end)
            scan_at = range->end;
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
