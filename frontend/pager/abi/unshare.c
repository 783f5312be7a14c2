/* unshare.c: see unshare.h. */
#include "unshare.h"

#include "family.h"
#include "kernel.h"
#include "pager.h"

#define MADV_POPULATE_WRITES 23     /* Linux 5.14 */
#define IS_PRESENT (1ull << 63)
#define IS_EXCLUSIVE (1ull << 56)

int64_t mcp_unshare(uint64_t page, uint64_t length, int copies)
{
    uint64_t words[MCP_RUN_PAGES], fit = 0;
    uint64_t wanted = copies ? IS_PRESENT : IS_PRESENT | IS_EXCLUSIVE;
    long bytes = (long)(length * sizeof *words), at = (long)page * 8;
    if (mcp_syscall(SYS_pread64, mcp_self.pagemap, (long)words, bytes, at, 0, 0) != bytes)
        return 0;
    while (fit < length && (words[fit] & wanted) == wanted)
        fit++;
    if (fit == 0)
        return 0;
    long status = mcp_syscall(SYS_madvise, (long)(page << MCP_PAGE_SHIFT),
                              (long)(fit << MCP_PAGE_SHIFT), MADV_POPULATE_WRITES, 0, 0, 0);
    return status < 0 ? 0 : (int64_t)fit;
}
