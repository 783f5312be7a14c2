/* backing.c: see backing.h. */
#include "backing.h"

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u          /* Linux 6.3: no x bits, and F_SEAL_EXEC keeps them away */
#endif
#define PREFERRED_NODE 1            /* MPOL_PREFERRED of the kernel's mempolicy.h */

#define RETRIES_MAX 1024            /* EINTR or EAGAIN in a row from one call */
#define SMAPS_LINES_MAX (1 << 20)

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A new file of `bytes`, with seals; the fd is closed again when that cannot be. */
static int file_sized(int fd, uint64_t bytes, int seals)
{
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) == 0 && (seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0))
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

int mc_memfd(const char *name, uint64_t bytes)
{
    if (bytes == 0 || bytes > INT64_MAX)
        return -EINVAL;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)      /* an older kernel: its memfds have x bits */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return file_sized(fd, bytes, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

int mc_tmpfile(const char *directory, uint64_t bytes)
{
    if (bytes == 0 || bytes > INT64_MAX)
        return -EINVAL;
    return file_sized(open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600), bytes, 0);
}

/* Map `bytes`, whole pages, at a multiple of 2 MiB: reserve 2 MiB more, map over the aligned part
 * of the reservation, and give the rest back. */
static int64_t backing_map(int fd, int flags, uint64_t bytes)
{
    uint64_t reserved_bytes = bytes + MC_AREA_BYTES;
    uint8_t *reserved;
    MC_CHECK(bytes % page_bytes() == 0, "a mapping of %lu bytes", bytes);
    reserved = mmap(NULL, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (reserved == MAP_FAILED)
        return -errno;
    uint64_t head_bytes = -(uint64_t)(uintptr_t)reserved & (MC_AREA_BYTES - 1);
    uint8_t *aligned = reserved + head_bytes;
    if (mmap(aligned, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int error = errno;
        munmap(reserved, reserved_bytes);
        return -error;
    }
    if (head_bytes > 0)
        munmap(reserved, head_bytes);
    munmap(aligned + bytes, MC_AREA_BYTES - head_bytes);
    madvise(aligned, bytes, MADV_HUGEPAGE);     /* a wish: kernels without THP refuse it */
    return (int64_t)(uintptr_t)aligned;
}

static uint64_t bytes_of_pages(uint64_t bytes)
{
    uint64_t page = page_bytes();
    return (bytes + page - 1) & ~(page - 1);
}

static int bytes_can_map(uint64_t bytes)
{
    return bytes > 0 && bytes <= INT64_MAX - 2 * MC_AREA_BYTES;
}

/* 0 when `bytes` of the fd can be mapped, or minus errno. */
static int file_can_map(int fd, uint64_t bytes)
{
    struct stat status;
    if (!bytes_can_map(bytes))
        return -EINVAL;
    if (fstat(fd, &status) != 0)
        return -errno;
    return (uint64_t)status.st_size < bytes ? -EINVAL : 0;  /* a touch beyond would be SIGBUS */
}

int64_t mc_map(int fd, uint64_t bytes)
{
    int status = file_can_map(fd, bytes);
    return status != 0 ? status : backing_map(fd, MAP_SHARED, bytes_of_pages(bytes));
}

int64_t mc_map_at(int fd, uint64_t bytes, uint64_t address)
{
    void *wanted = (void *)(uintptr_t)address, *mapped;
    int status = file_can_map(fd, bytes);
    MC_CHECK(address % MC_AREA_BYTES == 0, "a mapping at %#lx", address);
    if (status != 0)
        return status;
    bytes = bytes_of_pages(bytes);
    mapped = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    if (mapped != wanted) {             /* kernels before Linux 4.17 take the address as a wish */
        munmap(mapped, bytes);
        return -EEXIST;
    }
    madvise(mapped, bytes, MADV_HUGEPAGE);
    return (int64_t)address;
}

int64_t mc_map_anonymous(uint64_t bytes)
{
    if (!bytes_can_map(bytes))
        return -EINVAL;
    return backing_map(-1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, bytes_of_pages(bytes));
}

int mc_unmap(uint64_t address, uint64_t bytes)
{
    return munmap((void *)(uintptr_t)address, bytes) == 0 ? 0 : -errno;
}

static void page_touch_write(uint8_t *page)
{
    __atomic_fetch_or(page, 0, __ATOMIC_RELAXED);   /* the other side may be writing there */
}

static void page_touch_read(uint8_t *page)
{
    (void)*(volatile uint8_t *)page;
}

static int backing_populate(uint64_t address, uint64_t bytes, int advice, void (*touch)(uint8_t *))
{
    uint8_t *start = (uint8_t *)(uintptr_t)address;
    uint64_t page = page_bytes();
    for (int i = 0; i < RETRIES_MAX; i++) {
        if (madvise(start, bytes, advice) == 0)
            return 0;
        if (errno != EINTR && errno != EAGAIN)
            break;
    }
    if (errno != EINVAL)
        return -errno;
    /* EINVAL means a bad range too; a kernel that knows the advice accepts an empty one. */
    if (address % page != 0 || madvise(start, 0, advice) == 0)
        return -EINVAL;
    for (uint64_t offset = 0; offset < bytes; offset += page)
        touch(start + offset);
    return 0;
}

int mc_populate_write(uint64_t address, uint64_t bytes)
{
    return backing_populate(address, bytes, MADV_POPULATE_WRITE, page_touch_write);
}

int mc_populate_read(uint64_t address, uint64_t bytes)
{
    return backing_populate(address, bytes, MADV_POPULATE_READ, page_touch_read);
}

int mc_write_zeroes(int fd, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeroes[MC_FRAME_BYTES];        /* one page, which stays in the cache */
    struct iovec parts[MC_AREA_FRAMES];
    for (int i = 0; i < MC_AREA_FRAMES; i++)
        parts[i] = (struct iovec){(void *)(uintptr_t)zeroes, sizeof zeroes};
    for (int i = 0; i < RETRIES_MAX && bytes > 0; i++) {
        uint64_t frames = bytes / MC_FRAME_BYTES;
        int count = (int)(frames < MC_AREA_FRAMES ? frames : MC_AREA_FRAMES);
        ssize_t wrote = pwritev(fd, parts, count, (off_t)offset);
        if (wrote < 0 && errno != EINTR)
            return -errno;
        if (wrote > 0) {
            uint64_t whole = (uint64_t)wrote & ~(uint64_t)(MC_FRAME_BYTES - 1);
            offset += whole, bytes -= whole;    /* a page that was cut short is written again */
        }
    }
    return bytes == 0 ? 0 : -EAGAIN;
}

/* MADV_COLLAPSE works on an area with all of its pages, and on one with its first page only. So one
 * page is populated, and all of them only where the kernel refuses to collapse. */
int mc_populate_huge(uint64_t address, uint64_t bytes)
{
    MC_CHECK(address % MC_AREA_BYTES == 0 && bytes % MC_AREA_BYTES == 0,
             "%lu bytes at %#lx are no whole areas", bytes, address);
    for (uint64_t at = address; at < address + bytes; at += MC_AREA_BYTES) {
        uint8_t *area = (uint8_t *)(uintptr_t)at;
        int status = backing_populate(at, page_bytes(), MADV_POPULATE_WRITE, page_touch_write);
        if (status == 0 && madvise(area, MC_AREA_BYTES, MADV_COLLAPSE) != 0)
            status = mc_populate_write(at, MC_AREA_BYTES);
        if (status != 0)
            return status;
    }
    return 0;
}

int mc_advise_backing(uint64_t address, uint64_t bytes, int kind)
{
    void *start = (void *)(uintptr_t)address;
    if (kind == MC_BACKING_ANY)
        return 0;
    return madvise(start, bytes, kind == MC_BACKING_2M ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) == 0
               ? 0 : -errno;
}

int mc_bind_node(uint64_t address, uint64_t bytes, int node)
{
    unsigned long mask = 1;
    if (node < 0 || node >= (int)(8 * sizeof mask))
        return -EINVAL;
    mask <<= node;
    return syscall(SYS_mbind, address, bytes, PREFERRED_NODE, &mask, 8 * sizeof mask, 0) == 0
               ? 0 : -errno;
}

int mc_punch(int fd, uint64_t offset, uint64_t bytes)
{
    for (int i = 0; i < RETRIES_MAX; i++) {
        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)bytes) == 0)
            return 0;
        if (errno != EINTR)
            break;
    }
    return -errno;
}

