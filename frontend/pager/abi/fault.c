/* fault.c: see fault.h. */
#include "fault.h"

#include "evict.h"
#include "kernel.h"
#include "page_table.h"
#include "pager.h"
#include "ranges.h"
#include "recency.h"
#include "say.h"
#include "slots.h"
#include "tmem.h"

#define STREAMS 16
#define STREAM_GAP_PAGES 8          /* pages between two faults that were here already */
#define AHEAD_SPAN 2                /* windows that are looked through for one window of pages */
#define ROOM_WANTED_PAGES MCP_RUN_PAGES
#define FROZEN_TRIES_MAX 1000
#define PAGEMAP_THERE (3ull << 62)      /* present or swapped */

static struct { uint64_t last, window, used; } streams[STREAMS];
static uint64_t stream_clock;

/* The stream that a fault at `page` continues, or a new one in the place of the oldest. */
static int stream_of(uint64_t page)
{
    int oldest = 0;
    stream_clock++;
    for (int i = 0; i < STREAMS; i++) {
        if (page > streams[i].last && page - streams[i].last <= STREAM_GAP_PAGES) {
            uint64_t window = streams[i].window * 2;
            streams[i].window = window > MCP_RUN_PAGES ? MCP_RUN_PAGES : window;
            streams[i].used = stream_clock;
            return i;
        }
        if (streams[i].used < streams[oldest].used)
            oldest = i;
    }
    streams[oldest].window = 1;
    streams[oldest].used = stream_clock;
    return oldest;
}

static int is_there(uint64_t page)
{
    uint64_t word = 0;
    long got = mcp_syscall(SYS_pread64, mcp_self.pagemap, (long)&word, 8, (long)page * 8, 0, 0);
    return got == 8 && (word & PAGEMAP_THERE);
}

/* Charge up to `pages`, at least one: by force when nothing can be taken out. How many; -EAGAIN. */
static int64_t charge_window(int64_t pages)
{
    struct mcp_member *member = &mcp_self.member;
    if (mcp_room_pages(member->family) < ROOM_WANTED_PAGES &&
        mcp_evict_for(ROOM_WANTED_PAGES) < 0)
        return -EAGAIN;
    for (; pages > 1; pages /= 2)
        if (mcp_charge_try(member, pages))
            return pages;
    mcp_charge_forced(member, 1);
    return 1;
}

/* Copy `charged` pages in; how many, the rest uncharged. 0: let the thread try again; -EAGAIN. */
static int64_t fill(uint64_t page, const void *from, int64_t charged)
{
    uint64_t address = page << MCP_PAGE_SHIFT;
    int64_t got = mcp_uffd_copy(mcp_self.uffd, address, from, (uint64_t)charged * MCP_PAGE_BYTES);
    if (charged > 1 && (got == -EINVAL || got == -ENOENT))  /* beyond one mapping */
        got = mcp_uffd_copy(mcp_self.uffd, address, from, MCP_PAGE_BYTES);
    int64_t pages = got > 0 ? got >> MCP_PAGE_SHIFT : 0;
    mcp_charge(&mcp_self.member, pages - charged);
    if (got > 0 || got == -EAGAIN)
        return got > 0 ? pages : got;
    /* There already, or unmapped meanwhile. */
    if (got != -EEXIST && got != -ENOENT && got != -EINVAL && got != -ESRCH && got != -EFAULT)
        mcp_die("a page could not be brought in:", got);
    if (got == -EEXIST && mcp_state_of(mcp_table_at(page)) == MCP_NONE) {
        mcp_table_set(page, mcp_word_of(MCP_RESIDENT, 0, 0));
        mcp_charge_forced(&mcp_self.member, 1);
    }
    mcp_uffd_wake(mcp_self.uffd, address, MCP_PAGE_BYTES);
    return 0;
}

static int64_t zeroes_in(uint64_t page, uint64_t window, uint64_t stop, uint64_t *last)
{
    uint64_t pages = 1;
    while (pages < window && page + pages < stop && !mcp_table_at(page + pages))
        pages++;
    int64_t charged = charge_window((int64_t)pages);
    if (charged < 0)
        return charged;
    int64_t got = fill(page, mcp_self.zeroes, charged);
    for (int64_t k = 0; k < got; k++)
        mcp_table_set(page + (uint64_t)k, mcp_word_of(MCP_RESIDENT, 0, 0));
    if (got > 0) {
        mcp_count(&mcp_self.member, MCP_ZERO_PAGES_IN, (uint64_t)got);
        *last = page + (uint64_t)got - 1;
    }
    return got;
}

/* Read `count` pages of one state into memory that `fill` can copy from. */
static const void *fetch(enum mcp_state state, const uint32_t *slots, int64_t count)
{
    if (state == MCP_TMEM) {        /* until mcp_tmem_release */
        mcp_tmem_get(&mcp_self.member, slots, (int)count);
        return mcp_self.member.staging;
    }
    long bytes = (long)count * (long)MCP_PAGE_BYTES;
    long got = mcp_syscall(SYS_pread64, mcp_self.swap_fd, (long)mcp_self.bounce, bytes,
                           (long)slots[0] * (long)MCP_PAGE_BYTES, 0, 0);
    if (got != bytes)
        mcp_die("the swap file cannot be read:", got);
    return mcp_self.bounce;
}

/* Pages that are to come in together: all in tmem, or adjacent in the swap file. */
struct wanted {
    uint64_t pages[MCP_RUN_PAGES];
    uint32_t slots[MCP_RUN_PAGES];
    int64_t count;
};

/* From `page` on, in front of `stop`. One request gets pages of tmem wherever they are, so those
 * that are here already are passed over. */
