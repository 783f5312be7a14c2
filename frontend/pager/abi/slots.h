/* slots.h: places of pages that are out of memory, and which processes have them.
 *
 * Owns:  the owner words of the family.
 * Rules: a word goes from 0 to one bit without a lock (take). A bit is added by a process that has
 *        a bit already (share). Bits go under the tmem lock (drop), because the last one must flush
 *        the page before anybody else may take the slot.
 */
#ifndef MCP_SLOTS_H
#define MCP_SLOTS_H

#include "family.h"

/* Up to `want` free slots, not necessarily adjacent, into `out`; how many. */
int mcp_slots_take(struct mcp_member *member, uint32_t *out, int want);
void mcp_slot_share(struct mcp_member *member, uint32_t slot, int other_row);
/* Give up the member's bits, count <= MCP_RUN_PAGES. in_tmem: the page must be flushed as well. */
void mcp_slots_drop(struct mcp_member *member, const uint32_t *slots, int count, int in_tmem);
/* The same, pages in tmem at the latest by mcp_slots_settle: one doorbell for many. */
void mcp_slots_drop_soon(struct mcp_member *member, const uint32_t *slots, int count, int in_tmem);
void mcp_slots_settle(struct mcp_member *member);
/* All bits of a row whose process has ended, and its charge. */
void mcp_row_bury(struct mcp_member *member, int row);

#endif
