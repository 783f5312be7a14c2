/* hooks.c: see hooks.h. */
#include "hooks.h"

#include "kernel.h"
#include "mappings.h"
#include "notes.h"
#include "pager.h"
#include "patch.h"
#include "say.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>

#define SPARE_PAGES 256             /* left free by a mapping that is charged whole */
#define UNMANAGED (MAP_HUGETLB | MAP_GROWSDOWN | MAP_LOCKED | MAP_STACK)
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static uint64_t break_end;
static void **current_break;

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + MCP_PAGE_BYTES - 1) & ~(MCP_PAGE_BYTES - 1);
}

static long result(long answer)
{
    if (answer >= 0 || answer <= -4096)
        return answer;
    errno = (int)-answer;
    return -1;
}

static int is_error(long answer)
{
    return answer < 0 && answer > -4096;
}

/* A new mapping of the program's: charged whole when there is room to spare, else registered. */
static void claim(uint64_t ticket, uint64_t start, uint64_t bytes)
{
    int64_t pages = (int64_t)(bytes >> MCP_PAGE_SHIFT);
    struct mcp_member *member = &mcp_self.member;
    if (mcp_room_pages(member->family) >= pages + pages / 8 + SPARE_PAGES &&
        mcp_charge_try(member, pages)) {
        mcp_count(member, MCP_NATIVE_MAPPINGS, 1);
        mcp_note_tell(ticket, MCP_NOTE_NATIVE, start, start + bytes);
        return;
    }
    if (mcp_uffd_register(mcp_self.uffd, start, bytes) == 0) {
        mcp_count(member, MCP_TRACKED_MAPPINGS, 1);
        mcp_note_tell(ticket, MCP_NOTE_TRACKED, start, start + bytes);
        return;
    }
    /* The program has closed our descriptor: the pager, which has its own, registers it. */
    mcp_charge_forced(member, pages);
    mcp_note_tell(ticket, MCP_NOTE_NATIVE, start, start + bytes);
}

__attribute__((visibility("default")))
void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (!atomic_load(&mcp_self.is_on))
        return (void *)result(mcp_syscall(SYS_mmap, (long)address, (long)length, prot, flags, fd,
                                          offset));
    mcp_gate_enter();
    uint64_t bytes = round_up(length), ticket = mcp_note_ticket(), gone = 0;
    int replaces = (flags & MAP_FIXED) != 0;
    if (replaces)
        gone = ticket, ticket = mcp_note_ticket();
    long at = mcp_syscall(SYS_mmap, (long)address, (long)length, prot, flags, fd, offset);
    uint64_t start = (uint64_t)at;
    int ours = !is_error(at) && (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE &&
               !(flags & UNMANAGED);
    if (replaces)
        mcp_note_tell(gone, is_error(at) ? MCP_NOTE_VOID : MCP_NOTE_GONE, start, start + bytes);
    if (ours && (prot & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE))
        claim(ticket, start, bytes);
    else
        mcp_note_tell(ticket, ours ? MCP_NOTE_RESERVED : MCP_NOTE_VOID, start, start + bytes);
    mcp_gate_leave();
    return (void *)result(at);
}

__attribute__((visibility("default")))
void *mmap64(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap(address, length, prot, flags, fd, offset);
}

__attribute__((visibility("default")))
int munmap(void *address, size_t length)
{
    if (!atomic_load(&mcp_self.is_on))
        return (int)result(mcp_syscall(SYS_munmap, (long)address, (long)length, 0, 0, 0, 0));
    mcp_gate_enter();
    uint64_t ticket = mcp_note_ticket(), start = (uint64_t)(uintptr_t)address;
    long answer = mcp_syscall(SYS_munmap, (long)address, (long)length, 0, 0, 0, 0);
    mcp_note_tell(ticket, answer ? MCP_NOTE_VOID : MCP_NOTE_GONE, start, start + round_up(length));
    mcp_gate_leave();
    return (int)result(answer);
}

__attribute__((visibility("default")))
int mprotect(void *address, size_t length, int prot)
{
    if (!atomic_load(&mcp_self.is_on))
        return (int)result(mcp_syscall(SYS_mprotect, (long)address, (long)length, prot, 0, 0, 0));
    mcp_gate_enter();
    uint64_t ticket = mcp_note_ticket(), start = (uint64_t)(uintptr_t)address;
    long answer = mcp_syscall(SYS_mprotect, (long)address, (long)length, prot, 0, 0, 0);
    int usable = !answer && (prot & PROT_WRITE);
    mcp_note_tell(ticket, usable ? MCP_NOTE_USABLE : MCP_NOTE_VOID, start,
                  start + round_up(length));
    mcp_gate_leave();
    return (int)result(answer);
}

