/* blocks.c: see blocks.h. */
#include "blocks.h"

#include "check.h"
#include "paging_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/mman.h>

#define OBJECTS_SHIFT 4     /* a device's pages lie in 16 objects, as frontswap's do */
#define STORED 1            /* tmem's answer to a put that stored, a get that found */

enum owner {
    OWNER_ABSENT = 0, OWNER_TMEM = 1, OWNER_FILE = 2, OWNER_LOST = 3, OWNER_MASK = 3,
    OLD_PAGE = 4, HAS_PLACE = 8
};

_Static_assert(MC_BLOCKS_WINDOW == MC_RING_SLOTS, "a window is a batch");
_Static_assert(MC_BLOCKS_WINDOW <= MC_DISK_BATCH_MAX, "a window's runs are one batch");

struct mc_blocks {
    struct mc_blocks_options options;
    struct mc_disk *disk;
    uint8_t *owners;
    void *zeroes;
    int is_gone, is_late;
    uint64_t lates;
    struct mc_blocks_statistics counted;
};

/* Records of one call, and the block of each relative to the window's first. */
struct batch {
    uint32_t count;
    uint32_t blocks[MC_BLOCKS_WINDOW];
    struct mc_record records[MC_BLOCKS_WINDOW];
};

static void count_up(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

static enum owner owner_of(const struct mc_blocks *blocks, uint64_t block)
{
    return (enum owner)(blocks->owners[block] & OWNER_MASK);
}

static void owner_set(struct mc_blocks *blocks, uint64_t block, enum owner owner)
{
    struct mc_blocks_statistics *counted = &blocks->counted;
    enum owner before = owner_of(blocks, block);
    MC_CHECK(block < blocks->options.blocks, "block %lu of %lu", block, blocks->options.blocks);
    count_up(&counted->tmem_blocks, (uint64_t)(owner == OWNER_TMEM) - (before == OWNER_TMEM));
    count_up(&counted->file_blocks, (uint64_t)(owner == OWNER_FILE) - (before == OWNER_FILE));
    count_up(&counted->lost, owner == OWNER_LOST && before != OWNER_LOST);
    blocks->owners[block] = (uint8_t)((blocks->owners[block] & ~OWNER_MASK) | owner);
}

static void note_set(struct mc_blocks *blocks, uint64_t block, int note, int holds)
{
    uint8_t *word = &blocks->owners[block];
    *word = (uint8_t)(holds ? *word | note : *word & ~note);
}

static int has_page(const struct mc_blocks *blocks, uint64_t block)
{
    return owner_of(blocks, block) == OWNER_TMEM || (blocks->owners[block] & OLD_PAGE);
}

static void batch_add(const struct mc_blocks *blocks, struct batch *batch, enum mc_op op,
                      uint64_t first, uint32_t i, uint32_t frame)
{
    uint64_t block = first + i;
    MC_CHECK(batch->count < MC_BLOCKS_WINDOW, "%u records are in the batch", batch->count);
    batch->blocks[batch->count] = i;
    batch->records[batch->count++] = (struct mc_record){
        .op = (uint16_t)op,
        .arg = {blocks->options.pool | block >> OBJECTS_SHIFT << 32,
                block & ((1u << OBJECTS_SHIFT) - 1), 0, 0, frame}};
}

/* Whether everything that was asked has been answered, whoever asked. */
static int all_answered(const struct mc_blocks *blocks)
{
    struct mc_ring *ring = blocks->options.guest->rings[MC_RING_TMEM].ring;
    return atomic_load(&ring->rsp_prod) == atomic_load(&ring->req_prod);
}

/* MC_OK with the answers in the records; MC_ETIMEOUT: late, perhaps asked; MC_EGONE. */
static int batch_ask(struct mc_blocks *blocks, struct batch *batch)
{
    if (blocks->is_gone)
        return MC_EGONE;
    if (batch->count == 0)
        return MC_OK;
    if (blocks->is_late && !all_answered(blocks))
        return MC_ETIMEOUT;
    blocks->is_late = 0;
    int status = mc_guest_call(blocks->options.guest, MC_RING_TMEM, batch->records, batch->count);
    if (status == MC_ETIMEOUT) {
        blocks->is_late = 1;
        blocks->lates++;
    } else if (status != MC_OK) {
        blocks->is_gone = 1;    /* closed, or the ring holds nonsense: for good */
    }
    return status == MC_OK || status == MC_ETIMEOUT ? status : MC_EGONE;
}

/* Flush the pages of a batch of FLUSH_PAGE; those whose flush was not answered may be there. */
static int pages_flush(struct mc_blocks *blocks, struct batch *batch, uint64_t first)
{
    int status = batch_ask(blocks, batch);
    for (uint32_t i = 0; i < batch->count; i++)
        note_set(blocks, first + batch->blocks[i], OLD_PAGE,
                 status != MC_OK || batch->records[i].status <= MC_TMEM_BAD);
    return status == MC_EGONE ? ESHUTDOWN : 0;
}

/* The file: blocks of a window that are marked in `wanted`, as runs. */
struct runs {
    uint32_t count;
    uint32_t begins[MC_BLOCKS_WINDOW];
    struct mc_transfer transfers[MC_BLOCKS_WINDOW];
    struct iovec parts[MC_BLOCKS_WINDOW];
};

static void runs_find(const struct mc_blocks *blocks, struct runs *runs, uint64_t first,
                      uint64_t wanted, uint32_t frame, int is_write)
{
    uint8_t *ram = blocks->options.guest->ram;
    runs->count = 0;
    for (uint32_t i = 0; i < MC_BLOCKS_WINDOW; i++) {
        if (!(wanted >> i & 1))
            continue;
        if (i > 0 && wanted >> (i - 1) & 1) {
            runs->parts[runs->count - 1].iov_len += MC_FRAME_BYTES;
            continue;
        }
        runs->begins[runs->count] = i;
        runs->parts[runs->count] = (struct iovec){
            .iov_base = ram + ((uint64_t)(frame + i) << MC_FRAME_SHIFT),
            .iov_len = MC_FRAME_BYTES};
        runs->transfers[runs->count] = (struct mc_transfer){
            .fd = blocks->options.file_fd, .is_write = is_write,
            .offset = (first + i) << MC_FRAME_SHIFT, .parts = &runs->parts[runs->count],
            .count = 1};
        runs->count++;
    }
}

/* What the client is told. The kernel can read or write no frame of a domain that is closed. */
static int file_error(struct mc_blocks *blocks, int64_t result)
{
    if (result == -EFAULT)
        blocks->is_gone = 1;
    if (blocks->is_gone)
        return ESHUTDOWN;
    return result == -ENOSPC || result == -EDQUOT || result == -EFBIG ? ENOSPC : EIO;
}

/* Write the blocks marked in `wanted` to the file; 0, or why one was not written. */
static int file_write(struct mc_blocks *blocks, uint64_t first, uint64_t wanted, uint32_t frame)
{
    struct runs runs;
    int error = 0;
    runs_find(blocks, &runs, first, wanted, frame, 1);
    mc_disk_run(blocks->disk, runs.transfers, runs.count);
    for (uint32_t i = 0; i < runs.count; i++) {
        int64_t written = runs.transfers[i].result;
        uint64_t whole = written < 0 ? 0 : (uint64_t)written >> MC_FRAME_SHIFT;
        uint64_t all = runs.parts[i].iov_len >> MC_FRAME_SHIFT;
        for (uint64_t k = 0; k < all; k++) {
            uint64_t block = first + runs.begins[i] + k;
            owner_set(blocks, block, k < whole ? OWNER_FILE : OWNER_LOST);
            note_set(blocks, block, HAS_PLACE, 1);
        }
        count_up(&blocks->counted.file_writes, whole);
        if (whole < all && error == 0)
            error = file_error(blocks, written < 0 ? written : -ENOSPC);
    }
    return error;
}

static int file_read(struct mc_blocks *blocks, uint64_t first, uint64_t wanted, uint32_t frame)
{
    struct runs runs;
    runs_find(blocks, &runs, first, wanted, frame, 0);
    mc_disk_run(blocks->disk, runs.transfers, runs.count);
    for (uint32_t i = 0; i < runs.count; i++)
        if (runs.transfers[i].result != (int64_t)runs.parts[i].iov_len)
            return file_error(blocks, runs.transfers[i].result);
    count_up(&blocks->counted.file_reads, (uint64_t)__builtin_popcountll(wanted));
    return 0;
}

int mc_blocks_write(struct mc_blocks *blocks, uint64_t first, uint32_t count, uint32_t frame)
{
    struct batch puts = {.count = 0}, flushes = {.count = 0};
    uint64_t refused = 0;
    MC_CHECK(count <= MC_BLOCKS_WINDOW && first + count <= blocks->options.blocks,
             "%u blocks from %lu on, of %lu", count, first, blocks->options.blocks);
    for (uint32_t i = 0; i < count; i++)
        batch_add(blocks, &puts, MC_OP_PUT, first, i, frame + i);
    int status = batch_ask(blocks, &puts);
    if (status == MC_EGONE)
        return ESHUTDOWN;
    for (uint32_t i = 0; i < count; i++) {
        if (status == MC_OK && puts.records[i].status == STORED) {
            owner_set(blocks, first + i, OWNER_TMEM);
            note_set(blocks, first + i, OLD_PAGE, 0);
            continue;
        }
        refused |= 1ull << i;
        if (status != MC_OK)
            note_set(blocks, first + i, OLD_PAGE, 1);
        else if (has_page(blocks, first + i))
            batch_add(blocks, &flushes, MC_OP_FLUSH_PAGE, first, i, 0);
    }
    uint64_t left = (uint64_t)__builtin_popcountll(refused);
    count_up(&blocks->counted.puts, count - left);
    count_up(status == MC_OK ? &blocks->counted.refused : &blocks->counted.late, left);
    if (pages_flush(blocks, &flushes, first) != 0)
        return ESHUTDOWN;
    return refused ? file_write(blocks, first, refused, frame) : 0;
}

/* Get the pages of a batch; 0, EIO, ESHUTDOWN. */
static int pages_get(struct mc_blocks *blocks, struct batch *gets, uint64_t first)
{
    int status = batch_ask(blocks, gets), error = 0;
    if (status != MC_OK)
        return status == MC_EGONE ? ESHUTDOWN : EIO;
    for (uint32_t i = 0; i < gets->count; i++) {
        if (gets->records[i].status == STORED)
            continue;
        owner_set(blocks, first + gets->blocks[i], OWNER_LOST);
        error = EIO;
    }
    count_up(&blocks->counted.tmem_reads, gets->count);
    return error;
}

/* Add a page to the parts: as a part of its own, or at the end of the last one. */
static void parts_add(struct iovec *parts, uint32_t *made, const void *page)
{
    if (*made > 0) {
        struct iovec *last = &parts[*made - 1];
        if ((const uint8_t *)last->iov_base + last->iov_len == page) {
            last->iov_len += MC_FRAME_BYTES;
            return;
        }
    }
    parts[(*made)++] = (struct iovec){.iov_base = (void *)(uintptr_t)page,
                                      .iov_len = MC_FRAME_BYTES};
}

int mc_blocks_read(struct mc_blocks *blocks, uint64_t first, uint32_t count, uint32_t frame,
                   struct iovec *parts, uint32_t *made)
{
    const uint8_t *ram = blocks->options.guest->ram;
    struct batch gets;
    uint64_t in_file = 0;
    gets.count = 0;
    *made = 0;
    MC_CHECK(count <= MC_BLOCKS_WINDOW && first + count <= blocks->options.blocks,
             "%u blocks from %lu on, of %lu", count, first, blocks->options.blocks);
    for (uint32_t i = 0; i < count; i++) {
        enum owner owner = owner_of(blocks, first + i);
        const uint8_t *page = ram + ((uint64_t)(frame + i) << MC_FRAME_SHIFT);
        if (owner == OWNER_LOST)
            return blocks->is_gone ? ESHUTDOWN : EIO;
        if (owner == OWNER_TMEM)
            batch_add(blocks, &gets, MC_OP_GET, first, i, frame + i);
        else if (owner == OWNER_FILE)
            in_file |= 1ull << i;
        else
            page = blocks->zeroes;
        parts_add(parts, made, page);
    }
    int error = pages_get(blocks, &gets, first);
    if (error == 0 && in_file)
        error = file_read(blocks, first, in_file, frame);
    if (error == 0)
        count_up(&blocks->counted.zero_reads,
                 count - gets.count - (uint64_t)__builtin_popcountll(in_file));
    return error;
}

/* Give the room of blocks [begin, end) in the file back. One that stays is given back later. */
static void places_punch(struct mc_blocks *blocks, uint64_t begin, uint64_t end)
{
    if (begin == end ||
        fallocate(blocks->options.file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(begin << MC_FRAME_SHIFT), (off_t)((end - begin) << MC_FRAME_SHIFT)) < 0)
        return;
    for (uint64_t block = begin; block < end; block++)
        note_set(blocks, block, HAS_PLACE, 0);
}

int mc_blocks_discard(struct mc_blocks *blocks, uint64_t first, uint64_t count, uint64_t *done)
{
    struct batch flushes;
    uint64_t looked = 0, run = first;       /* blocks [run, first + looked) have room in the file */
    flushes.count = 0;
    MC_CHECK(count <= blocks->options.blocks && first <= blocks->options.blocks - count,
             "%lu blocks from %lu on, of %lu", count, first, blocks->options.blocks);
    for (; looked < count && looked < MC_BLOCKS_LOOKS; looked++) {
        uint64_t block = first + looked;
        if (has_page(blocks, block)) {
            if (flushes.count == MC_BLOCKS_WINDOW)
                break;
            batch_add(blocks, &flushes, MC_OP_FLUSH_PAGE, first, (uint32_t)looked, 0);
        }
        if (!(blocks->owners[block] & HAS_PLACE)) {
            places_punch(blocks, run, block);
            run = block + 1;
        }
        count_up(&blocks->counted.discards, owner_of(blocks, block) != OWNER_ABSENT);
        owner_set(blocks, block, OWNER_ABSENT);
    }
    places_punch(blocks, run, first + looked);
    *done = looked;
    return pages_flush(blocks, &flushes, first);
}

int mc_blocks_open(struct mc_blocks **out, const struct mc_blocks_options *options)
{
    struct mc_blocks *blocks = calloc(1, sizeof *blocks);
    *out = NULL;
    if (blocks == NULL)
        return MC_ENOMEM;
    blocks->options = *options;
    blocks->owners = calloc(options->blocks, 1);
    blocks->zeroes = mmap(NULL, MC_FRAME_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (blocks->owners == NULL || blocks->zeroes == MAP_FAILED) {
        mc_blocks_close(blocks);
        return MC_ENOMEM;
    }
    blocks->disk = mc_disk_open();      /* NULL where there is no io_uring: then one by one */
    *out = blocks;
    return MC_OK;
}

void mc_blocks_close(struct mc_blocks *blocks)
{
    if (blocks == NULL)
        return;
    mc_disk_close(blocks->disk);
    if (blocks->zeroes != NULL && blocks->zeroes != MAP_FAILED)
        munmap(blocks->zeroes, MC_FRAME_BYTES);
    free(blocks->owners);
    free(blocks);
}

void mc_blocks_statistics(const struct mc_blocks *blocks, struct mc_blocks_statistics *out)
{
    const uint64_t *from = (const uint64_t *)&blocks->counted;
    uint64_t *to = (uint64_t *)out;
    for (uint64_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

uint64_t mc_blocks_count(const struct mc_blocks *blocks)
{
    return blocks->options.blocks;
}

const struct mc_guest *mc_blocks_guest(const struct mc_blocks *blocks)
{
    return blocks->options.guest;
}

const void *mc_blocks_zeroes(const struct mc_blocks *blocks)
{
    return blocks->zeroes;
}

uint64_t mc_blocks_lates(const struct mc_blocks *blocks)
{
    return blocks->lates;
}
