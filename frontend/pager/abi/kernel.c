/* kernel.c: see kernel.h. */
#include "kernel.h"

#define DEVICE "/dev/userfaultfd"
#define MOVE_DONTWAKE 1

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static long do_ioctl(int fd, unsigned long op, void *argument)
{
    return mcp_syscall(SYS_ioctl, fd, (long)op, (long)argument, 0, 0, 0);
}

int mcp_uffd_new(int device)
{
    const long flags = O_CLOEXEC | O_NONBLOCK;
    long fd = mcp_syscall(SYS_userfaultfd, flags, 0, 0, 0, 0, 0);
    if (fd >= 0)
        return (int)fd;
    long opened = mcp_syscall(SYS_openat, AT_FDCWD, (long)DEVICE, O_RDWR | O_CLOEXEC, 0, 0, 0);
    long made = mcp_syscall(SYS_ioctl, opened >= 0 ? opened : device, USERFAULTFD_IOC_NEW, flags, 0,
                            0, 0);
    if (opened >= 0)
        mcp_syscall(SYS_close, opened, 0, 0, 0, 0, 0);
    return (int)(made >= 0 ? made : fd);
}

int mcp_uffd_enable(int fd, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    return (int)do_ioctl(fd, UFFDIO_API, &api);
}

int mcp_uffd_register(int fd, uint64_t start, uint64_t bytes)
{
    struct uffdio_register all = {.range = {start, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return (int)do_ioctl(fd, UFFDIO_REGISTER, &all);
}

int mcp_uffd_wake(int fd, uint64_t start, uint64_t bytes)
{
    struct uffdio_range range = {start, bytes};
    return (int)do_ioctl(fd, UFFDIO_WAKE, &range);
}

int64_t mcp_uffd_move(int fd, uint64_t to, uint64_t from, uint64_t bytes)
{
    struct mcp_uffdio_move move = {to, from, bytes, MOVE_DONTWAKE, 0};
    long answer = do_ioctl(fd, MCP_UFFDIO_MOVE, &move);
    if (answer == 0)
        return (int64_t)bytes;
    return move.moved > 0 ? move.moved : answer;
}

int64_t mcp_uffd_copy(int fd, uint64_t to, const void *from, uint64_t bytes)
{
    struct uffdio_copy copy = {.dst = to, .src = (uint64_t)(uintptr_t)from, .len = bytes};
    long answer = do_ioctl(fd, UFFDIO_COPY, &copy);
    if (answer == 0)
        return (int64_t)bytes;
    return copy.copy > 0 ? copy.copy : answer;
}