int mc_discard(uint64_t address, uint64_t bytes)
{
    void *start = (void *)(uintptr_t)address;
    if (madvise(start, bytes, MADV_REMOVE) == 0)    /* a file's; EINVAL when there is no file */
        return 0;
    return madvise(start, bytes, MADV_DONTNEED) == 0 ? 0 : -errno;
}

int64_t mc_resident_bytes(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 ? (int64_t)status.st_blocks * 512 : -errno;
}

int64_t mc_huge_bytes(uint64_t address, uint64_t bytes)
{
    FILE *smaps = fopen("/proc/self/smaps", "re");
    uint64_t start, end, kib, sum_kib = 0;
    char line[512];
    int ours = 0;
    if (smaps == NULL)
        return -errno;
    for (int i = 0; i < SMAPS_LINES_MAX && fgets(line, sizeof line, smaps) != NULL; i++) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            ours = start >= address && end <= address + bytes;
        else if (ours && sscanf(line, "ShmemPmdMapped: %" SCNu64, &kib) == 1)
            sum_kib += kib;
    }
    fclose(smaps);
    return (int64_t)(sum_kib * 1024);
}

int mc_shmem_thp(void)
{
    uint64_t bytes = 2 * MC_AREA_BYTES;
    int fd = mc_memfd("memcoord-thp", bytes);
    if (fd < 0)
        return 0;
    int64_t address = mc_map(fd, bytes);
    close(fd);
    if (address < 0)
        return 0;
    int huge = mc_populate_write((uint64_t)address, MC_AREA_BYTES) == 0 &&
               mc_huge_bytes((uint64_t)address, bytes) > 0;
    mc_unmap((uint64_t)address, bytes);
    return huge;
}
