/* paging_flight.c: several faults at once, for one doorbell and one wait for the disk.
 *
 * A guest whose threads fault at the same time has as many requests under way. A run over a stream
 * goes on to the next references while up to `depth` faults wait in one batch: each adds get, flush
 * and the put of its victim, in the order in which single faults would send them. The batch is
 * sent, then all that comes from disk is read at once, and what the program does with those pages
 * is done, when it is full, when a reference needs a page that comes or goes in it, before a fault
 * that must be served by itself, and at the end of a stream. A page that was never touched is such
 * a fault, and a page that brings its neighbours in the swap file (paging_ahead.c).
 * A guest of depth d has d - 1 pages fewer resident, whose frames the pages to come get.
 */
#include "paging_private.h"

#include <errno.h>

#define RESIDENT_MIN (4 * MC_PAGING_DEPTH_MAX)  /* so that no page under way is a victim */

/* Whether a page lies where a flight reads it from: in the swap file, alone, or in its file. */
static int is_on_disk(const struct mc_paging *paging, uint32_t page)
{
    uint32_t flags = paging->table[page].flags;
    return flags & MC_PAGE_FILE ? paging->options.program_fd >= 0 : (flags & MC_PAGE_ON_DISK) != 0;
}

int mc_flight_may_add(struct mc_paging *paging, uint32_t page)
{
    const struct mc_page *entry = &paging->table[page];
    if (mc_load_may_ask(paging, page))
        return 1;
    return is_on_disk(paging, page) &&
           (entry->flags & MC_PAGE_FILE || mc_ahead_window(paging, entry->slot) == 1);
}

int mc_flight_add(struct mc_paging *paging, uint32_t page, int write)
{
    struct mc_flight *flight = &paging->own->flight;
    MC_CHECK(flight->count < MC_PAGING_DEPTH_MAX, "%u faults are under way", flight->count);
    int64_t frame = paging->resident_count < RESIDENT_MIN ? -1 : mc_frame_at_hand(paging);
    if (frame < 0)
        return 0;
    struct mc_in_flight *fault = &flight->faults[flight->count++];
    fault->page = page;
    fault->write = write;
    fault->place = mc_load_begin(paging, &flight->batch, page, (uint32_t)frame);
    if (fault->place == MC_NOT_ASKED && paging->table[page].flags & MC_PAGE_ON_DISK) {
        mc_ahead_note(paging, paging->table[page].slot, 1);
        paging->counted.disk_reads++;
    }
    if (paging->resident_count >= paging->limit)
        mc_leave_begin(paging, &flight->leaving, &flight->batch);
    paging->counted.faults++;
    /* In the order of use from now on; it is far from being the oldest page. */
    mc_order_add(paging, page, (uint32_t)frame, ++paging->tick);
    paging->table[page].flags |= MC_PAGE_IN_FLIGHT;
    return 1;
}

/* Whether a page is to be read: tmem was not asked, or had no page of the file. */
static int flight_is_read(const struct mc_paging *paging, const struct mc_in_flight *fault)
{
    if (!is_on_disk(paging, fault->page))
        return 0;
    if (fault->place == MC_NOT_ASKED)
        return 1;
    return paging->table[fault->page].flags & MC_PAGE_FILE &&
           paging->own->flight.batch.records[fault->place].status != 1;
}

/* What a flight reads from disk. */
struct reads {
    uint32_t count;
    struct mc_transfer transfers[MC_PAGING_DEPTH_MAX];
    struct iovec parts[MC_PAGING_DEPTH_MAX];
};

/* Read all that tmem did not have and the disk has. */
static void flight_read(struct mc_paging *paging, struct reads *reads)
{
    const struct mc_flight *flight = &paging->own->flight;
    reads->count = 0;
    for (uint32_t i = 0; i < flight->count; i++) {
        const struct mc_in_flight *fault = &flight->faults[i];
        const struct mc_page *entry = &paging->table[fault->page];
        int is_file = (entry->flags & MC_PAGE_FILE) != 0;
        if (!flight_is_read(paging, fault))
            continue;
        uint64_t place = is_file ? fault->page : entry->slot;
        struct iovec *part = &reads->parts[reads->count];
        *part = (struct iovec){
            .iov_base = (void *)(uintptr_t)mc_frame_address(paging, entry->frame),
            .iov_len = MC_FRAME_BYTES};
        reads->transfers[reads->count++] = (struct mc_transfer){
            .fd = is_file ? paging->options.program_fd : paging->options.swap_fd,
            .offset = place << MC_FRAME_SHIFT, .parts = part, .count = 1};
    }
    mc_disk_run(paging->own->disk, reads->transfers, reads->count);
}

static int read_failed(const struct mc_transfer *read)
{
    return read->result < 0 ? (int)-read->result : read->result == MC_FRAME_BYTES ? 0 : EIO;
}

/* The pages into their frames; those that cannot come leave the resident set again. */
static int flight_load(struct mc_paging *paging)
{
    struct mc_flight *flight = &paging->own->flight;
    struct reads reads;
    const struct mc_transfer *read = reads.transfers;
    int status = MC_OK;
    flight_read(paging, &reads);
    for (uint32_t i = 0; i < flight->count; i++) {
        struct mc_in_flight *fault = &flight->faults[i];
        struct mc_page *entry = &paging->table[fault->page];
        int loaded = flight_is_read(paging, fault)
            ? mc_load_read(paging, fault->page, entry->frame, read_failed(read++))
            : mc_load_end(paging, fault->page, entry->frame, fault->place, &flight->batch);
        entry->flags &= ~(uint32_t)MC_PAGE_IN_FLIGHT;
        fault->came = loaded == MC_OK;
        if (fault->came)
            continue;
        status = MC_PAGING_FAILED;
        mc_order_remove(paging, fault->page);
        paging->own->spares[paging->spare_count++] = entry->frame;
    }
    return status;
}

static void flight_use(struct mc_paging *paging, struct mc_paging_part *part)
{
    const struct mc_flight *flight = &paging->own->flight;
    for (uint32_t i = 0; i < flight->count; i++) {
        const struct mc_in_flight *fault = &flight->faults[i];
        struct mc_page *entry = &paging->table[fault->page];
        if (!fault->came)
            continue;
        if (fault->write)
            mc_note_write(paging, entry);
        if (!part->use)
            continue;
        int64_t answer = part->use(part->context, mc_frame_address(paging, entry->frame),
                                   &entry->own, fault->page,
                                   MC_USE_CAME | (fault->write ? MC_USE_WRITE : 0));
        part->answer = part->answer ? part->answer : answer;
    }
}

int mc_flight_land(struct mc_paging *paging, struct mc_paging_part *part)
{
    struct mc_flight *flight = &paging->own->flight;
    if (flight->count == 0)
        return MC_OK;
    uint64_t begin_ns = mc_paging_now(paging);
    int status = mc_tmem_submit(paging, &flight->batch);
    if (status != MC_OK)
        return status;          /* the frames are used no more: late answers may write them */
    status = flight_load(paging);
    struct mc_paging_failure failure = paging->failure;
    paging->counted.stall_ns += (int64_t)(mc_paging_now(paging) - begin_ns);
    flight_use(paging, part);
    begin_ns = mc_paging_now(paging);
    int left = mc_leave_end(paging, &flight->leaving, &flight->batch);
    paging->counted.stall_ns += (int64_t)(mc_paging_now(paging) - begin_ns);
    if (status != MC_OK)
        paging->failure = failure;
    flight->count = flight->leaving.count = flight->batch.count = 0;
    return status == MC_OK ? left : status;
}
