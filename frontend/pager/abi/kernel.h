/* kernel.h: system calls of the pager, by number, past the C library's wrappers.
 *
 * Owns:  numbers and structures newer than a distribution's headers; raw wrappers that return the
 *        kernel's answer (below 0: minus errno) and touch no errno.
 * Rules: nothing here allocates or takes a lock. The entry points of the C library (mmap and the
 *        like) are overwritten by hooks.c, so the pager itself must use these.
 * Who may call: every file of this folder.
 */
#ifndef MCP_KERNEL_H
#define MCP_KERNEL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MCP_PAGE_BYTES 4096ul
#define MCP_PAGE_SHIFT 12
#define MCP_FEATURE_MOVE (1ull << 16)
#define MCP_FUTEX_WAIT 0
#define MCP_FUTEX_WAKE 1

struct mcp_uffdio_move { uint64_t dst, src, len, mode; int64_t moved; };
#define MCP_UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct mcp_uffdio_move)

struct mcp_region { uint64_t start, end, categories; };
struct mcp_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, mask, any_of, return_mask;
};
#define MCP_PAGEMAP_SCAN _IOWR('f', 16, struct mcp_scan)
#define MCP_IS_PRESENT 8
#define MCP_IS_SWAPPED 16

static inline long mcp_syscall(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long answer;
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return answer;
}

static inline uint64_t mcp_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static inline void mcp_sleep_ns(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000ull),
                            .tv_nsec = (long)(ns % 1000000000ull)};
    mcp_syscall(SYS_nanosleep, (long)&time, 0, 0, 0, 0, 0);
}

/* Private zeroes, or NULL. */
static inline void *mcp_map_private(uint64_t bytes)
{
    long at = mcp_syscall(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at < 0 && at > -4096 ? NULL : (void *)at;
}

/* Shared memory of a file, or NULL. */
static inline void *mcp_map_file(int fd, uint64_t bytes, uint64_t offset)
{
    long at = mcp_syscall(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                          (long)offset);
    return at < 0 && at > -4096 ? NULL : (void *)at;
}

static inline long mcp_futex(void *word, int op, uint32_t value, uint64_t timeout_ns)
{
    struct timespec time = {.tv_sec = (time_t)(timeout_ns / 1000000000ull),
                            .tv_nsec = (long)(timeout_ns % 1000000000ull)};
    return mcp_syscall(SYS_futex, (long)word, op, value, op == MCP_FUTEX_WAIT ? (long)&time : 0, 0,
                       0);
}

/* A userfaultfd, which is to be enabled; by the system call, or one of two devices: the file of
 * that name, and `device`. Or minus errno. */
int mcp_uffd_new(int device);
/* With all of `features`: 0, or minus errno. */
int mcp_uffd_enable(int fd, uint64_t features);
int mcp_uffd_register(int fd, uint64_t start, uint64_t bytes);
int mcp_uffd_wake(int fd, uint64_t start, uint64_t bytes);
/* Bytes moved or copied (a part of them counts as success), or minus errno. */
int64_t mcp_uffd_move(int fd, uint64_t to, uint64_t from, uint64_t bytes);
int64_t mcp_uffd_copy(int fd, uint64_t to, const void *from, uint64_t bytes);

#endif
