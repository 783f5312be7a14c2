/* patch.c: see patch.h. x86-64 only: the jump is. */
#include "patch.h"

#include "kernel.h"
#include "say.h"

#include <dlfcn.h>
#include <string.h>

#define TEXT_BYTES (2 * MCP_PAGE_BYTES)     /* a function may begin at the end of a page */

static void write_over(uint8_t *theirs, const uint8_t *bytes)
{
    long page = (long)((uint64_t)(uintptr_t)theirs & ~(MCP_PAGE_BYTES - 1));
    long status = mcp_syscall(SYS_mprotect, page, TEXT_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
                              0, 0, 0);
    if (status < 0)
        mcp_die("a function of the C library cannot be changed:", status);
    memcpy(theirs, bytes, MCP_JUMP_BYTES);
    mcp_syscall(SYS_mprotect, page, TEXT_BYTES, PROT_READ | PROT_EXEC, 0, 0, 0);
}

void mcp_patch_make(struct mcp_patch *patch, const char *name, void *ours)
{
    static const uint8_t jump[MCP_JUMP_BYTES] = {0x49, 0xbb, [10] = 0x41, 0xff, 0xe3};
    patch->theirs = dlsym(RTLD_NEXT, name);
    if (!patch->theirs)
        mcp_die("the C library lacks a function that has to do with memory", 0);
    memcpy(patch->before, patch->theirs, sizeof patch->before);
    memcpy(patch->jump, jump, sizeof jump);
    memcpy(patch->jump + 2, &ours, sizeof ours);    /* mov r11, ours; jmp r11 */
    write_over(patch->theirs, patch->jump);
}

void mcp_patch_undo(const struct mcp_patch *patch)
{
    write_over(patch->theirs, patch->before);
}

void mcp_patch_redo(const struct mcp_patch *patch)
{
    write_over(patch->theirs, patch->jump);
}
