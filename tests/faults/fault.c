/* fault.c: LD_PRELOAD library that makes the kernel refuse memory calls of the project.
 *
 * fault_arm(call, first, error, count) makes calls number first to first + count - 1 fail with
 * `error`; fault_disarm() ends that. Only calls made by the project's modules count, and those of
 * Python that the project makes through it: numba, malloc and threads get what they ask for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { MADVISE, FALLOCATE, MMAP, MEMFD_CREATE, EVENTFD, MBIND, PWRITEV, CALLS };

static _Atomic int armed = -1, error_given;
static _Atomic long seen, first_failing, last_failing, refused;

void fault_arm(int call, long first, int error, long count)
{
    atomic_store(&seen, 0);
    atomic_store(&refused, 0);
    atomic_store(&first_failing, first);
    atomic_store(&last_failing, first + count - 1);
    atomic_store(&error_given, error);
    atomic_store(&armed, call);
}

void fault_disarm(void)
{
    atomic_store(&armed, -1);
}

/* How many calls were refused since fault_arm. */
long fault_refused(void)
{
    return atomic_load(&refused);
}

static int is_ours(enum call call, void *caller)
{
    static const char *const modules[] = {"/_service.", "/_guest.", "/_loops."};
    Dl_info info;
    if (dladdr(caller, &info) == 0 || info.dli_fname == NULL)
        return 0;
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++)
        if (strstr(info.dli_fname, modules[i]))
            return 1;
    if (call == MMAP)
        return strstr(info.dli_fname, "/mmap.") != NULL;
    return call == EVENTFD || call == MEMFD_CREATE;
}

/* 1 when this call is to fail; errno is set. */
static int fails(enum call call, void *caller)
{
    if (atomic_load(&armed) != (int)call || !is_ours(call, caller))
        return 0;
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (number < atomic_load(&first_failing) || number > atomic_load(&last_failing))
        return 0;
    atomic_fetch_add(&refused, 1);
    errno = atomic_load(&error_given);
    return 1;
}

#define CALLER __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int madvise(void *start, size_t bytes, int advice)
{
    return fails(MADVISE, CALLER) ? -1 : REAL(madvise)(start, bytes, advice);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return fails(PWRITEV, CALLER) ? -1 : REAL(pwritev)(fd, parts, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return fails(FALLOCATE, CALLER) ? -1 : REAL(fallocate)(fd, mode, offset, bytes);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t bytes)
{
    return fails(FALLOCATE, CALLER) ? -1 : REAL(fallocate64)(fd, mode, offset, bytes);
}

void *mmap(void *start, size_t bytes, int access, int flags, int fd, off_t offset)
{
    if (fails(MMAP, CALLER))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, start, bytes, access, flags, fd, offset);
}

void *mmap64(void *start, size_t bytes, int access, int flags, int fd, off64_t offset)
{
    if (fails(MMAP, CALLER))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, start, bytes, access, flags, fd, offset);
}

int memfd_create(const char *name, unsigned flags)
{
    return fails(MEMFD_CREATE, CALLER) ? -1 : REAL(memfd_create)(name, flags);
}

int eventfd(unsigned count, int flags)
{
    if (fails(EVENTFD, CALLER))
        return -1;
    return (int)syscall(SYS_eventfd2, count, flags);
}

/* mbind has no function of its own in the C library. A function with a variable list of arguments
 * is called with all six words of the longest system call. */
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long words[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        words[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_mbind && fails(MBIND, CALLER))
        return -1;
    if (real == NULL)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
