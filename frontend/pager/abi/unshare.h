/* unshare.h: pages that a fork has shared, made the process's own, so that they can be moved.
 *
 * Owns:  what is done with a run that the kernel does not move (EBUSY). It moves only pages that it
 *        knows to be one process's alone, and after a fork it knows that of none: not of those that
 *        two processes still share, nor, until they are written again, of those whose other user
 *        has ended. A write fault makes a page known; the kernel copies it if it is shared.
 * Rules: the gate is closed, so mappings stay as they are. Only pages that are there are touched: a
 *        page that is missing would have the pager wait for itself.
 * Who may call: evict.c.
 */
#ifndef MCP_UNSHARE_H
#define MCP_UNSHARE_H

#include <stdint.h>

/* Make up to MCP_RUN_PAGES pages from `page` on ours alone: how many of the first are. Pages that a
 * living process shares only if `copies`: each takes a page more until it is moved. */
int64_t mcp_unshare(uint64_t page, uint64_t length, int copies);

#endif
