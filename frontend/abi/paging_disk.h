/* paging_disk.h: reads and writes of a guest's files, many at a time.
 *
 * Owns:  an io_uring of its own, so that a disk has all transfers of a batch at once and uses its
 *        depth. Where the kernel gives none (it is older than 5.1, or a container forbids it), the
 *        transfers of a batch are made one after the other.
 * Rules: one thread. All transfers of a batch are over when mc_disk_run returns; their order is the
 *        kernel's, so no two of them may touch the same bytes.
 */
#ifndef MC_PAGING_DISK_H
#define MC_PAGING_DISK_H

#include <stdint.h>
#include <sys/uio.h>

#define MC_DISK_BATCH_MAX 64

struct mc_disk;

struct mc_transfer {
    int fd;
    int is_write;
    uint64_t offset;
    const struct iovec *parts;
    uint32_t count;
    int64_t result;             /* bytes, or minus an errno */
};

/* NULL where there is no io_uring; then the same functions do without. */
struct mc_disk *mc_disk_open(void);
void mc_disk_close(struct mc_disk *disk);
void mc_disk_run(struct mc_disk *disk, struct mc_transfer *transfers, uint32_t count);

#endif
