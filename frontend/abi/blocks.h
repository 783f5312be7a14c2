/* blocks.h: a block device whose blocks of 4 KiB are pages in tmem; a file takes what tmem refuses.
 *
 * Owns:  which copy of a block counts. One byte per block, private to this process, says so:
 *          ABSENT  no copy: it reads as zeroes
 *          TMEM    the page of its name in the device's persistent pool
 *          FILE    the 4096 bytes at block * 4096 in the file
 *          LOST    none: the file failed the last write, or tmem lost the page; a read is EIO until
 *                  the block is written or discarded
 *        Beside the owner stand two notes. OLD_PAGE: tmem may hold a copy that does not count.
 *        HAS_PLACE: the file has room for the block, with or without a copy that counts.
 *
 *   write    puts the page, which replaces the page of the same name. Refused (mm_target, quota,
 *            frozen, no memory): the old page is flushed, the block is written to the file.
 *   read     gets the page, which stays in tmem: a guest may read a swap slot again until it
 *            discards the slot. Or reads the file.
 *   discard  flushes the page and punches its place in the file.
 *
 * A hypervisor that dies and is followed by another answers what was asked: a call only takes
 * longer. When no answer comes within the guest's timeout, tmem is *late*: what was put then goes
 * to the file, as OLD_PAGE since tmem may store it after all, and nothing is asked until every
 * answer has come. The caller must leave the frames of that call alone until then (`lates`). A
 * domain that is closed is *gone* for good: every call is ESHUTDOWN.
 *
 * Rules: one thread reads, writes and discards; any thread may take the statistics. No function
 *        touches the bytes of a frame: memory of a closed domain ends a process that does. A window
 *        is at most MC_BLOCKS_WINDOW blocks, with one frame to each, which follow each other.
 */
#ifndef MC_BLOCKS_H
#define MC_BLOCKS_H

#include "guest.h"

#include <sys/uio.h>

/* cdef-begin */
#define MC_BLOCKS_WINDOW 64
/* Blocks at which one call of mc_blocks_discard looks at most. */
#define MC_BLOCKS_LOOKS 16384

struct mc_blocks;

struct mc_blocks_options {
    struct mc_guest *guest;     /* outlives the device */
    uint64_t blocks;
    uint32_t pool;              /* persistent, the device's alone */
    int file_fd;                /* outlives the device; opened with O_DIRECT or not */
};

/* Counters only rise; the last two say how it is now. */
struct mc_blocks_statistics {
    uint64_t puts, refused, late;                   /* blocks: stored, refused, without an answer */
    uint64_t tmem_reads, file_reads, zero_reads;    /* blocks */
    uint64_t file_writes;                           /* blocks */
    uint64_t discards;                              /* blocks that had a copy */
    uint64_t lost;                                  /* blocks that became LOST */
    uint64_t tmem_blocks, file_blocks;
};

/* 0 or a negative status. */
int mc_blocks_open(struct mc_blocks **blocks, const struct mc_blocks_options *options);
void mc_blocks_close(struct mc_blocks *blocks);
void mc_blocks_statistics(const struct mc_blocks *blocks, struct mc_blocks_statistics *out);
/* cdef-end */

uint64_t mc_blocks_count(const struct mc_blocks *blocks);
const struct mc_guest *mc_blocks_guest(const struct mc_blocks *blocks);
/* 4096 bytes of zeroes, private. */
const void *mc_blocks_zeroes(const struct mc_blocks *blocks);
/* How often tmem became late. */
uint64_t mc_blocks_lates(const struct mc_blocks *blocks);

/* Blocks `first` on from frames `frame` on. 0, or the errno for the client: EIO, ENOSPC of the
 * file, ESHUTDOWN. What was not written is LOST. */
int mc_blocks_write(struct mc_blocks *blocks, uint64_t first, uint32_t count, uint32_t frame);
/* The bytes of the blocks as `*made` parts (at most `count`), which lie in frames `frame` on or are
 * zeroes; 0, EIO, ESHUTDOWN. */
int mc_blocks_read(struct mc_blocks *blocks, uint64_t first, uint32_t count, uint32_t frame,
                   struct iovec *parts, uint32_t *made);
/* Forget the first blocks of these, `*done` of them (at least one): at most MC_BLOCKS_LOOKS, at
 * most MC_BLOCKS_WINDOW that tmem has. 0 or ESHUTDOWN. */
int mc_blocks_discard(struct mc_blocks *blocks, uint64_t first, uint64_t count, uint64_t *done);

#endif
