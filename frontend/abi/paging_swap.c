/* paging_swap.c: the swap file: which slot holds which page; pages written together lie together.
 *
 * Reads and writes go past the host's page cache where the file was opened so; frames are aligned
 * as O_DIRECT wants them. A slot is free when its page is written to again, or tmem has the page.
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

/* Write `count` pages whose slots follow each other. Returns the errno that kept it from writing
 * all. Those that were written are ON_DISK. */
static int run_write(struct mc_paging *paging, const uint32_t *pages, uint32_t count)
{
    struct iovec parts[MC_RING_SLOTS];
    int64_t offset = (int64_t)paging->table[pages[0]].slot << MC_FRAME_SHIFT;
    int64_t written;
    for (uint32_t i = 0; i < count; i++)
        parts[i] = (struct iovec){
            .iov_base = (void *)(uintptr_t)mc_frame_address(paging, paging->table[pages[i]].frame),
            .iov_len = MC_FRAME_BYTES};
    do {
        written = pwritev(paging->options.swap_fd, parts, (int)count, offset);
    } while (written < 0 && errno == EINTR);
    int failed = written < 0 ? errno : ENOSPC;
    uint32_t whole = written < 0 ? 0 : (uint32_t)(written >> MC_FRAME_SHIFT);
    paging->counted.disk_writes++;
    paging->counted.swap_outs += whole;
    for (uint32_t i = 0; i < count; i++) {
        if (i < whole)
            paging->table[pages[i]].flags |= MC_PAGE_ON_DISK;
        else
            slot_free(paging->own, paging->table[pages[i]].slot);
    }
    return whole == count ? 0 : failed;
}

int mc_swap_write(struct mc_paging *paging, const uint32_t *pages, uint32_t count)
{
    int status = MC_OK;
    uint32_t begin = 0;
    for (uint32_t i = 0; i < count; i++)
        slot_take(paging, slot_find(paging), pages[i]);
    for (uint32_t end = 1; end <= count; end++) {
        if (end < count &&
            paging->table[pages[end]].slot == paging->table[pages[end - 1]].slot + 1)
            continue;
        int failed = run_write(paging, pages + begin, end - begin);
        if (failed) {
            uint32_t first = begin;
            while (paging->table[pages[first]].flags & MC_PAGE_ON_DISK)
                first++;
            status = mc_paging_fail(paging, MC_PAGING_SWAP_WRITE, pages[first], failed,
                                    paging->table[pages[first]].frame);
        }
        begin = end;
    }
    return status;
}

int mc_swap_read(struct mc_paging *paging, uint32_t first, void *const *buffers, uint32_t count)
{
    struct iovec parts[MC_RING_SLOTS];
    int64_t got;
    for (uint32_t i = 0; i < count; i++)
        parts[i] = (struct iovec){.iov_base = buffers[i], .iov_len = MC_FRAME_BYTES};
    do {
        got = preadv(paging->options.swap_fd, parts, (int)count,
                     (int64_t)first << MC_FRAME_SHIFT);
    } while (got < 0 && errno == EINTR);
    paging->counted.disk_reads++;
    if (got < 0)
        return errno;
    return got == (int64_t)count << MC_FRAME_SHIFT ? 0 : EIO;
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
