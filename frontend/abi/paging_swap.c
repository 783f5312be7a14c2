/* paging_swap.c: the swap file: which slot holds which page; pages written together lie together.
 *
 * Reads and writes go past the host's page cache where the file was opened so; frames are aligned
 * as O_DIRECT wants them. Pages that find no place together are written at once all the same
 * (paging_disk.h). A slot is free when its page is written to again, or tmem has the page.
 * There are as many slots as pages, so there is always one.
 */
#include "paging_private.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

static int slot_is_used(const struct mc_paging_private *own, uint32_t slot)
{
    return (int)(own->slots[slot / 64] >> slot % 64 & 1);
}

/* The next free slot at or after `slot_next`, round the end; whole words of used ones are
 * skipped. */
static uint32_t slot_find(const struct mc_paging *paging)
{
    const struct mc_paging_private *own = paging->own;
    uint32_t slots = paging->options.pages, slot = own->slot_next % slots, looked = 0;
    while (looked < slots + 64) {
        if (slot % 64 == 0 && own->slots[slot / 64] == UINT64_MAX) {
            slot += 64;
            looked += 64;
        } else if (slot_is_used(own, slot)) {
            slot++;
            looked++;
        } else {
            return slot;
        }
        slot = slot < slots ? slot : 0;
    }
    MC_CHECK(0, "no slot is free of %u", slots);
    return MC_NO_PAGE;
}

static void slot_take(struct mc_paging *paging, uint32_t slot, uint32_t page)
{
    struct mc_paging_private *own = paging->own;
    own->slots[slot / 64] |= 1ull << slot % 64;
    own->slot_pages[slot] = page;
    own->slot_next = slot + 1;
    paging->table[page].slot = slot;
}

static void slot_free(struct mc_paging_private *own, uint32_t slot)
{
    MC_CHECK(slot_is_used(own, slot), "slot %u is free already", slot);
    own->slots[slot / 64] &= ~(1ull << slot % 64);
    own->slot_pages[slot] = MC_NO_PAGE;
}

void mc_swap_forget(struct mc_paging *paging, struct mc_page *page)
{
    if (page->flags & MC_PAGE_ON_DISK)
        slot_free(paging->own, page->slot);
    page->flags &= ~(uint32_t)MC_PAGE_ON_DISK;
}

/* Pages whose slots follow each other, written at once. */
struct run {
    uint32_t begin;
    uint32_t count;
};

/* After the write of a run: those that were written are ON_DISK. The errno that kept it from
 * writing all, or 0. */
static int run_settle(struct mc_paging *paging, const uint32_t *pages, struct run run,
                      int64_t written)
{
    uint32_t whole = written < 0 ? 0 : (uint32_t)(written >> MC_FRAME_SHIFT);
    paging->counted.disk_writes++;
    paging->counted.swap_outs += whole;
    for (uint32_t i = 0; i < run.count; i++) {
        struct mc_page *entry = &paging->table[pages[run.begin + i]];
        if (i < whole)
            entry->flags |= MC_PAGE_ON_DISK;
        else
            slot_free(paging->own, entry->slot);
    }
    if (whole == run.count)
        return 0;
    uint32_t first = pages[run.begin + whole];
    mc_paging_fail(paging, MC_PAGING_SWAP_WRITE, first, written < 0 ? -written : ENOSPC,
                   paging->table[first].frame);
    return MC_PAGING_FAILED;
}

int mc_swap_write(struct mc_paging *paging, const uint32_t *pages, uint32_t count)
{
    struct mc_transfer transfers[MC_RING_SLOTS];
    struct iovec parts[MC_RING_SLOTS];
    struct run runs[MC_RING_SLOTS];
    uint32_t made = 0;
    int status = MC_OK;
    for (uint32_t i = 0; i < count; i++) {
        struct mc_page *entry = &paging->table[pages[i]];
        slot_take(paging, slot_find(paging), pages[i]);
        parts[i] = (struct iovec){
            .iov_base = (void *)(uintptr_t)mc_frame_address(paging, entry->frame),
            .iov_len = MC_FRAME_BYTES};
        if (i > 0 && entry->slot == paging->table[pages[i - 1]].slot + 1)
            runs[made - 1].count++;
        else
            runs[made++] = (struct run){.begin = i, .count = 1};
    }
    for (uint32_t i = 0; i < made; i++)
        transfers[i] = (struct mc_transfer){
            .fd = paging->options.swap_fd, .is_write = 1, .parts = parts + runs[i].begin,
            .offset = (uint64_t)paging->table[pages[runs[i].begin]].slot << MC_FRAME_SHIFT,
            .count = runs[i].count};
    mc_disk_run(paging->own->disk, transfers, made);
    for (uint32_t i = 0; i < made; i++)
        if (run_settle(paging, pages, runs[i], transfers[i].result) != MC_OK)
            status = MC_PAGING_FAILED;
    return status;
}

int mc_swap_read(struct mc_paging *paging, uint32_t first, void *const *buffers, uint32_t count)
{
    struct iovec parts[MC_RING_SLOTS];
    struct mc_transfer read = {.fd = paging->options.swap_fd, .parts = parts, .count = count,
                               .offset = (uint64_t)first << MC_FRAME_SHIFT};
    for (uint32_t i = 0; i < count; i++)
        parts[i] = (struct iovec){.iov_base = buffers[i], .iov_len = MC_FRAME_BYTES};
    mc_disk_run(paging->own->disk, &read, 1);
    paging->counted.disk_reads++;
    if (read.result < 0)
        return (int)-read.result;
    return read.result == (int64_t)count << MC_FRAME_SHIFT ? 0 : EIO;
}

int mc_file_read(int fd, uint64_t offset, uint64_t address)
{
    int64_t got;
    do {
        got = pread(fd, (void *)(uintptr_t)address, MC_FRAME_BYTES, (int64_t)offset);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno;
    return got == MC_FRAME_BYTES ? 0 : EIO;
}
