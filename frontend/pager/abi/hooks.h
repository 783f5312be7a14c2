/* hooks.h: the program's side: its calls that change mappings.
 *
 * Owns:  mmap, munmap, mprotect, mremap, brk and madvise as the program sees them. The C library
 *        calls its own by hidden names, so the first bytes of its functions are overwritten with a
 *        jump, before there is a second thread.
 * Rules: they run on the program's threads and in its signal handlers: no lock, no allocation. A
 *        fork waits until no thread is inside one (gate), so that parent and child agree on what
 *        was mapped when the memory was copied.
 */
#ifndef MCP_HOOKS_H
#define MCP_HOOKS_H

void mcp_hooks_open(void);

#endif
