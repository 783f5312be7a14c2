/* patch.h: a function of the C library that is replaced, for good or but for a moment.
 *
 * Owns:  the first bytes of such a function: a jump to ours, or what stood there.
 * Rules: nobody may be inside the first bytes while they change: before there is a second thread,
 *        or while a lock keeps the others away.
 * Who may call: hooks.c and fork.c.
 */
#ifndef MCP_PATCH_H
#define MCP_PATCH_H

#include <stdint.h>

#define MCP_JUMP_BYTES 13

struct mcp_patch { uint8_t *theirs; uint8_t before[MCP_JUMP_BYTES], jump[MCP_JUMP_BYTES]; };

/* Make `name` of the C library a jump to `ours`; the process ends when it has none. */
void mcp_patch_make(struct mcp_patch *patch, const char *name, void *ours);
/* The function as the C library has it, until mcp_patch_redo. */
void mcp_patch_undo(const struct mcp_patch *patch);
void mcp_patch_redo(const struct mcp_patch *patch);

#endif
