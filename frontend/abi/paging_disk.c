/* paging_disk.c: see paging_disk.h. */
#include "paging_disk.h"

#include "check.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTERS_MAX (1u << 20)   /* waits for one batch, each of which a signal may end */

struct mc_disk {
    int fd;
    void *rings;                /* both: the kernel has them in one mapping since 5.4 */
    uint64_t rings_bytes;
    struct io_uring_sqe *entries;
    uint64_t entries_bytes;
    uint32_t *sq_tail, *sq_mask, *sq_array;
    uint32_t *cq_head, *cq_tail, *cq_mask;
    struct io_uring_cqe *completions;
};

static int disk_map(struct mc_disk *disk, const struct io_uring_params *params)
{
    uint64_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    uint64_t cq_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    const int how = MAP_SHARED | MAP_POPULATE, may = PROT_READ | PROT_WRITE;
    char *rings;
    disk->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    disk->entries_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
    disk->rings = mmap(NULL, disk->rings_bytes, may, how, disk->fd, IORING_OFF_SQ_RING);
    disk->entries = mmap(NULL, disk->entries_bytes, may, how, disk->fd, IORING_OFF_SQES);
    if (disk->rings == MAP_FAILED || (void *)disk->entries == MAP_FAILED)
        return 0;
    rings = disk->rings;
    disk->sq_tail = (uint32_t *)(void *)(rings + params->sq_off.tail);
    disk->sq_mask = (uint32_t *)(void *)(rings + params->sq_off.ring_mask);
    disk->sq_array = (uint32_t *)(void *)(rings + params->sq_off.array);
    disk->cq_head = (uint32_t *)(void *)(rings + params->cq_off.head);
    disk->cq_tail = (uint32_t *)(void *)(rings + params->cq_off.tail);
    disk->cq_mask = (uint32_t *)(void *)(rings + params->cq_off.ring_mask);
    disk->completions = (struct io_uring_cqe *)(void *)(rings + params->cq_off.cqes);
    return 1;
}

struct mc_disk *mc_disk_open(void)
{
    struct io_uring_params params = {0};
    struct mc_disk *disk = calloc(1, sizeof *disk);
    if (disk == NULL)
        return NULL;
    disk->rings = disk->entries = MAP_FAILED;
    disk->fd = (int)syscall(SYS_io_uring_setup, MC_DISK_BATCH_MAX, &params);
    if (disk->fd >= 0 && params.features & IORING_FEAT_SINGLE_MMAP && disk_map(disk, &params))
        return disk;
    mc_disk_close(disk);
    return NULL;
}

void mc_disk_close(struct mc_disk *disk)
{
    if (disk == NULL)
        return;
    if (disk->rings != MAP_FAILED)
        munmap(disk->rings, disk->rings_bytes);
    if ((void *)disk->entries != MAP_FAILED)
        munmap(disk->entries, disk->entries_bytes);
    if (disk->fd >= 0)
        close(disk->fd);
    free(disk);
}

/* One transfer, by itself. */
static void transfer_make(struct mc_transfer *transfer)
{
    int64_t got;
    do {
        got = transfer->is_write
            ? pwritev(transfer->fd, transfer->parts, (int)transfer->count, (off_t)transfer->offset)
            : preadv(transfer->fd, transfer->parts, (int)transfer->count, (off_t)transfer->offset);
    } while (got < 0 && errno == EINTR);
    transfer->result = got < 0 ? -errno : got;
}

static void disk_queue(struct mc_disk *disk, const struct mc_transfer *transfer, uint32_t number)
{
    uint32_t tail = *disk->sq_tail, at = tail & *disk->sq_mask;
    disk->entries[at] = (struct io_uring_sqe){
        .opcode = transfer->is_write ? IORING_OP_WRITEV : IORING_OP_READV,
        .fd = transfer->fd,
        .off = transfer->offset,
        .addr = (uint64_t)(uintptr_t)transfer->parts,
        .len = transfer->count,
        .user_data = number};
    disk->sq_array[at] = at;
    __atomic_store_n(disk->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

/* Take what is over; how many transfers. */
static uint32_t disk_reap(struct mc_disk *disk, struct mc_transfer *transfers, uint32_t count)
{
    uint32_t head = *disk->cq_head, taken = 0;
    while (head != __atomic_load_n(disk->cq_tail, __ATOMIC_ACQUIRE)) {
        const struct io_uring_cqe *completion = &disk->completions[head++ & *disk->cq_mask];
        MC_CHECK(completion->user_data < count, "transfer %llu of %u",
                 (unsigned long long)completion->user_data, count);
        transfers[completion->user_data].result = completion->res;
        taken++;
    }
    __atomic_store_n(disk->cq_head, head, __ATOMIC_RELEASE);
    return taken;
}

/* What was queued must end before its memory is anybody else's, so there is no way out of this
 * but its end. */
static void disk_finish(struct mc_disk *disk, struct mc_transfer *transfers, uint32_t count)
{
    uint32_t submitted = 0, over = 0, enters = 0;
    while (over < count) {
        int64_t got = syscall(SYS_io_uring_enter, disk->fd, count - submitted, count - over,
                              IORING_ENTER_GETEVENTS, NULL, 0);
        MC_CHECK(got >= 0 || errno == EINTR || errno == EAGAIN || errno == EBUSY,
                 "io_uring of %u transfers: errno %d", count, errno);
        MC_CHECK(++enters < ENTERS_MAX, "%u of %u transfers are over", over, count);
        submitted += got > 0 ? (uint32_t)got : 0;
        over += disk_reap(disk, transfers, count);
    }
}

void mc_disk_run(struct mc_disk *disk, struct mc_transfer *transfers, uint32_t count)
{
    const int is_batch = disk != NULL && count > 1;
    MC_CHECK(count <= MC_DISK_BATCH_MAX, "%u transfers at once", count);
    for (uint32_t i = 0; is_batch && i < count; i++)
        disk_queue(disk, &transfers[i], i);
    if (is_batch)
        disk_finish(disk, transfers, count);
    for (uint32_t i = 0; i < count; i++)        /* those that the kernel would not begin, too */
        if (!is_batch || transfers[i].result == -EINTR || transfers[i].result == -EAGAIN)
            transfer_make(&transfers[i]);
}