static void look_ahead(struct wanted *wanted, uint64_t page, uint64_t window, uint64_t stop)
{
    uint32_t first = mcp_table_at(page);
    enum mcp_state state = mcp_state_of(first);
    uint64_t end = page + AHEAD_SPAN * window < stop ? page + AHEAD_SPAN * window : stop;
    wanted->count = 0;
    for (uint64_t at = page; at < end && wanted->count < (int64_t)window; at++) {
        uint32_t word = mcp_table_at(at);
        if (state == MCP_TMEM && mcp_state_of(word) == MCP_RESIDENT)
            continue;
        if (mcp_state_of(word) != state ||
            (state == MCP_DISK && mcp_slot_of(word) != mcp_slot_of(first) + (at - page)))
            break;
        wanted->slots[wanted->count] = mcp_slot_of(word);
        wanted->pages[wanted->count++] = at;
    }
}

/* Fill what was fetched, adjacent pages by one call. How many came in, the first ones; or what
 * `fill` says of the first. The rest is uncharged. */
static int64_t fill_all(const struct wanted *wanted, const uint8_t *from, int64_t charged)
{
    int64_t in = 0;
    while (in < charged) {
        int64_t length = 1;
        while (in + length < charged &&
               wanted->pages[in + length] == wanted->pages[in] + (uint64_t)length)
            length++;
        int64_t got = fill(wanted->pages[in], from + (uint64_t)in * MCP_PAGE_BYTES, length);
        int64_t left = charged - in - length;
        in += got > 0 ? got : 0;
        if (got < length) {
            mcp_charge(&mcp_self.member, -left);
            return in ? in : got;
        }
    }
    return in;
}

static int64_t stored_in(uint64_t page, uint64_t window, uint64_t stop, uint64_t *last)
{
    struct wanted wanted;
    enum mcp_state state = mcp_state_of(mcp_table_at(page));
    look_ahead(&wanted, page, window, stop);
    int64_t charged = charge_window(wanted.count);
    if (charged < 0)
        return charged;
    if (mcp_state_of(mcp_table_at(page)) != state) {    /* an event came meanwhile */
        mcp_charge(&mcp_self.member, -charged);
        return -EAGAIN;
    }
    /* What was taken out to make room may be among them, or come next. */
    look_ahead(&wanted, page, (uint64_t)charged, stop);
    mcp_charge(&mcp_self.member, wanted.count - charged);
    int64_t got = fill_all(&wanted, fetch(state, wanted.slots, wanted.count), wanted.count);
    if (state == MCP_TMEM)
        mcp_tmem_release(&mcp_self.member);
    for (int64_t k = 0; k < got; k++) {
        uint64_t here = wanted.pages[k];
        mcp_table_set(here, mcp_recency_in(mcp_table_at(here), k == 0, mcp_evict_has_passed(here)));
    }
    if (got > 0) {
        mcp_slots_drop_soon(&mcp_self.member, wanted.slots, (int)got, state == MCP_TMEM);
        mcp_count(&mcp_self.member, state == MCP_TMEM ? MCP_TMEM_PAGES_IN : MCP_DISK_PAGES_IN,
                  (uint64_t)got);
        mcp_count(&mcp_self.member, MCP_AHEAD_PAGES_IN, (uint64_t)got - 1);
        *last = wanted.pages[got - 1];
    }
    return got;
}

/* Resident by the table: two threads met at one page, or the kernel freed it. */
static int64_t spurious(uint64_t page, uint32_t word)
{
    mcp_count(&mcp_self.member, MCP_SPURIOUS_FAULTS, 1);
    if (is_there(page)) {
        mcp_uffd_wake(mcp_self.uffd, page << MCP_PAGE_SHIFT, MCP_PAGE_BYTES);
        return 0;
    }
    mcp_table_set(page, 0);
    if (mcp_state_of(word) == MCP_RESIDENT)
        mcp_charge(&mcp_self.member, -1);
    return -EAGAIN;
}

int mcp_fault_serve(uint64_t address)
{
    uint64_t page = address >> MCP_PAGE_SHIFT, last = page;
    int index = mcp_range_find(address), stream = stream_of(page);
    int in_range = index < mcp_ranges_count() && mcp_range_at(index)->start <= address;
    uint64_t stop = in_range ? mcp_range_at(index)->end >> MCP_PAGE_SHIFT : page + 1;
    uint32_t word = mcp_table_at(page);
    int64_t got;
    if (mcp_is_outside(word))
        got = stored_in(page, streams[stream].window, stop, &last);
    else if (mcp_state_of(word) == MCP_NONE)
        got = zeroes_in(page, streams[stream].window, stop, &last);
    else
        got = spurious(page, word);
    streams[stream].last = last;
    return got < 0 ? (int)got : 0;
}

void mcp_fault_serve_frozen(int fd, uint64_t address, int is_new)
{
    uint64_t page = address >> MCP_PAGE_SHIFT;
    uint32_t word = is_new ? 0 : mcp_table_at(page), slot = mcp_slot_of(word);
    const void *from = mcp_self.zeroes;
    if (mcp_is_outside(word))
        from = fetch(mcp_state_of(word), &slot, 1);
    int64_t got = -EAGAIN;
    for (int i = 0; i < FROZEN_TRIES_MAX && got == -EAGAIN; i++)
        got = mcp_uffd_copy(fd, page << MCP_PAGE_SHIFT, from, MCP_PAGE_BYTES);
    if (mcp_state_of(word) == MCP_TMEM)
        mcp_tmem_release(&mcp_self.member);
    if (got <= 0)
        mcp_uffd_wake(fd, page << MCP_PAGE_SHIFT, MCP_PAGE_BYTES);
}