/* The notes of a successful mremap that was, or was not, registered as one range before. */
static void tell_remap(uint64_t gone, uint64_t come, int registered, uint64_t old,
                       uint64_t old_bytes, uint64_t at, uint64_t bytes, int flags)
{
    if (!registered) {
        mcp_note_tell(gone, MCP_NOTE_GONE, old, old + old_bytes);
        mcp_note_tell(come, MCP_NOTE_VOID, at, at + bytes);     /* a file's, or nobody's charge */
        return;
    }
    /* The kernel tells the pager what moved and what went; the rest is what it does not tell. */
    int kept = (flags & MREMAP_DONTUNMAP) != 0;
    mcp_note_tell(gone, kept ? MCP_NOTE_TRACKED : MCP_NOTE_VOID, old, old + old_bytes);
    mcp_note_tell(come, MCP_NOTE_TRACKED, at, at + bytes);
}

__attribute__((visibility("default")))
void *mremap(void *old, size_t old_length, size_t length, int flags, ...)
{
    void *to = NULL;
    if (flags & MREMAP_FIXED) {
        va_list rest;
        va_start(rest, flags);
        to = va_arg(rest, void *);
        va_end(rest);
    }
    if (!atomic_load(&mcp_self.is_on))
        return (void *)result(mcp_syscall(SYS_mremap, (long)old, (long)old_length, (long)length,
                                          flags, (long)to, 0));
    uint64_t signals;
    mcp_gate_enter_alone(&signals);
    uint64_t over = mcp_note_ticket(), gone = mcp_note_ticket(), come = mcp_note_ticket();
    uint64_t start = (uint64_t)(uintptr_t)old, old_bytes = round_up(old_length);
    uint64_t bytes = round_up(length);
    /* One range throughout, or the kernel refuses to move it; and it tells us where pages went. */
    int registered = old_bytes && mcp_uffd_register(mcp_self.uffd, start, old_bytes) == 0;
    long at = mcp_syscall(SYS_mremap, (long)old, (long)old_length, (long)length, flags, (long)to,
                          0);
    uint64_t now = (uint64_t)at;
    if (is_error(at)) {
        mcp_note_tell(over, MCP_NOTE_VOID, 0, 0);
        mcp_note_tell(gone, registered ? MCP_NOTE_TRACKED : MCP_NOTE_VOID, start,
                      start + old_bytes);
        mcp_note_tell(come, MCP_NOTE_VOID, 0, 0);
    } else {
        mcp_note_tell(over, to ? MCP_NOTE_GONE : MCP_NOTE_VOID, now, now + bytes);
        if (registered && old_bytes > bytes)
            mcp_note_tell(gone, MCP_NOTE_GONE, start + bytes, start + old_bytes);
        if (registered && old_bytes > bytes)
            mcp_note_tell(come, MCP_NOTE_TRACKED, now, now + bytes);
        else
            tell_remap(gone, come, registered, start, old_bytes, now, bytes, flags);
    }
    mcp_gate_leave_alone(&signals);
    return (void *)result(at);
}

__attribute__((visibility("default")))
int madvise(void *address, size_t length, int advice)
{
    if (!atomic_load(&mcp_self.is_on))
        return (int)result(mcp_syscall(SYS_madvise, (long)address, (long)length, advice, 0, 0, 0));
    if (advice == MADV_FREE)        /* may be dropped at any time: now, when the pager is told */
        advice = MADV_DONTNEED;
    if (advice == MADV_WIPEONFORK || advice == MADV_DONTFORK)
        return (int)result(-EINVAL);    /* a child's memory is the parent's table: see fork.h */
    mcp_gate_enter();
    long answer = mcp_syscall(SYS_madvise, (long)address, (long)length, advice, 0, 0, 0);
    mcp_gate_leave();
    return (int)result(answer);
}

__attribute__((visibility("default")))
int brk(void *address)
{
    int on = atomic_load(&mcp_self.is_on);
    if (on)
        mcp_gate_enter();
    uint64_t ticket = on ? mcp_note_ticket() : 0;
    uint64_t before = break_end;
    long answer = mcp_syscall(SYS_brk, (long)address, 0, 0, 0, 0, 0);
    uint64_t end = round_up((uint64_t)answer);
    *current_break = (void *)answer;
    break_end = end;
    if (on && end > before)
        claim(ticket, before, end - before);
    else if (on)
        mcp_note_tell(ticket, end < before ? MCP_NOTE_GONE : MCP_NOTE_VOID, end, before);
    if (on)
        mcp_gate_leave();
    return (uint64_t)answer < (uint64_t)(uintptr_t)address ? (int)result(-ENOMEM) : 0;
}

static void patch(const char *name, void *ours)
{
    struct mcp_patch for_good;
    mcp_patch_make(&for_good, name, ours);
}

void mcp_hooks_open(void)
{
    current_break = dlsym(RTLD_DEFAULT, "__curbrk");
    if (!current_break)
        mcp_die("the C library is not one whose heap is known", 0);
    break_end = round_up((uint64_t)mcp_syscall(SYS_brk, 0, 0, 0, 0, 0, 0));
    patch("mmap", mmap);
    patch("munmap", munmap);
    patch("mprotect", mprotect);
    patch("mremap", mremap);
    patch("madvise", madvise);
    patch("brk", brk);
}
